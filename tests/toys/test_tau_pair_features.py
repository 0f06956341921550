"""The 28 features of a tau pair, against four-vectors one event at a time and against limits known in closed form."""

import math

import numpy as np
import pytest
import torch

from touchneedle.toys.tau_pair_features import (
    FEATURES,
    MISSING,
    PRIMARY,
    Momentum,
    delta_phi,
    eta_centrality,
    phi_centrality,
    tau_pair_features,
    tau_pair_objects,
)

NAMES = [feature.name for feature in FEATURES]


def momentum(pt, eta, phi):
    return Momentum(*(torch.tensor([float(value)], dtype=torch.float64) for value in (pt, eta, phi)))


def test_features_agree_with_four_vectors_event_by_event(primary, four_vector_features):
    x = tau_pair_features(tau_pair_objects(torch.from_numpy(primary).double())).numpy()
    for row, found in zip(primary, x, strict=True):
        expected = four_vector_features(dict(zip([f.name for f in PRIMARY], row.tolist(), strict=True)))
        np.testing.assert_allclose(found, [expected[name] for name in NAMES], rtol=1e-7, atol=1e-6)


def test_objects_give_back_the_primary_features(primary):
    x = tau_pair_features(tau_pair_objects(torch.from_numpy(primary).double()))
    np.testing.assert_allclose(x[:, : len(PRIMARY)].float().numpy(), primary, rtol=1e-6)


@pytest.mark.parametrize("jets", [0, 1, 2, 3])
def test_missing_values_are_those_of_jets_that_are_not_there(primary, jets):
    chosen = primary[primary[:, 12] == jets]
    x = tau_pair_features(tau_pair_objects(torch.from_numpy(chosen).double()))
    missing = {name for name, column in zip(NAMES, x.unbind(-1), strict=True) if bool((column == MISSING).all())}
    pairs = {name for name in NAMES if "jet_jet" in name or "subleading" in name or name == "DER_lep_eta_centrality"}
    leading = {name for name in NAMES if "jet_leading" in name}
    assert missing == (set() if jets > 1 else pairs if jets == 1 else pairs | leading)


def test_missing_momentum_between_the_taus_is_central():
    lepton, hadron = momentum(30, 0, 0.3), momentum(30, 0, 1.9)
    for phi, expected in ((1.1, math.sqrt(2)), (0.3, 1.0), (1.9, 1.0), (1.1 - math.pi, -math.sqrt(2))):
        assert phi_centrality(momentum(10, 0, phi), lepton, hadron).item() == pytest.approx(expected, abs=1e-12)
        assert phi_centrality(momentum(10, 0, phi), hadron, lepton).item() == pytest.approx(expected, abs=1e-12)


def test_a_lepton_between_the_jets_is_central():
    first, second = momentum(50, 2.0, 0), momentum(40, -1.0, 1)
    for eta, expected in ((0.5, 1.0), (2.0, math.exp(-1)), (-1.0, math.exp(-1)), (5.0, math.exp(-9))):
        assert eta_centrality(momentum(30, eta, 0), first, second).item() == pytest.approx(expected, rel=1e-12)
    assert eta_centrality(momentum(30, 0.0, 0), first, first).item() == 0.0


def test_angles_that_coincide_stay_finite():
    along = momentum(30, 0.5, 1.0)
    assert phi_centrality(along, along, along).item() == 0.0
    assert delta_phi(torch.tensor(3.0), torch.tensor(-3.0)).item() == pytest.approx(6 - 2 * math.pi)
