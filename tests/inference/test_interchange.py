"""Answers in other toolkits' forms: exact process densities come out, and their likelihoods are ours."""

import json

import numpy as np
import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, fit
from touchneedle.inference.interchange import write_iris_hep
from touchneedle.inference.process_ratios import process_ratios
from touchneedle.inference.pyhf_workspace import pyhf_workspace
from touchneedle.toys.base import build_toy


@pytest.fixture(scope="module")
def toy():
    return build_toy("crystal_ball")


@pytest.fixture(scope="module")
def oracle(toy):
    return build_estimator("oracle", toy.spec, truth=toy).double()


def nominal_events(toy, n, seed):
    theta = toy.spec.parameters.nominal.expand(n, -1)
    return toy.sample(theta, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["crystal_ball", "mass_bump"])
def test_processes_are_those_of_the_exact_density(name):
    toy = build_toy(name)
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    events = nominal_events(toy, 300, 0)
    found = process_ratios(oracle, toy.rates, events.x)
    nominal = toy.spec.parameters.nominal
    exact = (toy.log_prob_process(events.x, nominal) - toy.log_prob(events.x, nominal)[:, None]).exp()
    torch.testing.assert_close(found.ratio, exact, rtol=1e-7, atol=1e-7)
    assert found.residual < 1e-9


def test_processes_that_rates_do_not_tell_apart_are_refused():
    # The backgrounds of its two regions scale alike.
    toy = build_toy("counting_and_shape")
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    with pytest.raises(InputError, match="tell 3 processes apart"):
        process_ratios(oracle, toy.rates, nominal_events(toy, 10, 0).x)


def read(path):
    return np.load(path, allow_pickle=False)


def iris_hep_density(workspace, values):
    """The toolkit's density at nominal nuisances, from its JSON and arrays alone: sum_k c_k(mu) nu_k r_k(x), and the total rate."""
    (channel,) = workspace["channels"]
    density, total = 0.0, 0.0
    for sample in channel["samples"]:
        factor = 1.0
        for modifier in sample["modifiers"]:
            if modifier["type"] == "normfactor":
                factor *= values[modifier["name"]]
            elif modifier["type"] == "vandermonde":
                factor *= np.polyval(modifier["coeff"], values[modifier["name"]])
        density = density + factor * sample["data"][0] * read(sample["ratios"])
        total += factor * sample["data"][0]
    return density, total


@pytest.mark.parametrize("name", ["crystal_ball", "mass_bump"])
def test_the_iris_hep_workspace_holds_the_same_likelihood(name, tmp_path):
    toy = build_toy(name)
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    parameters, events = toy.spec.parameters, nominal_events(toy, 400, 1)
    folder = write_iris_hep(tmp_path / "iris", oracle, toy.rates, events)
    workspace = json.loads((folder / "workspace.json").read_text())
    likelihood = Likelihood(oracle, toy.rates)
    poi = parameters.names[parameters.interest[0]]
    points = [
        float(parameters.from_normal(torch.full((len(parameters),), u, dtype=torch.float64))[parameters.index(poi)]) for u in (-1, 0.5)
    ]
    theirs, ours = [], []
    for value in points:
        theta = parameters.nominal.clone()
        theta[parameters.index(poi)] = value
        density, total = iris_hep_density(workspace, {poi: value})
        theirs.append(np.log(density).sum() - total)
        ours.append(float(likelihood.value(theta, events)))
    assert theirs[1] - theirs[0] == pytest.approx(ours[1] - ours[0], abs=1e-6)


def test_variations_of_the_iris_hep_workspace_are_those_of_the_exact_density(toy, oracle, tmp_path):
    events, parameters = nominal_events(toy, 200, 2), toy.spec.parameters
    folder = write_iris_hep(tmp_path / "iris", oracle, toy.rates, events)
    config = json.loads((folder / "config.yml").read_text())
    models = config["TrainedModels"]["SR"]["Models"]
    for k, model in enumerate(models):
        for systematic in model["Systematics"]:
            column = parameters.index(systematic["SystName"])
            up = parameters.nominal.clone()
            up[column] += parameters.parameters[column].constraint.sigma
            exact = (toy.log_prob_process(events.x, up) - toy.log_prob_process(events.x, parameters.nominal)).exp()[:, k].numpy()
            present = read(model["Nominal"]["Ratios"]) > 1e-6
            np.testing.assert_allclose(read(systematic["RatiosUp"])[present], exact[present], rtol=1e-5)


# pyhf asks jsonschema for something old.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_pyhf_workspace_agrees_with_the_unbinned_fit(toy, oracle):
    pyhf = pytest.importorskip("pyhf")
    n = round(float(toy.expected_events(toy.spec.parameters.nominal[None])[0]))
    data = nominal_events(toy, n, 3)
    workspace = pyhf.Workspace(pyhf_workspace(oracle, toy.rates, nominal_events(toy, 50_000, 4), data))
    model = workspace.model()
    best = pyhf.infer.mle.fit(workspace.data(model), model)
    binned = float(best[model.config.poi_index])
    unbinned = fit(Likelihood(oracle, toy.rates), data)
    column = toy.spec.parameters.interest[0]
    # Bins of an optimal observable lose little, so both fits of the same events move together.
    assert abs(binned - float(unbinned.theta[column])) < 0.5 * float(unbinned.sigma[column])


def test_toys_that_histfactory_cannot_hold_are_refused():
    toy = build_toy("mass_bump")
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    events = nominal_events(toy, 50, 0)
    with pytest.raises(InputError, match="multiplies one process"):
        pyhf_workspace(oracle, toy.rates, events, events)
