"""Ranks, TARP and the classifier test beside those of sbi 0.27 (Boelts et al. 2025, JOSS 10(108) 7754)."""

import numpy as np
import pytest
import torch
from sbi.diagnostics.sbc import _run_sbc, check_uniformity_frequentist
from sbi.diagnostics.tarp import _run_tarp
from sbi.utils.metrics import c2st
from scipy.stats import norm

from touchneedle.benchmark.metrics.ranks import deviation_row, truth_rank
from touchneedle.benchmark.metrics.sample_distance import Sample
from touchneedle.benchmark.metrics.two_sample_classifier import c2st_auc

N_PAIRS, N_DRAWS = 400, 199
MLP = {"hidden_layer_sizes": (10,), "early_stopping": True}


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=[1.0, 0.7], ids=["right", "too narrow"])
def pairs(request):
    """Truths (N, 2), events and draws (L, N, 2) of theta ~ N(0, 1), x = theta + N(0, 1); the posterior's width is off by a factor."""
    z = torch.randn(2 + N_DRAWS, N_PAIRS, 2, generator=generator(1), dtype=torch.float64)
    theta, x = z[0], z[0] + z[1]
    return theta, x, x / 2 + request.param * z[2:] / 2**0.5


def ranks_of(truth, draws):
    """Our rank of the truth (N,) among draws (L, N) of equal weight."""
    values = torch.cat([truth[:, None], draws.T], 1)
    return truth_rank(values, torch.zeros_like(values), generator(2))


def test_ranks_are_those_of_sbi(pairs):
    theta, x, draws = pairs
    expected = _run_sbc(theta, x, draws, "marginals", show_progress_bar=False)
    for column in range(2):
        ours = ranks_of(theta[:, column], draws[..., column])
        # Our rank is (sbi's + V) / (L + 1): the same number below, the place inside drawn at random.
        assert torch.equal((ours * (N_DRAWS + 1)).floor(), expected[:, column].double())


def test_uniformity_is_judged_as_sbi_does(pairs):
    theta, x, draws = pairs
    ranks = _run_sbc(theta, x, draws, "marginals", show_progress_bar=False)
    expected = check_uniformity_frequentist(ranks.numpy(), N_DRAWS)
    ours = [deviation_row("sbc", ranks_of(theta[:, k], draws[..., k]), {}).at["p_value"] for k in range(2)]
    # The randomised rank moves the ECDF by 1 / (L + 1) at most.
    assert np.log10(ours) == pytest.approx(np.log10(expected.numpy()), rel=0.25, abs=0.15)


def test_tarp_is_that_of_sbi(pairs):
    theta, x, draws = pairs
    reference = x / 2 + torch.randn(N_PAIRS, 2, generator=generator(3), dtype=torch.float64)
    expected, levels = _run_tarp(draws, theta, reference, num_bins=20, z_score_theta=False)
    ours = ranks_of((theta - reference).norm(dim=-1), (draws - reference).norm(dim=-1))
    share = (ours * (N_DRAWS + 1)).floor() / N_DRAWS
    # sbi's coverage is a single-precision share: move off its bin edges.
    ecdf = torch.tensor([float((share < level - 1e-6).double().mean()) for level in levels[1:-1]])
    assert torch.allclose(ecdf, expected[1:-1].float(), atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_classifier_test_is_that_of_sbi(shift):
    a, b = (torch.randn(4_000, 3, generator=generator(seed)) for seed in (4, 5))
    b[:, 0] += shift
    ours = c2st_auc(Sample(a.double(), torch.ones(4_000)), Sample(b.double(), torch.ones(4_000)))
    expected = float(c2st(a, b, metric="roc_auc", classifier="mlp", classifier_kwargs=MLP))
    # The classifiers differ, the best area does not: Phi(shift / sqrt 2). Trees stay somewhat below it.
    optimal = norm.cdf(shift / 2**0.5)
    assert expected == pytest.approx(optimal, abs=4 * ours.stderr)
    assert optimal - 0.02 - 4 * ours.stderr < ours.value < optimal + 4 * ours.stderr
