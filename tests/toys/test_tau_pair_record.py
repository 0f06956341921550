"""Tau pairs in event records: histories followed on records written by hand; Pythia's own where it is installed."""

import numpy as np
import pytest

from touchneedle.toys.tau_pair_record import Record, ancestor, follow, polar

# code, mother, whether final. A tau that radiates, decays to a muon and is a copy of itself; one that decays to hadrons.
HIGGS = [
    (90, 0, False),
    (25, 0, False),
    (15, 1, False),  # 2: tau- of the Higgs
    (15, 2, False),  # 3: its copy, which decays
    (22, 2, True),
    (-15, 1, False),  # 5: tau+
    (13, 3, True),  # 6: mu- of the tau
    (-14, 3, True),
    (16, 3, True),
    (211, 5, True),
    (111, 5, False),
    (-16, 5, True),
    (11, 10, True),  # 12: Dalitz electron of the pion
    (-11, 10, True),
    (22, 10, True),
]
# W -> e nu beside a tau of a b hadron, whose muon is not counted, and a muon of the b hadron itself.
TOP = [
    (90, 0, False),
    (24, 0, False),
    (-11, 1, False),  # 2: e+ before it radiates
    (12, 1, True),
    (-11, 2, True),  # 4
    (521, 0, False),
    (-15, 5, False),  # 6
    (16, 5, True),
    (-13, 6, True),  # 8
    (13, 5, True),  # 9
    (-24, 0, False),
    (15, 10, False),  # 11: tau- of the W
    (-211, 11, True),  # 12
]


def record(*events):
    starts = np.cumsum([0, *(len(event) for event in events)])
    rows = [(code, start + mother, final) for event, start in zip(events, starts, strict=False) for code, mother, final in event]
    code, mother, final = (np.array(column) for column in zip(*rows, strict=True))
    event = np.repeat(np.arange(len(events)), [len(event) for event in events])
    return Record(len(events), event, code, mother, final.astype(bool), np.zeros((len(rows), 4)))


def test_leptons_and_taus_are_those_of_bosons():
    ancestry, first = follow(record(HIGGS, TOP)), len(HIGGS)
    assert np.flatnonzero(ancestry.lepton).tolist() == [6, first + 4]
    assert np.flatnonzero(ancestry.hadron).tolist() == [5, first + 11]


def test_products_are_traced_to_the_tau_that_decays():
    ancestry, first = follow(record(HIGGS, TOP)), len(HIGGS)
    of = {row: np.flatnonzero(ancestry.from_tau & (ancestry.origin == row)).tolist() for row in (3, 5, first + 11)}
    assert of == {3: [6, 7, 8], 5: [9, 11, 12, 13, 14], first + 11: [first + 12]}
    # The photon was radiated before, and the tau of the b hadron belongs to its jet.
    assert not ancestry.from_tau[4]
    assert not ancestry.from_tau[first + 8]


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64, 100])
def test_ancestors_of_long_histories(length):
    mother = np.maximum(np.arange(length) - 1, 0)
    stop = np.zeros(length, dtype=bool)
    stop[[0, length // 2]] = True
    expected = np.where(np.arange(length) >= length // 2, length // 2, 0)
    assert ancestor(mother, stop).tolist() == expected.tolist()


def test_polar_coordinates():
    rng = np.random.default_rng(0)
    pt, eta, phi = rng.uniform(1, 50, 40), rng.normal(size=40), rng.uniform(-3, 3, 40)
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)], 1)
    np.testing.assert_allclose(polar(momentum), np.stack([pt, eta, phi], 1), rtol=1e-12)
