"""The audit: planted defects against the gates, on toys whose density is hidden from every score.

A gate that flags a defect here needs no exact density, since there is none to look at (`BlindToy`). The exact
answer goes through the same gates: what flags it is a false alarm. A gate fails by chance with probability 2.3 %
at most; over several seeds `false_alarms` says how often it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from touchneedle.benchmark import defects
from touchneedle.benchmark.blind import BlindToy, FrozenSample
from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.benchmark.gates import GATES, corrected_significance, facts_of
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.separation import TEST_EVENTS, held_out
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.benchmark.verdicts import Verdict
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.estimators.best_gaussian import BestGaussian, BestGaussianConfig
from touchneedle.estimators.control import TruthControl
from touchneedle.estimators.oracle import Oracle, OracleConfig
from touchneedle.toys.base import Events, ExactToy, Toy, build_toy

EVALUATION = EvaluationConfig(
    name="audit", n_experiments=200, n_points=2, n_test=40_000, n_sample=4_000, n_events=(1_000,), n_pool=50_000, n_posterior=500
)
Build = Callable[[ExactToy], Estimator]


@dataclass(frozen=True)
class Case:
    """One estimator to audit: what is wrong with it (nothing, for a sound one), and the toy that shows it.

    Attributes:
        hide: the toy as scores see it.
        training: events that the estimator is said to be trained on.
    """

    name: str
    about: str
    toy: str
    build: Build
    params: dict[str, Any] = field(default_factory=dict)
    sound: bool = False
    hide: Callable[[ExactToy], Toy] = BlindToy
    training: Callable[[EvaluationContext], Events] | None = None


def _planted(defect: type[TruthControl]) -> Build:
    return lambda toy: defect(toy.spec, defects.NoOptions(), toy)


def _oracle(toy: ExactToy) -> Estimator:
    return Oracle(toy.spec, OracleConfig(), toy)


def _narrow(toy: ExactToy) -> Estimator:
    """The exact answer of a toy whose variance is 10 % smaller."""
    return Oracle(toy.spec, OracleConfig(), build_toy(toy.spec.name, s0=0.9**0.5))


def _gaussian(kind: type[BestGaussian]) -> Build:
    """A closed-form fit to weighted events: those with a large first feature are kept rarely, and weigh more."""

    def build(toy: ExactToy) -> Estimator:
        estimator = kind(toy.spec, BestGaussianConfig())
        estimator.prepare(_thinned(toy, 200_000))
        return estimator

    return build


def _thinned(toy: ExactToy, n: int) -> Events:
    generator = derive_generator(0, "audit", toy.spec.name)
    events = toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)
    kept_share = 0.25 + 0.75 * torch.sigmoid(-2 * events.x[:, 0].double())
    kept = torch.rand(n, generator=generator, dtype=torch.float64) < kept_share
    return events[kept].with_weight(1 / kept_share[kept])


def _reused(context: EvaluationContext) -> Events:
    """The test events themselves."""
    x = held_out(context, TEST_EVENTS)
    return Events(x, context.points[:1].expand(len(x), -1), torch.ones(len(x)))


def _fresh(context: EvaluationContext) -> Events:
    return make_events(context.toy, TEST_EVENTS, "prior", context.seed)


def _test_split(context: EvaluationContext) -> Events:
    return context.events_at(context.points[0], TEST_EVENTS)


CASES = (
    Case("exact", "nothing", "gaussian_shift", _oracle, sound=True, training=_fresh),
    Case("exact", "nothing", "mass_bump", _oracle, sound=True),
    Case("exact", "nothing", "gaussian_mixture", _oracle, sound=True),
    Case("weights_used", "nothing: a Gaussian fitted to weighted events", "linear_gaussian", _gaussian(BestGaussian), sound=True),
    Case("weights_ignored", "event weights are ignored in training", "linear_gaussian", _gaussian(defects.WeightsIgnored)),
    Case("constant_factor", "the density is 5 % too large", "gaussian_shift", _planted(defects.ConstantFactor)),
    Case("normalised_at_nominal", "the integral drifts by 2 % per sigma", "gaussian_shift", _planted(defects.NormalisedAtNominal)),
    Case("sign_flipped", "a nuisance acts the wrong way round", "mass_bump", _planted(defects.SignFlipped)),
    Case("nuisance_ignored", "a nuisance does nothing", "mass_bump", _planted(defects.NuisanceIgnored)),
    Case("interaction_dropped", "nuisances act as if alone", "many_nuisances", _planted(defects.InteractionDropped), {"epsilon": 0.1}),
    Case("inverted", "the ratio is upside down", "gaussian_shift", _planted(defects.Inverted)),
    Case("narrow", "the variance is 10 % too small", "gaussian_shift", _narrow),
    Case("mode_dropped", "a mode is missing", "gaussian_mixture", _planted(defects.ModeDropped)),
    Case("tail_truncated", "the upper 5 % are cut off", "gaussian_shift", _planted(defects.TailTruncated)),
    Case("leak", "5 % lie outside the support", "mass_bump", _planted(defects.Leak)),
    Case("prior_as_posterior", "the posterior is the prior", "gaussian_shift", _planted(defects.PriorAsPosterior)),
    Case("theta_independent", "theta changes nothing", "gaussian_shift", _planted(defects.ThetaIndependent)),
    Case("labels_permuted", "two nuisances are swapped in training", "mass_bump", _planted(defects.LabelsPermuted)),
    Case("events_reused", "tested on the events of training", "gaussian_shift", _oracle, training=_reused),
    Case("splits_swapped", "trained on the test split", "gaussian_shift", _oracle, hide=FrozenSample, training=_test_split),
)


def choose_cases(names: Sequence[str] = ()) -> list[Case]:
    """The cases of these names, all by default; raises `InputError` for an unknown name."""
    known = {case.name for case in CASES}
    for name in names:
        if name not in known:
            raise InputError(f"unknown defect {name!r}; known: {', '.join(sorted(known))}")
    return [case for case in CASES if not names or case.name in names]


def judge(case: Case, seed: int, evaluation: EvaluationConfig = EVALUATION) -> Verdict:
    """What the gates say of one case, without looking at the density of its toy."""
    toy = build_toy(case.toy, **case.params)
    if not isinstance(toy, ExactToy):
        raise InputError(f"audit: expected an exact toy; {case.toy} is none")
    seen, estimator = case.hide(toy), case.build(toy)
    training = None if case.training is None else partial(case.training, EvaluationContext(seen, estimator, evaluation, seed))
    metrics = evaluate(seen, estimator, evaluation, seed, training=training).metrics
    rows = [row for row in metrics if row.family == "gates"]
    states = {row.name: str(row.at.get("state", "n/a")) for row in rows}
    decided_by = {row.name: str(row.at.get("decided_by") or row.at.get("reason")) for row in rows}
    return Verdict(
        case=case.name,
        about=case.about,
        toy=case.toy,
        seed=seed,
        sound=case.sound,
        states=states,
        decided_by=decided_by,
        significance=corrected_significance(metrics, facts_of(seen)),
    )


def run_audit(names: Sequence[str], seeds: int, tell: Callable[[str], None]) -> list[Verdict]:
    """Verdicts on the named cases (all if there are none) over several seeds; ``tell`` gets a line for each."""
    chosen = [(case, seed) for seed in range(seeds) for case in choose_cases(names)]
    verdicts: list[Verdict] = []
    for number, (case, seed) in enumerate(chosen, start=1):
        verdicts.append(judge(case, seed))
        tell(f"[{number}/{len(chosen)}] {case.name} on {case.toy}: {', '.join(verdicts[-1].flagged) or 'not flagged'}")
    return verdicts


def audit_table(verdicts: Iterable[Verdict]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Headings and rows: what is wrong, where, what each gate said, and the gates that flag it."""
    names = [gate.name for gate in GATES]
    rows = [
        (v.about, v.toy, *(v.states.get(name, "n/a") for name in names), ", ".join(flag.removeprefix("gate_") for flag in v.flagged) or "-")
        for v in verdicts
    ]
    return ["what is wrong", "toy", *(name.removeprefix("gate_") for name in names), "flagged by"], rows
