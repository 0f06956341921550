"""Toys: what is simulated. Start with `touchneedle.toys.base`; one toy per file."""

from touchneedle.toys.base import *  # noqa: F403
from touchneedle.toys.base import __all__ as __all__
