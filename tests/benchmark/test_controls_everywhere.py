"""Every metric on every exact toy puts the exact answer before the controls that are known to be worse."""

from pathlib import Path

import pytest

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.benchmark.gates import CHANCE
from touchneedle.benchmark.records import Budget, EstimatorInfo, Record, ToyInfo
from touchneedle.conf.registry import TOY_TABLE
from touchneedle.estimators.base import build_estimator
from touchneedle.reports.ranking import PRIMARY, WORSE_CONTROLS, misordered
from touchneedle.reports.rows import Run, tidy_rows
from touchneedle.toys.base import build_toy

pytestmark = pytest.mark.slow

TOYS = sorted(set(TOY_TABLE) - {"drell_yan_angular_mc", "event_table", "fair_universe", "higgs_tautau"})
EVALUATION = EvaluationConfig(
    name="controls", n_experiments=50, n_points=1, n_test=5_000, n_sample=1_000, n_events=(1_000,), n_pool=20_000, n_exact=10,
    n_posterior=100, n_set=(1,),
)  # fmt: skip


def record_of(toy_name: str, name: str) -> Record:
    toy = build_toy(toy_name)
    estimator = build_estimator(name, toy.spec, truth=toy)
    estimator.prepare(make_events(toy, 10_000, "prior", 0))
    return Record(
        run_id=name,
        fit_id=name,
        status="ok",
        toy=ToyInfo(name=toy_name),
        estimator=EstimatorInfo(name=name),
        budget=Budget(name="tiny", n_train=10_000),
        design="prior",
        seed=0,
        metrics=evaluate(toy, estimator, EVALUATION, seed=3).metrics,
    )


@pytest.mark.parametrize("toy", TOYS)
def test_controls_are_in_order(toy: str) -> None:
    records = [record_of(toy, name) for name in ("oracle", *WORSE_CONTROLS)]
    shown = [row for row in records[0].metrics if row.value is not None]
    withheld = misordered(tidy_rows([Run(Path(record.run_id), record) for record in records]))
    assert not [metric for metric, _ in withheld if metric in (*PRIMARY, "fit/bias_vs_oracle")], withheld
    # What is withheld by chance: two sigma against any of three controls.
    assert len(withheld) <= 3 + 3 * CHANCE * len(shown), withheld
