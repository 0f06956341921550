"""Results of pseudo-experiments print, are written and drawn, and say what is doubtful."""

import json
from dataclasses import replace

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.inference import Likelihood, Simulation, coverage, fit, goodness_of_fit, neyman, upper_limit


@pytest.fixture
def results(problems, generator):
    """One of each, small."""
    toy = problems.LinearGaussian()
    likelihood = Likelihood(problems.Truth(toy))
    events = toy.sample(torch.full((200, 2), 0.1, dtype=torch.float64), generator=generator)
    reference = toy.sample(torch.zeros(4_000, 2, dtype=torch.float64), generator=generator)
    simulation, values = Simulation(reference, n_pseudo=40, n_events=200), torch.tensor([0.02, 0.1, 0.3], dtype=torch.float64)
    best = fit(likelihood, events)
    scan = neyman(likelihood, events, "mu", simulation, values, best=best)
    return {
        "NeymanResult": scan,
        "Thresholds": scan.thresholds,
        "UpperLimit": upper_limit(likelihood, events, "mu", simulation, values, best=best),
        "GoodnessOfFit": goodness_of_fit(likelihood, events, reference, best, 20, n_sample=500),
        "Coverage": coverage(likelihood, "mu", torch.tensor([[0.1, 0.0]]), simulation),
    }


def test_every_result_prints_is_written_and_drawn(results, tmp_path):
    for name, result in results.items():
        written = json.loads(result.write_json(tmp_path / f"{name}.json").read_text())
        assert written["result"] == name
        assert "mu" in str(result) or name == "GoodnessOfFit"
        result.draw().savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000


def test_doubts_are_said(results):
    scan = results["NeymanResult"]
    assert "failed" not in str(scan)
    doubtful = replace(scan.thresholds, failed=torch.tensor([3, 0, 1]), check_rms=torch.tensor([0.02, 0.2, torch.nan]))
    doubtful = str(replace(scan, thresholds=doubtful, scan_valid=torch.tensor([True, False, True])))
    assert "4 of 120 fits of pseudo-experiments failed" in doubtful
    assert "0.2 sigma (rms) off" in doubtful
    assert "1 of 3 constrained fits" in doubtful


def test_other_likelihoods_are_refused(problems):
    with pytest.raises(InputError, match="expected a Likelihood of one estimator"):
        Simulation(problems.LinearGaussian().sample).fit(object(), torch.zeros(2))
