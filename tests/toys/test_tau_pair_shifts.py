"""Shifts of a tau pair's objects, against one event at a time in plain Python and against conserved momenta."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.toys.tau_pair_features import FEATURES, PRIMARY, Momentum, TauPair, tau_pair_features, tau_pair_objects
from touchneedle.toys.tau_pair_shifts import frozen_normals, is_selected, shifted, with_hard_jets

PRIMARY_NAMES = [feature.name for feature in PRIMARY]


def scaled(primary, tes=1.0, jes=1.0, soft_met=0.0):
    theta = (torch.full((len(primary),), value, dtype=torch.float64) for value in (tes, jes, soft_met))
    return shifted(tau_pair_objects(torch.from_numpy(primary).double()), frozen_normals(primary, "soft_met"), *theta)


def total(objects):
    """Transverse momentum of all whose direction is known, the missing one included, (n, 2)."""
    parts = [objects.lepton, objects.hadron, objects.jet(0), objects.jet(1)]
    return torch.stack([sum(p.x for p in parts) + objects.met_x, sum(p.y for p in parts) + objects.met_y], -1)


def test_nominal_is_the_identity(primary):
    before, after = tau_pair_objects(torch.from_numpy(primary).double()), scaled(primary)
    for field in fields(TauPair):
        one, other = getattr(before, field.name), getattr(after, field.name)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)) if isinstance(one, Momentum) else torch.equal(one, other)


@pytest.mark.parametrize(("tes", "jes"), [(1.0, 1.0), (1.03, 1.0), (0.97, 1.0), (1.0, 1.05), (1.0, 0.93), (1.02, 0.98), (0.9, 1.1)])
def test_scales_agree_with_one_event_at_a_time(primary, shifted_event, four_vector_features, tes, jes):
    moved = scaled(primary, tes, jes)
    kept = is_selected(moved.lepton.pt, moved.hadron.pt)
    x = tau_pair_features(with_hard_jets(moved)).numpy()
    events = [shifted_event(dict(zip(PRIMARY_NAMES, row.tolist(), strict=True)), tes, jes) for row in primary]
    assert kept.tolist() == [event is not None for event in events]
    for found, event in zip(x[kept.numpy()], (e for e in events if e is not None), strict=True):
        expected = four_vector_features(event)
        np.testing.assert_allclose(found, [expected[feature.name] for feature in FEATURES], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("tes", "jes"), [(1.1, 1.0), (1.0, 0.9), (0.95, 1.07)])
def test_scales_conserve_the_sum_of_momenta(primary, tes, jes):
    np.testing.assert_allclose(total(scaled(primary, tes, jes)), total(scaled(primary)), atol=1e-9)


def test_soft_momentum_moves_the_missing_one_alone(primary):
    before, after = scaled(primary), scaled(primary, soft_met=3.0)
    moved = torch.stack([after.met_x - before.met_x, after.met_y - before.met_y], -1)
    np.testing.assert_allclose(moved, 3.0 * frozen_normals(primary, "soft_met"), atol=1e-12)
    assert torch.equal(after.hadron.pt, before.hadron.pt)
    assert torch.equal(after.jets.pt, before.jets.pt)


def three_jets(pt, further=(0, 0.0)):
    """One event with three described jets, at eta 1, 2, 3, and further ones."""
    one = Momentum(*(torch.tensor([value], dtype=torch.float64) for value in (30.0, 0.0, 0.0)))
    jets = Momentum(torch.tensor([pt]), torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 3))
    return TauPair(one, one, jets, torch.zeros(1), torch.zeros(1), torch.tensor([further[0]]), torch.tensor([further[1]]))


def test_jets_are_ordered_and_counted_after_the_threshold():
    jets = with_hard_jets(three_jets([25.0, 60.0, 27.0])).jets
    assert (jets.pt.tolist(), jets.eta[:, :2].tolist()) == ([[60.0, 27.0, 0.0]], [[2.0, 3.0]])


@pytest.mark.parametrize(
    ("pt", "further", "count", "jet_pt"),
    [
        ([60.0, 50.0, 40.0], (1, 27.0), 4, 177.0),
        ([60.0, 50.0, 40.0], (1, 25.0), 3, 150.0),
        ([60.0, 50.0, 25.0], (1, 24.0), 2, 110.0),
        ([60.0, 50.0, 25.0], (2, 47.0), 2, 110.0),
        ([60.0, 50.0, 40.0], (2, 50.0), 5, 200.0),
    ],
)
def test_further_jets_are_dropped_where_they_must_be_soft(pt, further, count, jet_pt):
    objects = with_hard_jets(three_jets(pt, further))
    assert (objects.jet_count.item(), objects.jet_pt.item()) == (count, jet_pt)


def test_frozen_numbers_are_standard_normal_and_independent():
    rows = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    z = torch.cat([frozen_normals(rows, "soft_met"), frozen_normals(rows, "another")], -1).numpy()
    assert min(stats.kstest(column, "norm").pvalue for column in z.T) > 1e-3
    correlation = np.corrcoef(z.T) - np.eye(4)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(len(rows))


def test_frozen_numbers_belong_to_the_event():
    rows = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    z, order = frozen_normals(rows, "soft_met"), np.random.default_rng(2).permutation(500)[:120]
    assert torch.equal(frozen_normals(rows[order], "soft_met"), z[order])
    rows[:, 0] = 0.0
    minus = rows * np.array([-1, 1, 1], dtype=np.float32)
    assert torch.equal(frozen_normals(rows, "soft_met"), frozen_normals(minus, "soft_met"))
