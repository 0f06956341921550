"""What the controls that know the truth share: the exact density of the toy, in float64 from the start."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Design, Estimator
from touchneedle.toys.base import ExactToy, Toy, ToySpec


class TruthControl(Estimator):
    """Abstract. An estimator without parameters that looks at the toy; raises `SkipCell` if it is not exact."""

    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint", "pairs"})
    needs_truth = True

    toy: ExactToy

    def __init__(self, spec: ToySpec, config: Any, toy: Toy) -> None:
        super().__init__(spec, config)
        if not isinstance(toy, ExactToy):
            raise SkipCell(f"{type(self).__name__} is a control: it needs a toy with an exact density; {spec.name} has none")
        self.toy = toy
        self.nominal = spec.parameters.nominal.clone()

    def exact_log_ratio(self, x: Tensor, theta: Tensor, reference: Tensor) -> Tensor:
        """log p(x|theta) - log p(x|reference), shape (n,); 0 where both densities vanish."""
        log_p = self.toy.log_prob(x, theta)
        log_reference = self.toy.log_prob(x, reference.expand_as(theta))
        nowhere = torch.isneginf(log_p) & torch.isneginf(log_reference)
        return torch.where(nowhere, torch.zeros_like(log_p), log_p - log_reference)
