"""The factorizable flow: identity at nominal, Jacobian and inverse, factorisation, stages, the exact answer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Estimator, Stage, build_estimator
from touchneedle.estimators.factorizable_flow import FactorizableFlow
from touchneedle.estimators.residual_layer import ResidualLayer
from touchneedle.toys.base import Events, ExactToy, build_toy

# Templates lie within one sigma; what a factorised flow says beyond them is what many of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")


def exact_toy(name: str, **params: object) -> ExactToy:
    toy = build_toy(name, **params)
    assert isinstance(toy, ExactToy)
    return toy


def built(toy: ExactToy, design: str = "templates", **params: Any) -> FactorizableFlow:
    """Prepared on a few events, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = build_estimator("factorizable_flow", toy.spec, hidden_features=(8,), residual_features=(8, 8), **params)
    assert isinstance(flow, FactorizableFlow)
    flow.prepare(make_events(toy, 600, design, 1))
    return flow.double()


def shaken(module: Any, seed: int = 3) -> Any:
    """The module with random weights of some size in every layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


@pytest.fixture
def layer() -> ResidualLayer:
    """Four features in a shuffled order, two columns of context, three terms of two powers and one of one power."""
    return shaken(ResidualLayer([2, 0, 3, 1], 2, [(3, 2), (1, 1)], (16, 16)).double())


def draws(n: int, d: int, seed: int = 4) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def powers(n: int) -> list[Tensor]:
    return [draws(n, 6, 5).reshape(n, 3, 2), draws(n, 1, 6).reshape(n, 1, 1)]


def test_identity_at_nominal_for_any_weights() -> None:
    toy = exact_toy("fnf_two_class")
    flow = shaken(built(toy, "templates_joint", pair_terms=True))
    theta = torch.tensor([[0.3, 0.0, 0.0], [0.9, 0.0, 0.0]], dtype=torch.float64)
    z, context = draws(2, 4), flow._context(theta)
    for layer in flow.layers:
        moved, log_det = layer(z, context, flow._powers(theta.clone().requires_grad_()))
        assert torch.equal(moved, z)
        assert log_det.tolist() == [0.0, 0.0]
    assert not torch.equal(flow.layers[0](z, context, flow._powers(theta + 1))[0], z)


def test_jacobian_is_triangular_and_its_determinant_is_right(layer: ResidualLayer) -> None:
    z, context, factors = draws(1, 4), draws(1, 2, 7), powers(1)
    jacobian = torch.autograd.functional.jacobian(lambda value: layer(value, context, factors)[0], z)[0, :, 0]
    torch.testing.assert_close(jacobian.det().abs().log(), layer(z, context, factors)[1][0])
    ordered = jacobian[list(layer.order)][:, list(layer.order)]
    assert torch.equal(ordered.triu(1), torch.zeros(4, 4, dtype=torch.float64))
    assert (ordered.tril(-1).abs().sum(1)[1:] > 1e-4).all()


def test_every_output_but_the_first_features_follows_all_earlier_features_and_the_context(layer: ResidualLayer) -> None:
    networks = layer.groups[0]
    inputs = draws(1, 6)
    jacobian = torch.autograd.functional.jacobian(lambda value: networks(value, [1])[0, 0].sum(-1), inputs)[:, 0]
    seen = jacobian.abs() > 1e-9
    for place, column in enumerate(layer.order):
        earlier = set(layer.order[:place])
        assert [bool(s) for s in seen[column]] == [k in earlier or k >= 4 for k in range(6)]


def test_inverse_undoes_the_layer(layer: ResidualLayer) -> None:
    z, context, factors = 2 * draws(50, 4), draws(50, 2, 7), powers(50)
    moved, _ = layer(z, context, factors)
    assert (moved - z).abs().max() > 0.5
    torch.testing.assert_close(layer.inverse(moved, context, factors), z, rtol=1e-10, atol=1e-10)


def test_networks_side_by_side_are_the_networks_one_by_one(layer: ResidualLayer) -> None:
    networks, inputs = layer.groups[0], draws(5, 6)
    together = networks(inputs, [2, 0])
    masks = list(networks.buffers())
    for row, k in enumerate([2, 0]):
        value = inputs
        for depth, (linear, mask) in enumerate(zip(networks.networks[k], masks, strict=True)):
            value = nn.functional.linear(nn.functional.silu(value) if depth else value, linear.weight * mask, linear.bias)
        torch.testing.assert_close(together[row].flatten(1), value)


def test_kept_weights_follow_the_networks(layer: ResidualLayer) -> None:
    networks, inputs = copy.deepcopy(layer.groups[0]), draws(5, 6)
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: networks.networks[1][1].weight.mul_(2.0),  # type: ignore[index, union-attr, operator]
        lambda: networks.load_state_dict({name: tensor + 0.1 for name, tensor in networks.state_dict().items()}),
        lambda: networks.float().double(),
    ]
    for change in changes:
        with torch.no_grad():
            change()
            kept = [networks(inputs, which) for which in ([0, 1, 2], [2, 0])]
        plain = networks(inputs, [0, 1, 2])
        assert plain.requires_grad
        assert torch.equal(kept[0], plain)
        torch.testing.assert_close(kept[1], plain[[2, 0]])
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(networks)(inputs, [0, 1, 2]), plain)


def test_kept_weights_give_way_to_gradients_and_to_other_weights(layer: ResidualLayer) -> None:
    networks, inputs = copy.deepcopy(layer.groups[0]), draws(5, 6)
    with torch.no_grad():
        networks(inputs, [0, 1, 2])
    networks(inputs, [0, 1, 2]).sum().backward()
    assert all(parameter.grad is not None for parameter in networks.parameters())
    others = {name: tensor.detach() * 1.1 for name, tensor in networks.named_parameters()}
    with torch.no_grad():
        called = functional_call(networks, others, (inputs, [0, 1, 2]))
        networks.load_state_dict(others)
        assert torch.equal(called, networks(inputs, [0, 1, 2]))


def test_exponents_and_shifts_add_up_within_a_layer(layer: ResidualLayer) -> None:
    """Factorisation: s and t of a joint point are the sums of those where one term acts alone."""
    z, context, factors = draws(5, 4), draws(5, 2, 7), powers(5)
    joint = layer._affine(z, context, factors)
    single = torch.eye(4, dtype=torch.float64)
    parts = [layer._affine(z, context, [factors[0] * alone[:3, None], factors[1] * alone[3]]) for alone in single]
    for value, terms in zip(joint, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(value, torch.stack(terms).sum(0))


def test_powers_of_the_nuisances() -> None:
    flow = built(exact_toy("fnf_two_class"), "templates_joint", pair_terms=True, damping=0.5)
    single, pair = flow._powers(torch.tensor([[0.2, 3.0, -2.0]], dtype=torch.float64))
    assert single.tolist() == [[[3.0, 4.5], [-2.0, 2.0]]]
    assert pair.tolist() == [[[-3.0]]]


def test_terms_that_do_not_act_may_be_skipped() -> None:
    toy = exact_toy("many_nuisances", nuisances=5)
    flow = shaken(built(toy))
    events = toy.sample(torch.tensor([[0.2, 0, 1, 0, 0, -2]], dtype=torch.float64).repeat(7, 1), generator=torch.Generator().manual_seed(1))
    skipping = flow.log_ratio(events.x, events.theta)
    complete = flow.log_ratio(events.x, events.theta.clone().requires_grad_())
    torch.testing.assert_close(skipping, complete, rtol=1e-12, atol=1e-12)
    assert (flow.score(events.x, events.theta)[:, [1, 3, 4]].abs() > 1e-6).all()


def gradients(flow: FactorizableFlow, events: Events) -> dict[str, float]:
    """Largest gradient of the loss in each stage's parameters."""
    flow.zero_grad()
    flow.loss(events, torch.Generator()).mean().backward()

    def largest(stage: Stage) -> float:
        return max(0.0 if p.grad is None else float(p.grad.abs().max()) for p in stage.parameters)

    return {stage.name: largest(stage) for stage in flow.stages()}


