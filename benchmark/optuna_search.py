"""A search by Optuna: a tree-structured Parzen estimator proposes each trial from those before it, told what is feasible.

Bergstra, Bardenet, Bengio, Kegl 2011 (NIPS 24); with constraints, Watanabe, Hutter 2022 (arXiv:2211.14411). The first ten are random.

Ask and tell, about a journal file, ``<results>/searches/ID.jsonl``: one line for a finished trial, whole or not there. The ID is
that of the configuration but for the number of trials, so a longer search goes on with it. Trial k depends on the seed, on k and on
the trials before it alone: its sampler has a seed of its own, and is asked in memory. So a killed search goes on as if nothing
had happened; and processes that share the file go through the same trials, each trained once and written by whoever is first.
Optuna's tools read the file, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from touchneedle.benchmark.config import ExperimentConfig
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.monitors import worst_z
from touchneedle.benchmark.records import Trial
from touchneedle.benchmark.search_space import Range, Span, holds, text_of
from touchneedle.benchmark.seeding import derive_seed
from touchneedle.benchmark.store import hold_cell
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError

FOLDER = "searches"
_KEPT = "trial"


class OptunaSearch:
    """The search of one configuration; raises `InputError` without Optuna, or if the file cannot be read or written."""

    def __init__(self, config: ExperimentConfig) -> None:
        if find_spec("optuna") is None:
            raise InputError("tuning.sampler=tpe: expected the package optuna; it is not installed (pip install touchneedle[search])")
        self.optuna: Any = importlib.import_module("optuna")
        self.config = config
        self.results = Path(config.results)
        self.name = identify(replace(config, tuning=replace(config.tuning, trials=1)))[0]
        self.path = self.results / FOLDER / f"{self.name}.jsonl"
        self.distributions = {key: self._distribution(span) for key, span in sorted(config.tuning.space.items())}

    def finished(self) -> list[Trial]:
        """The trials in the file, in order."""
        with self._study() as study:
            return [Trial.model_validate(known.user_attrs[_KEPT]) for known in study.trials]

    def ask(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """What the sampler proposes after these trials."""
        with self._quietly():
            sampler = self.optuna.samplers.TPESampler(seed=derive_seed(self.config.seed, "tuning", len(trials)) % 2**32)
            study = self.optuna.create_study(sampler=sampler)
            study.add_trials([self._frozen(trial) for trial in trials])
            proposed = study.ask(self.distributions).params
        return {key: self._from_optuna(key, value) for key, value in proposed.items()}

    def tell(self, number: int, trial: Trial) -> None:
        """Write a trial to the file, unless another process was faster."""
        with self._study() as study:
            if len(study.trials) == number:
                study.add_trial(self._frozen(trial))

    @contextmanager
    def _study(self) -> Iterator[Any]:
        """The study of the file, which nobody else reads or writes meanwhile."""
        with hold_cell(self.results, f"search-{self.name}", wait=True), self._quietly():
            try:
                _cut_torn_line(self.path)
                journal = self.optuna.storages.journal
                storage = self.optuna.storages.JournalStorage(journal.JournalFileBackend(str(self.path)))
                known = self.name in self.optuna.get_all_study_names(storage)
                yield (self.optuna.load_study if known else self.optuna.create_study)(study_name=self.name, storage=storage)
            except OSError as error:
                raise InputError(f"search {self.path}: {error.strerror or error}; choose a writable folder with free space") from error
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"search {self.path}: expected a journal of Optuna; it is corrupt; delete it: weights are kept") from error

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        logging = self.optuna.logging
        before = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)
        try:
            yield
        finally:
            logging.set_verbosity(before)

    def _frozen(self, trial: Trial) -> Any:
        """A finished trial as Optuna knows it; one without a finite loss has failed."""
        states = self.optuna.trial.TrialState
        options = trial.options or self._own_options()
        params = {key: self._to_optuna(key, value) for key, value in options.items()}
        return self.optuna.create_trial(
            state=states.FAIL if trial.validation_loss is None else states.COMPLETE,
            value=trial.validation_loss,
            params=params,
            distributions={key: self.distributions[key] for key in params},
            user_attrs={_KEPT: trial.model_dump(mode="json")},
            constraints={"worst_z": worst_z(trial.monitors) - self.config.tuning.max_z} if trial.monitors else None,
        )

    def _own_options(self) -> dict[str, Any]:
        """The options of the configuration as it stands, where they lie in the space."""
        estimator: Any = registry.estimators.load(self.config.estimator.name)
        values = {
            "estimator": asdict(registry.build_options(estimator.Config, self.config.estimator.params, "estimator")),
            "optimizer": asdict(self.config.optimizer),
            "trainer": asdict(self.config.trainer),
        }
        own = {key: values[key.partition(".")[0]].get(key.partition(".")[2]) for key in self.distributions}
        return {key: value for key, value in own.items() if holds(self.config.tuning.space[key], value)}

    def _distribution(self, span: Span) -> Any:
        kinds = self.optuna.distributions
        if isinstance(span, Range):
            return (kinds.IntDistribution if span.whole else kinds.FloatDistribution)(span.low, span.high, log=span.log)
        # Any value as text: its choices have to be plain, and two of them different.
        return kinds.CategoricalDistribution(list(dict.fromkeys(map(text_of, span))))

    def _to_optuna(self, key: str, value: Any) -> Any:
        return value if isinstance(self.config.tuning.space[key], Range) else text_of(value)

    def _from_optuna(self, key: str, value: Any) -> Any:
        span = self.config.tuning.space[key]
        return value if isinstance(span, Range) else next(one for one in span if text_of(one) == value)


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a killed process, or a full disk, left without its end: the journal would be unreadable after the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
