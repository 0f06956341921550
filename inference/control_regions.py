"""Control regions: binned counts beside the unbinned events, one Poisson term a bin.

    ln L = sum_b [n_b log lambda_b(theta) - lambda_b(theta)]

They measure yields that the events share with them (on/off: Li and Ma 1983; in a fit of ratios: Benato et al. 2025,
arXiv:2505.05544, sec. 6). Each term is given less its maximum, at lambda_b = n_b, so that it stays small for large counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.rates import RateModel
from touchneedle.inference.terms import Rates
from touchneedle.toys.base import ParameterSpace


@dataclass(frozen=True)
class ControlRegions:
    """Counts of b bins, and what is expected of them.

    Attributes:
        names: one for each bin.
        expected: theta (m, p) -> expected counts (m, b).
        observed: counts (b,); fractional ones are an Asimov data set.
    """

    names: tuple[str, ...]
    expected: Rates
    observed: Tensor

    def __post_init__(self) -> None:
        if self.observed.shape != (len(self.names),):
            raise InputError(f"control regions: expected {len(self.names)} counts, one a bin; got shape {tuple(self.observed.shape)}")
        for name, count in zip(self.names, self.observed.tolist(), strict=True):
            if not 0 <= count < float("inf"):
                raise InputError(f"control region {name}: expected a count of 0 or more; got {count:g}")

    def log_prob(self, theta: Tensor, counts: Tensor) -> Tensor:
        """ln L of counts (m, b) at theta (m, p), less its maximum: shape (m,); -inf where lambda < 0, or lambda = 0 < n."""
        expected = self.expected(theta)
        seen = counts > 0
        possible = (expected > 0) | ((expected == 0) & ~seen)
        safe, counted = torch.where(expected > 0, expected, 1.0), torch.where(seen, counts, 1.0)
        logs = torch.where(seen, counts * (safe / counted).log(), 0.0)
        return torch.where(possible, logs - (expected - counts), -torch.inf).sum(-1)

    def sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Counts (m, b) drawn at theta (m, p)."""
        return torch.poisson(self.expected(theta.double()), generator=generator)

    def with_observed(self, counts: Tensor) -> ControlRegions:
        """The same regions with other counts (b,): pseudo-data, or ``expected`` itself for an Asimov data set."""
        return replace(self, observed=counts)

    def check(self, parameters: ParameterSpace) -> None:
        """Raise `InputError` unless every bin has a finite, positive expectation at the nominal point."""
        expected = self.expected(parameters.nominal[None])
        if expected.shape != (1, len(self.names)):
            raise InputError(
                f"control regions: expected rates of {len(self.names)} bins, shape (1, {len(self.names)}); got {tuple(expected.shape)}"
            )
        for name, value in zip(self.names, expected[0].tolist(), strict=True):
            if not 0 < value < float("inf"):
                raise InputError(f"control region {name}: expected a positive rate at the nominal parameters; got {value:g}")


def regions_of_models(names: Sequence[str], models: Sequence[RateModel], observed: Tensor, parameters: ParameterSpace) -> ControlRegions:
    """Control regions from one `RateModel` a bin, whose processes add up.

    Raises `InputError` for another number of models, or one of other parameters.
    """
    if len(models) != len(names):
        raise InputError(f"control regions: expected {len(names)} rate models, one a bin; got {len(models)}")
    for name, model in zip(names, models, strict=True):
        if model.names != parameters.names:
            raise InputError(f"control region {name}: expected a rate model of {', '.join(parameters.names)}; got {', '.join(model.names)}")

    def expected(theta: Tensor) -> Tensor:
        return torch.stack([model.expected_events(theta) for model in models], -1)

    return ControlRegions(tuple(names), expected, observed.double())
