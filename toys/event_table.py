"""A user's own events, read from a parquet file: a mixture of processes with the signal strength as parameter."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, Feature, FiniteToy, Parameter, ParameterSpace, Split, ToySpec, Uniform, check_matrix, expand_theta
from touchneedle.toys.event_file import EventColumns, read_event_file

__all__ = ["EventTable", "EventTableConfig"]


@dataclass
class EventTableConfig:
    """Options; the defaults name the columns of the FAIR Universe HiggsML data (arXiv:2410.02867).

    Attributes:
        path: parquet file, one row per event.
        features: columns of x; by default all numeric ones but weight, process and ``exclude``.
        weight: column of event weights, whose sum is the expected yield.
        process: column that names each event's process.
        signal: processes whose rate is multiplied by mu.
        missing: value that marks a missing feature, if any.
        exclude: columns that ``features=None`` leaves out.
        test_fraction: expected share of the events in the test split.
        mu_prior: range of the training proposal for mu, which are its bounds as well.
    """

    path: str
    features: list[str] | None = None
    weight: str = "weights"
    process: str = "detailed_labels"
    signal: list[str] = field(default_factory=lambda: ["htautau"])
    missing: float | None = -25.0
    exclude: list[str] = field(default_factory=lambda: ["labels"])
    test_fraction: float = 0.5
    mu_prior: tuple[float, float] = (0.0, 3.0)


class EventTable(FiniteToy):
    """p(x|mu) proportional to mu S p_S(x) + B p_B(x), known only through weighted events.

    An event's split is decided by a hash of its own features, before anything is resampled, so that
    exact duplicates never straddle training and test. Within a split the weights of each process are
    scaled up to its whole yield.
    """

    Config = EventTableConfig

    def __init__(self, config: EventTableConfig) -> None:
        _check(config)
        self.config = config
        columns = read_event_file(config.path, config.features, config.weight, config.process, config.exclude)
        self._is_signal = torch.tensor([name in config.signal for name in _known_signal(config, columns)])
        self._totals = torch.from_numpy(_yields(columns, np.ones(len(columns.label), dtype=bool)))
        self.fit_events = max(1, round(self._totals.sum().item()))
        self.spec = _spec(config, columns)
        in_test = hash_fraction(columns.x) < config.test_fraction
        self._pools = {"train": self._pool(columns, ~in_test, "train"), "test": self._pool(columns, in_test, "test")}

    def rates(self, theta: Tensor) -> Tensor:
        """Yields of the whole file, the signal's times mu, at theta (m, 1): shape (m, k)."""
        return self._totals * torch.where(self._is_signal, theta.double(), 1.0)

    def pool(self, split: Split) -> Events:
        """The events of one split; their weights sum to the nominal yield of every process."""
        return self._pools[split]

    def reweight(self, events: Events, theta: Tensor) -> Tensor:
        """Weights (n,) at theta (1,) or (n, 1) of events with nominal weights: the signal's times mu."""
        if events.label is None:
            raise InputError("event_table: expected events with process labels; these have none")
        theta = check_matrix("theta", expand_theta(theta, len(events)), 1)
        self.spec.parameters.check(theta)
        return events.weight * torch.where(self._is_signal[events.label], theta[:, 0], 1.0)

    def _pool(self, columns: EventColumns, chosen: NDArray[np.bool_], split: Split) -> Events:
        scale = _scale(columns, chosen, split, self.config)
        label = columns.label[chosen]
        return Events(
            x=torch.from_numpy(columns.x[chosen]),
            theta=self.spec.parameters.nominal.expand(len(label), -1).clone(),
            weight=torch.from_numpy(columns.weight[chosen] * scale[label]),
            label=torch.from_numpy(label),
        )


def hash_fraction(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """A number between 0 and 1 for each row of x (n, d), from the BLAKE2b hash of its bytes; -0 counts as 0."""
    rows = np.ascontiguousarray(x + np.float32(0))
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, dtype="<u8") / 2.0**64


def _check(config: EventTableConfig) -> None:
    low, high = config.mu_prior
    if not 0 < config.test_fraction < 1:
        raise InputError(f"toy event_table: option test_fraction: expected a value between 0 and 1; got {config.test_fraction:g}")
    if not 0 <= low < high:
        raise InputError(f"toy event_table: option mu_prior: expected 0 <= low < high; got {low:g}, {high:g}")


def _known_signal(config: EventTableConfig, columns: EventColumns) -> tuple[str, ...]:
    """The process names, once every signal name is known to be among them."""
    unknown = [name for name in config.signal if name not in columns.processes]
    if unknown or not config.signal:
        what = repr(unknown[0]) if unknown else "none"
        raise InputError(
            f"event file {config.path}: column {config.process!r}: expected signal processes; got {what}; "
            f"known: {', '.join(columns.processes)}"
        )
    return columns.processes


def _yields(columns: EventColumns, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sum of weights per process (k,)."""
    yields = np.bincount(columns.label[chosen], columns.weight[chosen], minlength=len(columns.processes))
    return yields.astype(np.float64)


def _scale(columns: EventColumns, chosen: NDArray[np.bool_], split: Split, config: EventTableConfig) -> NDArray[np.float64]:
    """Whole yield over the split's yield, per process (k,)."""
    if not chosen.any():
        raise InputError(
            f"event file {config.path}: expected events in the {split} split; all {len(chosen)} fall into the other; "
            f"change test_fraction ({config.test_fraction:g})"
        )
    total, have = _yields(columns, np.ones_like(chosen)), _yields(columns, chosen)
    for name, whole, part in zip(columns.processes, total, have, strict=True):
        if not whole * part > 0:
            raise InputError(
                f"event file {config.path}: column {config.weight!r}: process {name!r} has a yield of {part:g} in the {split} split "
                f"and {whole:g} in all; expected the same sign: change test_fraction or merge processes"
            )
    return total / have


def _spec(config: EventTableConfig, columns: EventColumns) -> ToySpec:
    low, high = config.mu_prior
    strength = Parameter("mu", "interest", 1.0, (low, high), Uniform(low, high), latex=r"\mu")
    features = tuple(_feature(config, columns, i) for i in range(len(columns.features)))
    version = f"1+sha256:{columns.digest}"
    return ToySpec("event_table", version, ParameterSpace((strength,)), features, columns.processes)


def _feature(config: EventTableConfig, columns: EventColumns, i: int) -> Feature:
    occurs = config.missing is not None and bool((columns.x[:, i] == np.float32(config.missing)).any())
    return Feature(
        columns.features[i],
        kind="discrete" if columns.discrete[i] else "continuous",
        missing=config.missing if occurs else None,
    )
