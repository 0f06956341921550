"""What figures of results share: fonts and colours, an empty figure, labels with LaTeX names and units.

matplotlib is imported when something is drawn. Figures are built without pyplot, so that no global state changes and no
window opens: ``result.draw().savefig(path)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Feature, Parameter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = (0.6827, 0.95)
BLUE, RED, GREY, LIGHT, GREEN, YELLOW = "#0072b2", "#d55e00", "#606060", "#d9d9d9", "#a8dcab", "#f7ecb0"
DELTA_LNL = r"$2\,\Delta\,\ln L$"
_DPI = 130
_STYLE: Any = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the fonts and lines of this file; raises `InputError` where matplotlib is missing."""
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise InputError('figures: expected matplotlib; it is not installed: pip install "touchneedle[bench]"') from error
    with rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def label(axis: Parameter | Feature, unit: bool = True) -> str:
    """Name of a parameter or feature for an axis: LaTeX where it has some that can be set, and the unit in brackets."""
    name = f"${axis.latex}$" if axis.latex and _can_be_set(axis.latex) else plain_text(axis.name)
    return f"{name} [{plain_text(axis.unit)}]" if unit and axis.unit else name


def plain_text(text: str) -> str:
    """Text that matplotlib shows as it is."""
    return text.replace("$", r"\$")


def quantile(level: float, dimensions: int) -> float:
    """2 Delta ln L that holds ``level`` of chi2 with so many degrees of freedom (Wilks 1938)."""
    return float(stats.chi2.ppf(level, dimensions))


def percent(level: float) -> str:
    """A level as text: 68 %, 95 %."""
    return f"{100 * level:.3g} %" if abs(100 * level - round(100 * level)) < 1e-6 else f"{100 * level:.0f} %"


def _can_be_set(latex: str) -> bool:
    from matplotlib.mathtext import MathTextParser

    try:
        MathTextParser("path").parse(f"${latex}$")
    except ValueError:
        return False
    return True
