"""Variations that come as files of other events: exact at anchors, normalised between, shown where they were generated."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from touchneedle.benchmark.check_toy import check_toy
from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.sample_variations import SampleVariations
from touchneedle.toys.weight_variations import smooth_between

N = 500
# Mean of the mass, and the sum of weights relative to the number of events.
SAMPLES = {"signal": (125.0, 1.0), "zed": (91.0, 1.0), "zed_down": (90.0, 0.93), "zed_up": (92.0, 1.1)}
JES = {"down": {"zed": "zed_down.parquet"}, "up": {"zed": ["zed_up.parquet"]}}


@pytest.fixture
def folder(tmp_path):
    for seed, (name, (mean, weight)) in enumerate(SAMPLES.items()):
        rng = np.random.default_rng(seed)
        table = {"mass": rng.normal(mean, 5, N), "jets": rng.integers(0, 4, N), "weights": weight * rng.uniform(0.5, 1.5, N)}
        pq.write_table(
            pa.table(table | {"isr_down": 0.9 * table["weights"], "isr_up": 1.2 * table["weights"]}), tmp_path / f"{name}.parquet"
        )
    return tmp_path


def build(folder, **options):
    options = {"processes": {"signal": "signal.parquet", "zed": "zed.parquet"}, "signal": ["signal"], "variations": {"jes": JES}} | options
    return build_toy("event_table", **{"path": str(folder), "exclude": ["isr_down", "isr_up"]} | options)


def point(toy, **values):
    theta = toy.spec.parameters.nominal.clone()
    for name, value in values.items():
        theta[toy.spec.parameters.index(name)] = value
    return theta


def sums(folder):
    return {name: pq.read_table(folder / f"{name}.parquet").column("weights").to_numpy().sum() for name in SAMPLES}


@pytest.mark.parametrize(("value", "name"), [(-1.0, "zed_down"), (0.0, "zed"), (1.0, "zed_up")])
def test_at_an_anchor_there_are_the_events_of_its_file_and_no_others(folder, value, name):
    toy = build(folder)
    masses = set(pq.read_table(folder / f"{name}.parquet").column("mass").to_numpy().astype(np.float32).tolist())
    assert toy.rates(point(toy, jes=value)[None])[0].tolist() == pytest.approx([sums(folder)["signal"], sums(folder)[name]])
    for split in ("train", "test"):
        pool = toy.pool(split)
        weight = toy.reweight(pool, point(toy, jes=value))
        of_zed = pool.label == 1
        assert {m for m, w in zip(pool.x[of_zed, 0].tolist(), weight[of_zed].tolist(), strict=True) if w != 0} <= masses
        assert weight[of_zed].sum().item() == pytest.approx(sums(folder)[name])
        assert torch.equal(weight[~of_zed], pool.weight[~of_zed])
        # Relative to each other they weigh what their file says.
        wanted = dict(zip(*(pq.read_table(folder / f"{name}.parquet").column(c).to_numpy() for c in ("mass", "weights")), strict=True))
        wanted = {float(np.float32(mass)): value for mass, value in wanted.items()}
        chosen = of_zed & (weight != 0)
        ratio = weight[chosen] / torch.tensor([wanted[m] for m in pool.x[chosen, 0].tolist()])
        assert ratio.std() / ratio.mean() < 1e-12


def test_between_and_beyond_the_yield_is_exponential_and_the_shape_linear(folder):
    toy, total = build(folder), sums(folder)
    ends = [torch.tensor(np.log(total[name] / total["zed"])) for name in ("zed_down", "zed_up")]
    pool = toy.pool("test")
    means = []
    for name, side in (("zed_down", -1.0), ("zed", 0.0), ("zed_up", 1.0)):
        weight = toy.reweight(pool, point(toy, jes=side)) * (pool.label == 1)
        means.append((weight * pool.x[:, 0]).sum() / weight.sum())
        assert name in SAMPLES
    for value in (-2.5, -0.6, 0.3, 0.9, 3.0):
        beta = torch.tensor(value, dtype=torch.float64)
        rate = total["zed"] * smooth_between(beta, *ends).exp().item()
        weight = toy.reweight(pool, point(toy, jes=value)) * (pool.label == 1)
        assert weight.sum().item() == pytest.approx(rate)
        assert toy.rates(point(toy, jes=value)[None])[0, 1].item() == pytest.approx(rate, rel=1e-5)
        mean = means[1] + smooth_between(beta, means[0] - means[1], means[2] - means[1])
        assert ((weight * pool.x[:, 0]).sum() / weight.sum()).item() == pytest.approx(mean.item())


@pytest.mark.parametrize(("side", "name"), [(-1.0, "zed_down"), (1.0, "zed_up")])
def test_a_side_without_files_is_the_mirror_image_of_the_other(folder, side, name):
    given = {"down" if side < 0 else "up": {"zed": f"{name}.parquet"}}
    both, one = build(folder), build(folder, variations={"jes": given})
    pool, total = one.pool("test"), sums(folder)
    of_zed = pool.label == 1
    means = []
    for value in (side, 0.0, -side, 0.4 * side, -2.5 * side):
        weight = one.reweight(pool, point(one, jes=value))
        assert torch.equal(weight[~of_zed], pool.weight[~of_zed])
        rate = total["zed"] * (total[name] / total["zed"]) ** (value * side)
        assert weight[of_zed].sum().item() == pytest.approx(rate)
        assert one.rates(point(one, jes=value)[None])[0, 1].item() == pytest.approx(rate, rel=1e-5)
        means.append((weight * pool.x[:, 0])[of_zed].sum().item() / rate)
    there, nominal, mirror, near, far = means
    assert mirror == pytest.approx(2 * nominal - there)
    assert near == pytest.approx(nominal + 0.4 * (there - nominal))
    assert far == pytest.approx(nominal - 2.5 * (there - nominal))
    # At the side that is given it is what it is with both.
    theta = point(one, jes=side)
    assert one.rates(theta[None])[0].tolist() == pytest.approx(both.rates(theta[None])[0].tolist())
    templates = make_events(one, len(one.pool("train")), "templates", seed=0)
    assert set(templates.theta[templates.label == 1, 1].tolist()) == {-1.0, 0.0, 1.0}


def test_sides_may_have_other_processes(folder):
    toy = build(folder, variations={"jes": {"down": {"zed": "zed_down.parquet"}, "up": {"signal": "zed_up.parquet"}}})
    total = sums(folder)
    for value in (-1.0, 1.0):
        signal, zed = (
            total["signal"] * (total["zed_up"] / total["signal"]) ** value,
            total["zed"] * (total["zed_down"] / total["zed"]) ** -value,
        )
        assert toy.rates(point(toy, jes=value)[None])[0].tolist() == pytest.approx([signal, zed])


def test_several_nuisances_add_their_shapes_and_multiply_their_yields():
    sums = torch.tensor([[10.0, 20.0], [9.0, 20.0], [12.0, 22.0], [0.0, 10.0], [0.0, 30.0]], dtype=torch.float64)
    model = SampleVariations.measured(sums)
    assert model.there.tolist() == [[[True, True], [True, True]], [[False, True], [False, True]]]
    sample, label = torch.arange(5).repeat(2), torch.arange(2).repeat_interleave(5)
    beta = torch.tensor([[0.7, -1.8]], dtype=torch.float64)
    total = (sums[sample, label] * model.factors(sample, label, beta.expand(10, -1))).reshape(2, 5).sum(1)
    logs = [torch.log(sums[k] / sums[0]) for k in range(1, 5)]
    expected = sums[0] * torch.exp(smooth_between(beta[0, 0], logs[0], logs[1]))
    expected[1] *= torch.exp(smooth_between(beta[0, 1], logs[2], logs[3]))[1]
    torch.testing.assert_close(total, expected)


def test_templates_show_events_where_they_were_generated(folder):
    toy = build(folder, variations={"jes": JES, "isr": {"down": "isr_down", "up": "isr_up"}})
    events = make_events(toy, 900, "templates", seed=0)
    assert (events.weight > 0).all()
    jes, isr = (events.theta[:, toy.spec.parameters.index(name)] for name in ("jes", "isr"))
    assert set(jes.tolist()) == set(isr.tolist()) == {-1.0, 0.0, 1.0}
    assert not bool(((jes != 0) & (isr != 0)).any())
    # What has no samples of its own stands at every template, what has is where it was generated.
    assert set(events.label[jes == 1].tolist()) == {0, 1}
    zed = events.label == 1
    assert torch.equal(events.generated_at[zed][:, 1], jes[zed])


def test_processes_keep_their_proportions_at_every_template(folder):
    toy = build(folder, mu_prior=(0.999, 1.001), variations={"jes": JES, "isr": {"down": "isr_down", "up": "isr_up"}})
    events, total = make_events(toy, len(toy.pool("train")), "templates", seed=0), sums(folder)
    jes, isr = (events.theta[:, toy.spec.parameters.index(name)] for name in ("jes", "isr"))
    everywhere = []
    for value, name in ((-1.0, "zed_down"), (0.0, "zed"), (1.0, "zed_up")):
        of = [events.weight[(jes == value) & (isr == 0) & (events.label == k)] for k in (0, 1)]
        found, expected = (of[0].sum() / of[1].sum()).item(), total["signal"] / total[name]
        everywhere.append(sum(weight.sum().item() for weight in of))
        assert abs(found / expected - 1) < 4 * sum((w.square().sum() / w.sum() ** 2).item() for w in of) ** 0.5
    # The templates have equal shares of the weight, as a shape at unit yield has at every theta.
    assert all(share == pytest.approx(np.mean(everywhere), rel=0.3) for share in everywhere)


def test_together_with_weight_columns_norms_and_a_selection(folder):
    options = {"variations": {"isr": {"down": "isr_down", "up": "isr_up"}, "jes": JES}, "norms": {"zed": 0.1}}
    toy = build(folder, selection="jets >= 1", **options)
    assert toy.spec.parameters.names == ("mu", "norm_zed", "isr", "jes")
    table = pq.read_table(folder / "zed_up.parquet")
    kept = table.column("jets").to_numpy() >= 1
    rate = toy.rates(point(toy, isr=1.0, jes=1.0, norm_zed=1.2)[None])[0, 1].item()
    assert rate == pytest.approx(1.2 * table.column("isr_up").to_numpy()[kept].sum(), rel=1e-6)
    assert [(result.name, result.message) for result in check_toy(toy) if not result.passed] == []


# Copies of an event.


@pytest.fixture
def copies(folder):
    """The varied files hold the events of the nominal one, shifted; ``number`` is beyond what float64 tells apart."""
    rng = np.random.default_rng(9)
    for first, name in enumerate(("signal", "zed")):
        table = pq.read_table(folder / f"{name}.parquet").append_column("number", pa.array(2**60 + N * first + np.arange(N)))
        pq.write_table(table, folder / f"{name}.parquet")
    for name, shift in (("zed_down", -60.0), ("zed_up", 60.0)):
        moved = table.set_column(0, "mass", pa.array(table.column("mass").to_numpy() + shift))
        pq.write_table(moved, folder / f"{name}.parquet")
        pq.write_table(moved.take(rng.permutation(N)[: N // 2]), folder / f"{name}_some.parquet")
    return folder


def splits(toy, numbers):
    """The event numbers of zed in each split, by mass."""
    return [{numbers[mass] for mass in toy.pool(split).x[toy.pool(split).label == 1, 0].tolist()} for split in ("train", "test")]


def numbers_of(folder, *names):
    found = {}
    for name in names:
        table = pq.read_table(folder / f"{name}.parquet")
        found |= zip(table.column("mass").to_numpy().astype(np.float32).tolist(), table.column("number").to_pylist(), strict=True)
    return found


@pytest.mark.parametrize("event_id", ["number", "#row"])
def test_copies_of_an_event_are_in_its_split(copies, event_id):
    numbers = numbers_of(copies, "zed", "zed_down", "zed_up")
    train, test = splits(build(copies, event_id=event_id, features=["mass", "jets"]), numbers)
    assert not train & test
    assert len(train | test) == N
    assert 0.4 < len(test) / N < 0.6
    # Without it they are other events.
    train, test = splits(build(copies, features=["mass", "jets"]), numbers)
    assert len(train & test) > N / 4


def test_event_numbers_know_copies_in_any_order_and_of_some(copies):
    some = {"down": {"zed": "zed_down_some.parquet"}, "up": {"zed": "zed_up_some.parquet"}}
    toy = build(copies, event_id="number", variations={"jes": some})
    assert "number" not in [feature.name for feature in toy.spec.features]
    train, test = splits(toy, numbers_of(copies, "zed", "zed_down", "zed_up"))
    assert not train & test
    with pytest.raises(InputError, match=r"zed_down_some\.parquet: expected 500 rows, .*'zed' \(event_id=#row\); it has 250"):
        build(copies, event_id="#row", variations={"jes": some})


def test_a_selection_leaves_copies_in_their_split(copies):
    toy = build(copies, event_id="#row", selection="(mass > 30) & (jets > 0)", features=["mass", "jets"])
    train, test = splits(toy, numbers_of(copies, "zed", "zed_down", "zed_up"))
    assert not train & test


@pytest.mark.parametrize(("event_id", "words"), [("run", "no column 'run'"), ("mass", "expected event numbers, which are integers")])
def test_bad_event_numbers(copies, event_id, words):
    with pytest.raises(InputError, match=words):
        build(copies, event_id=event_id)


def test_event_numbers_that_are_missing(copies):
    table = pq.read_table(copies / "zed_up.parquet")
    numbers = [None, *table.column("number").to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.names.index("number"), "number", pa.array(numbers, pa.int64())), copies / "zed_up.parquet")
    with pytest.raises(InputError, match=r"zed_up\.parquet: column 'number': expected a number for every event; 1 have none"):
        build(copies, event_id="number")


@pytest.mark.parametrize(
    ("variation", "words"),
    [
        ({"down": "isr_down", "up": {"zed": "zed_up.parquet"}}, ("variations: jes", "expected weight columns, or files of processes")),
        ({}, ("variations: jes", "in down or up or both")),
        ({"down": {}, "up": {}}, ("variations: jes", "in down or up or both")),
        ({"down": {}, "up": "isr_up"}, ("variations: jes", "in down or up or both")),
        ({"up": {"top": "zed_up.parquet"}}, ("processes in option processes", "top")),
        ({"down": {"top": "zed_down.parquet"}, "up": {"top": "zed_up.parquet"}}, ("processes in option processes", "top")),
        ({"down": {"zed": []}, "up": {"zed": "zed_up.parquet"}}, ("variations: jes", "zed", "got none")),
        ({"down": {"zed": "none.parquet"}, "up": {"zed": "zed_up.parquet"}}, ("none.parquet", "there is none")),
    ],
)
def test_bad_variations(folder, variation, words):
    with pytest.raises(InputError) as caught:
        build(folder, variations={"jes": variation})
    for word in words:
        assert word in str(caught.value)


def test_a_varied_sample_of_negative_total_weight(folder):
    table = pq.read_table(folder / "zed_up.parquet").to_pydict()
    pq.write_table(pa.table(table | {"weights": [-1.0] * N}), folder / "zed_up.parquet")
    with pytest.raises(InputError, match=r"process 'zed' has a yield of -500 in a varied sample; expected a positive sum"):
        build(folder)
