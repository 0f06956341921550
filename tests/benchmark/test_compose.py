"""Composition: the quick way makes of every cell what Hydra makes of it, and leaves to Hydra what is not plain."""

import random

import pytest
from omegaconf import OmegaConf

from touchneedle.benchmark.compose import _chosen, compose_cell, compose_config, hydra_session, quick_config, to_experiment, without_hydra
from touchneedle.benchmark.overrides import members, to_hydra
from touchneedle.benchmark.sweep import expand
from touchneedle.conf.errors import InputError

PRESETS = [name for name in members("sweep") if name != "none"]
SAMPLED = 4
WORDS = [
    "toy=mass_bump", "toy='two_moons'", "toy=nope", "toy=null", "toy=2", "toy.path=/a b/c.parquet", "toy.path='/a=b/c,d.parquet'",
    "toy.name=3", "toy.path=[a,b]", "toy={name:two_moons}", "~toy.params", "estimator=ratio_bce", "estimator=[a]",
    "estimator.hidden=[64,64]", "estimator.net={a:1,b:{c:[2]}}", "estimator.net.a=null", "+estimator.bins=3", "++estimator.bins=0x1f",
    "estimator.text='a \"b\" ${c}'", "budget=small", "budget=huge", "budget={n_train:5}", "budget.n_train=5", "budget.n_train=1e3",
    "budget.n_train=two", "budget.n_train=${seed}", "+budget=tiny", "design=pairs", "design=nope", "evaluation=standard",
    "evaluation.families=[density]", "evaluation.families=density", "evaluation.n_events=[1,2]", "evaluation.retrain=3",
    "trainer=fast", "trainer@trainer=fast", "trainer.epochs=1", "+trainer.epochs=1", "trainer.start='a b'", "optimizer=adam",
    "optimizer.weight_decay=0.5", "ensemble=bootstrap", "tuning=small", "+tuning.space.seed=[1]", "tuning.space={}", "seed=3", "seed=1,2",
    "seed=", "seed=1.5", "seed=${budget.n_train}", "seed=${hydra:job.num}", "+seed=4", "~seed", "seed=int('3')", "seed", "=3",
    "results=a/b c", "results=${oc.env:HOME}", "plugins=['/a b.py']", "data.memory_limit=2GB", "data={workers:4}", "epochs=1", "+epochs=1",
    "a-b=1", "data.training='*.parquet'", "results=a\nb",
]  # fmt: skip
LAUNCH = [[], ["launcher=joblib"], ["launcher=joblib", "hydra.launcher.n_jobs=3"], ["hydra.launcher.nope=3"], ["hydra.job.chdir=true"]]


def outcome(make):
    """What a call gives, or what it says is wrong."""
    try:
        return make()
    except InputError as error:
        return str(error)


def by_hydra(words):
    with hydra_session():
        return compose_config(words)


def contents(config):
    return OmegaConf.to_container(without_hydra(config), resolve=False)


def assert_agree(cell, launch=()):
    words = [*map(to_hydra, cell), *launch]
    whole, quick = outcome(lambda: by_hydra(words)), quick_config(words)
    if isinstance(whole, str):
        assert quick is None
        assert outcome(lambda: compose_cell(cell, launch)) == whole
        return
    assert outcome(lambda: compose_cell(cell, launch)) == outcome(lambda: to_experiment(whole))
    if quick is not None:
        assert contents(quick) == contents(whole)


@pytest.mark.parametrize("preset", PRESETS)
def test_cells_of_presets_are_composed_as_by_hydra(preset):
    cells = expand([f"sweep={preset}", "results=a/b c"], multirun=True).cells
    for cell in random.Random(0).sample(cells, min(SAMPLED, len(cells))):
        assert quick_config(cell) is not None
        assert_agree(cell)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "full"])
def test_all_cells_of_presets_are_composed_as_by_hydra(preset):
    for cell in expand([f"sweep={preset}"], multirun=True).cells:
        assert_agree(cell)


def test_mixed_words_are_composed_as_by_hydra():
    check_mixtures(30, seed=0)


@pytest.mark.slow
def test_more_mixed_words_are_composed_as_by_hydra():
    for word in WORDS:
        assert_agree([word])
    check_mixtures(300, seed=1)


def check_mixtures(n, seed):
    draw = random.Random(seed)
    for _ in range(n):
        assert_agree(draw.sample(WORDS, draw.randint(1, 4)), draw.choice(LAUNCH))


@pytest.mark.parametrize(
    "words",
    [
        ["toy=mass_bump", "toy=mass_bump"],
        ["toy=mass_bump", "toy=two_moons"],
        ["budget=tiny", "budget=small"],
        ["seed=1", "seed=2"],
        ["budget.n_train=6", "budget={n_train:5}"],
        ["budget={n_train:5}", "budget.n_train=6"],
        ["estimator.net={a:1}", "estimator.net={b:2}"],
        ["estimator.net={a:1}", "~estimator.params.net"],
    ],
)
def test_repeated_keys_mean_what_they_mean_to_hydra(words):
    assert_agree(words)


def test_cells_do_not_change_what_later_ones_start_from():
    first = compose_cell(["seed=3", "estimator.hidden=[1]", "evaluation.n_events=[5]"])
    assert compose_cell(["seed=4"]).estimator.params == {}
    assert compose_cell(["seed=3", "estimator.hidden=[1]", "evaluation.n_events=[5]"]) == first


def test_sessions_may_be_nested():
    with hydra_session():
        whole = contents(compose_config(["budget=small", "seed=3"]))
        _chosen.cache_clear()
        assert contents(quick_config(["budget=small", "seed=3"])) == whole
        assert contents(compose_config(["budget=small", "seed=3"])) == whole


def test_hydra_composes_what_is_found_on_its_search_path(tmp_path):
    (tmp_path / "budget").mkdir()
    (tmp_path / "budget" / "mine.yaml").write_text("name: mine\nn_train: 12\n")
    search = [f"hydra.searchpath=['file://{tmp_path}']"]
    assert quick_config(["budget=mine", *search]) is None
    assert compose_cell(["budget=mine"], search).budget.n_train == 12
    with pytest.raises(InputError, match="unknown budget 'mine'"):
        compose_cell(["budget=mine"])
