"""Fits of pseudo-experiments against closed forms, against each other, and when the surface must give up."""

import math

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.inference.centre import whitening
from touchneedle.inference.description import registered_name
from touchneedle.inference.fit_options import FitOptions
from touchneedle.inference.polynomial import Ball
from touchneedle.inference.pseudo_experiments import draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import fit_pseudo_experiments
from touchneedle.inference.terms import fit_limits
from touchneedle.toys.base import Events

TRUE = [0.3, 0.5]


def closed_form(toy, experiments):
    sums = torch.zeros(len(experiments), 2, dtype=torch.float64).index_add_(0, experiments.owner, experiments.pool.x[experiments.index])
    n = experiments.counts.double()
    return toy.closed_form(sums / n[:, None], n, experiments.auxiliary[:, 1])


@pytest.mark.parametrize("method", ["surface", "batched"])
def test_linear_gaussian_equals_the_closed_form(problems, draw, method):
    toy = problems.LinearGaussian()
    experiments = draw(toy, TRUE, 200, 50, n_pool=5_000)
    fits = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(method=method))
    theta, covariance = closed_form(toy, experiments)
    sigma = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert fits.method == method
    assert fits.valid.all()
    # The table is float32; 1e-4 sigma is the stopping rule of the fits.
    assert ((fits.theta - theta) / sigma).abs().max() < 3e-4
    assert (fits.sigma / sigma - 1).abs().max() < 1e-4
    t_true = ((theta[:, 0] - TRUE[0]) / sigma[:, 0]) ** 2
    assert (fits.t_true[:, 0] - t_true).abs().max() < 2e-3


def test_pool_fit_has_no_noise_of_experiments(problems, draw):
    toy = problems.LinearGaussian()
    experiments = draw(toy, TRUE, 200, 10, n_pool=5_000)
    n = torch.tensor([200.0], dtype=torch.float64)
    theta, covariance = toy.closed_form(experiments.pool.x.mean(0, keepdim=True), n, torch.tensor([TRUE[1]]))
    for method in ("surface", "batched"):
        fits = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(method=method))
        assert torch.allclose(fits.pool_theta, theta[0], atol=1e-4)
        assert torch.allclose(fits.pool_covariance, covariance[0], rtol=1e-4)


@pytest.mark.parametrize("n_events", [100, 1_000])
def test_surface_agrees_with_exact_fits(problems, draw, n_events):
    toy = problems.Mixture()
    experiments = draw(toy, [0.5, 0.3, -0.2], n_events, 40)
    surface = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(n_check=5))
    exact = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(method="batched"))
    assert (surface.method, exact.method) == ("surface", "batched")
    assert surface.check_count == 5
    assert not surface.exact.any()
    difference = ((surface.theta - exact.theta) / exact.sigma)[~surface.exact]
    assert difference.square().mean().sqrt() < 0.02
    assert (surface.t_true - exact.t_true).abs().max() < 0.1
    assert (surface.sigma / exact.sigma - 1).abs().max() < 0.05


def test_planted_shift_is_the_paired_bias(problems, draw):
    toy = problems.LinearGaussian()
    experiments = draw(toy, TRUE, 500, 30)
    oracle = fit_pseudo_experiments(problems.Truth(toy), experiments)
    shifted = fit_pseudo_experiments(problems.Truth(toy, shift=[0.1, 0.0]), experiments)
    assert torch.allclose(shifted.theta - oracle.theta, torch.tensor([-0.1, 0.0], dtype=torch.float64).expand(30, 2), atol=1e-4)


def test_planted_narrowness_is_the_ratio_of_widths(problems, draw):
    toy = problems.LinearGaussian()
    toy.spec = problems.LinearGaussian().spec
    experiments = draw(toy, TRUE, 500, 20)
    oracle = fit_pseudo_experiments(problems.Truth(toy), experiments)
    narrow = fit_pseudo_experiments(problems.Truth(toy, factor=1 / 0.81), experiments)
    _, covariance = toy.closed_form(torch.zeros(20, 2, dtype=torch.float64), experiments.counts / 0.81, torch.zeros(20))
    assert torch.allclose(narrow.sigma, covariance.diagonal(dim1=-2, dim2=-1).sqrt(), rtol=1e-4)
    assert (narrow.sigma[:, 0] < oracle.sigma[:, 0]).all()


