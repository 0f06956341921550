"""The checks of `touchneedle.benchmark.check_toy` that look at events and densities."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from touchneedle.benchmark.checks import CheckFailed
from touchneedle.benchmark.integration import WeightedPoints, cloud_points, density, integral, line_points
from touchneedle.toys.base import Events, ExactToy, SignedToy, SimulatedToy, Toy, expand_theta

MAX_DIM = 6
MAX_ERRORS = 5.0
N_EVENTS = 10_000
# Importance sampling that is less exact than this says nothing.
LARGEST_ERROR = 0.05
QUADRATURE_TOLERANCE = 1e-3
SMALLEST_P_VALUE = 1e-6
STEP = 1e-6


def has_integral(toy: Toy) -> bool:
    """A known density of at most `MAX_DIM` continuous features."""
    continuous = all(feature.kind != "discrete" for feature in toy.spec.features)
    return isinstance(toy, ExactToy | SignedToy) and continuous and toy.spec.x_dim <= MAX_DIM


def is_exact(toy: Toy) -> bool:
    """The log density is known."""
    return isinstance(toy, ExactToy)


def is_regular_exact(toy: Toy) -> bool:
    """The log density is known, and its support does not move with theta."""
    return isinstance(toy, ExactToy) and toy.regular


def nominal_events(toy: SimulatedToy, n: int) -> Events:
    """``n`` events at nominal."""
    return _events_at(toy, toy.spec.parameters.nominal, n)


def check_labels(toy: SimulatedToy) -> None:
    """Process labels occur in the proportion of the rates."""
    for theta in _points(toy):
        rates = toy.rates(theta.unsqueeze(0))[0]
        events = _events_at(toy, theta, N_EVENTS)
        if events.label is None or bool((rates < 0).any()):
            return
        expected = rates / rates.sum()
        found = torch.bincount(events.label, minlength=len(rates)).double() / N_EVENTS
        error = (expected * (1 - expected) / N_EVENTS).sqrt()
        if bool(((found - expected).abs() > MAX_ERRORS * error + 1e-12).any()):
            raise CheckFailed(f"labels: at theta = {theta.tolist()} expected fractions {expected.tolist()}; got {found.tolist()}")


def check_joint_truth(toy: SimulatedToy) -> None:
    """E[exp(-joint_log_ratio)] = 1, and E[joint_score] = 0 for regular toys."""
    for theta in _points(toy):
        events = _events_at(toy, theta, N_EVENTS)
        if events.joint_log_ratio is not None:
            _check_mean("joint truth: exp(-joint_log_ratio)", torch.exp(-events.joint_log_ratio), 1.0)
        if events.joint_score is not None and toy.regular:
            for name, column in zip(toy.spec.parameters.names, events.joint_score.T, strict=True):
                _check_mean(f"joint truth: joint_score of {name}", column, 0.0)


def check_normalised(toy: ExactToy | SignedToy) -> None:
    """The density integrates to 1 at several theta."""
    for theta in _integrated_at(toy):
        points = _integration_points(toy, theta)
        total, error = integral(points, density(toy, points.x, theta))
        allowed = QUADRATURE_TOLERANCE if toy.spec.x_dim == 1 else _allowed(error)
        if not abs(total - 1) <= allowed:
            raise CheckFailed(f"normalised: at theta = {theta.tolist()} the density integrates to {total:.5f}, expected 1 +- {allowed:.2g}")


def check_samples_follow_density(toy: ExactToy) -> None:
    """Events are distributed as the density says: PIT in one dimension, moments and entropy in more."""
    for theta in _integrated_at(toy):
        if toy.spec.x_dim == 1:
            _check_pit(toy, theta)
        else:
            _check_moments(toy, theta)


def check_ratio_closure(toy: ExactToy) -> None:
    """E_{p_a}[p_b / p_a] = 1 between neighbouring theta."""
    for theta, neighbour in zip(_points(toy), _points(toy, near=True), strict=True):
        events = _events_at(toy, theta, N_EVENTS)
        ratio = torch.exp(toy.log_prob(events.x, neighbour) - toy.log_prob(events.x, theta))
        _check_mean(f"ratio closure: from {theta.tolist()} to {neighbour.tolist()}", ratio, 1.0)


def check_score_mean(toy: ExactToy) -> None:
    """E_p[score] = 0."""
    for theta in _points(toy):
        score = toy.score(_events_at(toy, theta, N_EVENTS).x, theta)
        for name, column in zip(toy.spec.parameters.names, score.T, strict=True):
            _check_mean(f"score mean: {name} at theta = {theta.tolist()}", column, 0.0)


def check_score(toy: ExactToy) -> None:
    """The score equals central finite differences of log_prob in float64 (near nominal, where a kink may sit)."""
    for theta in _points(toy, near=True):
        x = _events_at(toy, theta, 100).x
        score = toy.score(x, theta)
        if score.shape != (len(x), len(theta)):
            raise CheckFailed(f"score: expected shape {(len(x), len(theta))}; got {tuple(score.shape)}")
        for column, (name, width) in enumerate(zip(toy.spec.parameters.names, _prior_width(toy), strict=True)):
            step = torch.zeros_like(theta)
            step[column] = STEP * width
            slope = (toy.log_prob(x, theta + step) - toy.log_prob(x, theta - step)) / (2 * STEP)
            difference = (width * score[:, column] - slope).abs() / (1 + slope.abs())
            # An event whose support edge lies within the step has no slope.
            if not bool((difference[slope.isfinite()] < 1e-5).all()):
                raise CheckFailed(f"score: {name}: differs from finite differences by {difference.max().item():.2g} at {theta.tolist()}")


def check_batch_invariance(toy: ExactToy) -> None:
    """An event's log density does not depend on its batch; one theta stands for all rows."""
    for theta in _points(toy):
        x = _events_at(toy, theta, 10).x
        together = toy.log_prob(x, theta)
        if together.shape != (10,) or together.dtype != torch.float64 or not together.isfinite().all():
            raise CheckFailed(f"log_prob: expected 10 finite float64 numbers; got {together.dtype} of shape {tuple(together.shape)}")
        singly = torch.cat([toy.log_prob(row.unsqueeze(0), theta) for row in x])
        if not torch.allclose(together, singly, rtol=1e-10, atol=1e-10):
            raise CheckFailed("log_prob: a batch and its single events differ")
        if not torch.equal(together, toy.log_prob(x, expand_theta(theta, 10).clone())):
            raise CheckFailed("log_prob: one theta and the same theta in every row differ")


