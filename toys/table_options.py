"""The options of `event_table` and what they mean: which columns of which files are read, and which parameters and features there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Feature, GaussianConstraint, LogNormalConstraint, Parameter, Uniform
from touchneedle.toys.event_file import EventColumns
from touchneedle.toys.event_query import EventQuery, ProcessFiles
from touchneedle.toys.feature_recipe import read_recipe
from touchneedle.toys.open_table import open_tables
from touchneedle.toys.sample_variations import sample_number
from touchneedle.toys.weight_variations import Variation

__all__ = [
    "EventTableConfig",
    "check_options",
    "check_processes",
    "event_query",
    "is_varied",
    "norm_name",
    "sample_variations",
    "table_features",
    "table_parameters",
    "weight_variations",
]

# In sigma of the constraint.
REACH = 4.0
FREE_NORM = (0.0, 3.0)


@dataclass
class EventTableConfig:
    """Options; the defaults name the columns of the FAIR Universe HiggsML data (arXiv:2410.02867).

    Attributes:
        path: parquet or ROOT file, one row per event, or a pattern of files (``*.root``); with ``processes``, the folder of their files.
        processes: file or files of each process, or patterns of names; where there are none, ``process`` names each event's.
        tree: TTree or RNTuple of ROOT files; by default the only one.
        features: columns of x, stored or derived; by default all stored numbers but weights, process and ``exclude``, and all derived.
        derived: formula of each derived feature, such as ``pt1 * cos(phi1) + met``, of stored columns and features derived before it.
        selection: condition that events must meet, such as ``(m_vis > 40) & (n_jets >= 2)``.
        weight: column of event weights, whose sum is the expected yield; null for weights of 1.
        yields: expected yields of processes, to which their weights are scaled.
        process: column that names each event's process.
        signal: processes whose rate is multiplied by mu.
        norms: relative uncertainty of the rates of processes, each a log-normal nuisance ``norm_PROCESS``; null for a free one.
        variations: nuisances in sigma, by weight columns at minus and plus one, ``{isr: {down: w_isr_down, up: w_isr_up}}``, or by
            files of other events, ``{jes: {down: {ttbar: down.root}, up: {ttbar: up.root}}}``; one side does.
        event_id: column of integers that is the same for an event and its copies in varied files, so that all are in one split;
            ``#row`` for files whose rows are the same events in the same order; "" for the features as what tells events apart.
        missing: value that marks a missing feature, if any.
        exclude: columns that ``features=None`` leaves out.
        test_fraction: expected share of the events in the test split.
        mu_prior: range of the training proposal for mu, which are its bounds as well.
    """

    path: str
    processes: dict[str, str | list[str]] = field(default_factory=dict)
    tree: str = ""
    features: list[str] | None = None
    derived: dict[str, str] = field(default_factory=dict)
    selection: str = ""
    weight: str | None = "weights"
    yields: dict[str, float] = field(default_factory=dict)
    process: str = "detailed_labels"
    signal: list[str] = field(default_factory=lambda: ["htautau"])
    norms: dict[str, float | None] = field(default_factory=dict)
    variations: dict[str, Variation] = field(default_factory=dict)
    event_id: str = ""
    missing: float | None = -25.0
    exclude: list[str] = field(default_factory=lambda: ["labels"])
    test_fraction: float = 0.5
    mu_prior: tuple[float, float] = (0.0, 3.0)


def check_options(config: EventTableConfig, shifts: Iterable[str]) -> None:
    """Raise `InputError` for values out of range, before any file is opened; ``shifts`` are parameters that are declared in Python."""
    low, high = config.mu_prior
    if not 0 < config.test_fraction < 1:
        raise InputError(f"toy event_table: option test_fraction: expected a value between 0 and 1; got {config.test_fraction:g}")
    if not 0 <= low < high:
        raise InputError(f"toy event_table: option mu_prior: expected 0 <= low < high; got {low:g}, {high:g}")
    for option, values in (("yields", config.yields), ("norms", config.norms)):
        for process, value in values.items():
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"toy event_table: option {option}: {process}: expected a positive number; got {value:g}")
    _check_kinds(config)
    names = ["mu", *(norm_name(process) for process in config.norms), *shifts, *config.variations]
    if len(set(names)) != len(names):
        raise InputError(f"toy event_table: option variations: expected names that are no parameters yet; got {', '.join(names)}")


def check_processes(config: EventTableConfig, known: tuple[str, ...]) -> None:
    """Raise `InputError` for the first option that names a process that is not known, and where no signal is named."""
    if not config.signal:
        raise InputError(f"toy event_table: option signal: expected signal processes; got none; known: {', '.join(known)}")
    named: dict[str, Iterable[str]] = {"signal": config.signal, "yields": config.yields, "norms": config.norms}
    named |= {f"variations: {name}": variation.processes or () for name, variation in config.variations.items()}
    for option, processes in named.items():
        for process in processes:
            if process not in known:
                raise InputError(f"toy event_table: option {option}: no process {process!r}; known: {', '.join(known)}")


def event_query(config: EventTableConfig, moved: tuple[str, ...] | None) -> EventQuery:
    """What is read; ``moved`` are stored columns that shifts need, None where nothing moves. Opens the files, as `open_table` does."""
    return EventQuery(
        sources=_sources(config),
        features=None if config.features is None else tuple(config.features),
        recipe=read_recipe(config.derived, config.selection),
        process=config.process,
        exclude=tuple(config.exclude),
        keep_all=moved is not None,
        further=moved or (),
        event_id=config.event_id,
    )


def table_parameters(config: EventTableConfig) -> tuple[Parameter, ...]:
    """mu, the norms, the variations."""
    low, high = config.mu_prior
    return (
        Parameter("mu", "interest", 1.0, (low, high), Uniform(low, high), latex=r"\mu"),
        *(_norm(process, sigma) for process, sigma in config.norms.items()),
        *(_alpha(name) for name in config.variations),
    )


def table_features(config: EventTableConfig, columns: EventColumns) -> tuple[Feature, ...]:
    """The columns of x; the value for missing entries is named where it occurs."""
    found = []
    for i, (name, discrete) in enumerate(zip(columns.features, columns.discrete, strict=True)):
        occurs = config.missing is not None and bool((columns.x[:, i] == np.float32(config.missing)).any())
        found.append(Feature(name, kind="discrete" if discrete else "continuous", missing=config.missing if occurs else None))
    return tuple(found)


def weight_variations(config: EventTableConfig) -> dict[str, Variation]:
    """The variations that are weight columns."""
    return {name: variation for name, variation in config.variations.items() if isinstance(variation.down or variation.up, str)}


def sample_variations(config: EventTableConfig) -> dict[str, tuple[dict[str, str | list[str]], dict[str, str | list[str]]]]:
    """The variations that are files: those at minus and plus one sigma, by process; none where the other side is mirrored."""
    found = {name: (variation.down or {}, variation.up or {}) for name, variation in config.variations.items()}
    return {name: (down, up) for name, (down, up) in found.items() if isinstance(down, dict) and isinstance(up, dict)}


def norm_name(process: str) -> str:
    """The parameter that multiplies the rate of a process."""
    return f"norm_{process}"


def is_varied(variation: Variation, process: str | None) -> bool:
    """Whether the variation concerns a process; files of all processes (None) have every variation."""
    return process is None or variation.processes is None or process in variation.processes


def _norm(process: str, sigma: float | None) -> Parameter:
    """A factor known to a factor 1 + sigma, with templates at equal distances from 1; or a free one."""
    if sigma is None:
        return Parameter(norm_name(process), "nuisance", 1.0, FREE_NORM, Uniform(*FREE_NORM), anchors=(0.5, 1.5))
    kappa = 1 + sigma
    low, high = kappa**-REACH, kappa**REACH
    anchors = (1 / kappa, 2 - 1 / kappa)
    return Parameter(norm_name(process), "nuisance", 1.0, (low, high), Uniform(low, high), LogNormalConstraint(kappa), anchors)


def _alpha(name: str) -> Parameter:
    return Parameter(name, "nuisance", 0.0, (-REACH, REACH), Uniform(-REACH, REACH), GaussianConstraint(1.0))


def _sources(config: EventTableConfig) -> tuple[ProcessFiles, ...]:
    if not config.processes:
        return (ProcessFiles(None, open_tables(config.path, config.tree), _weights(config, None)),)
    folder = Path(config.path)
    if not folder.is_dir():
        raise InputError(f"toy event_table: option path: expected the folder of the files in option processes; {folder} is none")
    found = [_of_process(config, process, files, "processes", 0) for process, files in config.processes.items()]
    for j, (name, ends) in enumerate(sample_variations(config).items()):
        for side, files_of in zip((-1, 1), ends, strict=True):
            where = f"variations: {name}"
            found += [_of_process(config, process, files, where, sample_number(j, side)) for process, files in files_of.items()]
    return tuple(found)


def _of_process(config: EventTableConfig, process: str, files: str | list[str], option: str, sample: int) -> ProcessFiles:
    names = [files] if isinstance(files, str) else files
    if not names:
        raise InputError(f"toy event_table: option {option}: {process}: expected a file or several; got none")
    tables = tuple(table for name in names for table in open_tables(Path(config.path) / name, config.tree))
    return ProcessFiles(process, tables, _weights(config, process), sample)


def _check_kinds(config: EventTableConfig) -> None:
    """The ends of a variation are weight columns, or files of processes that are files; one side may be left out."""
    for name, variation in config.variations.items():
        ends = [end for end in (variation.down, variation.up) if end is not None]
        if not any(ends) or len({isinstance(end, str) for end in ends}) > 1:
            raise InputError(
                f"toy event_table: option variations: {name}: expected weight columns, or files of processes, in down or up or both"
            )
        named = {process for end in ends if isinstance(end, dict) for process in end}
        if not named <= set(config.processes):
            raise InputError(
                f"toy event_table: option variations: {name}: expected files of processes in option processes; got "
                + ", ".join(sorted(named))
            )


def _weights(config: EventTableConfig, process: str | None) -> tuple[str | None, ...]:
    """The nominal weight, then down and up of every variation: nominal ones where it does not concern the process."""
    weights = [config.weight]
    for variation in weight_variations(config).values():
        ends = (variation.down, variation.up) if is_varied(variation, process) else (config.weight, config.weight)
        weights += [end if isinstance(end, str) else config.weight for end in ends]
    return tuple(weights)
