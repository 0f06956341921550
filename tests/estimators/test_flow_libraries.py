"""Flow libraries against each other and against closed forms: equal weights, equal numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nflows.transforms import MaskedAffineAutoregressiveTransform
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators import nflows_flows, normflows_flows, zuko_flows
from touchneedle.estimators.conditional_flow import LEAST_SLOPE, SPLINE_REACH, ConditionalFlow
from touchneedle.estimators.flow_density import FlowConfig, SplineFlowConfig
from touchneedle.estimators.made_masks import open_first_column

BINS = 6
SPLINES = [zuko_flows.spline_autoregressive, nflows_flows.spline_autoregressive, normflows_flows.AutoregressiveSplines]
ONE_SPLINE = SplineFlowConfig(transforms=1, hidden_features=(4, 4), bins=BINS)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def last_layer(flow: ConditionalFlow) -> Any:
    """The last linear layer; zuko has a class of its own for them."""
    return [layer for layer in flow.modules() if hasattr(layer, "weight")][-1]


def with_constant_output(flow: ConditionalFlow, bias: Tensor) -> ConditionalFlow:
    """The flow whose (only) conditioner answers ``bias`` whatever it sees."""
    last = last_layer(flow)
    with torch.no_grad():
        last.weight.zero_()
        assert last.bias.shape == bias.shape
        last.bias.copy_(bias)
    return flow.double()


# One spline, given to each library in its own words.


def knots() -> tuple[Tensor, Tensor, Tensor]:
    """Widths and heights of the bins as shares of the whole (BINS), slopes at the inner knots."""
    widths, heights = random(2, BINS, seed=1).softmax(1)
    return widths, heights, (0.5 * random(BINS - 1, seed=2)).exp()


def soft_clipped(value: Tensor, bound: float) -> Tensor:
    """What zuko has to be given, to see ``value`` after its soft clip v / (1 + |v| / bound)."""
    return value / (1 - value.abs() / bound)


def bias_of_zuko() -> Tensor:
    widths, heights, slopes = knots()
    bound = -math.log(LEAST_SLOPE)
    shares = [soft_clipped(share.log() - share.log().mean(), bound / 2) for share in (widths, heights)]
    return torch.cat([*shares, soft_clipped(slopes.log(), bound)])


def bias_of_nsf_code(width: int) -> Tensor:
    """nflows and normflows: shares and slopes above a least one, shares scaled by the root of a width (of nflows)."""
    widths, heights, slopes = knots()
    shares = [(share - 1e-3).log() * math.sqrt(width) for share in (widths, heights)]
    return torch.cat([*shares, torch.expm1(slopes - 1e-3).log()])


def test_a_spline_is_the_same_in_every_library() -> None:
    flows = [
        with_constant_output(zuko_flows.spline_autoregressive(1, 2, ONE_SPLINE), bias_of_zuko()),
        with_constant_output(nflows_flows.spline_autoregressive(1, 2, ONE_SPLINE), bias_of_nsf_code(1)),
        with_constant_output(normflows_flows.AutoregressiveSplines(1, 2, ONE_SPLINE), bias_of_nsf_code(1)),
    ]
    z, context = torch.linspace(-7, 7, 1_001, dtype=torch.float64)[:, None], random(1_001, 2, seed=3)
    widths, _, _ = knots()
    corners = SPLINE_REACH * (2 * torch.cat([torch.zeros(1), widths]).cumsum(0) - 1)
    for noise, log_det in (flow.to_noise(z, context) for flow in flows):
        reference = flows[0].to_noise(z, context)
        torch.testing.assert_close(noise, reference[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(log_det, reference[1], rtol=1e-4, atol=1e-4)
    inner = flows[0].to_noise(corners[:, None].double(), context[: BINS + 1])[0][:, 0]
    heights = SPLINE_REACH * (2 * torch.cat([torch.zeros(1), knots()[1]]).cumsum(0) - 1)
    torch.testing.assert_close(inner.detach(), heights.double(), rtol=1e-6, atol=1e-6)


def test_couplings_of_normflows_with_the_weights_of_zuko_are_those_of_zuko() -> None:
    config = FlowConfig(transforms=3, hidden_features=(8, 8))
    zuko, normflows = zuko_flows.affine_coupling(3, 2, config).double(), normflows_flows.AffineCouplings(3, 2, config).double()
    with torch.no_grad():
        for ours, theirs in zip(normflows.parameters(), zuko.parameters(), strict=True):
            theirs.copy_(random(*theirs.shape, seed=4))
            ours.copy_(theirs)
    z, context = random(50, 3, seed=5), random(50, 2, seed=6)
    torch.testing.assert_close(normflows.log_prob(z, context), zuko.log_prob(z, context), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(normflows.from_noise(z, context), zuko.from_noise(z, context), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layer", ["spline_autoregressive", "affine_autoregressive"])
def test_equal_architectures_have_equal_numbers_of_parameters(layer: str) -> None:
    """But for the bias of the layer through which a context enters the conditioners of nflows."""
    config = SplineFlowConfig(transforms=3, hidden_features=(32, 32))
    flows = [getattr(module, layer)(4, 3, config) for module in (zuko_flows, nflows_flows)]
    zuko, nflows = (sum(parameter.numel() for parameter in flow.parameters()) for flow in flows)
    assert nflows - zuko == 3 * 32


# Closed forms.


def test_a_coupling_of_normflows_is_a_normal_that_moves_with_the_context() -> None:
    flow = normflows_flows.AffineCouplings(2, 1, FlowConfig(transforms=1, hidden_features=())).double()
    weight = torch.tensor([[0.3, 2.0], [-0.2, 0.5]], dtype=torch.float64)
    (linear,) = [layer for layer in flow.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(torch.tensor([0.1, 0.4]))
    z, context = random(40, 2, seed=7), random(40, 1, seed=8)
    shift, raw = (torch.cat([z[:, :1], context], 1) @ weight.T + torch.tensor([0.1, 0.4])).unbind(1)
    scale = (raw / (1 + raw.abs() / math.log(1e3))).exp()
    expected = stats.norm.logpdf(z[:, 0]) + stats.norm.logpdf(z[:, 1], loc=-shift / scale, scale=1 / scale)
    torch.testing.assert_close(flow.log_prob(z, context).detach(), torch.as_tensor(expected), rtol=1e-10, atol=1e-10)


def test_an_affine_layer_of_nflows_is_a_normal() -> None:
    bias = torch.tensor([0.7, -0.4], dtype=torch.float64)
    flow = with_constant_output(nflows_flows.affine_autoregressive(1, 1, FlowConfig(transforms=1, hidden_features=(3,))), bias)
    z = random(20, 1, seed=9)
    scale = softplus(bias[0]) + 1e-3
    expected = stats.norm.logpdf(z[:, 0], loc=-bias[1] / scale, scale=1 / scale)
    torch.testing.assert_close(flow.log_prob(z, torch.ones(20, 1).double()).detach(), torch.as_tensor(expected))


def test_gaussianisation_with_equal_gaussians_is_affine_but_for_its_least_slope() -> None:
    flow = zuko_flows.gaussianisation(1, 1, SplineFlowConfig(transforms=1, hidden_features=(3,), bins=4))
    shift, log_scale = 0.3, -0.5
    flow = with_constant_output(flow, torch.tensor([shift] * 4 + [log_scale] * 4))
    z = torch.linspace(-3, 3, 31, dtype=torch.float64)[:, None]
    noise, _ = flow.to_noise(z, torch.ones(31, 1).double())
    torch.testing.assert_close(noise.detach(), z * math.exp(log_scale) + shift + LEAST_SLOPE * z, rtol=1e-4, atol=1e-4)


# Traps of the libraries.


def test_nflows_alone_hides_the_context_from_the_first_column() -> None:
    """The reason of `open_first_column`: if this fails, nflows has mended it, and that module can go."""
    layer = MaskedAffineAutoregressiveTransform(2, 8, context_features=1, num_blocks=1, use_residual_blocks=False, activation=silu)
    context = torch.ones(5, 1, requires_grad=True)
    for opened in (False, True):
        if opened:
            open_first_column(layer.autoregressive_net, 2)
        noise, _ = layer(torch.zeros(5, 2), context)
        (gradient,) = torch.autograd.grad(noise[:, 0].sum(), context)
        assert bool((gradient != 0).any()) is opened


@pytest.mark.parametrize("build", SPLINES)
def test_the_inverse_of_steep_splines_is_finite(build: Callable[[int, int, SplineFlowConfig], ConditionalFlow]) -> None:
    """The inverses of the libraries fail here in float32: NaN from zuko, AssertionError from nflows and normflows."""
    flow, generator = build(1, 1, SplineFlowConfig(transforms=1, hidden_features=(4, 4))), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(3 * torch.randn(parameter.shape, generator=generator))
        last_layer(flow).bias[16:] -= 6
    n = 200_000
    context, z = torch.randn(n, 1, generator=generator), 10 * torch.rand(n, 1, generator=generator) - 5
    noise, _ = flow.to_noise(z, context)
    assert torch.isfinite(flow.from_noise(noise.detach(), context)).all()


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(InputError, match=r"equal.*got \(64, 32\)"):
        nflows_flows.spline_autoregressive(2, 1, SplineFlowConfig(hidden_features=(64, 32)))
    with pytest.raises(InputError, match=r"two widths or more; got \(64,\)"):
        normflows_flows.AutoregressiveSplines(2, 1, SplineFlowConfig(hidden_features=(64,)))
    for build in (zuko_flows.affine_coupling, nflows_flows.spline_coupling, normflows_flows.AffineCouplings):
        with pytest.raises(SkipCell, match="at least 2 columns; got 1"):
            build(1, 1, SplineFlowConfig())
