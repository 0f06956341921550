"""The configuration of one run, as plain dataclasses; Hydra composes it, everything else reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
)

from touchneedle.benchmark.search_space import Span, read_span
from touchneedle.conf import registry

# Enough for a mean with a standard error.
Several = Annotated[int, Field(ge=2)]


def _enough_networks(value: int) -> int:
    if 0 < value < MIN_NETWORKS:
        raise ValueError(f"expected 0 (off) or at least {MIN_NETWORKS} networks, so that their spread means something")
    return value


def _bytes(value: object) -> int:
    try:
        size = int(TypeAdapter(ByteSize).validate_python(value))
    except ValueError:
        size = 0
    if size <= 0:
        raise ValueError("expected a size such as 2GB or 500MiB")
    return size


MIN_NETWORKS = 10
MemoryLimit = Annotated[int, BeforeValidator(_bytes)]
Retrain = Annotated[int, Field(ge=0), AfterValidator(_enough_networks)]


@dataclass
class ComponentConfig:
    """A toy or an estimator: its registry name and the options that differ from its defaults."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class BudgetConfig:
    """Number of simulated training events, validation included."""

    name: str = "tiny"
    n_train: int = 2_000


@dataclass
class EvaluationConfig:
    """How hard to look.

    Attributes:
        n_experiments: pseudo-experiments per theta point and number of events.
        n_points: theta points (the first is nominal).
        n_test: test events of the density and closure metrics.
        n_sample: events per sample set of the two-sample metrics, whose null takes eleven sets per theta point.
        n_events: sizes of the pseudo-experiments.
        n_pool: events in the pool that the pseudo-experiments of a point share.
        n_exact: pseudo-experiments at most, where the fast surface fails and each has to be fitted exactly.
        n_posterior: pairs (theta, x) of the posterior tests and the PIT.
        n_set: sizes of the event sets whose posteriors are tested.
        retrain: networks trained anew for the retrained coverage of the fit family; 0 for none, else at least 10.
        families: metric families to score, in this order.
    """

    name: str = "quick"
    n_experiments: Several = 100
    n_points: PositiveInt = 1
    n_test: Several = 20_000
    n_sample: Annotated[int, Field(ge=10)] = 2_000
    n_events: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (100, 1_000)
    n_pool: Several = 50_000
    n_exact: PositiveInt = 20
    n_posterior: Several = 300
    n_set: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 10)
    retrain: Retrain = 0
    families: tuple[Literal["density", "calibration", "closure", "fit"], ...] = ("density", "calibration", "closure", "fit")


@dataclass
class TrainerConfig:
    """The training loop.

    Attributes:
        max_epochs: passes over the training events.
        patience: epochs without a better validation loss before stopping early.
        validation_fraction: share of the budget kept for validation.
        gradient_clip: largest norm of the gradient.
        accelerator: ``auto``, ``cpu`` or ``gpu``, for training and scoring; does not enter the run's identity.
        threads: CPU threads of torch; 0 leaves torch's own choice.
        devices: processes that share one training on this machine, one for each GPU; see `ranks`.
        nodes: machines that share it, with as many processes each.
        compile: train by a compiled loss and a fused optimiser (see `compilation`); losses of stacked members stay plain.
            The result is the same within rounding.
        precision: ``32``, or ``bf16-mixed``: matrix products in bfloat16, which pays on a GPU.
        progress: show a progress bar on a terminal.
        start: run_id, in the same results folder, whose weights training starts from; "" for fresh ones.
    """

    name: str = "default"
    max_epochs: PositiveInt = 20
    batch_size: PositiveInt = 512
    patience: PositiveInt = 10
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    gradient_clip: NonNegativeFloat = 5.0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    threads: NonNegativeInt = 0
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    compile: bool = False
    precision: Literal["32", "bf16-mixed"] = "32"
    progress: bool = True
    start: str = ""


