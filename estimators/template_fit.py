"""Cell probabilities of one template as a smooth function of the parameters of interest.

p_b(z) = softmax_b(W_b . phi(z)) with phi all monomials up to a degree in the standardised parameters z,
fitted by weighted maximum likelihood (multinomial logistic regression) in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.estimators.monomials import monomials

# Parameters are grouped to 1/32 of their width before the fit: far below any feature of a polynomial.
_RESOLUTION = 32
_MAX_ITERATIONS = 200


@dataclass(frozen=True)
class Counts:
    """Weighted counts of one template: monomials at g points (g, terms), weight per cell there (g, cells).

    Attributes:
        typical: weight of a typical event, sum w^2 / sum w.
    """

    phi: Tensor
    weight: Tensor
    typical: Tensor


@dataclass(frozen=True)
class Penalty:
    """What a template is pulled to where events are few, in events.

    Attributes:
        pseudo_events: events added to each cell on average, shared as in the other template.
        ridge: precision of the non-constant coefficients around the other template's.
    """

    pseudo_events: float
    ridge: float


def monomial_counts(z: Tensor, cell: Tensor, weight: Tensor, n_cells: int, degree: int) -> Counts:
    """Sufficient statistics of events at z (n, q) in ``cell`` (n,) with ``weight`` (n,)."""
    if z.shape[1]:
        points, group = torch.unique((z * _RESOLUTION).round(), dim=0, return_inverse=True)
    else:
        points, group = z[:1], torch.zeros(len(z), dtype=torch.long)
    count = torch.zeros(len(points), n_cells, dtype=torch.float64)
    count.index_put_((group, cell), weight, accumulate=True)
    return Counts(monomials(points / _RESOLUTION, degree), count.clamp_min(0), (weight**2).sum() / weight.sum())


def fit_cells(counts: Counts, other: Tensor, penalty: Penalty) -> Tensor:
    """Coefficients W (cells, terms) of largest penalised likelihood sum_i w_i log p_{cell_i}(z_i).

    ``other`` is W (cells, terms) of the template that empty cells follow (zeros: flat).
    """
    total = counts.weight.sum()
    point_share = counts.weight.sum(1, keepdim=True) / total
    pseudo = penalty.pseudo_events * len(other) * counts.typical * point_share * (counts.phi @ other.T).softmax(-1)
    share = (counts.weight + pseudo) / total
    precision = penalty.ridge * counts.typical / total
    return _maximise(counts.phi, share, other, precision)


def _maximise(phi: Tensor, share: Tensor, other: Tensor, precision: Tensor) -> Tensor:
    coefficients = other.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [coefficients], max_iter=_MAX_ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-11, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -(share * (phi @ coefficients.T).log_softmax(-1)).sum() + 0.5 * precision * ((coefficients - other)[:, 1:] ** 2).sum()
        torch.autograd.backward(loss, inputs=[coefficients])
        return loss.detach()

    with torch.enable_grad():
        optimiser.step(closure)
    return coefficients.detach()
