"""The generator of higgs_tautau: its options and arithmetic; with Pythia, the committed sample again."""

import importlib.util

import numpy as np
import pytest

from touchneedle.benchmark.generate import make_data, place_order
from touchneedle.conf.errors import InputError
from touchneedle.toys.generated import read_generated
from touchneedle.toys.higgs_tautau import SAMPLE
from touchneedle.toys.higgs_tautau_pythia import PROCESSES, HiggsTautauPythia, HiggsTautauPythiaConfig, rounded, split_evenly

needs_pythia = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("pythia8mc", "fastjet", "awkward")),
    reason="pythia8mc, fastjet or awkward is not installed (pip install 'touchneedle[hep]')",
)


@pytest.mark.parametrize("n", [0, 1, 3, 10, 999, 10_000])
def test_every_event_has_its_process(n):
    shares = [0.08, 0.05, 0.62, 0.15, 0.10]
    counts = split_evenly(n, shares)
    assert sum(counts) == n
    assert all(abs(count - n * share) <= 1 for count, share in zip(counts, shares, strict=True))


def test_rounding_keeps_twelve_binary_digits():
    values = np.concatenate([[0.0, 1.0, -25.0, 4096.0], np.random.default_rng(0).normal(0, 50, 2_000)])
    found = rounded(values)
    assert found.dtype == np.float32
    assert found[:4].tolist() == values[:4].tolist()
    assert (np.abs(found - values) <= np.abs(values) / 4096).all()
    assert not (found.view(np.uint32) & 0xFFF).any()
    assert np.array_equal(rounded(found.astype(np.float64)), found)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ggh": "0.2"}, "expected shares that sum to 1; got ggh=0.2, vbf=0.05"),
        ({"ggh": "-0.2"}, "option ggh: expected a share between 0 and 1; got -0.2"),
        ({"wjets": "0.2"}, "unknown option 'wjets'"),
        ({"ztautau": "many"}, "option ztautau"),
    ],
)
def test_bad_options_are_refused(params, message, tmp_path):
    with pytest.raises(InputError, match=message):
        place_order("higgs_tautau", 100, 0, params=params, output=tmp_path)


@needs_pythia
@pytest.mark.slow
def test_pythia_gives_the_first_events_of_the_committed_sample_again(tmp_path):
    again = read_generated(make_data("higgs_tautau", 10_000, 0, output=tmp_path), "higgs_tautau")[0]
    committed = read_generated(SAMPLE, "higgs_tautau")[0]
    for name, values in again.items():
        np.testing.assert_allclose(values, committed[name][: len(values)], rtol=1e-3, atol=1e-6, err_msg=name)


@needs_pythia
@pytest.mark.slow
def test_a_small_chunk_is_whole_repeatable_and_silent(capfd):
    generator = HiggsTautauPythia(HiggsTautauPythiaConfig(ggh=0.5, vbf=0.5, ztautau=0.0, ttbar=0.0, diboson=0.0))
    chunk, again = (generator.chunk(41, np.random.SeedSequence(5)) for _ in range(2))
    assert capfd.readouterr().out == ""
    assert list(chunk.cross_sections) == list(PROCESSES)
    assert set(np.unique(chunk.columns["process"])) == {0, 1}
    for name, values in chunk.columns.items():
        assert np.array_equal(values, again.columns[name]), name
        assert np.isfinite(values).all()
    for k in range(6):
        assert ((chunk.columns[f"jet{k}_pt"] == 0) == (chunk.columns[f"normal_jet{k}"] == 0)).all()


@needs_pythia
@pytest.mark.slow
def test_taus_of_the_z_are_polarised_as_at_the_z():
    """In tau -> pi nu the pion's share x of the tau's momentum has density 1 + P (2 x - 1): mean 1 / 2 + P / 6, for either charge."""
    from touchneedle.toys.pythia import SHOWER_VARIATIONS, start_pythia

    settings, halves = PROCESSES["ztautau"]
    for half, code in zip(halves, (-15, 15), strict=True):
        pion = ["15:onMode=off", f"15:on{'Pos' if code < 0 else 'Neg'}IfAny=11 13", f"15:on{'Neg' if code < 0 else 'Pos'}IfMatch=16 -211"]
        pythia = start_pythia("test", (*settings, *half, *pion, "PartonLevel:MPI=off", *SHOWER_VARIATIONS), np.random.SeedSequence(1))
        shares = pion_shares(pythia.nextBatch(4_000).prt, code)
        assert len(shares) > 3_000
        # Pions are not without mass, nor taus infinitely fast: m_pi^2 / m_tau^2 = 0.006.
        assert abs(shares.mean() - 0.475) < 4.5 * shares.std() / len(shares) ** 0.5 + 0.006


def pion_shares(particles, code):
    """Energy of the pion over that of its tau of PDG ``code``."""
    import awkward

    counts = awkward.to_numpy(awkward.num(particles.id))
    start = np.repeat(np.cumsum(counts) - counts, counts)
    ids, energy, mother = (awkward.to_numpy(awkward.flatten(v)) for v in (particles.id, particles.p.e, particles.mother1))
    mother = mother + start
    pions = (ids == -211 * (code // 15)) & (ids[mother] == code)
    return energy[pions] / energy[mother[pions]]
