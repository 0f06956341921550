"""Figures of results: drawn and saved, labelled with LaTeX and units, honest without matplotlib."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, closure, draw_corner, fit, impacts, profile_grid, profile_intervals, profile_scan
from touchneedle.inference.figure_style import label, percent, quantile
from touchneedle.inference.text_table import rounded
from touchneedle.toys.base import Feature, Normal, Parameter, build_toy


@pytest.fixture(scope="module")
def results():
    """Every kind of result of one data set of two parameters of interest and two nuisances."""
    toy = build_toy("linear_gaussian")
    generator = torch.Generator().manual_seed(1)
    theta = torch.tensor([0.3, -0.2, 0.8, -0.5], dtype=torch.float64)
    events = toy.sample(theta.expand(400, -1), generator=generator)
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy))
    best = fit(likelihood, events)
    reference = toy.sample(toy.spec.parameters.nominal.expand(2_000, -1), generator=generator)
    first, second = (best.theta[k] + best.sigma[k] * torch.linspace(-3, 3, 7).double() for k in (0, 1))
    return {
        "fit": best,
        "scan": profile_scan(likelihood, events, "theta_1", first, best=best),
        "grid": profile_grid(likelihood, events, ("theta_1", "theta_2"), first, second, best=best),
        "intervals": profile_intervals(likelihood, events, best, level=(0.6827, 0.95)),
        "impacts": impacts(likelihood, events, best, method="linear"),
        "closure": closure(likelihood, events, best, reference),
    }


def texts(figure):
    """All that is written in a figure."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fit", [r"$\nu_{1}$", r"$\theta_{2}$", "correlation"]),
        ("scan", [r"$\theta_{1}$", "68 %", "95 %"]),
        ("grid", [r"$\theta_{1}$", r"$\theta_{2}$", "68 %", "95 %"]),
        ("intervals", [r"$\theta_{1}$", r"$\theta_{2}$"]),
        ("impacts", [r"$\nu_{1}$", r"shift of $\theta_{1}$", "down, before the fit"]),
        ("closure", ["x_1", "data / model"]),
    ],
)
def test_every_result_draws_and_says_what_is_on_its_axes(results, name, words, tmp_path):
    figure = results[name].draw()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000
    written = texts(figure)
    assert [word for word in words if word not in written] == []


def test_what_is_drawn_are_the_numbers(results):
    scan, best = results["scan"], results["fit"]
    (axes,) = scan.draw(results["intervals"].intervals).axes
    points = [line for line in axes.get_lines() if line.get_marker() == "." and len(line.get_xdata()) == 7]
    torch.testing.assert_close(torch.as_tensor(points[0].get_ydata()), scan.t)
    interval = results["intervals"].of("theta_1", 0.95)
    spans = [patch.get_x() for patch in axes.patches]
    assert interval.low in [pytest.approx(x) for x in spans]
    corner = draw_corner(best, [scan], [results["grid"].turned])
    assert sum(axes.axison for axes in corner.axes) == 3


def test_a_corner_without_errors_is_refused(results):
    with pytest.raises(InputError, match="expected a fit with errors"):
        draw_corner(replace(results["fit"], covariance=torch.full((4, 4), torch.nan)))


def test_labels():
    parameter = Parameter("mass_$", "interest", 0.0, (0.0, 1.0), Normal(0.0, 1.0), unit="GeV", latex="m_H")
    assert label(parameter) == "$m_H$ [GeV]"
    assert label(replace(parameter, latex=r"\nonsense{")) == r"mass_\$ [GeV]"
    assert label(Feature("mass", "GeV"), unit=False) == "mass"
    assert (percent(0.6827), percent(0.95)) == ("68 %", "95 %")
    assert quantile(0.95, 2) == pytest.approx(5.9915, abs=1e-4)
    assert rounded(1.23456, 0.0123, -0.4) == ("1.235", "0.012", "-0.400")


def test_a_figure_without_matplotlib_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from touchneedle.conf.errors import InputError\n"
        "import touchneedle.inference\n"
        "from touchneedle.inference.figure_style import styled\n"
        "try:\n"
        "    with styled(): pass\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'figures: expected matplotlib; it is not installed: pip install "touchneedle[bench]"'