def test_templates_of_a_nuisance_teach_its_own_networks_alone() -> None:
    toy = exact_toy("fnf_two_class")
    flow = shaken(built(toy, "templates_joint", pair_terms=True))
    events = make_events(toy, 900, "templates_joint", 2)
    taught = {}
    for stage in flow.stages():
        assert stage.event_filter is not None
        chosen = gradients(flow, events[stage.event_filter(events)])
        taught[stage.name] = {name for name, largest in chosen.items() if largest > 0}
    assert taught == {
        "nominal": {"nominal"},
        "shift": {"nominal", "shift"},
        "squeeze": {"nominal", "squeeze"},
        "shift x squeeze": {"nominal", "shift", "squeeze", "shift x squeeze"},
    }


def test_stages_own_their_parameters_and_share_out_the_events() -> None:
    toy = exact_toy("many_nuisances", nuisances=4)
    flow = built(toy, "templates_joint", pair_terms=True)
    stages = flow.stages()
    owned = [id(parameter) for stage in stages for parameter in stage.parameters]
    assert sorted(owned) == sorted(id(parameter) for parameter in flow.parameters())
    assert len(stages) == 1 + 4 + 6
    joint = make_events(toy, 2_000, "templates_joint", 3)
    assert torch.equal(masks(stages, joint).sum(0), torch.ones(2_000, dtype=torch.long))
    plain = make_events(toy, 900, "templates", 3)
    assert masks(stages, plain).sum(1).tolist() == [100] + [200] * 4 + [0] * 6


