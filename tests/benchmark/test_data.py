"""Training events: designs, budgets, and the same events for every estimator."""

import pytest
import torch

from touchneedle.benchmark.data import make_events, template_points
from touchneedle.toys.base import ExactToy, build_toy

DESIGNS = ("prior", "templates", "templates_joint", "pairs", "nominal")


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", ["gaussian_shift", "mass_bump", "two_moons", "fnf_two_class"])
def test_budget_is_exact_and_events_repeat(name: str, design: str) -> None:
    toy = build_toy(name)
    first, second = make_events(toy, 101, design, 3), make_events(toy, 101, design, 3)
    assert len(first) == 101
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.theta, second.theta)
    assert not torch.equal(first.x, make_events(toy, 101, design, 4).x)


def test_templates_have_equal_shares() -> None:
    toy = build_toy("fnf_two_class")
    events = make_events(toy, 5_000, "templates", 0)
    points, counts = torch.unique(events.theta[:, 1:], dim=0, return_counts=True)
    assert len(points) == 5
    assert counts.tolist() == [1_000] * 5
    assert ((events.theta[:, 1:] != 0).sum(1) <= 1).all()


def test_joint_templates_add_the_corners_of_pairs() -> None:
    space = build_toy("fnf_two_class").spec.parameters
    assert len(template_points(space, joint=True)) == 1 + 4 + 4
    assert len(torch.unique(template_points(space, joint=True), dim=0)) == 9


@pytest.mark.parametrize("name", ["gaussian_shift", "fnf_two_class"])
def test_pairs_carry_the_joint_ratio_at_the_hypothesis(name: str) -> None:
    toy = build_toy(name)
    assert isinstance(toy, ExactToy)
    events = make_events(toy, 40_000, "pairs", 0)
    assert events.generated_at is not None
    assert events.joint_log_ratio is not None
    nominal = (events.generated_at == toy.spec.parameters.nominal).all(1)
    assert int(nominal.sum()) == 20_000
    # Averaged over theta and the latent process, the joint ratio of nominal events has mean 1.
    ratio = events.joint_log_ratio[nominal].exp()
    near = events.theta[nominal].sub(toy.spec.parameters.nominal).abs().amax(1) < 0.5
    ratio = ratio[near]
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / len(ratio) ** 0.5
