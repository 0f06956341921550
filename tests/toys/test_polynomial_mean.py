"""Means over events as polynomials, against the means themselves."""

import torch

from touchneedle.toys.polynomial_mean import PolynomialMean

RANGES = ((0.5, 1.5), (-4.0, 4.0))


def drawn(n=2_000):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64), torch.randint(3, (n,), generator=generator)


def test_it_is_the_mean_of_each_process_and_its_gradient():
    (z, label), generator = drawn(), torch.Generator().manual_seed(1)

    def f(a):
        return torch.special.ndtr(z[:, 0] + a)

    def g(b):
        return (0.2 * z[:, 1] * b - 0.02 * b**2).exp()

    mean = PolynomialMean.fit(RANGES, f, g, label, 3)
    low, high = torch.tensor(RANGES, dtype=torch.float64).T
    points = (low + (high - low) * torch.rand(20, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    found = mean(*points.T)
    expected = torch.stack([torch.stack([(f(a) * g(b))[label == k].mean() for k in range(3)]) for a, b in points])
    assert torch.allclose(found, expected, rtol=1e-6)
    slopes = [torch.autograd.grad(value.sum(), points, retain_graph=True)[0] for value in (found, expected)]
    assert torch.allclose(*slopes, rtol=1e-5, atol=1e-6)


def test_a_mean_of_products_is_not_a_product_of_means():
    z, label = drawn()
    mean = PolynomialMean.fit(RANGES, lambda a: a * z[:, 0], lambda b: b * z[:, 0], label, 3)
    one = torch.ones(1, dtype=torch.float64)
    expected = torch.stack([z[label == k, 0].square().mean() for k in range(3)])
    assert torch.allclose(mean(one, one)[0], expected, rtol=1e-9)
