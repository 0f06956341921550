"""Networks shared by estimators."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn


def mlp(
    in_features: int, out_features: int, hidden: Sequence[int] = (128, 128, 128), activation: type[nn.Module] = nn.SiLU
) -> nn.Sequential:
    """A multilayer perceptron, linear at its end.

    Keep the smooth activation wherever theta enters: kinks of ReLU in the likelihood break minimisation.
    """
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise((in_features, *hidden)):
        layers += [nn.Linear(size_in, size_out), activation()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else in_features, out_features))
