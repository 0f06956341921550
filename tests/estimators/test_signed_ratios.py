"""Signed ratios: the losses' optima are the exact ratio, identities, and what they recover where the density is negative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators import ratio_signed_mixture, signed_network
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ratio_bce import RatioBce
from touchneedle.estimators.ratio_signed_mixture import RatioSignedMixture
from touchneedle.estimators.signed_network import SignedNetwork
from touchneedle.estimators.signed_ratio import SignedRatio
from touchneedle.toys.base import Events, ExactToy

# A signed toy has two training points: what is said between and beyond them is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")

NAMES = ["ratio_signed_mixture", "ratio_signed_pare", "ratio_signed_revert"]
RATIOS = torch.tensor([-7.0, -1.0, -0.01, 0.0, 0.3, 1.0, 20.0], dtype=torch.float64)
# Three values of x, two of theta; each cell has positive and negative weights.
CELLS = 6


def built(name: str, toy: ExactToy, events: Events, **params: Any) -> SignedRatio:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec, **params)
    assert isinstance(estimator, SignedRatio)
    # In float64 from the start: mean weights in float32 would move the optima by 1e-8.
    estimator.double().prepare(events)
    return estimator


def signed_events(n: int) -> Events:
    """x of 0, 1 or 2 with weights of both signs and of mean 1 at each theta (0 or 1 in its first column)."""
    generator = torch.Generator().manual_seed(1)
    cell = torch.arange(n) % CELLS
    x, t = (cell // 2)[:, None].double(), (cell % 2).double()
    size = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)
    sign = torch.where(torch.arange(n) % (3 * CELLS) < CELLS, -1.0, 1.0)
    weight = size * sign * torch.where((x[:, 0] == 1) & (sign < 0), 2.5 + 0.3 * t, 1.0)
    mean = torch.stack([weight[t == value].mean() for value in (0, 1)])
    return Events(x, torch.stack([t, torch.zeros(n, dtype=torch.float64)], 1), weight / mean[t.long()])


def table_of(events: Events, weight: Tensor) -> Tensor:
    """Sum of weights per cell: shape (3, 2)."""
    index = 2 * events.x[:, 0].long() + events.theta[:, 0].long()
    return torch.zeros(CELLS, dtype=torch.float64).index_add(0, index, weight).reshape(3, 2)


def densities(events: Events, weight: Tensor) -> Tensor:
    """q(x|theta) / g(x) of the events under ``weight``, g from absolute weights: shape (3, 2)."""
    part, absolute = table_of(events, weight), table_of(events, events.weight.abs())
    g = absolute.sum(1) / absolute.sum()
    return part / part.sum(0) / g[:, None]


def rho_of(estimator: SignedRatio, x: Tensor, theta: Tensor) -> Tensor:
    with torch.no_grad():
        sign, log = estimator._rho(x, theta[:, None])
    return (sign * log.exp()).squeeze(1)


def look_up(table: Tensor, x: Tensor, theta: Tensor) -> Tensor:
    return table[x[:, 0].long()[:, None].expand(-1, theta.shape[1]), theta[..., 0].long()]


def loss_of_all_pairs(estimator: Estimator, events: Events, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The loss, every event paired once with every event: the exact product of the marginals."""
    total = torch.zeros((), dtype=torch.float64)
    for k in range(len(events)):
        for module in (signed_network, ratio_signed_mixture):
            monkeypatch.setattr(module, "random_partner", lambda n, _, k=k: torch.arange(n).roll(k))
        total = total + estimator.loss(events, torch.Generator()).sum()
    return total


def assert_stationary(loss: Tensor, tables: list[Tensor]) -> None:
    gradients = torch.autograd.grad(loss, tables)
    assert all(gradient.abs().max() < 1e-9 * loss.abs() for gradient in gradients)


