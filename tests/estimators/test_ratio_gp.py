"""Morphing by a Gaussian process: weights against scikit-learn, planted lengths, templates of one and two nuisances."""

from __future__ import annotations

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from torch import Tensor, nn

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events, template_points
from touchneedle.benchmark.train import train
from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.gaussian_process import MorphingProcess
from touchneedle.estimators.ratio_gp import RatioGp
from touchneedle.estimators.templates import JointTemplates
from touchneedle.toys.base import ExactToy, build_toy

# Templates lie within one sigma; what is said beyond them is what many of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")

POINTS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)


def process(lengths: tuple[float, float], constant: float, noise: float) -> MorphingProcess:
    morphing = MorphingProcess(POINTS).double()
    morphing.log_length = torch.tensor(lengths, dtype=torch.float64).log()
    morphing.log_constant, morphing.log_noise = (torch.tensor(value, dtype=torch.float64).log() for value in (constant, noise))
    return morphing


def test_the_mean_is_that_of_scikit_learn_with_a_zero_at_nominal() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, generator=generator, dtype=torch.float64)
    u = 3 * torch.randn(20, 2, generator=generator, dtype=torch.float64)
    lengths, constant, noise = (0.8, 1.7), 2.5, 0.01
    known = torch.cat([POINTS, torch.zeros(1, 2)])
    alpha = torch.tensor([noise + 1e-6 * constant] * 5 + [1e-12], dtype=torch.float64)
    sklearn = GaussianProcessRegressor(ConstantKernel(constant) * RBF(lengths), alpha=alpha.numpy(), optimizer=None)
    expected = sklearn.fit(known.numpy(), torch.cat([values, torch.zeros(1)]).numpy()).predict(u.numpy())
    found = process(lengths, constant, noise)(u) @ values
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert process(lengths, constant, noise)(torch.zeros(1, 2)).abs().max() < 1e-12


def test_lengths_constant_and_noise_are_found() -> None:
    planted = process((1.0, 3.0), 2.0, 0.02)
    n = 4_000
    covariance = planted._covariance(planted.log_length, planted.log_constant, planted.log_noise)
    noise = torch.randn(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = noise @ torch.linalg.cholesky(covariance).T
    learned = MorphingProcess(POINTS).double()
    learned.learn(values, torch.ones(n))
    assert (learned.log_length - planted.log_length).abs().max() < 0.15
    assert abs(learned.log_constant - planted.log_constant) < 0.2
    assert abs(learned.log_noise - planted.log_noise) < 0.2


def test_straight_lines_are_continued_beyond_the_points() -> None:
    """Log ratios linear in both nuisances, seen at single anchors only: the process extends them to joint points."""
    morphing = MorphingProcess(POINTS[:4]).double()
    slopes = torch.randn(2_000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    morphing.learn(slopes @ POINTS[:4].T, torch.ones(2_000))
    u = torch.tensor([[1.0, 1.0], [-2.0, 1.0], [0.4, -0.3]], dtype=torch.float64)
    error = morphing(u) @ POINTS[:4] - u
    assert error.abs().max() < 0.05


def test_templates_are_those_of_the_design() -> None:
    toy = build_toy("fnf_two_class")
    for joint in (False, True):
        templates = JointTemplates(toy.spec.parameters, "ratio_gp", pairs=joint)
        design = template_points(toy.spec.parameters, joint)
        members = templates.members(design)
        assert len(templates) == len(design)
        assert (members.sum(0) == 1).all()
        assert (members.sum(1) == 1).all()
        torch.testing.assert_close(templates.alpha(templates.theta())[0], torch.zeros(2, dtype=torch.float64))


def test_missing_templates_are_named() -> None:
    toy = build_toy("fnf_two_class")
    events = make_events(toy, 500, "templates", 0)
    build_estimator("ratio_gp", toy.spec).prepare(events)
    with pytest.raises(SkipCell, match=r"pair_terms=false"):
        build_estimator("ratio_gp", toy.spec, pair_terms=True).prepare(events)
    build_estimator("ratio_gp", toy.spec, pair_terms=True).prepare(make_events(toy, 500, "templates_joint", 0))


class Exact(nn.Module):
    """The exact outputs at x ~ N(mu + 0.3 nu, 1), but for what is common to all theta; inputs are standardised (x, mu)."""

    def __init__(self, estimator: RatioGp) -> None:
        super().__init__()
        self.x, self.theta = estimator.standardise_x, estimator.standardise_theta

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs[:, 0] * self.x.std + self.x.mean
        mu = inputs[:, 1] * self.theta.std[0] + self.theta.mean[0]
        at_nominal = x * mu - 0.5 * mu**2
        down, up = (-0.5 * (x - mu - side * 0.3) ** 2 + 0.5 * (x - mu) ** 2 for side in (-1, 1))
        return torch.stack([at_nominal, 10 * (down / 10).atanh(), 10 * (up / 10).atanh()], 1)


def test_exact_classifiers_give_the_exact_ratio_between_and_near_the_anchors(location: ExactToy) -> None:
    estimator = build_estimator("ratio_gp", location.spec)
    assert isinstance(estimator, RatioGp)
    events = make_events(location, 2_000, "templates", 0)
    estimator.prepare(events)
    estimator.double()
    estimator.network = Exact(estimator)
    estimator.finish(events)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    # Beyond the anchors the process begins to return to nominal: 2 % of the change in log_ratio at 1.5 anchors.
    for nu, tolerance in ((-1.5, 0.05), (-1.0, 0.005), (-0.4, 0.005), (0.0, 0.005), (0.7, 0.005), (1.0, 0.005), (1.5, 0.05)):
        point = torch.tensor([0.3, nu], dtype=torch.float64)
        assert (estimator.log_ratio(x, point) - location.log_ratio(x, point)).abs().max() < tolerance


def squared_error(name: str, toy: ExactToy, **params: object) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator: Estimator = build_estimator(name, toy.spec, **params)
    trainer = TrainerConfig(accelerator="cpu", progress=False, threads=1)
    train(estimator, make_events(toy, 20_000, "templates_joint", 0), trainer, OptimizerConfig(), 0)
    generator = torch.Generator().manual_seed(3)
    theta = toy.spec.parameters.sample_prior(10_000, generator)
    nuisance = list(toy.spec.parameters.nuisance)
    # Where both nuisances are off nominal, within their anchors.
    theta[:, nuisance] = 2 * torch.rand(10_000, len(nuisance), generator=generator, dtype=torch.float64) - 1
    x = toy.sample(theta, generator=generator).x
    with torch.no_grad():
        return (estimator.double().log_ratio(x, theta) - toy.log_ratio(x, theta)).square()


@pytest.mark.slow
def test_joint_templates_sharpen_the_morphing() -> None:
    """Against code 4, which knows single nuisances alone, on the same events."""
    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    code4, gp = squared_error("ratio_morphed", toy), squared_error("ratio_gp", toy, pair_terms=True)
    print(f"ratio_morphed {code4.mean().sqrt():.4f}, ratio_gp {gp.mean().sqrt():.4f}")
    gain = code4 - gp
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