def check_far_events(toy: ExactToy) -> None:
    """100 spreads away from the events, log_prob is a number, or -inf outside a hard support."""
    x = nominal_events(toy, 1_000).x.double()
    for direction in (-1, 1):
        far = x[:50] + direction * 100 * x.std(0)
        value = toy.log_prob(far, toy.spec.parameters.nominal)
        if bool((value.isnan() | (value == math.inf)).any()):
            raise CheckFailed("log_prob: NaN or +inf far from the events; compute in log space")


def check_process_densities(toy: ExactToy) -> None:
    """The process densities, weighted with the rates, add up to the density (where they are offered)."""
    if type(toy)._log_prob_process is ExactToy._log_prob_process:
        return
    for theta in _points(toy):
        x = _events_at(toy, theta, 100).x
        rates = toy.rates(theta.unsqueeze(0))
        mixture = (toy.log_prob_process(x, theta).exp() * rates / rates.sum()).sum(-1).log()
        if not torch.allclose(mixture, toy.log_prob(x, theta), rtol=1e-8, atol=1e-8):
            raise CheckFailed(f"process densities: weighted with rates they do not add up to log_prob at theta = {theta.tolist()}")


def _check_pit(toy: ExactToy, theta: Tensor) -> None:
    """Weighted Kolmogorov-Smirnov test of the probability integral transform."""
    events = _events_at(toy, theta, N_EVENTS)
    grid = _integration_points(toy, theta)
    mass = grid.weight * density(toy, grid.x, theta)
    x, order = events.x[:, 0].double().sort()
    share = events.weight.double()[order] / events.weight.sum()
    middle = (mass.cumsum(0) - mass / 2).numpy()
    expected = torch.from_numpy(np.interp(x.numpy(), grid.x[:, 0].numpy(), middle))
    after = share.cumsum(0)
    distance = torch.maximum((after - expected).abs(), (after - share - expected).abs()).max().item()
    p_value = float(stats.kstwobign.sf(distance / share.square().sum().sqrt().item()))
    if p_value < SMALLEST_P_VALUE:
        raise CheckFailed(
            f"samples: at theta = {theta.tolist()} events do not follow log_prob "
            f"(largest difference of the cumulative distributions {distance:.3g}, p-value {p_value:.1g})"
        )