@pytest.mark.parametrize(("name", "params"), [("ratio_signed_revert", {}), ("ratio_signed_pare", {"pole": 50.0})])
def test_optimum_over_signed_events_is_the_signed_density_over_the_absolute_one(
    name: str, params: dict[str, Any], location: ExactToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = signed_events(90)
    estimator = built(name, location, events, **params)
    assert isinstance(estimator, SignedNetwork)
    rho = densities(events, events.weight)
    assert (rho < 0).any()
    table = (torch.asinh(rho / 2) if name == "ratio_signed_revert" else rho / (1 + rho / 50)).requires_grad_()
    monkeypatch.setattr(estimator, "_outputs", lambda x, theta: look_up(table, x, theta))
    exact = loss_of_all_pairs(estimator, events, monkeypatch)
    assert_stationary(exact, [table])
    torch.testing.assert_close(rho_of(estimator, events.x, events.theta), look_up(rho, events.x, events.theta[:, None]).squeeze(1))
    with torch.no_grad():
        table.mul_(1.1)
        assert loss_of_all_pairs(estimator, events, monkeypatch) > exact


@pytest.mark.parametrize("coefficients", ["fixed", "tuned", "refined"])
def test_optimum_of_the_mixture_is_its_parts_and_their_odds(coefficients: str, location: ExactToy, monkeypatch: pytest.MonkeyPatch) -> None:
    events = signed_events(90)
    estimator = built("ratio_signed_mixture", location, events, coefficients=coefficients)
    assert isinstance(estimator, RatioSignedMixture)
    positive, negative = events.weight.clamp(min=0), (-events.weight).clamp(min=0)
    parts = [densities(events, weight).log().requires_grad_() for weight in (positive, negative)]
    odds = (table_of(events, negative).sum(0) / table_of(events, positive).sum(0)).log().requires_grad_()

    def logits(network: object, x: Tensor, theta: Tensor) -> Tensor:
        return look_up(parts[0 if network is estimator.positive else 1], x, theta)

    monkeypatch.setattr(estimator, "_logits", logits)
    monkeypatch.setattr(estimator, "_log_odds", lambda theta: odds[theta[..., 0].long()])
    assert_stationary(loss_of_all_pairs(estimator, events, monkeypatch), [*parts, odds])
    expected = look_up(densities(events, events.weight), events.x, events.theta[:, None]).squeeze(1)
    torch.testing.assert_close(rho_of(estimator, events.x, events.theta), expected)


def test_losses_are_those_of_the_papers(location: ExactToy) -> None:
    """arXiv:2512.19913 and 2410.10216 in their own variable s; PARE up to a scale and a constant."""
    events = signed_events(90)
    revert = built("ratio_signed_revert", location, events)
    assert isinstance(revert, SignedNetwork)
    z = torch.asinh(RATIOS / 2)
    s = torch.where(RATIOS == 0, 0.5, (RATIOS + 2 - (RATIOS**2 + 4).sqrt()) / (2 * RATIOS))
    torch.testing.assert_close(revert._joint_loss(z), s)
    torch.testing.assert_close(revert._reference_loss(z), -s.log() - (1 - s).log())
    t0, t1 = 6.0, 2.0
    pare = built("ratio_signed_pare", location, events, pole=(t0 / t1) ** 2)
    assert isinstance(pare, SignedNetwork)
    s = (t0 + t1 * RATIOS) / (t0**2 + t1**2 * RATIOS)
    v = RATIOS / (1 + RATIOS / 9)
    scale = (1 - t1 / t0) ** 2 * (t1 / t0) ** 2
    torch.testing.assert_close((t0 * s - 1) ** 2, scale * pare._reference_loss(v))
    torch.testing.assert_close((t1 * s - 1) ** 2, scale * (pare._joint_loss(v) + 9))


@pytest.mark.parametrize("name", NAMES)
def test_ratio_log_ratio_and_normalisation_agree_in_either_sign(name: str, location: ExactToy) -> None:
    events = signed_events(90)
    estimator = built(name, location, events, hidden=(8,))
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.mul_(3)
    x = torch.linspace(-3, 3, 40, dtype=torch.float64)[:, None]
    theta = torch.tensor([[1.0, 0.5], [-1.0, 2.0]], dtype=torch.float64)
    ratio = torch.stack([estimator.ratio(x, point) for point in theta], 1)
    grid = estimator.log_ratio_grid(x, theta)
    assert (ratio < 0).any()
    usable = (ratio > 0) & (rho_of(estimator, x, torch.zeros(40, 2).double()) > 0)[:, None]
    torch.testing.assert_close(grid[usable], ratio[usable].log())
    assert grid[~usable].isnan().all()
    torch.testing.assert_close(estimator.ratio(x, torch.zeros(2)), torch.ones(40, dtype=torch.float64))
    share = events.weight.abs() / events.weight.abs().sum()
    points = torch.cat([torch.zeros(1, 2, dtype=torch.float64), theta])
    log_mean = torch.stack([share @ rho_of(estimator, events.x, point.expand(90, -1)) for point in points]).log()
    torch.testing.assert_close(estimator.log_normalisation(theta), log_mean[1:] - log_mean[0], equal_nan=True)


def test_mixture_without_negative_weights_is_the_ordinary_classifier(location: ExactToy) -> None:
    generator = torch.Generator().manual_seed(2)
    theta = location.spec.parameters.sample_prior(200, generator)
    events = location.sample(theta, generator=generator).with_weight(0.5 + torch.rand(200, generator=generator))
    mixture = built("ratio_signed_mixture", location, events)
    assert isinstance(mixture, RatioSignedMixture)
    ordinary = build_estimator("ratio_bce", location.spec)
    assert isinstance(ordinary, RatioBce)
    ordinary.prepare(events)
    ordinary.double().network.load_state_dict(mixture.positive.state_dict())
    losses = [estimator.loss(events, torch.Generator().manual_seed(3)) for estimator in (mixture, ordinary)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(mixture.log_ratio(events.x, theta), ordinary.log_ratio(events.x, theta))
    torch.testing.assert_close(mixture.log_normalisation(theta[:5]), ordinary.log_normalisation(theta[:5]))
    assert len(mixture.stages()[0].parameters) == len(list(mixture.positive.parameters()))


def test_odds_start_at_those_of_all_events(location: ExactToy) -> None:
    events = signed_events(90)
    mixture = built("ratio_signed_mixture", location, events)
    assert isinstance(mixture, RatioSignedMixture)
    with torch.no_grad():
        for parameter in mixture.odds.parameters():
            parameter.zero_()
    expected = -events.weight.clamp(max=0).sum() / events.weight.clamp(min=0).sum()
    torch.testing.assert_close(mixture._log_odds(events.theta[:, None]).exp(), expected.expand(90, 1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_sum_of_weights_that_is_not_positive_is_refused(name: str, location: ExactToy) -> None:
    events = signed_events(90)
    with pytest.raises(InputError, match="expected a positive sum of weights"):
        build_estimator(name, location.spec).prepare(events.with_weight(-events.weight))


def test_unknown_coefficients_and_poles_are_refused(location: ExactToy) -> None:
    with pytest.raises(InputError, match="option coefficients"):
        build_estimator("ratio_signed_mixture", location.spec, coefficients="free")
    with pytest.raises(InputError, match="option pole"):
        build_estimator("ratio_signed_pare", location.spec, pole=-1.0)
