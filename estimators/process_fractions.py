"""Shares of the processes in the events at every theta, learned from labels in closed form.

f_k(theta) = sum_m c_mk t_m(theta), t = monomials of the parameters of interest up to second order, u and u^2 of every nuisance.
The coefficients are the weighted least squares of the one-hot labels on t: they add up to 1 at every theta, and are exact in
the limit of many events where yields are such polynomials and their sum is constant (as in a mixture of fixed fractions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from touchneedle.estimators.monomials import count_monomials, monomials

# Far from the training events the polynomial may fall below zero.
_SMALLEST = 1e-6


class ProcessFractions(nn.Module):
    """log f_k(theta) for ``processes`` of them, from standardised interest and displacements u of the nuisances."""

    coefficients: Tensor

    def __init__(self, processes: int, interest: int, nuisances: int) -> None:
        super().__init__()
        self.processes = processes
        terms = count_monomials(interest, 2) + 2 * nuisances
        self.register_buffer("coefficients", torch.full((terms, processes), torch.nan))

    def learn(self, interest: Tensor, displacement: Tensor, label: Tensor, weight: Tensor) -> None:
        """Least squares over events with interest (n, i), displacement (n, K), process index (n,) and weight (n,)."""
        root = weight.double().abs().sqrt()[:, None]
        target = nn.functional.one_hot(label, self.processes).double()
        terms = _terms(interest.double(), displacement.double())
        # Templates need not separate all terms (u^2 of a nuisance with one anchor): the smallest solution is taken.
        solved = torch.linalg.lstsq(root * terms, root * target, driver="gelsd").solution
        self.coefficients = solved.to(self.coefficients)

    def forward(self, interest: Tensor, displacement: Tensor) -> Tensor:
        """log f, shape (n, processes)."""
        shares = (_terms(interest, displacement) @ self.coefficients).clamp(min=_SMALLEST)
        return (shares / shares.sum(-1, keepdim=True)).log()


def _terms(interest: Tensor, displacement: Tensor) -> Tensor:
    return torch.cat([monomials(interest, 2), displacement, displacement**2], -1)