def _check_moments(toy: ExactToy, theta: Tensor) -> None:
    """Bounded moments of the events, and the entropy, against importance sampling."""
    events = _events_at(toy, theta, N_EVENTS)
    points = _integration_points(toy, theta)
    weight = points.weight * len(points.x) * density(toy, points.x, theta)
    centre, spread = events.x.double().median(0).values, events.x.double().std(0)
    found = _moments(events.x.double(), centre, spread, toy.log_prob(events.x, theta))
    expected = _moments(points.x, centre, spread, toy.log_prob(points.x, theta))
    for name, values in found.items():
        mean, error = _mean(values)
        target, target_error = _mean(expected[name] * weight)
        combined = math.hypot(error, target_error)
        if not abs(mean - target) <= MAX_ERRORS * combined:
            raise CheckFailed(
                f"samples: at theta = {theta.tolist()} the mean of {name} is {mean:.4f} over events, "
                f"{target:.4f} +- {combined:.2g} over log_prob"
            )


def _moments(x: Tensor, centre: Tensor, spread: Tensor, log_prob: Tensor) -> dict[str, Tensor]:
    z = torch.tanh((x - centre) / spread)
    moments = {f"x[{i}]": z[:, i] for i in range(z.shape[1])}
    moments |= {f"x[{i}] x[{j}]": z[:, i] * z[:, j] for i in range(z.shape[1]) for j in range(i + 1)}
    # Where the density is zero the weight is zero, too.
    moments["log_prob"] = torch.where(log_prob.isfinite(), log_prob, 0.0)
    return moments


def _check_mean(what: str, values: Tensor, expected: float) -> None:
    mean, error = _mean(values)
    if not abs(mean - expected) <= MAX_ERRORS * error + 1e-9:
        raise CheckFailed(f"{what}: expected a mean of {expected:g}; got {mean:.4g} +- {error:.2g}")


def _mean(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def _allowed(error: float) -> float:
    if error > LARGEST_ERROR:
        raise CheckFailed(f"normalised: inconclusive, the integral has a standard error of {error:.2g}; check it in a test of your own")
    return MAX_ERRORS * error


def _points(toy: Toy, near: bool = False) -> list[Tensor]:
    """Nominal and two points up to one prior width away, inside the bounds; ``near`` gives a close neighbour of each."""
    space = toy.spec.parameters
    # No symmetric combination: a kink at theta_1 + theta_2 = 0, say, would be hit exactly.
    direction = torch.tensor([(-0.8) ** i for i in range(len(space))], dtype=torch.float64)
    points = [space.nominal, space.from_normal(direction), space.from_normal(-0.7 * direction)]
    if not near:
        return points
    width = _prior_width(toy)
    moved = [point + 0.1 * width * direction for point in points]
    return [point.clamp(space.low + 0.01 * width, space.high - 0.01 * width) for point in moved]


def _prior_width(toy: Toy) -> Tensor:
    """Half of the central 68 % of each prior, shape (p,)."""
    space = toy.spec.parameters
    one = torch.ones(len(space), dtype=torch.float64)
    return (space.from_normal(one) - space.from_normal(-one)) / 2


def _integrated_at(toy: Toy) -> list[Tensor]:
    """Fewer points where importance sampling makes each one expensive."""
    return _points(toy)[: 3 if toy.spec.x_dim == 1 else 2]


def _integration_points(toy: SimulatedToy, theta: Tensor) -> WeightedPoints:
    events = _events_at(toy, theta, 2_000)
    if toy.spec.x_dim == 1:
        return line_points(toy, events)
    return cloud_points(events, torch.Generator().manual_seed(2))


def _events_at(toy: SimulatedToy, theta: Tensor, n: int) -> Events:
    return toy.sample(theta.expand(n, -1), generator=torch.Generator().manual_seed(1))
