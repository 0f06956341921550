"""What the controls that know the truth share: the exact density of the toy, signed or not, in float64 from the start."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Capability, Design, Estimator
from touchneedle.toys.base import ExactToy, SignedToy, Toy, ToySpec


class TruthControl(Estimator):
    """Abstract. An estimator without parameters that looks at the toy; raises `SkipCell` if its density is unknown.

    Attributes:
        signed_capabilities: ``capabilities`` where the density of the toy is signed.
    """

    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint", "pairs"})
    signed_capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})
    needs_truth = True

    toy: ExactToy | SignedToy

    def __init__(self, spec: ToySpec, config: Any, toy: Toy) -> None:
        super().__init__(spec, config)
        if not isinstance(toy, ExactToy | SignedToy):
            raise SkipCell(f"{type(self).__name__} is a control: it needs a toy with an exact density; {spec.name} has none")
        self.toy = toy
        self.nominal = spec.parameters.nominal.clone()
        if isinstance(toy, SignedToy):
            # What a control can do depends on the toy, unlike for estimators that learn.
            self.capabilities = self.signed_capabilities  # type: ignore[misc]

    @property
    def exact_toy(self) -> ExactToy:
        """The toy, where it has a log density; raises `InputError` for a signed one."""
        if not isinstance(self.toy, ExactToy):
            raise self._lacks("log_prob")
        return self.toy

    def exact_ratio(self, x: Tensor, theta: Tensor, reference: Tensor) -> Tensor:
        """p(x|theta) / p(x|reference), shape (n,), which is negative where a signed density is."""
        if isinstance(self.toy, ExactToy):
            return self.exact_log_ratio(x, theta, reference).exp()
        return self.toy.density(x, theta) / self.toy.density(x, reference.expand_as(theta))

    def exact_log_ratio(self, x: Tensor, theta: Tensor, reference: Tensor) -> Tensor:
        """log p(x|theta) - log p(x|reference), shape (n,); 0 where both densities vanish, NaN where a signed ratio is <= 0."""
        if isinstance(self.toy, SignedToy):
            ratio = self.exact_ratio(x, theta, reference)
            return torch.where(ratio > 0, ratio, torch.nan).log()
        return log_quotient(self.toy.log_prob(x, theta), self.toy.log_prob(x, reference.expand_as(theta)))

    def exact_log_density(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(x|theta), shape (n,); NaN where a signed density is <= 0."""
        if isinstance(self.toy, ExactToy):
            return self.toy.log_prob(x, theta)
        density = self.toy.density(x, theta)
        return torch.where(density > 0, density, torch.nan).log()


def log_quotient(log_p: Tensor, log_reference: Tensor) -> Tensor:
    """log_p - log_reference, 0 where both densities vanish."""
    nowhere = torch.isneginf(log_p) & torch.isneginf(log_reference)
    return torch.where(nowhere, torch.zeros_like(log_p), log_p - log_reference)
