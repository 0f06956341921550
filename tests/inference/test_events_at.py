"""log_ratio with its gradient: frozen weights change nothing, and are free again afterwards."""

import pytest
import torch

from touchneedle.estimators.base import build_estimator
from touchneedle.inference.events_at import frozen, ratio_and_score
from touchneedle.toys.base import build_toy


@pytest.mark.parametrize("name", ["ratio_bce", "factorizable_flow"])
def test_frozen_weights_give_the_plain_ratio_and_score(name: str) -> None:
    toy = build_toy("fnf_two_class")
    estimator = build_estimator(name, toy.spec).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(50, toy.spec.x_dim, generator=generator, dtype=torch.float64)
    theta = (toy.spec.parameters.nominal + 0.2).expand(50, -1).clone().requires_grad_()
    ratio, score = ratio_and_score(estimator, x, theta)
    plain = estimator.relative_log_prob(x, theta)
    (gradient,) = torch.autograd.grad(plain.sum(), theta)
    torch.testing.assert_close(ratio, plain.detach())
    torch.testing.assert_close(score, gradient)
    assert all(parameter.requires_grad for parameter in estimator.parameters())


def test_weights_are_free_again_after_a_failure() -> None:
    module = torch.nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    with frozen(module):
        assert not module.weight.requires_grad
    with pytest.raises(RuntimeError, match="mat1"), frozen(module):
        module(torch.zeros(2, 3))
    assert module.weight.requires_grad
    assert not module.bias.requires_grad