def masks(stages: tuple[Stage, ...], events: Events) -> Tensor:
    return torch.stack([stage.event_filter(events).long() for stage in stages if stage.event_filter is not None])


def test_what_cannot_work_is_skipped_with_its_reason() -> None:
    toy = exact_toy("fnf_two_class")
    with pytest.raises(SkipCell, match="needs nuisance parameters; toy slcp has none: use zuko_nsf"):
        build_estimator("factorizable_flow", build_toy("slcp").spec)
    with pytest.raises(SkipCell, match="stage 'nominal'; found none: choose design=templates"):
        built(toy, "prior")
    with pytest.raises(SkipCell, match="stage 'shift x squeeze'; found none: choose design=templates_joint"):
        built(toy, "templates", pair_terms=True)


def test_a_density_for_each_process_is_weighted_by_their_shares() -> None:
    """On mass_bump: the parts add up to a normalised density, and the loss is that of an event's own process."""
    toy = exact_toy("mass_bump")
    flow = shaken(built(toy, per_process=True))
    theta = toy.spec.parameters.nominal.expand(4_001, -1).clone()
    theta[:, toy.spec.parameters.nuisance[0]] += 0.5
    low, high = toy.spec.features[0].support or (0.0, 1.0)
    x = torch.linspace(low, high, 4_001, dtype=torch.float64)[1:-1, None]
    theta = theta[1:-1]
    parts = torch.stack([-flow.loss(Events(x, theta, torch.ones(len(x)), torch.full((len(x),), k)), torch.Generator()) for k in (0, 1)], -1)
    log_prob = flow.log_prob(x, theta)
    torch.testing.assert_close(log_prob, torch.logsumexp(flow._log_fractions(theta) + parts.double(), -1), rtol=1e-5, atol=1e-5)
    assert float(torch.trapezoid(log_prob.exp().detach(), x[:, 0])) == pytest.approx(1, abs=1e-3)
    drawn = flow.sample(theta[:1].expand(20_000, -1), torch.Generator().manual_seed(8))[:, 0]
    mean = float(torch.trapezoid(log_prob.detach().exp() * x[:, 0], x[:, 0]))
    assert abs(float(drawn.double().mean()) - mean) < 5 * float(drawn.std()) / math.sqrt(20_000)


def test_the_shares_of_the_processes_are_learned_from_labels() -> None:
    toy = exact_toy("fnf_two_class")
    flow = build_estimator("factorizable_flow", toy.spec, per_process=True)
    assert isinstance(flow, FactorizableFlow)
    flow.prepare(make_events(toy, 20_000, "templates", 1))
    share = flow._log_fractions(torch.tensor([[0.2, 0.0, 0.0], [0.7, 1.0, 0.0], [0.5, 1.0, -1.0]])).exp()
    torch.testing.assert_close(share[:, 1], torch.tensor([0.2, 0.7, 0.5]), rtol=0, atol=0.05)
    unlabelled = replace(make_events(toy, 600, "templates", 1), label=None)
    with pytest.raises(SkipCell, match="labels of the processes for per_process=true; the events have none"):
        build_estimator("factorizable_flow", toy.spec, per_process=True).prepare(unlabelled)


def test_a_toy_of_one_process_has_no_density_for_each() -> None:
    with pytest.raises(SkipCell, match="per_process needs two processes or more; toy gaussian_shift names [01]$"):
        build_estimator("factorizable_flow", build_toy("gaussian_shift").spec, per_process=True)