def test_coverage_of_the_oracle_is_nominal(problems, draw):
    toy = problems.Mixture()
    experiments = draw(toy, [0.4, 0.3, -0.2], 300, 600, n_pool=60_000)
    fits = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(n_check=5))
    assert fits.valid.all()
    for cut in (1.0, 4.0):
        level = math.erf(math.sqrt(cut / 2))
        covered = (fits.t_true[:, 0] <= cut).double().mean()
        assert abs(covered - level) < 4 * math.sqrt(level * (1 - level) / 600)
    pulls = (fits.theta - experiments.theta_true) / fits.sigma
    assert (pulls.std(0) - 1).abs().max() < 4 / math.sqrt(2 * 600)


def test_rugged_estimator_fails_the_surface_and_is_fitted_exactly(problems, draw):
    toy = problems.LinearGaussian()
    experiments = draw(toy, TRUE, 1_000, 12, n_pool=5_000)
    fits = fit_pseudo_experiments(problems.Rugged(toy), experiments, options=FitOptions(max_exact=8))
    assert fits.surface_failed
    assert (fits.method, len(fits)) == ("batched", 8)
    assert fits.exact.all()


def test_fits_outside_the_ball_are_refitted_exactly(problems, draw):
    toy = problems.Mixture()
    experiments = draw(toy, [0.5, 0.3, -0.2], 300, 60)
    small = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(radius=2.0, n_check=2, max_outside=1.0))
    exact = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(method="batched"))
    # P(chi2 of 3 degrees > 4) = 0.26, more with the constrained fits.
    assert 0.1 < small.share_outside < 0.6
    assert small.exact.double().mean() == small.share_outside
    refitted = ((small.theta - exact.theta) / exact.sigma)[small.exact]
    assert refitted.abs().max() < 0.005
    assert small.valid.all()


class Network:
    """A network of one weight: exact in float64; in float32 with an error of each event that depends on theta."""

    error = 0.0

    def __init__(self, toy):
        super().__init__(toy)
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.asked = {torch.float32: 0, torch.float64: 0}

    def _log_ratio(self, x, theta):
        if torch.is_grad_enabled():
            self.asked[x.dtype] += 1
        wrong = self.error * torch.sin(1e4 * theta.double().sum(-1) + x.double().sum(-1)) if x.dtype == torch.float32 else 0.0
        return self.weight * super()._log_ratio(x.double(), theta.double()) + wrong

    def __deepcopy__(self, memo):
        copied = type(self)(self.toy)
        copied.asked = self.asked
        return copied


@pytest.mark.parametrize(("error", "quick"), [(0.0, True), (0.01, False)])
def test_refits_are_in_float32_where_it_makes_no_difference(problems, draw, error, quick):
    toy = problems.Mixture()
    experiments = draw(toy, [0.5, 0.3, -0.2], 300, 60)
    estimator = type("NetworkTruth", (Network, problems.Truth), {"error": error})(toy)
    options = FitOptions(radius=2.0, n_check=5, max_outside=1.0, max_check_rms=1.0)
    fits = fit_pseudo_experiments(estimator, experiments, options=options)
    exact = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(method="batched"))
    assert fits.method == "surface"
    # Beside the scores of the pool and the comparison itself.
    assert (estimator.asked[torch.float32] > 10) is quick
    refitted = ((fits.theta - exact.theta) / exact.sigma)[fits.exact]
    assert len(refitted) > 5
    assert refitted.abs().max() < 0.005


