"""Property tests of the contracts that toys stand on: priors, parameter spaces, events."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import (
    Events,
    GaussianConstraint,
    Normal,
    Parameter,
    ParameterSpace,
    Uniform,
    build_toy,
    collect,
    concatenate,
    expand_theta,
)

PROPERTY = settings(max_examples=40, deadline=None)
edges = st.floats(-1e3, 1e3)
widths = st.floats(1e-2, 1e3)
uniforms = st.builds(lambda low, width: Uniform(low, low + width), edges, widths)
normals = st.builds(Normal, edges, widths)


@given(st.one_of(uniforms, normals), st.integers(0, 1_000))
@PROPERTY
def test_priors_map_to_normal_and_back(prior, seed):
    u = torch.randn(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = prior.from_normal(u)
    assert torch.allclose(prior.to_normal(value), u, atol=1e-8)
    assert (value.diff() * u.diff() >= 0).all()


@given(st.one_of(uniforms, normals))
@PROPERTY
def test_priors_are_normalised(prior):
    """Change of variables: p(value) dvalue/du = N(u)."""
    u = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    value = prior.from_normal(u)
    (slope,) = torch.autograd.grad(value.sum(), u)
    log_normal = -0.5 * u.detach() ** 2 - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(prior.log_prob(value.detach()) + slope.log(), log_normal, atol=1e-9)


def test_uniform_prior_is_zero_outside_and_its_map_stays_finite():
    prior = Uniform(0.0, 1.0)
    assert prior.log_prob(torch.tensor([-0.1, 1.1])).tolist() == [-math.inf, -math.inf]
    assert prior.to_normal(torch.tensor([-5.0, 5.0], dtype=torch.float64)).isfinite().all()


@given(st.lists(st.one_of(uniforms, normals), min_size=1, max_size=4), st.integers(0, 1_000))
@PROPERTY
def test_parameter_space_keeps_columns_apart(priors, seed):
    kinds = ["interest"] + ["nuisance"] * (len(priors) - 1)
    parameters = tuple(Parameter(f"p{i}", k, 0.0, (-math.inf, math.inf), p) for i, (k, p) in enumerate(zip(kinds, priors, strict=True)))
    space = ParameterSpace(parameters)
    theta = space.sample_prior(20, torch.Generator().manual_seed(seed))
    again = space.sample_prior(20, torch.Generator().manual_seed(seed))
    assert torch.equal(theta, again)
    assert (theta.shape, theta.dtype) == ((20, len(priors)), torch.float64)
    assert torch.allclose(space.log_prior(theta), sum(p.log_prob(theta[:, i]) for i, p in enumerate(priors)))
    assert torch.allclose(space.from_normal(space.to_normal(theta)), theta, rtol=1e-8, atol=1e-8)
    assert [space.index(name) for name in space.names] == list(range(len(priors)))
    assert sorted(space.interest + space.nuisance) == list(range(len(priors)))
    space.check(theta)


@pytest.mark.parametrize("name", ["fnf_two_class", "gaussian_shift", "mass_bump", "two_moons"])
def test_priors_of_the_toys_are_wide_and_within_bounds(name):
    space = build_toy(name).spec.parameters
    space.check(space.sample_prior(200_000, torch.Generator().manual_seed(0)))
    for parameter in space.parameters:
        if parameter.kind == "nuisance":
            reach = parameter.prior.from_normal(torch.tensor([-3.0, 3.0], dtype=torch.float64))
            assert reach[0] <= -2.99
            assert reach[1] >= 2.99
            assert parameter.constraint == GaussianConstraint(1.0)
            assert parameter.template_anchors == (-1.0, 1.0)


@given(st.floats(allow_nan=True, allow_infinity=True))
@PROPERTY
def test_bounds_accept_exactly_the_closed_interval(value):
    space = ParameterSpace((Parameter("mu", "interest", 0.0, (-1.0, 2.0), Uniform(-1.0, 1.0)),))
    theta = torch.tensor([[value]], dtype=torch.float64)
    if -1.0 <= value <= 2.0:
        space.check(theta)
    else:
        with pytest.raises(InputError, match="parameter mu"):
            space.check(theta)


def test_unknown_parameter_lists_the_known():
    with pytest.raises(InputError, match="known: shift, offset, log_scale"):
        build_toy("gaussian_shift").spec.parameters.index("mass")


def test_constraint_is_redrawn_around_the_truth():
    constraint = GaussianConstraint(0.5)
    truth = torch.full((40_000,), 0.7, dtype=torch.float64)
    pull = (constraint.sample(truth, torch.Generator().manual_seed(0)) - truth) / 0.5
    assert abs(pull.mean().item()) < 4 / 200
    assert abs(pull.square().mean().item() - 1) < 4 * math.sqrt(2) / 200
    assert constraint.log_prob(truth + 0.5, truth)[0].item() == pytest.approx(-0.5)


def some_events(n, label=True):
    column = torch.arange(n, dtype=torch.float64)
    return Events(column.unsqueeze(-1).float(), column.unsqueeze(-1), column, column.long() if label else None)


@given(st.integers(0, 60), st.integers(1, 70), st.one_of(st.none(), st.integers(0, 100)))
@PROPERTY
def test_batches_hold_every_event_once_with_its_own_columns(n, size, seed):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    parts = list(some_events(n).batches(size, generator))
    assert all(len(part) <= size for part in parts)
    assert len(parts) == math.ceil(n / size)
    if parts:
        whole = concatenate(parts)
        assert sorted(whole.label.tolist()) == list(range(n))
        assert torch.equal(whole.x[:, 0].double(), whole.weight)
        assert torch.equal(whole.theta[:, 0], whole.weight)


@given(st.integers(1, 40), st.integers(0, 50))
@PROPERTY
def test_collect_limits_streams_like_memory(n, limit):
    class Stream:
        def batches(self, size, generator=None):
            return some_events(n).batches(7)

        def __len__(self):
            return n

    assert torch.equal(collect(Stream(), limit).x, collect(some_events(n), limit).x)
    assert torch.equal(collect(Stream()).x, some_events(n).x)


def test_concatenate_drops_what_not_all_parts_have():
    assert concatenate([some_events(3), some_events(2, label=False)]).label is None
    assert len(concatenate([some_events(3), some_events(2)])) == 5


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(InputError, match="3 rows in weight"):
        Events(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(2))


def test_one_theta_stands_for_all_events():
    assert expand_theta(torch.tensor([1.0, 2.0]), 3).tolist() == [[1.0, 2.0]] * 3
    for wrong in (torch.zeros(2, 2), torch.zeros(3, 1, 1)):
        with pytest.raises(InputError, match="one row per event"):
            expand_theta(wrong, 3)
