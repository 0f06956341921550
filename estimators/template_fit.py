"""Cell probabilities of one template as a smooth function of the parameters of interest.

p_b(z) = softmax_b(W_b . phi(z)) with phi all monomials up to a degree in the standardised parameters z,
fitted by weighted maximum likelihood (multinomial logistic regression) in float64.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

# Parameters are grouped to 1/32 of their width before the fit: far below any feature of a polynomial.
_RESOLUTION = 32
_MAX_ITERATIONS = 200


def monomials(z: Tensor, degree: int) -> Tensor:
    """All products of at most ``degree`` columns of z (n, q), the constant first: shape (n, terms)."""
    terms = [torch.ones_like(z[:, 0]) if z.shape[1] else z.new_ones(len(z))]
    for order in range(1, degree + 1):
        for columns in itertools.combinations_with_replacement(range(z.shape[1]), order):
            terms.append(torch.stack([z[:, column] for column in columns]).prod(0))
    return torch.stack(terms, -1)


def count_monomials(columns: int, degree: int) -> int:
    """Number of terms of `monomials`."""
    return monomials(torch.zeros(1, columns), degree).shape[1]


def fit_cells(z: Tensor, cell: Tensor, weight: Tensor, degree: int, prior: Tensor, pseudo_events: float) -> Tensor:
    """Coefficients W (cells, terms) that maximise sum_i w_i log p_{cell_i}(z_i), plus pseudo events.

    Every cell receives ``pseudo_events`` events of the typical weight on average, shared as in ``prior``:
    W (cells, terms) of another template, which empty cells follow.
    """
    points, count = _grouped(z, cell, weight, len(prior))
    phi = monomials(points, degree)
    point_share = count.sum(1) / count.sum()
    typical = (weight**2).sum() / weight.sum()
    expected = point_share[:, None] * (phi @ prior.T).softmax(-1)
    count = count.clamp_min(0) + pseudo_events * len(prior) * typical * expected
    return _maximise(phi, count / count.sum(), prior)


def _grouped(z: Tensor, cell: Tensor, weight: Tensor, n_cells: int) -> tuple[Tensor, Tensor]:
    """Distinct points (g, q) and the weight in each cell there (g, cells): sufficient for the fit."""
    if z.shape[1]:
        points, group = torch.unique((z * _RESOLUTION).round(), dim=0, return_inverse=True)
    else:
        points, group = z[:1], torch.zeros(len(z), dtype=torch.long)
    count = torch.zeros(len(points), n_cells, dtype=torch.float64)
    count.index_put_((group, cell), weight, accumulate=True)
    return points / _RESOLUTION, count


def _maximise(phi: Tensor, share: Tensor, start: Tensor) -> Tensor:
    coefficients = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [coefficients], max_iter=_MAX_ITERATIONS, tolerance_grad=1e-8, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -(share * (phi @ coefficients.T).log_softmax(-1)).sum()
        torch.autograd.backward(loss, inputs=[coefficients])
        return loss.detach()

    with torch.enable_grad():
        optimiser.step(closure)
    return coefficients.detach()
