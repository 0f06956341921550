"""Gaussian-process ratio: classifiers of events at templates, morphed over the joint space of the nuisances.

    log r(x|mu, nu) = log r(x|mu, nu_0) + sum_j a_j(nu) g_j(x, mu)

g_j is the log ratio of template j to nominal nuisances, learned as in `ratio_morphed`; a_j(nu) are the weights with which a Gaussian
process over nu (constant times RBF kernel, zero at nominal) interpolates between the templates (`MorphingProcess`). They are the same for
all events: lengths and noise of the process are fitted to the log ratios of validation events. Binned relative: the "gpsys" modifier
of pyhf (github.com/pyhf/pyhf-gpsys). Any anchors will do, also those of two nuisances at once (``pair_terms``); far beyond them the
process returns to nominal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Design
from touchneedle.estimators.gaussian_process import MorphingProcess
from touchneedle.estimators.ratio_morphed import RatioMorphed, RatioMorphedConfig
from touchneedle.estimators.templates import JointTemplates
from touchneedle.toys.base import Events, ToySpec


@dataclass
class RatioGpConfig(RatioMorphedConfig):
    """Options of `RatioGp`: those of every `RatioNetwork`, and the templates.

    Attributes:
        pair_terms: templates of two nuisances at once; they need events of design ``templates_joint``.
    """

    pair_terms: bool = False


class RatioGp(RatioMorphed):
    """One network of (x, mu): the logit at nominal nuisances, then the log ratios of all other templates."""

    Config = RatioGpConfig
    designs: ClassVar[frozenset[Design]] = frozenset({"templates", "templates_joint"})

    def __init__(self, spec: ToySpec, config: RatioGpConfig) -> None:
        super().__init__(spec, config)
        if not self.nuisance:
            raise SkipCell(f"ratio_gp needs nuisance parameters; toy {spec.name} has none: use ratio_bce")
        templates = self._make_templates()
        self.process = MorphingProcess(templates.alpha(templates.theta()[1:]).float())

    def finish(self, validation: Events) -> None:
        """Fit the process to the log ratios of validation events at nominal nuisances and at the templates."""
        events = self._cast_events(validation)
        with torch.no_grad():
            values = self._in_chunks(lambda x, theta: self._outputs(x, theta)[1], events.x, events.theta)
        # The process is the same for events of either sign.
        self.process.learn(values, events.weight.abs())

    def _make_templates(self) -> JointTemplates:
        return JointTemplates(self.spec.parameters, "ratio_gp", pairs=self.config.pair_terms)

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        at_nominal, log_templates = self._outputs(x, theta)
        return at_nominal + (self.process(self.templates.alpha(theta)) * log_templates).sum(1)
