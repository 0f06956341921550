"""An ensemble of estimators of one kind: the mean of their log_ratio.

The mean of log ratios is a geometric mean of ratios, so it is not normalised even if its members are.
Members are trained one by one, each by its own loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Capability, Estimator, Stage


class Ensemble(Estimator):
    """log_ratio = mean over members; `log_normalisation` is 0, whatever the members say."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})

    def __init__(self, members: Sequence[Estimator]) -> None:
        if not members or len({type(member) for member in members}) > 1:
            raise InputError(f"ensemble: expected members of one kind; got {[type(member).__name__ for member in members]}")
        super().__init__(members[0].spec, members[0].config)
        self.members = nn.ModuleList(members)

    def stages(self) -> tuple[Stage, ...]:
        """None: members are trained one by one."""
        return ()

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return torch.stack([member._log_ratio(x, theta) for member in self._estimators()]).mean(0)

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        return torch.stack([member._log_ratio_grid(x, theta) for member in self._estimators()]).mean(0)

    def _estimators(self) -> list[Estimator]:
        return [member for member in self.members if isinstance(member, Estimator)]
