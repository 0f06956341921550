"""Estimators: what learns. Start with `touchneedle.estimators.base`; one method per file."""

from touchneedle.estimators.base import Capability, Design, Estimator, Stage, build_estimator, register_estimator

__all__ = ["Capability", "Design", "Estimator", "Stage", "build_estimator", "register_estimator"]
