"""What the constraint terms alone say of the nuisances: their values and errors before the fit."""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.inference.fittable import region, step_sizes
from touchneedle.inference.maximise import maximise
from touchneedle.inference.terms import ExactTerms, Summaries
from touchneedle.toys.base import ParameterSpace


def prefit(parameters: ParameterSpace, auxiliary: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of the constraint terms, and its standard errors, each (p,); NaN where there is no constraint.

    From auxiliary measurements (p,). The errors are those of the curvature: sigma of a Gaussian constraint.
    """
    terms = ExactTerms(parameters)
    none = torch.zeros(1, dtype=torch.float64)
    data = Summaries(none, none, auxiliary[None])
    free = torch.tensor([parameter.constraint is not None for parameter in parameters.parameters])
    bounds = torch.stack([parameters.low, parameters.high])
    found = maximise(
        lambda theta, rows: terms.with_gradient(theta, data[rows]),
        parameters.nominal[None],
        region(parameters, bounds, (~free).nonzero().flatten().tolist()),
        torch.diag(step_sizes(parameters) ** -2),
        newton=lambda theta, rows: terms.curvature(theta, data[rows]),
        edm=1e-14,
    )
    sigma = terms.curvature(found.theta, data)[0].diagonal().rsqrt()
    return torch.where(free, found.theta[0], torch.nan), torch.where(free, sigma, torch.nan)
