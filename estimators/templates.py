"""Nuisance templates of a design: nominal, and each nuisance alone at an anchor on either side."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.toys.base import Parameter, ParameterSpace


class Templates:
    """Which events belong to which template, in the order nominal, then (down, up) of each of the q nuisances.

    Attributes:
        owner: registry name of the estimator that asks, for its errors.
        nuisance: columns of theta.
        anchors: (down, up) of each nuisance, at equal distances from nominal.
    """

    def __init__(self, space: ParameterSpace, owner: str) -> None:
        """Raises `SkipCell` for anchors that are not symmetric."""
        self.space, self.owner = space, owner
        self.nuisance = list(space.nuisance)
        self.anchors = [_anchors(space.parameters[column], owner) for column in self.nuisance]

    def __len__(self) -> int:
        return 1 + 2 * len(self.nuisance)

    def members(self, theta: Tensor) -> Tensor:
        """Mask (n, 1 + 2 q) of theta (n, p); events at two anchors at once belong to none."""
        value = theta.double()[:, self.nuisance]
        at_nominal = _equal(value, self.space.nominal[self.nuisance].to(value))
        anchors = torch.tensor(self.anchors, dtype=torch.float64, device=value.device).reshape(-1, 2)
        alone = (~at_nominal).sum(1) == 1
        at_anchor = _equal(value[..., None], anchors) & alone[:, None, None]
        return torch.cat([at_nominal.all(1)[:, None], at_anchor.flatten(1)], 1)

    def require_all(self, members: Tensor) -> None:
        """Raise `SkipCell` naming the first template without events."""
        for name, mask in zip(["nominal nuisances", *self._names()], members.T, strict=True):
            if not bool(mask.any()):
                raise SkipCell(f"{self.owner} needs events of the template {name!r}; found none: {self._remedy()}")

    def _names(self) -> list[str]:
        """Names of the templates after nominal."""
        return [f"{self.space.names[c]} = {anchor:g}" for c, pair in zip(self.nuisance, self.anchors, strict=True) for anchor in pair]

    def _remedy(self) -> str:
        return "choose design=templates"

    def alpha(self, theta: Tensor) -> Tensor:
        """Nuisances in units where their anchors lie at -1 and 1, shape (n, q)."""
        low, high = torch.tensor(self.anchors, dtype=theta.dtype, device=theta.device).reshape(-1, 2).T
        return (2 * theta[:, self.nuisance] - (low + high)) / (high - low)


class JointTemplates(Templates):
    """Nominal, each nuisance alone at each of its anchors, and (``pairs``) two of them at an anchor each: any number of anchors.

    Attributes:
        points: values of the nuisances at every template (t, q), nominal first.
    """

    def __init__(self, space: ParameterSpace, owner: str, *, pairs: bool) -> None:
        self.space, self.owner, self.pairs = space, owner, pairs
        self.nuisance = list(space.nuisance)
        values = [space.parameters[column].template_anchors for column in self.nuisance]
        moves = [{k: value} for k, own in enumerate(values) for value in own]
        if pairs:
            for k, m in itertools.combinations(range(len(values)), 2):
                moves += [{k: first, m: second} for first, second in itertools.product(values[k], values[m])]
        self.moves = moves
        self.points = space.nominal[self.nuisance].repeat(1 + len(moves), 1)
        for row, move in enumerate(moves, start=1):
            for k, value in move.items():
                self.points[row, k] = value
        # One unit of alpha on either side of nominal.
        self.anchors = [(2 * space.nominal[c].item() - far, far) for c, far in zip(self.nuisance, self._farthest(values), strict=True)]

    def __len__(self) -> int:
        return len(self.points)

    def theta(self) -> Tensor:
        """theta of every template, with nominal parameters of interest (t, p)."""
        theta = self.space.nominal.repeat(len(self), 1)
        theta[:, self.nuisance] = self.points
        return theta

    def members(self, theta: Tensor) -> Tensor:
        """Mask (n, t) of theta (n, p)."""
        value = theta.double()[:, self.nuisance]
        return _equal(value[:, None], self.points.to(value.device)).all(-1)

    def _names(self) -> list[str]:
        names = [self.space.names[column] for column in self.nuisance]
        return [", ".join(f"{names[k]} = {value:g}" for k, value in move.items()) for move in self.moves]

    def _remedy(self) -> str:
        return "choose design=templates_joint, or pair_terms=false" if self.pairs else super()._remedy()

    def _farthest(self, values: list[tuple[float, ...]]) -> list[float]:
        """The anchor farthest above nominal in distance, for each nuisance."""
        nominal = self.space.nominal[self.nuisance].tolist()
        return [centre + max(abs(value - centre) for value in own) for centre, own in zip(nominal, values, strict=True)]


def _anchors(parameter: Parameter, owner: str) -> tuple[float, float]:
    """The nearest anchors below and above nominal; raises `SkipCell` unless they are symmetric."""
    below = [anchor for anchor in parameter.template_anchors if anchor < parameter.nominal]
    above = [anchor for anchor in parameter.template_anchors if anchor > parameter.nominal]
    if below and above:
        low, high = max(below), min(above)
        if abs(low + high - 2 * parameter.nominal) <= 1e-6 * (high - low):
            return low, high
    raise SkipCell(
        f"{owner} needs anchors of {parameter.name} at equal distances below and above its nominal "
        f"{parameter.nominal:g}; got {parameter.template_anchors}"
    )


def _equal(value: Tensor, target: Tensor) -> Tensor:
    """Equal up to the rounding of float32."""
    return (value - target).abs() <= 1e-5 * target.abs().clamp_min(1)
