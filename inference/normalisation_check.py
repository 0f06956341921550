"""Does a learned ratio integrate to one at every theta? A drift is read as a rate: it biases a fit of n events n times over.

    E_ref[r(x|theta)] = 1,   r = p(x|theta) / p(x|theta_0),   reference events at theta_0

measured at nominal, at the anchors of each parameter and at joint points between and on them, which templates of single
nuisances never show (hep_methods: rate and shape must be separate; ATLAS 2024, arXiv:2412.01600, sec. 4).
What to do against it: `fit` normalises estimators that keep reference events around its own best fit (local, quadratic);
`fit_normalisation` gives a polynomial over the whole prior, for a `Likelihood` or a `Factor` of a mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.figure_style import BLUE, GREY, new_figure, plain_text, styled
from touchneedle.inference.normalisation import MOST_PARAMETERS, LocalNormalisation
from touchneedle.inference.polynomial import Ball, Monomials
from touchneedle.inference.result import Result
from touchneedle.toys.base import Events, ParameterSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIGNIFICANT = 4.0
_PRIOR_SIGMA = 3.0


@dataclass(frozen=True)
class NormalisationCheck(Result):
    """E_ref[r] at m points.

    Attributes:
        labels: what each point is (m,).
        points: (m, p).
        mean: E_ref[r], which should be 1 (m,).
        stderr: its standard error (m,).
        effective: effective number of reference events, (sum w r)^2 / sum (w r)^2 (m,).
        n_events: events of the fit for which ``shift`` is meant.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    points: Tensor
    mean: Tensor
    stderr: Tensor
    effective: Tensor
    n_events: float

    @property
    def drift(self) -> Tensor:
        """Relative change of rate that a fit reads into the shape (m,)."""
        return self.mean - 1

    @property
    def shift(self) -> Tensor:
        """The drift in units of the statistical error of the rate, sqrt(n) (E_ref[r] - 1) (m,)."""
        return self.n_events**0.5 * self.drift

    @property
    def pull(self) -> Tensor:
        """The drift over its standard error (m,); 0 where both are."""
        return torch.where(self.drift == 0, 0.0, self.drift / self.stderr)

    def summary(self) -> str:
        """One line a point, the worst first."""
        order = self.shift.abs().argsort(descending=True).tolist()
        lines = [f"normalisation over {self.n_events:g} events: E[r] - 1, its error, and as sigmas of the rate"]
        for i in order:
            mark = " *" if float(self.pull[i].abs()) > _SIGNIFICANT else ""
            lines.append(
                f"  {self.labels[i]:32} {float(self.drift[i]):+.4f} +- {float(self.stderr[i]):.4f}  {float(self.shift[i]):+.2f}"
                f"  (effective events {float(self.effective[i]):.0f}){mark}"
            )
        return "\n".join([*lines, f"* beyond {_SIGNIFICANT:g} standard errors"])

    def draw(self) -> Figure:
        """The drift at each point with its error."""
        with styled():
            figure = new_figure(6.0, 0.8 + 0.22 * len(self.labels))
            axes = figure.add_subplot()
            rows = list(range(len(self.labels)))
            axes.errorbar(self.drift.tolist(), rows, xerr=self.stderr.tolist(), fmt="o", markersize=3, color=BLUE)
            axes.axvline(0.0, color=GREY, linewidth=0.8)
            axes.set_yticks(rows, [plain_text(label) for label in self.labels])
            axes.set_xlabel(r"$E[r] - 1$, relative drift of the rate")
            axes.invert_yaxis()
        return figure


def check_normalisation(estimator: Estimator, reference: Events, n_events: float, points: Tensor | None = None) -> NormalisationCheck:
    """E_ref[r] with standard errors from weighted events at theta_0 that the estimator has not seen.

    Args:
        estimator: whose ratio is judged.
        reference: events at theta_0.
        n_events: events of the fit that it is meant for.
        points: (m, p); nominal, anchors and joint points by default, see `normalisation_points`.

    Raises `InputError` for points outside the bounds, or reference events without a positive sum of weights.
    """
    parameters = estimator.spec.parameters
    weight = reference.weight.double().cpu()
    if not float(weight.sum()) > 0:
        raise InputError(f"reference events: expected a positive sum of weights; got {float(weight.sum()):g} of {len(weight)} events")
    if points is None:
        labels, points = normalisation_points(parameters)
    else:
        points = points.double()
        labels = tuple(", ".join(f"{value:g}" for value in point) for point in points.tolist())
    parameters.check(points)
    found = torch.stack([_mean(_ratio(estimator, reference.x, point), weight / weight.sum()) for point in points])
    mean, stderr, effective = found.unbind(-1)
    return NormalisationCheck(parameters.names, labels, points, mean, stderr, effective, n_events)


