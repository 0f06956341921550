"""Networks shared by estimators."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import linear


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


def on_grid(network: nn.Sequential, x: Tensor, theta: Tensor) -> Tensor:
    """An `mlp` of (x, theta), with one output, of every x (n, a) with every theta (m, b): shape (n, m).

    The first layer sees each x and each theta once: W [x, theta] + bias = W_x x + (W_theta theta + bias).
    """
    first, rest = network[0], network[1:]
    assert isinstance(first, nn.Linear)
    of_x, of_theta = first.weight.split([x.shape[1], theta.shape[1]], 1)
    hidden = linear(x, of_x)[:, None] + linear(theta, of_theta, first.bias)
    return rest(hidden.flatten(0, 1)).reshape(len(x), len(theta))