def test_refits_of_some_look_at_these_alone(problems, draw):
    toy = problems.Mixture()
    experiments = draw(toy, [0.5, 0.3, -0.2], 300, 60)
    options = FitOptions(radius=2.0, n_check=20, max_outside=1.0, max_exact=4)
    fits = fit_pseudo_experiments(problems.Truth(toy), experiments, options=options)
    assert int(fits.exact.sum()) == 4
    assert 4 < len(fits) < 60
    assert fits.valid.all()


def test_fits_stay_inside_the_bounds(problems, draw):
    toy = problems.LinearGaussian(bounds=(0.29, 2.0), nominal=0.3)
    experiments = draw(toy, TRUE, 100, 30)
    fits = fit_pseudo_experiments(problems.Truth(toy), experiments)
    unbounded, _ = closed_form(toy, experiments)
    below = unbounded[:, 0] < 0.28
    assert fits.method == "batched"
    assert below.any()
    assert (fits.theta[:, 0] >= 0.29).all()
    assert torch.equal(fits.theta[below, 0], torch.full_like(fits.theta[below, 0], 0.29))
    assert fits.valid.all()


def test_local_normalisation_removes_the_drift(problems, draw):
    toy = problems.LinearGaussian()
    experiments = draw(toy, TRUE, 500, 10)
    oracle = fit_pseudo_experiments(problems.Truth(toy), experiments)
    repaired = fit_pseudo_experiments(problems.Drifting(toy), experiments)
    assert repaired.terms.normalisation is not None
    assert torch.allclose(repaired.theta, oracle.theta, atol=1e-3)
    unaware = problems.Drifting(toy)
    unaware.log_normalisation = lambda theta: torch.zeros(len(theta), dtype=torch.float64)
    biased = fit_pseudo_experiments(unaware, experiments)
    assert ((biased.theta - oracle.theta)[:, 0] > 0.05).all()


def test_extended_term_measures_the_signal_strength(problems, draw):
    toy = problems.SignalStrength()
    experiments = draw(toy, [1.0], 1_000, 300, n_pool=60_000)
    estimator = problems.Truth(toy)
    shape = fit_pseudo_experiments(estimator, experiments)
    extended = fit_pseudo_experiments(estimator, experiments, rates=toy.rates)
    # Information of the rate alone: S^2 / (S + B).
    gain = extended.sigma.mean().pow(-2) - shape.sigma.mean().pow(-2)
    assert abs(gain - 90.0) < 5.0
    assert (shape.sigma > extended.sigma).all()
    pull = ((extended.theta - 1.0) / extended.sigma)[:, 0]
    assert abs(pull.std() - 1) < 4 / math.sqrt(2 * 300)
    exact = fit_pseudo_experiments(estimator, experiments[torch.arange(20)], rates=toy.rates, options=FitOptions(method="batched"))
    assert ((exact.theta - extended.theta[:20]) / exact.sigma).square().mean().sqrt() < 0.02


def test_six_parameters_are_fitted_batched(problems, draw):
    toy = problems.LinearGaussian()
    experiments = draw(toy, TRUE, 100, 5)
    assert fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(max_parameters=1)).method == "batched"


def test_weighted_pool_is_drawn_in_proportion(problems, generator):
    toy = problems.LinearGaussian()
    theta = torch.zeros(4_000, 2, dtype=torch.float64)
    x = torch.randn(4_000, 2, generator=generator, dtype=torch.float64)
    weight = torch.exp(0.3 * x[:, 0])
    pool = Events(x, theta, weight)
    experiments = draw_pseudo_experiments(pool, theta[0], 500, 200, toy.spec.parameters, generator)
    drawn = pool.x[experiments.index, 0]
    expected = (weight @ x[:, 0]) / weight.sum()
    assert abs(drawn.mean() - expected) < 4 * drawn.std() / math.sqrt(len(drawn))
    assert abs(experiments.counts.double().mean() - 500) < 4 * math.sqrt(500 / 200)
    assert abs(experiments.counts.double().std() - math.sqrt(500)) < 4 * math.sqrt(500 / 400)
    assert experiments.effective_pool < 4_000
    fits = fit_pseudo_experiments(problems.Truth(toy), experiments)
    n = torch.tensor([500.0], dtype=torch.float64)
    mean = (experiments.pool_share[None] @ x).double()
    assert torch.allclose(fits.pool_theta, toy.closed_form(mean, n, torch.zeros(1))[0][0], atol=1e-4)


