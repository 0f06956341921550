"""Yields as functions of nuisances: exact along one, Gaussian interactions, parabolas through steps."""

import numpy as np
import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import GaussianConstraint, Normal, Parameter, Uniform
from touchneedle.toys.weight_variations import varied_weights
from touchneedle.toys.yield_surface import YieldSurface


def alpha(name):
    return Parameter(name, "nuisance", 0.0, (-4.0, 4.0), Uniform(-4.0, 4.0), GaussianConstraint(1.0))


SCALE = Parameter("scale", "nuisance", 1.0, (0.9, 1.1), Normal(1.0, 0.016), GaussianConstraint(0.01))


def two_processes(n=20_000, size=0.1):
    """Positive weights with correlated asymmetric variations, and labels."""
    rng = np.random.default_rng(0)
    nominal, label = rng.uniform(0.5, 2, n), rng.integers(0, 2, n)
    common = rng.normal(size=n)
    up = [nominal * np.exp(size * (common + 0.3 * rng.normal(size=n)) + 0.02), nominal * np.exp(-size * common)]
    down = [nominal * np.exp(-0.8 * size * common), nominal * np.exp(1.2 * size * common)]
    weights = torch.from_numpy(np.stack([nominal, down[0], up[0], down[1], up[1]], axis=1))
    return weights, torch.from_numpy(label)


def sums_of(weights, label):
    return lambda values: torch.bincount(label, varied_weights(weights, values.expand(len(weights), -1)), minlength=2)


@pytest.fixture(scope="module")
def surface():
    weights, label = two_processes()
    sums = sums_of(weights, label)
    return YieldSurface.tabulate([alpha("a"), alpha("b")], [False, False], sums), sums


def test_along_one_nuisance_the_sums_are_met(surface):
    model, sums = surface
    for column in (0, 1):
        for value in (-4.0, -2.6, -1.0, -0.37, 0.0, 0.1, 1.0, 1.9, 4.0):
            point = torch.zeros(2, dtype=torch.float64)
            point[column] = value
            torch.testing.assert_close(model(point[None])[0], sums(point), rtol=1e-5, atol=0)


def test_nominal_is_exact(surface):
    model, sums = surface
    torch.testing.assert_close(
        model(torch.zeros(1, 2, dtype=torch.float64))[0], sums(torch.zeros(2, dtype=torch.float64)), rtol=1e-12, atol=0
    )


def test_two_nuisances_at_their_anchors_are_exact(surface):
    model, sums = surface
    for point in torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64):
        torch.testing.assert_close(model(point[None])[0], sums(point), rtol=1e-9, atol=0)


def test_elsewhere_the_interaction_is_most_of_the_truth(surface):
    model, sums = surface
    for point in torch.tensor([[-2.0, 1.5], [0.5, 0.5], [-0.4, -1.5], [3.0, 3.0], [-3.0, 3.0]], dtype=torch.float64):
        exact = sums(point)
        alone = [model(torch.tensor([pair], dtype=torch.float64))[0] for pair in ([point[0], 0.0], [0.0, point[1]], [0.0, 0.0])]
        factorised = alone[0] * alone[1] / alone[2]
        error, without = (((found / exact) - 1).abs().max().item() for found in (model(point[None])[0], factorised))
        assert error < 0.2 * without


def test_gaussian_weights_are_met_everywhere():
    """E[exp(a X + b Y)] of a bivariate normal has exactly this form: the closed form is the limit of the sums."""
    rho, s, t = 0.6, 0.2, 0.3

    def sums(values):
        a, b = values
        return torch.exp(0.5 * (a * s) ** 2 + 0.5 * (b * t) ** 2 + rho * a * b * s * t)[None]

    model = YieldSurface.tabulate([alpha("a"), alpha("b")], [False, False], sums)
    points = 8 * torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 4
    torch.testing.assert_close(model(points)[:, 0], torch.cat([sums(point) for point in points]), rtol=1e-9, atol=0)


def test_a_batch_is_its_rows_and_without_nuisances_there_is_the_nominal_yield(surface):
    model, _ = surface
    points = torch.randn(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(model(points), torch.cat([model(point[None]) for point in points]), rtol=1e-12, atol=0)
    constant = YieldSurface.tabulate([], [], lambda values: torch.tensor([3.0, 5.0], dtype=torch.float64))
    assert constant(torch.empty(4, 0, dtype=torch.float64)).tolist() == [[pytest.approx(3), pytest.approx(5)]] * 4


def test_steps_become_a_smooth_curve_through_nominal():
    pt = torch.from_numpy(np.random.default_rng(0).exponential(20, 2_000))

    def selected(values):
        return (pt * values[0] > 15).sum().double()[None]

    model = YieldSurface.tabulate([SCALE], [True], selected)
    values = torch.linspace(0.9, 1.1, 201, dtype=torch.float64)[:, None]
    exact = torch.stack([selected(value) for value in values])
    curve = model(values)
    assert model(torch.ones(1, 1, dtype=torch.float64)).item() == pytest.approx(selected(torch.ones(1)).item())
    assert ((curve - exact) / exact).abs().max() < 0.01
    # exp(-15 / (20 v)) is the expected share: a slope of 0.75 in log yield at 1.
    slope = (model(torch.tensor([[1.001]]).double()) / model(torch.tensor([[0.999]]).double())).log().item() / 0.002
    assert slope == pytest.approx(0.75, abs=0.15)
    bends = curve[:, 0].log().diff().diff()
    assert (bends - bends.mean()).abs().max() < 1e-9


@pytest.mark.parametrize(("size", "bound"), [(0.1, 1e-3), (0.2, 6e-3)])
def test_three_nuisances_at_their_anchors_lack_what_no_pair_tells(size, bound):
    rng = np.random.default_rng(0)
    x, nominal = rng.normal(size=20_000), rng.uniform(0.5, 1.5, 20_000)
    logs = [size * x + 0.02 * size * x**2, size * np.abs(x), size * (0.7 * x - 0.5 * np.abs(x) + 0.04 * x**2)]
    weights = torch.from_numpy(np.stack([nominal, *(nominal * np.exp(sign * log) for log in logs for sign in (-1, 1))], axis=1))
    sums = sums_of(weights, torch.zeros(len(weights), dtype=torch.int64))
    model = YieldSurface.tabulate([alpha(name) for name in "abc"], [False] * 3, lambda values: sums(values)[:1])
    points = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
    off = torch.stack([model(point[None])[0, 0] / sums(point)[0] - 1 for point in points]).abs()
    together = (points != 0).all(1)
    assert off[~together].max() < 1e-12
    assert bound / 5 < off[together].max() < bound


def test_nuisances_that_together_do_what_no_pair_tells_are_refused():
    def sums(values):
        return torch.exp(0.5 * values[0] * values[1] * values[2])[None]

    with pytest.raises(InputError, match=r"not described within 2%: they are [0-9.]+% off at a = -?[0-9.]+, b = .*one nuisance"):
        YieldSurface.tabulate([alpha("a"), alpha("b"), alpha("c")], [False] * 3, sums)
    YieldSurface.tabulate([alpha("a"), alpha("b"), alpha("c")], [False] * 3, lambda values: torch.exp(0.1 * values.sum())[None])


def test_a_yield_that_vanishes_is_refused_with_its_place():
    with pytest.raises(InputError, match=r"process number 1 has -?[0-9.]+ at a = -4"):
        YieldSurface.tabulate([alpha("a")], [False], lambda values: torch.stack([torch.ones_like(values[0]), values[0] + 3]))