def test_refinement_is_a_last_stage_of_everything() -> None:
    flow = built(exact_toy("fnf_two_class"), refine=True)
    *single, last = flow.stages()
    assert last.name == "all"
    assert last.event_filter is None
    assert {id(p) for stage in single for p in stage.parameters} == {id(p) for p in last.parameters}


def with_exact_nominal(toy: ExactToy) -> FactorizableFlow:
    """For many_nuisances at signal = 0: the nominal flow is the identity, p_0 a standard normal."""
    flow = built(toy, transforms=1)
    with torch.no_grad():
        for parameter in flow.flow.parameters():
            parameter.zero_()
    flow.standardise_x.mean.zero_()
    flow.standardise_x.std.fill_(1)
    return flow


def planted(toy: ExactToy) -> FactorizableFlow:
    """many_nuisances at epsilon = 0 and signal = 0 by hand: nuisance k shifts x back by its response."""
    flow = with_exact_nominal(toy)
    response = toy.score(torch.eye(4), toy.spec.parameters.nominal)[:, 1:]  # at nominal the score is x . response
    with torch.no_grad():
        for k in range(3):
            bias = flow.layers[0].get_submodule(f"groups.0.networks.{k}.2").get_parameter("bias")
            bias.view(4, 4)[:, 2] = -response[:, k]
    return flow


def test_the_exact_answer_can_be_represented_with_joint_points() -> None:
    toy = exact_toy("many_nuisances", epsilon=0.0, a=0.5)
    flow = planted(toy)
    theta = torch.cat([torch.zeros(200, 1), 1.5 * draws(200, 3)], 1)
    x = toy.sample(theta, generator=torch.Generator().manual_seed(2)).x
    torch.testing.assert_close(flow.log_ratio(x, theta), toy.log_ratio(x, theta), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.log_prob(x, theta), toy.log_prob(x, theta), rtol=1e-9, atol=1e-9)


def test_the_exact_answer_is_stationary() -> None:
    """Over templates at signal 0, the mean gradient of a nuisance's loss vanishes within 5 standard errors."""
    toy = exact_toy("many_nuisances", epsilon=0.0, a=0.5)
    flow = planted(toy)
    theta = torch.zeros(20_000, 4, dtype=torch.float64)
    theta[::2, 2], theta[1::2, 2] = 1.0, -1.0
    events = toy.sample(theta, generator=torch.Generator().manual_seed(3))
    parameters = flow.stages()[2].parameters
    assert not within_errors(flow, events, parameters, move=0.1)
    assert within_errors(flow, events, parameters, move=0.0)


def within_errors(flow: FactorizableFlow, events: Events, parameters: tuple[nn.Parameter, ...], move: float) -> bool:
    """Whether the mean gradient over 40 batches is 0 within 5 errors, at parameters moved by ``move``."""
    with torch.no_grad():
        for parameter in parameters:
            parameter += move
    batches = [flow.loss(batch, torch.Generator()).mean() for batch in events.batches(500, torch.Generator().manual_seed(4))]
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]) for loss in batches]
    with torch.no_grad():
        for parameter in parameters:
            parameter -= move
    gradient = torch.stack(rows)
    error = gradient.std(0) / math.sqrt(len(rows))
    return bool((gradient.mean(0).abs() <= 5 * error).all())


def learn(flow: FactorizableFlow, stage: Stage, events: Events) -> None:
    """A plain loop over the events of one stage, with a cosine schedule."""
    optimiser = torch.optim.Adam(stage.parameters, lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10 * math.ceil(len(events) / 500))
    generator = torch.Generator().manual_seed(6)
    for _ in range(10):
        for batch in events.batches(500, generator):
            optimiser.zero_grad()
            flow.loss(batch, generator).mean().backward()
            optimiser.step()
            schedule.step()


def mean_square(estimator: Estimator, toy: ExactToy, *theta: float) -> tuple[float, float]:
    """Mean squared error of log_ratio at theta, and mean square of the exact one."""
    point = torch.tensor(theta, dtype=torch.float64)
    x = toy.sample(point.expand(20_000, -1), generator=torch.Generator().manual_seed(99)).x
    exact = toy.log_ratio(x, point)
    with torch.no_grad():
        return float((estimator.log_ratio(x, point) - exact).square().mean()), float(exact.square().mean())