@dataclass
class OptimizerConfig:
    """The optimiser and its learning-rate schedule.

    Attributes:
        name: of ``torch.optim``, or ``energy_conserving`` (its learning rate is the length of a step in the space of all weights).
    """

    name: Literal["adam", "adamw", "nadam", "radam", "energy_conserving"] = "adamw"
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-2
    schedule: Literal["constant", "cosine"] = "cosine"


@dataclass
class EnsembleConfig:
    """Networks of one kind, trained on the same events and combined.

    Attributes:
        members: number of networks; 1 for none.
        resample: what tells them apart: ``seed`` (initial weights) or ``bootstrap`` (each event's weight is multiplied by
            a Poisson(1) number; the initial weights are the same, so that the spread is that of the data).
        combine: ``mean`` of their log_ratio, ``wifi`` (a linear combination fitted to the validation events, whose error is known),
            or ``average`` of their likelihoods of a set of events (which fits cannot sum over events).
        stacked: train all in one pass: ``yes``, ``no``, or ``auto``: unless several processes share the training. The result is the same.
    """

    name: str = "none"
    members: PositiveInt = 1
    resample: Literal["seed", "bootstrap"] = "seed"
    combine: Literal["mean", "wifi", "average"] = "mean"
    stacked: Literal["auto", "yes", "no"] = "auto"


@dataclass
class TuningConfig:
    """A search for options, judged on validation events.

    Attributes:
        trials: configurations tried, the given one included; 0 for no search.
        space: values to choose from, or a range {low, high, log}, by option: ``optimizer.NAME``, ``trainer.NAME`` or ``estimator.NAME``.
        sampler: what proposes trials: ``random``, or ``tpe``, which learns from those before (by Optuna).
        monitor: what must hold beside a low validation loss: ``closure`` and ``calibration`` of the ratio on the validation events.
        max_z: standard errors by which closure and calibration may be off.
    """

    name: str = "none"
    trials: NonNegativeInt = 0
    space: dict[str, Annotated[Span, PlainValidator(read_span)]] = field(default_factory=dict)
    sampler: Literal["random", "tpe"] = "random"
    monitor: tuple[Literal["closure", "calibration"], ...] = ()
    max_z: PositiveFloat = 3.0


@dataclass
class TrackingConfig:
    """Where the losses of each epoch go as they come, besides the record; does not enter the run's identity."""

    name: Literal["none", "csv", "tensorboard", "mlflow"] = "csv"


@dataclass
class DataConfig:
    """Training events beyond memory.

    Attributes:
        memory_limit: resident memory that a training may take, such as 2GB; none by default. Events that would take more than a
            fifth of it are streamed; only then does it enter the run's identity.
        workers: threads that read a stream ahead of the training; they do not enter the run's identity.
        training: parquet or ROOT file, or a pattern of files (see `touchneedle.toys.event_layout`), whose events are trained on, all of
            them, in place of the toy's own; "" for none.
        tree: TTree or RNTuple of ROOT files; by default the only one. It enters the run's identity where it is given.
    """

    memory_limit: MemoryLimit | None = None
    workers: PositiveInt = 2
    training: str = ""
    tree: str = ""


@dataclass
class ExperimentConfig:
    """One cell of a sweep: everything that ``run_experiment`` needs."""

    toy: ComponentConfig
    estimator: ComponentConfig
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    design: Literal["prior", "templates", "templates_joint", "pairs", "nominal"] = "prior"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    seed: int = 0
    results: str = "results/local"
    plugins: list[str] = field(default_factory=list)


def parse_config(values: Mapping[str, Any]) -> ExperimentConfig:
    """A checked `ExperimentConfig` from nested mappings; raises `InputError` naming the wrong field."""
    return registry.build_options(ExperimentConfig, values, "run")


def config_to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as JSON-ready nested dictionaries."""
    return json.loads(json.dumps(asdict(config)))
