"""How pseudo-experiments are fitted: on a surface or exactly, and when a surface is given up; see `pseudo_fits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FitOptions:
    """How pseudo-experiments are fitted; the defaults are the measured ones.

    Attributes:
        method: ``auto`` chooses; ``surface`` and ``batched`` force one.
        radius: of the design ball, in sigma.
        order: of the polynomial surface; 0 chooses: 4 for up to 3 parameters and few events, 3 otherwise.
        few_events: what is not few: of fewer, ln L is farther from quadratic over 4 sigma (below 300, error 0.04 sigma at order 3,
            0.006 at order 4).
        min_points: design points at the least (1.6 per coefficient otherwise).
        max_parameters: above it the surface is not tried.
        min_share_in_bounds: of the ball; below it the surface is not tried.
        centre_events: pool events used to find the centre at most, and 20 per event of an experiment (0.2 sigma).
        n_check: fits repeated exactly.
        max_check_rms: largest rms difference (sigma) of these before the surface is declared failed.
        max_outside: largest share of maxima outside the ball, likewise.
        max_exact: exact fits at most, beyond the checked ones; experiments after them are left out.
        n_starts: starting points of exact fits: the centre, and with 2 the truth; the best maximum is kept.
        give_up: exact fits fail where they would leave the ball of a local normalisation, beyond which ln L means nothing;
            otherwise they go on to the bounds.
    """

    method: Literal["auto", "surface", "batched"] = "auto"
    radius: float = 4.0
    order: int = 0
    few_events: float = 300.0
    min_points: int = 32
    max_parameters: int = 5
    min_share_in_bounds: float = 0.75
    centre_events: int = 10_000
    n_check: int = 20
    max_check_rms: float = 0.1
    max_outside: float = 0.5
    max_exact: int = 500
    n_starts: int = 1
    give_up: bool = False
