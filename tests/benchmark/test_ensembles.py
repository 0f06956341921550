"""Ensembles: a stacked pass trains like one after the other, bootstrap weights, spread, averaged likelihoods."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark import members as benchmark_members
from touchneedle.benchmark.config import EnsembleConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.members import StackedMembers, can_stack
from touchneedle.benchmark.train import train, train_ensemble
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ensemble import AveragedEnsemble, Ensemble
from touchneedle.estimators.wifi_ensemble import WifiEnsemble
from touchneedle.inference.network_error import KnowsItsError
from touchneedle.toys.base import Events, build_toy

FAST = TrainerConfig(max_epochs=3, batch_size=128, progress=False, accelerator="cpu", patience=1)
TOY = build_toy("gaussian_shift")
# A large learning rate: gradients are clipped, and members run out of patience in different epochs.
OPTIMIZER = OptimizerConfig(learning_rate=2e-2)


def built(name: str, seed: int, **params: object) -> Estimator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_estimator(name, TOY.spec, **params)


@pytest.fixture(scope="module")
def events() -> Events:
    return make_events(TOY, 1_000, "prior", 0)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ratio_bce", {"hidden": (8,)}),
        ("posterior_flow", {"hidden": (8,), "components": 2}),
        ("zuko_nsf", {"hidden_features": (8,), "transforms": 1, "bins": 4}),
    ],
)
@pytest.mark.parametrize("resample", ["seed", "bootstrap"])
def test_a_stacked_pass_trains_like_one_after_the_other(events: Events, name: str, params: dict[str, object], resample: str) -> None:
    config = EnsembleConfig(members=3, resample=resample)  # type: ignore[arg-type]
    trainer = replace(FAST, max_epochs=6, gradient_clip=0.05)
    trained, logs = [], []
    for stacked in ("yes", "no"):
        members = [built(name, k if resample == "seed" else 0, **params) for k in range(3)]
        logs.append(train_ensemble(Ensemble(members), events, trainer, OPTIMIZER, replace(config, stacked=stacked), 1))
        trained.append(members)
    assert can_stack(trained[0], events)
    for together, alone in zip(*trained, strict=True):
        for first, second in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    answers = torch.stack([member.log_ratio(events.x[:5], events.theta[:5]) for member in trained[0]])
    assert (answers.std(0) > 1e-3).all()
    shared = min(len(log.validation_loss) for log in logs)
    assert logs[0].validation_loss[:shared] == pytest.approx(logs[1].validation_loss[:shared], abs=1e-4)


def test_the_first_member_is_trained_as_if_it_were_alone(events: Events) -> None:
    alone, *members = [built("ratio_bce", seed, hidden=(8,)) for seed in (0, 0, 1)]
    train(alone, events, FAST, OPTIMIZER, 1)
    train_ensemble(Ensemble(members), events, FAST, OPTIMIZER, EnsembleConfig(members=2, stacked="no"), 1)
    assert all(torch.equal(*pair) for pair in zip(alone.parameters(), members[0].parameters(), strict=True))


@pytest.mark.parametrize("own_weights", [False, True])
def test_a_pass_in_parts_gives_the_same_losses(events: Events, own_weights: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [built("ratio_bce", seed, hidden=(8,)) for seed in range(3)]
    for member in members:
        member.prepare(events)
    weights = torch.rand(3, len(events), dtype=torch.float64) if own_weights else None
    trainee = StackedMembers(members, [member.stages()[0] for member in members], weights)
    rows, losses, states = torch.arange(100), [], []
    for limit in (10_000, 200, 1):
        monkeypatch.setattr(benchmark_members, "_ROWS_AT_A_TIME", limit)
        generator = torch.Generator().manual_seed(0)
        losses.append(trainee.losses(events[rows], rows, generator))
        states.append(generator.get_state())
    alone = [
        member.loss(events[rows].with_weight(weights[k, rows]) if weights is not None else events[rows], torch.Generator().manual_seed(0))
        for k, member in enumerate(members)
    ]
    for parts, state in zip(losses, states, strict=True):
        torch.testing.assert_close(parts, torch.stack(alone))
        assert torch.equal(state, states[0])


def test_members_are_stacked_unless_told_otherwise(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    plain = StackedMembers.losses
    monkeypatch.setattr(StackedMembers, "losses", lambda *inputs: passes.append(1) or plain(*inputs))
    for stacked, expected in (("no", False), ("auto", True)):
        members = [built("ratio_bce", seed, hidden=(8,)) for seed in range(2)]
        config = EnsembleConfig(members=2, stacked=stacked)  # type: ignore[arg-type]
        train_ensemble(Ensemble(members), events, replace(FAST, max_epochs=1), OPTIMIZER, config, 1)
        assert bool(passes) is expected


def test_what_reads_data_in_its_loss_is_trained_one_after_the_other() -> None:
    toy = build_toy("signed_mixture")
    events = make_events(toy, 1_000, "prior", 0)
    members = [build_estimator("ratio_signed_mixture", toy.spec) for _ in range(2)]
    for member in members:
        member.prepare(events)
    assert not can_stack(members, events)
    before = [p.clone() for p in members[1].parameters()]
    train_ensemble(Ensemble(members), events, replace(FAST, max_epochs=1), OptimizerConfig(), EnsembleConfig(members=2, stacked="yes"), 0)
    assert any(not torch.equal(old, new) for old, new in zip(before, members[1].parameters(), strict=True))


def test_closed_form_members_of_a_bootstrap_spread_like_fits_of_other_events() -> None:
    n_members, n_sets = 200, 200
    x, theta = make_events(TOY, 6, "prior", 9).x, make_events(TOY, 6, "prior", 9).theta

    def answer(estimator: Estimator) -> Tensor:
        return estimator.log_ratio(x, theta)

    members = [build_estimator("best_gaussian", TOY.spec) for _ in range(n_members)]
    train_ensemble(Ensemble(members), make_events(TOY, 2_000, "prior", 0), FAST, OptimizerConfig(), EnsembleConfig(resample="bootstrap"), 0)
    others = [build_estimator("best_gaussian", TOY.spec) for _ in range(n_sets)]
    for seed, other in enumerate(others):
        train(other, make_events(TOY, 2_000, "prior", 100 + seed), FAST, OptimizerConfig(), 0)
    spread = Ensemble(members).log_ratio_variance(x, theta).sqrt()
    expected = torch.stack([answer(other) for other in others]).std(0)
    # Errors of two standard deviations, and the O(1/sqrt(N)) by which one sample's bootstrap misses the population's.
    error = math.sqrt(0.5 / n_members + 0.5 / n_sets + 1.0 / 2_000)
    assert ((spread / expected).log().abs() < 4 * error).all()


def test_an_averaged_likelihood_is_the_mean_over_members(events: Events) -> None:
    members = [built("ratio_bce", seed, hidden=(8,)).double() for seed in range(3)]
    ensemble = AveragedEnsemble(members).double()
    points = events.theta[:4]
    sums = torch.stack([member.log_likelihood_ratio(events[:50], points) for member in members])
    torch.testing.assert_close(ensemble.log_likelihood_ratio(events[:50], points), sums.exp().mean(0).log())
    single = torch.stack([member.log_ratio(events.x, events.theta) for member in members])
    torch.testing.assert_close(ensemble.log_ratio(events.x, events.theta), single.exp().mean(0).log())
    assert not ensemble.additive


def test_an_ensemble_is_normalised_over_reference_events(events: Events) -> None:
    members = [built("ratio_bce", seed, hidden=(8,)) for seed in range(2)]
    for member in members:
        member.prepare(events)
    ensemble = Ensemble(members).double()
    points = events.theta[:3]
    log_r = torch.stack(
        [member._log_evidence_ratio_grid(events.x.double(), torch.cat([ensemble.nominal[None], points])) for member in members]
    )
    means = log_r.mean(0).exp().mean(0).log()
    torch.testing.assert_close(ensemble.log_normalisation(points), means[1:] - means[0])
    assert bool((ensemble.log_normalisation(points).abs() > 1e-6).all())
    plain = Ensemble([built("ratio_bce", seed, hidden=(8,), normalise="none") for seed in range(2)])
    assert not bool(plain.log_normalisation(points).any())
    flows = Ensemble([built("zuko_nsf", seed, hidden_features=(8,), transforms=1) for seed in range(2)])
    assert not bool(flows.log_normalisation(points).any())


class Scaled(Estimator):
    """The exact log_ratio of gaussian_shift times a factor, plus noise that follows x."""

    def __init__(self, factor: float, noise: float) -> None:
        super().__init__(TOY.spec, None)
        self.factor, self.noise = factor, noise

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        exact = TOY.log_prob(x, theta.double()) - TOY.log_prob(x, self.nominal.double().expand_as(theta))
        return self.factor * exact.to(x) + self.noise * (40 * x[:, 0]).sin() * theta[:, 0]


def test_weights_of_a_combination_find_the_exact_ratio(events: Events) -> None:
    many = make_events(TOY, 20_000, "prior", 3)
    # Half of the first plus half of the second is exact.
    ensemble = WifiEnsemble([Scaled(1.6, 0.5), Scaled(0.4, -0.5)]).double()
    ensemble.finish(many)
    deviation = ensemble.weights - 0.5
    covariance = ensemble.weight_factor @ ensemble.weight_factor.T
    chi2 = deviation @ torch.linalg.solve(covariance, deviation)
    assert 1e-4 < chi2 < 20
    exact = Scaled(1.0, 0.0).log_ratio(events.x, events.theta)
    error = ensemble.log_ratio(events.x, events.theta) - exact
    sigma = ensemble.log_ratio_variance(events.x, events.theta).sqrt()
    assert (error.abs() < 5 * sigma + 1e-9).all()
    assert sigma.mean() < 0.1


def test_the_error_of_the_weights_is_their_spread_over_samples() -> None:
    members = [Scaled(1.6, 0.5), Scaled(0.4, -0.5)]
    weights, variances = [], []
    for seed in range(60):
        ensemble = WifiEnsemble(members).double()
        ensemble.finish(make_events(TOY, 1_000, "prior", seed))
        weights.append(ensemble.weights.clone())
        variances.append((ensemble.weight_factor @ ensemble.weight_factor.T).diagonal())
    spread = torch.stack(weights).var(0)
    ratio = torch.stack(variances).mean(0) / spread
    assert (ratio.log().abs() < 4 * math.sqrt(2 / 60)).all()


def test_an_ensemble_tells_a_fit_the_error_of_its_training(events: Events) -> None:
    members = [built("ratio_bce", seed, hidden=(8,)) for seed in range(3)]
    for member in members:
        member.prepare(events)
    ensemble = Ensemble(members).double()
    assert isinstance(ensemble, KnowsItsError)
    values = torch.stack([member.log_ratio(events.x, events.theta) for member in members])
    torch.testing.assert_close(ensemble.log_ratio_variance(events.x, events.theta), values.var(0))
    # Moving the members along a mode moves the normalisation by its own mode.
    points, step = events.theta[:2], 1e-4
    modes, moved = ensemble.log_normalisation_modes(points), []
    for sign in (1, -1):
        log_r = ensemble._log_evidence_ratio_grid(events.x.double(), torch.cat([ensemble.nominal[None], points]))
        shift = torch.stack([ensemble.log_ratio_modes(events.x, point)[:, 0] for point in (ensemble.nominal, *points)], 1)
        means = (log_r + sign * step * shift).exp().mean(0).log()
        moved.append(means[1:] - means[0])
    torch.testing.assert_close((moved[0] - moved[1]) / (2 * step), modes[:, 0], rtol=1e-5, atol=1e-7)
