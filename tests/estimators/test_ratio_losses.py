"""The losses of the ratio estimators on a problem with three x and three theta, where log r is a table."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ratio_balanced import imbalance
from touchneedle.estimators.ratio_network import Pairs, RatioNetwork, cross_entropy, random_partners
from touchneedle.toys.base import Events, Feature, Parameter, ParameterSpace, ToySpec, Uniform

SPEC = ToySpec("cells", "1", ParameterSpace((Parameter("mu", "interest", 0.0, (0.0, 2.0), Uniform(0.0, 2.0)),)), (Feature("x"),), ("all",))
JOINT = torch.tensor([[0.20, 0.05, 0.05], [0.10, 0.15, 0.05], [0.02, 0.08, 0.30]], dtype=torch.float64)
EXACT = (JOINT / JOINT.sum(1, keepdim=True) / JOINT.sum(0)).log()
BATCHES, BATCH = 100, 256

VARIANTS = [
    ("ratio_bce", {}),
    ("ratio_regression", {}),
    ("ratio_balanced", {}),
    ("ratio_nre_c", {}),
    ("ratio_nre_c", {"contrastive": 3, "gamma": 0.2}),
]


class Table(nn.Module):
    """log r of cell (x, theta), for x and theta in 0, 1, 2."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, pair: Tensor) -> Tensor:
        return self.values[tuple(pair.long().T)][:, None]


def tabular(name: str, values: Tensor, params: dict[str, object]) -> tuple[Estimator, nn.Parameter]:
    estimator = build_estimator(name, SPEC, **params).double()
    assert isinstance(estimator, RatioNetwork)
    estimator.network = table = Table(values)
    return estimator, table.values


def cells(n: int, seed: int) -> Events:
    """Cells of equal chance, weighted to JOINT by weights that fluctuate within a cell."""
    generator = torch.Generator().manual_seed(seed)
    cell = torch.randint(9, (n,), generator=generator)
    weight = 9 * JOINT.flatten()[cell] * (0.5 + torch.rand(n, generator=generator))
    return Events(torch.stack([cell // 3], 1).double(), torch.stack([cell % 3], 1).double(), weight)


def gradients(name: str, values: Tensor, params: dict[str, object]) -> tuple[Tensor, Tensor]:
    """Mean gradient of the loss in every cell over many batches, and its standard error."""
    estimator, table = tabular(name, values, params)
    generator = torch.Generator().manual_seed(1)
    batches = cells(BATCHES * BATCH, 0).batches(BATCH)
    each = torch.stack([torch.autograd.grad(estimator.loss(batch, generator).mean(), table)[0] for batch in batches])
    return each.mean(0), each.std(0) / BATCHES**0.5


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_the_exact_ratio_is_the_optimum(name: str, params: dict[str, object]) -> None:
    mean, error = gradients(name, EXACT, params)
    assert (mean.abs() < 4.5 * error).all()


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_a_wrong_ratio_is_not(name: str, params: dict[str, object]) -> None:
    """A function of x alone added to log r, which a contrast without ``none`` could not see, and one wrong cell."""
    for change in (torch.tensor([[1.0], [0.0], [0.0]]), torch.eye(3)[2:] * torch.eye(3)[:, 2:]):
        mean, error = gradients(name, EXACT + change, params)
        wrong = change.expand(3, 3) > 0
        assert (mean[wrong] > 5 * error[wrong]).any()


def test_one_contrast_at_even_odds_is_the_classifier() -> None:
    values = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    contrast, _ = tabular("ratio_nre_c", values, {"contrastive": 1, "gamma": 1.0})
    classifier, _ = tabular("ratio_bce", values, {})
    events = cells(50, 3)
    losses = [estimator.loss(events, torch.Generator().manual_seed(4)) for estimator in (contrast, classifier)]
    torch.testing.assert_close(*losses)


def test_the_exact_ratio_is_balanced_and_a_confident_one_is_not() -> None:
    marginal = JOINT.sum(1, keepdim=True) * JOINT.sum(0)
    for values, balanced in ((EXACT, True), (EXACT + 0.3, False)):
        pairs = Pairs(values.flatten(), values.flatten(), 9 * JOINT.flatten(), 9 * marginal.flatten())
        direct = (JOINT * values.sigmoid()).sum() + (marginal * values.sigmoid()).sum() - 1
        torch.testing.assert_close(imbalance(pairs), direct)
        assert (abs(direct) < 1e-12) == balanced


@pytest.mark.parametrize("square", ["halves", "batch"])
def test_the_square_of_a_batch_mean_is_not_that_of_the_expectation(square: str) -> None:
    """The penalty at an exact ratio, whose imbalance is 0: balance Var(d) / n for ``batch``, nothing for ``halves``."""
    joint = torch.tensor([[1.2, 0.9, 0.9], [0.9, 1.2, 0.9], [0.9, 0.9, 1.2]], dtype=torch.float64)
    models = [tabular("ratio_balanced", joint.log(), {"square": square, "balance": balance})[0] for balance in (100.0, 0.0)]
    cell = torch.multinomial(joint.flatten(), 600 * 64, replacement=True, generator=torch.Generator().manual_seed(5))
    batches = list(Events((cell // 3)[:, None].double(), (cell % 3)[:, None].double(), torch.ones(len(cell))).batches(64))
    with torch.no_grad():
        losses = [[model.loss(batch, torch.Generator().manual_seed(i)).mean() for i, batch in enumerate(batches)] for model in models]
    penalty = torch.tensor(losses[0]) - torch.tensor(losses[1])
    error = penalty.std() / len(penalty) ** 0.5
    # d is close to 1/2 + log r / 4 in joint and in marginal pairs: Var = 2 Var(log r) / 16.
    variance = 2 * joint.log().var(correction=0) / 16
    expected = 100 * variance / 64 if square == "batch" else 0.0
    assert abs(penalty.mean() - expected) < 4 * error
    assert error < 0.1 * 100 * variance / 64


def test_partners_are_different_others() -> None:
    generator = torch.Generator().manual_seed(6)
    for n, count, rows in ((7, 3, 3), (4, 9, 3), (2, 1, 1), (1, 5, 1)):
        partners = random_partners(n, count, generator)
        assert partners.shape == (rows, n)
        assert torch.equal(partners.sort(1).values, torch.arange(n).expand(rows, n))
        if n > 1:
            column = torch.cat([torch.arange(n)[None], partners])
            assert all(len(set(own)) == rows + 1 for own in column.T.tolist())


@pytest.mark.parametrize("name", ["ratio_balanced", "ratio_bce", "ratio_nre_c", "ratio_regression"])
def test_small_batches_have_finite_losses(name: str) -> None:
    estimator, _ = tabular(name, EXACT, {})
    for n in (1, 2, 3):
        loss = estimator.loss(cells(n, 7), torch.Generator().manual_seed(8))
        assert loss.shape == (n,)
        assert torch.isfinite(loss).all()


def test_cross_entropy_at_even_odds_is_log_two() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    torch.testing.assert_close(cross_entropy(Pairs(zero, zero, one, 3 * one)), 4 * math.log(2) * one)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ratio_nre_c", {"contrastive": 0}),
        ("ratio_nre_c", {"gamma": 0.0}),
        ("ratio_balanced", {"balance": -1.0}),
        ("ratio_balanced", {"square": "x"}),
    ],
)
def test_bad_options_are_named(name: str, params: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(params))):
        build_estimator(name, SPEC, **params)
