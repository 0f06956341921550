"""Training on events that do not fit: equal to training in memory where the order is the same, and within its limit elsewhere."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.toys.root_writing import as_root
from touchneedle.benchmark.config import EnsembleConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.drawn_events import DrawnEvents
from touchneedle.benchmark.members import OneMember
from touchneedle.benchmark.train import train, train_ensemble
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_loop import run_stage
from touchneedle.benchmark.training_plan import TrainingPlan
from touchneedle.benchmark.training_split import split_events
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.toys.base import Events, EventSource, build_toy, collect
from touchneedle.toys.event_layout import write_events
from touchneedle.toys.event_stream import PARTS, EventStream

ROOT = Path(__file__).parents[2]
TOY = build_toy("fnf_two_class")
FAST = TrainerConfig(max_epochs=2, batch_size=128, validation_fraction=0.1, progress=False, accelerator="cpu")
METHODS = {
    "ratio_bce": {"hidden": (8,)},
    "ratio_parametric": {"hidden": (8,)},
    "spline_flow": {"hidden_features": (8,), "transforms": 1, "bins": 4},
    "mixture_density": {"hidden_features": (8,), "components": 2},
    "posterior_flow": {"hidden": (8,), "components": 2},
}
SMALLER = {"flow_times_ratio": {"reference_events": 64}}


def built(name: str, seed: int = 0) -> Estimator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_estimator(name, TOY.spec, **METHODS.get(name, SMALLER.get(name, {})))


@pytest.fixture(scope="module")
def events() -> Events:
    """With uneven weights."""
    drawn = make_events(TOY, 1_500, "prior", 0)
    return drawn.with_weight(torch.rand(1_500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5)


@pytest.fixture(scope="module")
def file(events: Events, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("events") / "events.parquet", events, TOY.spec, 50)


def limited(file: Path, window: int, workers: int = 2) -> EventStream:
    """The file under a limit that leaves a window of so many events."""
    return EventStream(file, TOY.spec, window * PARTS * EventStream(file, TOY.spec).event_bytes, workers)


def state(estimator: Estimator) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in estimator.state_dict().items()}


def trained(name: str, source: EventSource) -> tuple[dict[str, Tensor], TrainingLog]:
    estimator = built(name)
    log = train(estimator, source, FAST, OptimizerConfig(), 0)
    return state(estimator), log


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Equal to training in memory.


@pytest.mark.parametrize("name", ["ratio_bce", "spline_flow"])
def test_a_file_that_fits_trains_to_the_same_weights(name: str, events: Events, file: Path) -> None:
    in_memory, log = trained(name, events)
    for limit in (None, 2**30):
        weights, other = trained(name, EventStream(file, TOY.spec, limit))
        assert equal(weights, in_memory)
        assert (other.train_loss, other.validation_loss) == (log.train_loss, log.validation_loss)


@pytest.mark.parametrize("kind", ["tree", "rntuple"])
def test_a_root_file_trains_to_the_weights_of_parquet_and_of_memory(kind: str, events: Events, tmp_path: Path) -> None:
    parquet = write_events(tmp_path / "events.parquet", events, TOY.spec, 50)
    root = EventStream(as_root(parquet, kind, 50), TOY.spec, tree="events")
    in_memory, log = trained("ratio_bce", events)
    weights, other = trained("ratio_bce", root)
    assert equal(weights, in_memory)
    assert (other.train_loss, other.validation_loss) == (log.train_loss, log.validation_loss)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_batches_of_a_stream_train_as_rows_of_events_do(name: str, events: Events, tmp_path: Path) -> None:
    """The streamed loop itself, on the same events in the same order."""
    split = split_events(events, 0.1)
    stream = EventStream(write_events(tmp_path / "a.parquet", split.training, TOY.spec, 70), TOY.spec)
    results = []
    for source in (split.training, stream):
        estimator, log = built(name), TrainingLog()
        estimator.prepare(source)
        (stage,) = estimator.stages()
        plan = TrainingPlan(FAST, OptimizerConfig(), 0)
        run_stage(OneMember(estimator, stage), stage.name, source, split.validation, plan, log)
        results.append((state(estimator), log.train_loss, log.validation_loss))
    assert equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


def test_the_split_is_that_of_events_in_memory(events: Events, file: Path) -> None:
    split, known = split_events(limited(file, 200), 0.1), split_events(events, 0.1)
    assert torch.equal(split.validation.x, known.validation.x)
    assert torch.equal(split.validation.weight, known.validation.weight)
    assert isinstance(split.training, EventStream)
    assert len(split.training) == len(known.training)
    rest = torch.cat([batch.x for batch in split.training.batches(64)])
    assert sorted(rest[:, 0].tolist()) == sorted(collect(known.training).x[:, 0].tolist())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_stream_beyond_its_limit_trains_like_events_in_memory(name: str, events: Events, file: Path) -> None:
    """Other batches of the same events: the standardisation is the same to rounding, the loss within the noise of an epoch."""
    (in_memory, log), (weights, other) = trained(name, events), trained(name, limited(file, 200))
    for key in ("mean_weight", "standardise_x.mean", "standardise_x.std", "trained_range"):
        torch.testing.assert_close(weights[key], in_memory[key])
    assert not equal(weights, in_memory)
    assert other.stages == log.stages
    torch.testing.assert_close(other.validation_loss, log.validation_loss, rtol=0.1, atol=0.05)


def test_the_number_of_workers_changes_nothing(file: Path) -> None:
    first, second = trained("ratio_bce", limited(file, 200, 1))[0], trained("ratio_bce", limited(file, 200, 3))[0]
    assert equal(first, second)


def test_stacked_members_train_on_a_stream_as_they_do_alone(file: Path) -> None:
    weights = []
    for stacked in ("yes", "no"):
        members = [built("ratio_bce", seed) for seed in (1, 2)]
        config = EnsembleConfig(members=2, stacked=stacked)  # type: ignore[arg-type]
        train_ensemble(Ensemble(members), limited(file, 200), FAST, OptimizerConfig(), config, 0)
        weights.append([state(member) for member in members])
    for one, other in zip(*weights, strict=True):
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4)


# Every method.


@pytest.mark.parametrize("name", sorted(name for name in registry.ESTIMATOR_TABLE if not name.startswith("oracle")))
def test_methods_learn_the_same_from_a_stream_or_say_that_they_cannot(name: str, events: Events, file: Path) -> None:
    estimator, known = built(name), built(name)
    refused = refusal(estimator, limited(file, 200))
    if refused:
        assert name not in METHODS
        assert refused.startswith("this method needs all training events in memory")
        return
    known.prepare(events)
    for key, value in state(known).items():
        torch.testing.assert_close(estimator.state_dict()[key], value, equal_nan=True)


def refusal(estimator: Estimator, source: EventSource) -> str:
    """Why an estimator does not learn from a source; empty if it does."""
    try:
        estimator.prepare(source)
    except SkipCell as error:
        return str(error)
    return ""


# What needs all events.


@pytest.mark.parametrize("name", ["kernel_density", "best_gaussian", "ratio_signed_pare"])
def test_methods_that_need_all_events_say_so(name: str, file: Path) -> None:
    with pytest.raises(SkipCell, match="this method needs all training events in memory") as caught:
        train(built(name), limited(file, 200), FAST, OptimizerConfig(), 0)
    assert "\n" not in str(caught.value)


def test_bootstraps_need_events_in_memory(file: Path) -> None:
    ensemble = Ensemble([built("ratio_bce", seed) for seed in (1, 2)])
    with pytest.raises(SkipCell, match=r"ensemble\.resample=bootstrap needs the training events in memory"):
        train_ensemble(ensemble, limited(file, 200), FAST, OptimizerConfig(), EnsembleConfig(members=2, resample="bootstrap"), 0)


def test_validation_events_beyond_their_part_are_refused(file: Path) -> None:
    with pytest.raises(InputError, match=r"trainer\.validation_fraction=0\.3: 450 events .* set trainer\.validation_fraction=0\.1$"):
        train(built("ratio_bce"), limited(file, 200), replace(FAST, validation_fraction=0.3), OptimizerConfig(), 0)


# Memory.

SCRIPT = """
import sys
import torch
from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy
from touchneedle.toys.event_stream import EventStream

torch.set_num_threads(1)
toy = build_toy("gaussian_mixture", dim=16)
stream = EventStream(sys.argv[1], toy.spec, int(sys.argv[2]))
assert not stream.fits
trainer = TrainerConfig(max_epochs=1, batch_size=2**14, validation_fraction=0.05, progress=False, accelerator="cpu")
train(build_estimator("ratio_bce", toy.spec, hidden=(8,)), stream, trainer, OptimizerConfig(), 0)
print(len(stream) * stream.event_bytes)
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
@pytest.mark.parametrize("kind", ["parquet", "tree", "rntuple"])
def test_the_limit_holds_for_a_file_beyond_it(tmp_path: Path, kind: str) -> None:
    limit, toy = 10**9, build_toy("gaussian_mixture", dim=16)
    path = write_events(tmp_path / "events.parquet", DrawnEvents(toy, 10**7, "prior", 0), toy.spec, 2**16)  # type: ignore[arg-type]
    path = path if kind == "parquet" else as_root(path, kind, 2**16)
    words = [sys.executable, "-c", SCRIPT, str(path), str(limit)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT / ".typing", check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    size, peak = map(int, done.stdout.split())
    assert size > limit
    assert peak * 1_024 < limit
