"""What one would write without us: a loop of MIGRAD fits of one pseudo-experiment after the other, with gradients by torch."""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import torch
from iminuit import Minuit
from torch import Tensor

from touchneedle.estimators.base import Estimator
from touchneedle.inference.pseudo_experiments import PseudoExperiments
from touchneedle.inference.terms import ExactTerms


def fit_one(estimator: Estimator, experiments: PseudoExperiments, terms: ExactTerms, number: int) -> tuple[float, float]:
    """CPU seconds of the fit of one pseudo-experiment, from the truth, and of those with a parameter of interest fixed there."""
    minuit = problem_of(estimator, experiments, terms, number)
    started = time.process_time()
    minuit.migrad()
    free = time.process_time()
    for column in terms.parameters.interest:
        minuit.values[column] = float(experiments.theta_true[column])
        minuit.fixed[column] = True
        minuit.migrad()
        minuit.fixed[column] = False
    return free - started, time.process_time() - free


def problem_of(estimator: Estimator, experiments: PseudoExperiments, terms: ExactTerms, number: int) -> Minuit:
    """-ln L of one pseudo-experiment, at the truth."""
    x = experiments.pool.x[experiments.index[experiments.owner == number]]
    data = experiments.summaries[torch.tensor([number])]

    def cost(theta: Tensor) -> Tensor:
        return -estimator.relative_log_prob(x, theta.expand(len(x), -1)).sum() - terms(theta[None], data)[0]

    def value(theta: np.ndarray) -> float:
        with torch.no_grad():
            return float(cost(torch.tensor(np.array(theta))))

    def gradient(theta: np.ndarray) -> np.ndarray:
        at = torch.tensor(np.array(theta), requires_grad=True)
        return torch.autograd.grad(cost(at), at)[0].numpy()

    names = estimator.spec.parameters.names
    minuit = Minuit(cast(Any, value), experiments.theta_true.numpy(), grad=cast(Any, gradient), name=names)
    minuit.errordef = Minuit.LIKELIHOOD
    minuit.limits = list(zip(*terms.range.tolist(), strict=True))
    return minuit
