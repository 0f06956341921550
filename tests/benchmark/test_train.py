"""Training: best weights kept, early stopping, a clear stop on a non-finite loss, no global randomness."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from touchneedle.benchmark import stage_training
from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.stage_training import NonFiniteLoss
from touchneedle.benchmark.train import train
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Estimator, Stage, build_estimator
from touchneedle.toys.base import Events, build_toy

FAST = TrainerConfig(max_epochs=3, batch_size=128, progress=False, accelerator="cpu")


class Scripted(Estimator):
    """One parameter; the loss in each epoch is what the script says, whatever the events."""

    def __init__(self, spec, script):  # type: ignore[no-untyped-def]
        super().__init__(spec, None)
        self.level = nn.Parameter(torch.zeros(()))
        self.script, self.epoch = script, -1

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        if not self.training:
            self.epoch += 1
            return torch.full((len(events),), self.script[min(self.epoch, len(self.script) - 1)])
        return self.level.expand(len(events))

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.level * theta[:, 0]


@pytest.fixture
def events() -> Events:
    return make_events(build_toy("gaussian_shift"), 1_000, "prior", 0)


def scripted(script: list[float]) -> Scripted:
    return Scripted(build_toy("gaussian_shift").spec, script)


def test_the_weights_of_the_best_epoch_are_kept(events: Events) -> None:
    estimator = scripted([3.0, 1.0, 2.0, 2.0])
    levels = []
    original = estimator._loss
    estimator._loss = lambda e, g: (levels.append(estimator.level.item()), original(e, g))[1]  # type: ignore[method-assign]
    log = train(estimator, events, replace(FAST, max_epochs=4), OptimizerConfig(schedule="constant"), 0)
    assert log.validation_loss == [3.0, 1.0, 2.0, 2.0]
    steps = 8  # 900 training events in batches of 128
    after_second_epoch = levels[2 * (steps + 1) - 1]
    assert estimator.level.item() == after_second_epoch


def test_patience_stops_early(events: Events) -> None:
    log = train(scripted([1.0, 2.0, 2.0, 2.0, 2.0]), events, replace(FAST, max_epochs=50, patience=2), OptimizerConfig(), 0)
    assert len(log.validation_loss) == 3
    assert "no better validation loss for 2 epochs" in log.stopped


def test_a_non_finite_loss_stops_with_its_place(events: Events) -> None:
    estimator = scripted([1.0])
    with torch.no_grad():
        estimator.level.fill_(float("nan"))
    with pytest.raises(
        NonFiniteLoss, match=r"stage train: the loss became nan in epoch 0, step 0; lower optimizer\.learning_rate"
    ) as caught:
        train(estimator, events, FAST, OptimizerConfig(), 0)
    assert "\n" not in str(caught.value)


class Failing(Scripted):
    """Its loss is not a number from the tenth training step on."""

    def __init__(self, spec):  # type: ignore[no-untyped-def]
        super().__init__(spec, [0.0])
        self.step = -1

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        self.step += self.training
        return super()._loss(events, generator) * (float("nan") if self.step >= 10 else 1.0)


@pytest.mark.parametrize("together", [1, 3, 1_000])
def test_losses_that_are_looked_at_together_name_the_same_step(events: Events, monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setitem(stage_training.CHECKED_AT_ONCE, "cpu", together)
    # 900 events are 8 batches of 128.
    with pytest.raises(NonFiniteLoss, match="the loss became nan in epoch 1, step 2;"):
        train(Failing(build_toy("gaussian_shift").spec), events, FAST, OptimizerConfig(), 0)


@pytest.mark.parametrize("weight", [0.0, float("nan"), float("inf")])
def test_unusable_weights_are_refused(events: Events, weight: float) -> None:
    with pytest.raises(InputError, match="expected finite weights that are not all zero"):
        train(scripted([1.0]), events.with_weight(torch.full((1_000,), weight)), FAST, OptimizerConfig(), 0)


def test_same_seed_same_weights_and_no_global_randomness(events: Events) -> None:
    def weights(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            estimator = build_estimator("ratio_bce", build_toy("gaussian_shift").spec, hidden=(8,))
        train(estimator, events, FAST, OptimizerConfig(), seed)
        return torch.cat([p.detach().flatten() for p in estimator.parameters()])

    before = torch.get_rng_state()
    first, second, other = weights(5), weights(5), weights(6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_closed_form_methods_see_all_events(events: Events) -> None:
    estimator = build_estimator("best_gaussian", build_toy("gaussian_shift").spec)
    log = train(estimator, events, FAST, OptimizerConfig(), 0)
    assert log.stopped == "closed form"
    assert log.train_loss == []


class Staged(Estimator):
    """Two parameters: the first is trained on events of positive, the second on events of negative theta_1 (or of none)."""

    def __init__(self, spec, edge=0.0):  # type: ignore[no-untyped-def]
        super().__init__(spec, None)
        self.levels = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(2)])
        self.edge = edge
        self.seen: list[tuple[bool, ...]] = []

    def stages(self) -> tuple[Stage, ...]:
        first, second = self.levels
        return (
            Stage("up", (first,), lambda events: events.theta[:, 0] > 0),
            Stage("down", (second,), lambda events: events.theta[:, 0] < -self.edge),
        )

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        up = events.theta[:, 0] > 0
        self.seen.append((bool(up.all()), bool((~up).all()), *(level.requires_grad for level in self.levels)))
        return (self.levels[0] - 1) ** 2 + (self.levels[1] - 1) ** 2 + 0 * events.weight

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return 0 * theta[:, 0]


def test_a_stage_trains_its_own_parameters_on_its_own_events(events: Events) -> None:
    estimator = Staged(build_toy("gaussian_shift").spec)
    log = train(estimator, events, FAST, OptimizerConfig(), 0)
    assert log.stages == ["up"] * 3 + ["down"] * 3
    half = len(estimator.seen) // 2
    assert set(estimator.seen[:half]) == {(True, False, True, False)}
    assert set(estimator.seen[half:]) == {(False, True, False, True)}
    assert all(level.requires_grad and level > 0 for level in estimator.levels)


def test_a_stage_without_events_is_found_before_the_first_one_is_trained(events: Events) -> None:
    estimator = Staged(build_toy("gaussian_shift").spec, edge=1e9)
    with pytest.raises(SkipCell, match="stage down: expected events of its own; got 0 for training, 0 for validation"):
        train(estimator, events, FAST, OptimizerConfig(), 0)
    assert not estimator.seen


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_one_line(events: Events) -> None:
    with pytest.raises(InputError, match=r"trainer\.accelerator=gpu: expected a GPU that torch can use .*; use auto or cpu$") as caught:
        train(scripted([1.0]), events, replace(FAST, accelerator="gpu"), OptimizerConfig(), 0)
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_train_stay_so(events: Events) -> None:
    """Validation puts everything into evaluation, and only what was in training back."""
    estimator = scripted([1.0])
    estimator.still = nn.Dropout().eval()  # type: ignore[assignment]
    train(estimator, events, FAST, OptimizerConfig(), 0)
    assert not estimator.still.training
    assert estimator.epoch == FAST.max_epochs - 1