@pytest.mark.slow
def test_learns_shifts_from_single_templates_and_adds_them_up_at_joint_points() -> None:
    """Under the exact nominal flow; no event lies at (1, 1, 1). Measured: 0.9 % of the mean square is missing.

    Templates do not depend on epsilon, so that the same flow answers for every epsilon, and misses what `ManyNuisances`
    says: D, of mean square (epsilon q)^2 + (epsilon q)^4 / 4 with q = 2, above what training leaves.
    """
    toy, n = exact_toy("many_nuisances", epsilon=0.0, a=0.5), 10_000
    flow = with_exact_nominal(toy)
    for k, stage in enumerate(flow.stages()[1:], 1):
        theta = torch.zeros(n, 4, dtype=torch.float64)
        theta[::2, k], theta[1::2, k] = 1.0, -1.0
        learn(flow, stage, toy.sample(theta, generator=torch.Generator().manual_seed(10 + k)))
    error, exact = mean_square(flow, toy, 0.0, 1.0, 1.0, 1.0)
    assert error < 0.03 * exact
    for epsilon in (0.25, 0.5, 1.0):
        coupled = exact_toy("many_nuisances", epsilon=epsilon, a=0.5)
        missed, _ = mean_square(flow, coupled, 0.0, 1.0, 1.0, 1.0)
        expected = (2 * epsilon) ** 2 + (2 * epsilon) ** 4 / 4
        # What training leaves may add to D or take from it: Cauchy and Schwarz.
        assert abs(missed - expected - error) < 2 * math.sqrt(error * expected) + 0.05 * expected


@pytest.mark.slow
def test_extrapolates_further_than_a_flow_with_nuisances_as_context() -> None:
    """linear_gaussian at (2, -1), where no template lies; both trained as the product trains, on the same 20,000 events.

    Measured: 8 % of the mean square is missing, 22 % for zuko_nsf. At the anchors it is the other way round (12 and 4 % at (1, 0)).
    """
    from touchneedle.benchmark.train import train

    toy = exact_toy("linear_gaussian", response=0.5)
    events, errors = make_events(toy, 20_000, "templates", 0), {}
    for name in ("factorizable_flow", "zuko_nsf"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            estimator = build_estimator(name, toy.spec, transforms=1)
        train(estimator, events, TrainerConfig(accelerator="cpu", progress=False), OptimizerConfig(), 0)
        errors[name], _ = mean_square(estimator.double(), toy, 0.0, 0.0, 2.0, -1.0)
    assert errors["factorizable_flow"] < 0.7 * errors["zuko_nsf"]


@pytest.mark.slow
def test_a_refined_density_for_each_process_is_as_good_as_a_conditional_flow() -> None:
    """RMSE of log_ratio at the anchors and at joint points of fnf_two_class, both trained on the same 100,000 template events.

    Within 1.3 times the conditional flow's at three anchors, and better at two of three joint points. The others, squeeze = 1 and
    (1, 1), rest on a few events far outside the nominal ones (measured 1.7 and 1.06 times): there, medians are compared.
    """
    from touchneedle.benchmark.train import train

    toy, errors = exact_toy("fnf_two_class"), {}
    events = make_events(toy, 100_000, "templates", 0)
    points = [(1, 0), (-1, 0), (0, -1), (2, -1), (0.5, -0.5), (0, 1), (1, 1)]
    for name, options in (("zuko_nsf", {}), ("factorizable_flow", {"per_process": True, "refine": True})):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            estimator = build_estimator(name, toy.spec, **options)
        train(estimator, events, TrainerConfig(accelerator="cpu", progress=False), OptimizerConfig(), 0)
        errors[name] = torch.stack([absolute_error(estimator.double(), toy, 0.5, *point) for point in points])
    rms = {name: error.square().mean(1).sqrt() for name, error in errors.items()}
    assert (rms["factorizable_flow"][:3] < 1.3 * rms["zuko_nsf"][:3]).all()
    assert (rms["factorizable_flow"][3:5] < rms["zuko_nsf"][3:5]).all()
    median = {name: error.median(1).values for name, error in errors.items()}
    assert (median["factorizable_flow"][5:] < 1.3 * median["zuko_nsf"][5:]).all()


def absolute_error(estimator: Estimator, toy: ExactToy, *theta: float) -> Tensor:
    """|error of log_ratio| of 20,000 events at theta."""
    point = torch.tensor(theta, dtype=torch.float64)
    x = toy.sample(point.expand(20_000, -1), generator=torch.Generator().manual_seed(99)).x
    with torch.no_grad():
        return (estimator.log_ratio(x, point) - toy.log_ratio(x, point)).abs()
