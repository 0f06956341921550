"""Checks of an estimator's numbers: shapes, consistency between methods, gradients, normalisation."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from touchneedle.benchmark.check_subject import Subject
from touchneedle.benchmark.checks import CheckFailed
from touchneedle.toys.base import Feature

ALGEBRA = 1e-9
MAX_SIGMA = 4.0
FAR = 30.0
N_CLOSURE = 2_000
N_GRID = 4_001


def check_shapes(subject: Subject) -> None:
    """Every declared method answers with the contract's shape, finite, and float64 where it says so."""
    estimator, x, theta = subject.trained, subject.probe.x, subject.probe.theta
    n, d, p = len(x), subject.toy.spec.x_dim, subject.toy.spec.theta_dim
    generator = torch.Generator().manual_seed(20)
    _expect_shape("log_ratio", estimator.log_ratio(x, theta), (n,))
    _expect_shape("log_ratio of one point", estimator.log_ratio(x, theta[0]), (n,))
    _expect_shape("log_ratio_grid", estimator.log_ratio_grid(x, theta[:3]), (n, 3))
    _expect_shape("log_likelihood_ratio", estimator.log_likelihood_ratio(subject.probe, theta[:3]), (3,))
    _expect_shape("log_normalisation", estimator.log_normalisation(theta[:3]), (3,))
    if "log_prob" in estimator.capabilities:
        _expect_shape("log_prob", estimator.log_prob(x, theta), (n,))
    if "score" in estimator.capabilities:
        _expect_shape("score", estimator.score(x, theta), (n, p))
    if "sample" in estimator.capabilities:
        _expect_shape("sample", estimator.sample(theta, generator).double(), (n, d))
    if "posterior_log_prob" in estimator.capabilities:
        _expect_shape("posterior_log_prob", estimator.posterior_log_prob(theta, x[:, None]), (n,))
    if "posterior_sample" in estimator.capabilities:
        _expect_shape("posterior_sample", estimator.posterior_sample(x[:, None], 2, generator), (n, 2, p))


def check_batch_of_one(subject: Subject) -> None:
    """One event gives the same number as in a batch, with theta (1, p) and (p,)."""
    estimator, x, theta = subject.exact, subject.probe.x, subject.probe.theta
    whole = estimator.log_ratio(x, theta)
    _expect_close("batch of one", estimator.log_ratio(x[:1], theta[:1]), whole[:1])
    _expect_close("batch of one, theta (p,)", estimator.log_ratio(x[:1], theta[0]), whole[:1])


def check_batch_invariance(subject: Subject) -> None:
    """An event's number does not depend on the other events."""
    estimator, x, theta = subject.exact, subject.probe.x, subject.probe.theta
    whole = estimator.log_ratio(x, theta)
    _expect_close("reversed batch", estimator.log_ratio(x.flip(0), theta.flip(0)).flip(0), whole)
    parts = [estimator.log_ratio(x[part], theta[part]) for part in (slice(None, 5), slice(5, None))]
    _expect_close("split batch", torch.cat(parts), whole)


def check_grid(subject: Subject) -> None:
    """log_ratio_grid holds log_ratio of every pair, and its weighted sum is log_likelihood_ratio."""
    estimator, events = subject.exact, subject.probe
    points = events.theta[:3]
    grid = estimator.log_ratio_grid(events.x, points)
    columns = [estimator.log_ratio(events.x, point) for point in points]
    _expect_close("log_ratio_grid", grid, torch.stack(columns, 1))
    if estimator.additive:
        total = (events.weight.double()[:, None] * grid).sum(0)
        _expect_close("log_likelihood_ratio", estimator.log_likelihood_ratio(events, points), total)


def check_zero_at_nominal(subject: Subject) -> None:
    """log_ratio is 0 at theta_0."""
    value = subject.exact.log_ratio(subject.probe.x, subject.toy.spec.parameters.nominal)
    # theta_0 is stored in float32, so that the two points may differ by its rounding.
    _expect_close("log_ratio at theta_0", value, torch.zeros_like(value), tolerance=1e-5)


def check_precision(subject: Subject) -> None:
    """float32 and float64 give the same numbers within the precision of float32."""
    x, theta = subject.probe.x, subject.probe.theta
    if subject.exact.dtype != torch.float64:
        raise CheckFailed(f"precision: expected float64 after .double(); got {subject.exact.dtype}")
    _expect_close("float32 against float64", subject.trained.log_ratio(x, theta), subject.exact.log_ratio(x, theta), tolerance=2e-3)


def check_gradients(subject: Subject) -> None:
    """The gradient of log_ratio in theta equals float64 finite differences, in units of the prior's width."""
    estimator, x, theta = subject.exact, subject.probe.x, subject.probe.theta.double()
    space = subject.toy.spec.parameters
    half = torch.full((len(space),), 0.5, dtype=torch.float64)
    width = space.from_normal(half) - space.from_normal(-half)
    point = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(estimator.log_ratio(x, point).sum(), point)
    for column in range(len(space)):
        step = torch.zeros_like(theta)
        step[:, column] = 1e-4 * width[column]
        with torch.no_grad():
            change = estimator.log_ratio(x, theta + step) - estimator.log_ratio(x, theta - step)
        # An exact ratio is infinite where the support moves.
        smooth = torch.isfinite(change)
        name = f"d log_ratio / d {space.names[column]}"
        _expect_close(name, (gradient[:, column] * width[column])[smooth], (change / 2e-4)[smooth], tolerance=1e-4)