def test_auxiliary_measurements_are_redrawn_around_the_truth(problems, draw):
    experiments = draw(problems.LinearGaussian(), TRUE, 10, 2_000)
    assert experiments.auxiliary[:, 0].isnan().all()
    measured = experiments.auxiliary[:, 1]
    assert abs(measured.mean() - TRUE[1]) < 4 / math.sqrt(2_000)
    assert abs(measured.std() - 1) < 4 / math.sqrt(4_000)


def test_same_seed_draws_the_same_experiments(problems):
    toy = problems.LinearGaussian()
    pool = toy.sample(torch.zeros(100, 2, dtype=torch.float64), generator=torch.Generator().manual_seed(1))
    first, second = (
        draw_pseudo_experiments(pool, torch.zeros(2), 10, 5, toy.spec.parameters, torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert torch.equal(first.index, second.index)
    assert torch.equal(first.auxiliary[:, 1], second.auxiliary[:, 1])


@pytest.mark.parametrize("weight", [-1.0, 0.0])
def test_pool_that_cannot_be_drawn_is_refused(problems, generator, weight):
    toy = problems.LinearGaussian()
    pool = Events(torch.zeros(3, 2), torch.zeros(3, 2), torch.full((3,), weight))
    with pytest.raises(InputError, match="weights >= 0"):
        draw_pseudo_experiments(pool, torch.zeros(2), 10, 5, toy.spec.parameters, generator)


def test_estimators_that_are_not_sums_are_refused(problems, draw):
    toy = problems.LinearGaussian()
    estimator = problems.Truth(toy)
    estimator.additive = False
    with pytest.raises(InputError, match="additive=False"):
        fit_pseudo_experiments(estimator, draw(toy, TRUE, 10, 2, n_pool=100))


def test_whitening_falls_back_on_the_trusted_metric():
    metric = torch.eye(2, dtype=torch.float64)
    nothing = torch.full((2, 2), torch.nan, dtype=torch.float64)
    near, far = torch.diag(torch.tensor([9.0, 1.0]).double()), torch.diag(torch.tensor([25.0, 1.0]).double())
    assert whitening(near, metric) is near
    assert whitening(far, metric) is metric
    assert whitening(nothing, metric) is metric
    assert whitening(nothing, None) is None
    assert whitening(far, None) is far


def test_only_registered_estimators_have_a_name(problems):
    with pytest.raises(InputError, match="registered"):
        registered_name(problems.Truth(problems.LinearGaussian()))


def test_large_bias_keeps_the_surface_and_refits_the_profile(problems, draw):
    toy = problems.LinearGaussian()
    experiments = draw(toy, TRUE, 100, 30, n_pool=5_000)
    estimator = problems.Truth(toy, shift=[2.0, 0.0])
    fits = fit_pseudo_experiments(estimator, experiments, options=FitOptions(n_check=5, max_exact=20))
    assert fits.surface is not None
    assert fits.share_outside == 1.0
    # All constrained fits left the ball: 20 are refitted, the rest left out.
    assert len(fits) == 20
    assert fits.exact.all()
    theta, covariance = closed_form(toy, experiments)
    expected = ((theta[:20, 0] - 2.0 - TRUE[0]) / covariance[:20, 0, 0].sqrt()) ** 2
    assert torch.allclose(fits.t_true[:, 0], expected, rtol=1e-3)


def test_some_experiments_are_themselves(problems, draw):
    """Their own events, counts and auxiliary measurements, in the order of all; an experiment without events, too."""
    experiments = draw(problems.LinearGaussian(), TRUE, 2, 30, n_pool=500)
    rows = torch.tensor([0, 3, 4, 29])
    some = experiments[rows]
    assert (experiments.counts == 0).any()
    assert torch.equal(some.counts, experiments.counts[rows])
    assert torch.equal(some.auxiliary.nan_to_num(), experiments.auxiliary[rows].nan_to_num())
    for place, row in enumerate(rows):
        assert torch.equal(some.index[some.owner == place], experiments.index[experiments.owner == row])
    for wrong in ([3, 0], [1, 1]):
        with pytest.raises(ValueError, match="different experiments in the order of all"):
            experiments[torch.tensor(wrong)]


def test_sums_of_the_surface_are_those_of_the_events(problems, draw):
    toy = problems.LinearGaussian()
    surface = fit_pseudo_experiments(problems.Truth(toy), draw(toy, TRUE, 200, 10, n_pool=2_000)).surface
    experiments = draw(toy, TRUE, 2, 30, n_pool=2_000)
    assert (experiments.counts == 0).any()
    sums = surface.experiment_sums(experiments)
    for experiment, found in enumerate(sums):
        chosen = experiments.index[experiments.owner == experiment]
        torch.testing.assert_close(found, surface.table[chosen].double().sum(0))


def test_surface_derivatives_are_those_of_its_value(problems, draw):
    toy = problems.SignalStrength()
    experiments = draw(toy, [1.0], 200, 4, n_pool=2_000)
    surface = fit_pseudo_experiments(problems.Truth(toy), experiments, rates=toy.rates).surface
    check_derivatives(surface, experiments, torch.tensor([[1.1]]))
    toy = problems.Mixture()
    experiments = draw(toy, [0.5, 0.3, -0.2], 200, 4, n_pool=2_000)
    surface = fit_pseudo_experiments(problems.Truth(toy), experiments).surface
    check_derivatives(surface, experiments, torch.tensor([[0.52, 0.1, 0.2]]))


def check_derivatives(surface, experiments, theta):
    objective = surface.problem(surface.experiment_sums(experiments), experiments.summaries).objective
    rows = torch.arange(4)
    theta = theta.double().expand(4, -1)
    numeric = []
    for k in range(theta.shape[1]):
        step = torch.zeros_like(theta)
        step[:, k] = 1e-4
        (up, up_gradient), (down, down_gradient) = objective(theta + step, rows), objective(theta - step, rows)
        assert torch.allclose(objective(theta, rows)[1][:, k], (up - down) / 2e-4, rtol=1e-5, atol=1e-4)
        numeric.append((down_gradient - up_gradient) / 2e-4)
    assert torch.allclose(objective.curvature(theta, rows), torch.stack(numeric, -1), rtol=1e-5, atol=1e-3)


class Edged:
    """Adds to a log ratio what diverges beyond the end of the flat prior [0.05, 0.95]."""

    def _log_ratio(self, x, theta):
        return super()._log_ratio(x, theta) + 50 * (theta[:, 0] - 0.95).clamp_min(0)


def test_learned_estimators_stay_inside_their_flat_priors(problems, draw):
    edged = type("EdgedTruth", (Edged, problems.Truth), {})
    toy = problems.Mixture()
    experiments = draw(toy, [0.85, 0.0, 0.0], 100, 30, n_pool=4_000)
    fits = fit_pseudo_experiments(edged(toy), experiments)
    assert (fits.theta[:, 0] < 0.95).all()
    assert fits.valid.all()
    exact = edged(toy)
    exact.needs_truth = True
    assert fit_limits(exact)[1, 0] == 1.0
    assert 0.94 < fit_limits(edged(toy))[1, 0] < 0.95


def test_ball_keeps_to_where_training_events_are(problems):
    parameters = problems.Mixture().spec.parameters
    ball = Ball.around(parameters.nominal, torch.diag(torch.tensor([0.04, 1.0, 1.0]).double()), 4.0, parameters)
    points = ball.points(64)
    assert len(points) == 64
    assert points[:, 0].min() > 0.05
    assert points[:, 1:].abs().max() <= 3.0
    assert not ball.holds(torch.tensor([[0.5, 3.2, 0.0]], dtype=torch.float64)).any()
    assert ball.holds(parameters.nominal[None]).all()