def normalisation_points(parameters: ParameterSpace) -> tuple[tuple[str, ...], Tensor]:
    """Labels (m,) and points (m, p): nominal, each parameter at its anchors, and all nuisances at once on and between theirs.

    Parameters of interest, which have no anchors of their own, are taken to the quartiles of their prior. Joint points have
    nuisances up, down, and with alternating signs.
    """
    nominal = parameters.nominal
    labels, points = ["nominal"], [nominal]
    ends = torch.stack([torch.tensor(_ends(parameters, column), dtype=torch.float64) for column in range(len(parameters))], -1)
    for column, name in enumerate(parameters.names):
        for end in ends[:, column]:
            labels.append(f"{name} = {float(end):g}")
            points.append(nominal.index_fill(0, torch.tensor([column]), float(end)))
    nuisance = torch.tensor(parameters.nuisance, dtype=torch.long)
    for label, signs in _joint_signs(len(nuisance)):
        for share in (0.5, 1.0) if len(nuisance) > 1 else ():
            point = nominal.clone()
            chosen = ends[signs, nuisance]
            point[nuisance] = nominal[nuisance] + share * (chosen - nominal[nuisance])
            labels.append(f"nuisances {label}, {share:g} of the anchors")
            points.append(point)
    low, high = parameters.low, parameters.high
    return tuple(labels), torch.minimum(torch.maximum(torch.stack(points), low), high)


def fit_normalisation(estimator: Estimator, reference: Events, order: int = 3) -> LocalNormalisation:
    """log E_ref[r] as a polynomial of total ``order`` over the central 3 sigma of the prior (global, unlike that of a fit).

    Its ``residual`` is the root mean square of what the polynomial misses; where that, times the number of events, is not
    far below one, the local normalisation of `fit` is the better choice. Raises `InputError` for more than ten parameters, for
    which such a polynomial has too many terms, and where a mean of the ratio is not positive.
    """
    parameters = estimator.spec.parameters
    if len(parameters) > MOST_PARAMETERS:
        raise InputError(
            f"normalisation: expected at most {MOST_PARAMETERS} parameters for a polynomial over the prior; got {len(parameters)}: "
            "let fit normalise locally (estimators that keep reference events)"
        )
    one = torch.full((len(parameters),), 1.0, dtype=torch.float64)
    width = 0.5 * (parameters.from_normal(one) - parameters.from_normal(-one))
    monomials = Monomials(Ball.around(parameters.nominal, torch.diag(width**2), _PRIOR_SIGMA, parameters), order)
    points = monomials.design(0)
    share = reference.weight.double().cpu()
    share = share / share.sum()
    values = torch.stack([(share @ _ratio(estimator, reference.x, point)).log() for point in points])
    if not bool(values.isfinite().all()):
        raise InputError("normalisation: expected positive means of the ratio over the prior; some are not: use other reference events")
    coefficients = monomials.fit(points, values[None])[0]
    residual = (monomials(points) @ coefficients - values).square().mean().sqrt()
    return LocalNormalisation(monomials, coefficients, float(residual))


def _ratio(estimator: Estimator, x: Tensor, point: Tensor) -> Tensor:
    with torch.no_grad():
        return estimator.ratio(x, point).double().cpu()


def _mean(ratio: Tensor, share: Tensor) -> Tensor:
    """Weighted mean, its standard error (weights summing to one are taken as known) and the effective number of events."""
    # Of differences to 1, so that it is 1 to the last digit at nominal, where all ratios are.
    mean = 1 + share @ (ratio - 1)
    terms = share * ratio
    stderr = (share.square() @ (ratio - mean).square()).sqrt()
    return torch.stack([mean, stderr, terms.sum().square() / terms.square().sum()])


def _ends(parameters: ParameterSpace, column: int) -> tuple[float, float]:
    """Lowest and highest anchor of a nuisance, quartiles of the prior of a parameter of interest."""
    parameter = parameters.parameters[column]
    if parameter.kind == "nuisance":
        return (parameter.template_anchors[0], parameter.template_anchors[-1])
    quartiles = parameter.prior.from_normal(torch.special.ndtri(torch.tensor([0.25, 0.75], dtype=torch.float64)))
    return (float(quartiles[0]), float(quartiles[1]))


def _joint_signs(count: int) -> list[tuple[str, Tensor]]:
    """Rows of ``ends`` for each nuisance: all up, all down, alternating."""
    alternating = torch.arange(count) % 2
    return [
        ("up", torch.ones(count, dtype=torch.long)),
        ("down", torch.zeros(count, dtype=torch.long)),
        ("alternating", alternating),
        ("alternating back", 1 - alternating),
    ]
