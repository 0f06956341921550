"""Imports that take seconds, made quicker."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import within it what defines very many objects, torch above all: a third less time, and a quick end of the process.

    Python looks for garbage among all objects again and again while they come, in every full search later, and once more at the
    end; there is none among modules. So nothing is searched meanwhile, and what there is then is never searched again.
    """
    searching, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        # Not without an import: garbage of the cell before would stay for good.
        if len(sys.modules) > known:
            gc.freeze()
        if searching:
            gc.enable()