def check_signed_ratio(subject: Subject) -> None:
    """The ratio of a signed method is finite and 1 at theta_0; log_ratio is its logarithm, NaN where it is not positive."""
    estimator, x, theta = subject.exact, subject.probe.x, subject.probe.theta
    if "signed" not in estimator.capabilities:
        return
    _expect_close("ratio at theta_0", estimator.ratio(x, subject.toy.spec.parameters.nominal), torch.ones(len(x)).double(), tolerance=1e-5)
    ratio, log_ratio = estimator.ratio(x, theta), estimator.log_ratio(x, theta)
    if not bool(torch.isfinite(ratio).all()):
        raise CheckFailed(f"ratio: expected finite numbers; got {ratio[~torch.isfinite(ratio)][0]:g}")
    positive = ratio > 0
    _expect_close("log_ratio where the ratio is positive", log_ratio[positive], ratio[positive].log())
    if not bool(torch.isnan(log_ratio[~positive]).all()):
        raise CheckFailed("log_ratio: expected NaN where the signed ratio is not positive")


def check_far_events(subject: Subject) -> None:
    """log_ratio stays finite for events far outside the data, with its gradient in theta at moderate distance.

    A signed ratio may be negative there: log_ratio is then NaN.
    """
    x = subject.events.x.double()
    centre, width = x.mean(0), x.std(0)
    theta = subject.probe.theta[:4].clone().requires_grad_()
    for distance in (-1e3, -FAR, FAR, 1e3):
        value = subject.exact.log_ratio((centre + distance * width).expand(4, -1), theta)
        if not bool((torch.isfinite(value) | _may_be_nan(subject, value)).all()):
            raise CheckFailed(f"far events: expected finite log_ratio {distance:g} widths from the data; got {value.tolist()}")
        (gradient,) = torch.autograd.grad(value.sum(), theta, allow_unused=True)
        if abs(distance) <= FAR and gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise CheckFailed(f"far events: expected a finite gradient {distance:g} widths from the data")


def check_normalised(subject: Subject) -> None:
    """A one-dimensional density integrates to 1 on a grid, at three points."""
    estimator, spec = subject.exact, subject.toy.spec
    if "log_prob" not in estimator.capabilities or spec.x_dim != 1:
        return
    pieces = _grid(spec.features[0], subject.events.x[:, 0].double())
    for theta in subject.probe.theta[:3]:
        with torch.no_grad():
            integral = sum(torch.trapezoid(estimator.log_prob(x[:, None], theta).exp(), x).item() for x in pieces)
        if not abs(integral - 1) < 2e-3:
            raise CheckFailed(f"normalised: expected an integral of 1 over x; got {integral:.6g} at theta = {theta.tolist()}")


def check_ratio_closure(subject: Subject) -> None:
    """E[p_b / p_a] = 1 over its own samples at a, within 4 standard errors (where the support does not move)."""
    estimator = subject.exact
    if not ({"log_prob", "sample"} <= estimator.capabilities and subject.toy.regular):
        return
    a, b = subject.near_nominal(-0.1), subject.near_nominal(0.1)
    generator = torch.Generator().manual_seed(21)
    with torch.no_grad():
        x = estimator.sample(a.expand(N_CLOSURE, -1), generator)
        ratio = (estimator.log_prob(x, b) - estimator.log_prob(x, a)).exp()
    error = ratio.std() / N_CLOSURE**0.5
    if not bool((ratio.mean() - 1).abs() <= MAX_SIGMA * error + ALGEBRA):
        raise CheckFailed(f"ratio closure: expected E[p_b / p_a] = 1; got {ratio.mean():.5g} +- {error:.2g}")


def _may_be_nan(subject: Subject, value: Tensor) -> Tensor:
    """Where the contract allows NaN: in the log_ratio of signed methods."""
    return torch.isnan(value) & ("signed" in subject.exact.capabilities)


def _grid(feature: Feature, x: Tensor) -> list[Tensor]:
    """Points over 20 widths around the data, in pieces that end at the edges of the support."""
    reach = 20 * x.std().item()
    edges = [x.mean().item() - reach, x.mean().item() + reach]
    inner = [edge for edge in feature.support or () if edges[0] < edge < edges[1]]
    bounds = sorted(edges + inner)
    gap = 1e-9 * reach
    return [torch.linspace(low + gap, high - gap, N_GRID, dtype=torch.float64) for low, high in itertools.pairwise(bounds)]


def _expect_shape(what: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape or value.dtype != torch.float64:
        raise CheckFailed(f"{what}: expected shape {shape} in float64; got {tuple(value.shape)} in {value.dtype}")
    if bool(torch.isnan(value).any()):
        raise CheckFailed(f"{what}: expected numbers; got nan")


def _expect_close(what: str, value: Tensor, expected: Tensor, tolerance: float = ALGEBRA) -> None:
    difference = (value - expected).abs() / (1 + expected.abs())
    wrong = ~((difference <= tolerance) | (value == expected))
    if bool(wrong.any()):
        raise CheckFailed(f"{what}: expected {expected[wrong][0]:.8g}; got {value[wrong][0]:.8g} ({wrong.sum()} of {wrong.numel()} differ)")
