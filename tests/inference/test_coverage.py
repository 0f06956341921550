"""Coverage of asymptotic and Neyman intervals by the exact likelihood: near a bound, and with a second maximum."""

import pytest
import torch

from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, Simulation, coverage
from touchneedle.inference.calibrated import Thresholds
from touchneedle.inference.coverage import METHODS, plug_in_threshold
from touchneedle.inference.fit_options import FitOptions
from touchneedle.toys.base import build_toy

ASYMPTOTIC, NEYMAN, PLUG_IN = range(3)


def exact(name, **options):
    toy = build_toy(name, **options)
    return toy, Likelihood(build_estimator("oracle", toy.spec, truth=toy).double(), toy.rates)


def pulls(found, method):
    """(coverage - level) / error, (m, l)."""
    return (found.share[method] - torch.tensor(found.levels)) / found.error[method]


def test_all_methods_cover_where_wilks_holds():
    toy, likelihood = exact("gaussian_shift", fit_events=300)
    points = torch.tensor([[0.1, 0.5, -0.5]], dtype=torch.float64)
    found = coverage(likelihood, "shift", points, Simulation(toy.sample))
    for method in range(len(METHODS)):
        assert pulls(found, method).abs().max() < 4
    assert found.error[ASYMPTOTIC].max() < 0.02
    assert int(found.failed.sum()) == 0
    assert "shift, offset, log_scale" in str(found)


def test_plug_in_thresholds_are_interpolated_in_the_nuisances():
    points = torch.tensor([[1.0, -1.0], [1.0, 0.0], [1.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    threshold = torch.tensor([[1.0], [2.0], [3.0], [9.0]], dtype=torch.float64)
    none, nothing = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 1, dtype=torch.float64)
    thresholds = Thresholds(
        "mu", ("mu", "nu"), points, (0.68,), threshold, error=nothing, t=nothing, failed=none, method=("surface",) * 4, check_rms=nothing
    )  # fmt: skip
    conditional = torch.tensor([[1.0, 0.5], [1.0, 7.0]], dtype=torch.float64)
    assert torch.allclose(plug_in_threshold(thresholds, 1, conditional), torch.tensor([[2.5], [3.0]]).double())
    assert torch.allclose(plug_in_threshold(thresholds, 3, conditional), torch.tensor([[9.0], [9.0]]).double())


@pytest.mark.slow
def test_near_a_bound_only_neyman_covers(capsys):
    toy, likelihood = exact("counting_and_shape", fit_events=200)
    points = torch.tensor([[mu, 1.0, nu] for mu in (0.05, 1.0) for nu in (-1.0, 0.0, 1.0)], dtype=torch.float64)
    found = coverage(likelihood, "mu", points, Simulation(toy.sample))
    with capsys.disabled():
        print(f"\n{found}")
    assert pulls(found, NEYMAN).abs().max() < 4
    # Estimates pile up on the bound: the asymptotic intervals are too long there.
    assert pulls(found, ASYMPTOTIC)[:3, 0].sum() / 3**0.5 > 4
    assert pulls(found, PLUG_IN).abs().max() < 5


@pytest.mark.slow
def test_with_a_second_maximum_only_neyman_covers(capsys):
    toy, likelihood = exact("amplitude_interference", fit_events=200)
    points = torch.tensor([[mu, nu] for mu in (0.1, 1.0) for nu in (-1.0, 1.0)], dtype=torch.float64)
    starts = torch.tensor([[mu, 0.0] for mu in (0.02, 0.2, 1.2)], dtype=torch.float64)
    simulation = Simulation(toy.sample, starts=starts, options=FitOptions(method="batched"))
    found = coverage(likelihood, "mu", points, simulation)
    with capsys.disabled():
        print(f"\n{found}")
    assert pulls(found, NEYMAN).abs().max() < 4
    assert pulls(found, ASYMPTOTIC).abs().max() > 4
