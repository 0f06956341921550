"""Training events: the same for every estimator, at a fixed budget, in a stated design.

* ``prior``: theta from the prior.
* ``templates``: parameters of interest from their prior; nuisances at nominal, or one of them at one
  of its anchors; equal shares. As experiments have them.
* ``templates_joint``: adds the corners (both at an anchor) of all nuisance pairs.
* ``pairs``: events generated half at theta and half at theta_0, with the hypothesis theta from the
  prior in both halves (mined gold).
* ``nominal``: all events at theta_0, with their joint score there (local observables).
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from touchneedle.benchmark.seeding import derive_generator
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.toys.base import Events, ExactToy, FiniteToy, MinedToy, ParameterSpace, SimulatedToy, Toy, concatenate
from touchneedle.toys.mixture import joint_truth


def make_events(toy: Toy, n_train: int, design: str, seed: int) -> Events:
    """``n_train`` training events of a toy; raises `SkipCell` if the toy cannot give them.

    Derived from (seed, "data", toy, budget, design): every estimator sees the same events.
    """
    return draw_events(toy, n_train, design, derive_generator(seed, "data", toy.spec.name, toy.spec.version, n_train, design))


def draw_events(toy: Toy, n_train: int, design: str, generator: torch.Generator) -> Events:
    """The same from any generator."""
    if isinstance(toy, FiniteToy):
        return _finite_events(toy, n_train, design, generator)
    if not isinstance(toy, SimulatedToy):
        raise InputError(f"toy {toy.spec.name}: expected a SimulatedToy or a FiniteToy; got {type(toy).__name__}")
    if design == "pairs":
        return _pair_events(toy, n_train, generator)
    if design == "nominal":
        return _nominal_events(toy, n_train, generator)
    return toy.sample(design_theta(toy.spec.parameters, n_train, design, generator), generator=generator)


def design_theta(space: ParameterSpace, n: int, design: str, generator: torch.Generator) -> Tensor:
    """One parameter point per event, shape (n, p), for the designs ``prior`` and ``templates*``."""
    theta = space.sample_prior(n, generator)
    if design == "prior":
        return theta
    points = template_points(space, joint=design == "templates_joint")
    which = torch.randperm(n, generator=generator) % len(points)
    columns = list(space.nuisance)
    theta[:, columns] = points[which][:, columns]
    return theta


def template_points(space: ParameterSpace, joint: bool) -> Tensor:
    """Nominal, each nuisance at each of its anchors, and (``joint``) the corners of all pairs: (t, p)."""
    moves: list[dict[int, float]] = [{}]
    anchors = {column: space.parameters[column].template_anchors for column in space.nuisance}
    moves += [{column: value} for column in space.nuisance for value in anchors[column]]
    if joint:
        for a, b in itertools.combinations(space.nuisance, 2):
            moves += [{a: low, b: high} for low, high in itertools.product(anchors[a], anchors[b])]
    points = space.nominal.repeat(len(moves), 1)
    for row, move in enumerate(moves):
        for column, value in move.items():
            points[row, column] = value
    return points


def _finite_events(toy: FiniteToy, n_train: int, design: str, generator: torch.Generator) -> Events:
    pool, mined = toy.pool("train"), design in ("pairs", "nominal")
    if n_train > len(pool):
        raise SkipCell(f"toy {toy.spec.name} has {len(pool)} training events, budget {n_train}; set budget.n_train={len(pool)} or less")
    events = pool[torch.randperm(len(pool), generator=generator)[:n_train]]
    if mined:
        if not isinstance(toy, MinedToy):
            raise SkipCell(f"design {design} needs a toy with joint ratios; {toy.spec.name} has none")
        return _mined_events(toy, events, design, generator)
    theta = design_theta(toy.spec.parameters, n_train, design, generator)
    if design == "prior" or events.generated_at is None:
        return replace(_at_unit_yield(toy, events, theta), base=None)
    return replace(_at_samples(toy, events, theta, template_points(toy.spec.parameters, design == "templates_joint"), generator), base=None)


def _at_samples(toy: FiniteToy, events: Events, theta: Tensor, points: Tensor, generator: torch.Generator) -> Events:
    """Events at templates (t, p), of which some have samples of their own: each event at one where it has weight.

    Chosen blindly, many would have none. Weighted by the share of the templates to choose from, the others are the same in the mean.
    """
    there = torch.stack([toy.reweight(events, point) != 0 for point in points], -1)
    there |= ~there.any(-1, keepdim=True)
    which = torch.multinomial(there.double(), 1, generator=generator)[:, 0]
    columns = list(toy.spec.parameters.nuisance)
    theta[:, columns] = points[which][:, columns]
    shown = _at_unit_yield(toy, events, theta)
    weight = shown.weight * there.double().mean(-1)
    return shown.with_weight(weight / weight.mean())


def _at_unit_yield(toy: FiniteToy, events: Events, theta: Tensor) -> Events:
    """Events of a pool at theta (n, p). Shapes are learned at every theta alike, without the yield, which the rates carry."""
    events = toy.at(events, theta)
    weight = events.weight / toy.expected_events(theta)
    return events.with_weight(weight / weight.mean())


def _mined_events(toy: MinedToy, events: Events, design: str, generator: torch.Generator) -> Events:
    """``pairs`` and ``nominal`` from a fixed sample: its events are shown at theta, not drawn there."""
    n, space = len(events), toy.spec.parameters
    theta, generated_at = space.sample_prior(n, generator), space.nominal.repeat(n, 1)
    if design == "nominal":
        theta = generated_at
    else:
        generated_at[: n // 2] = theta[: n // 2]
    shown = _at_unit_yield(toy, events, generated_at)
    log_ratio, score = toy.joint_truth(shown, theta)
    mined = replace(shown, theta=theta, generated_at=generated_at, joint_log_ratio=log_ratio, joint_score=score, base=None)
    return mined[torch.randperm(n, generator=generator)]


def _pair_events(toy: SimulatedToy, n_train: int, generator: torch.Generator) -> Events:
    toy = _with_gold(toy, "pairs")
    theta = toy.spec.parameters.sample_prior(n_train, generator)
    half = n_train // 2
    at_theta = toy.sample(theta[:half], generator=generator)
    at_nominal = toy.sample(toy.spec.parameters.nominal.expand(n_train - half, -1), generator=generator)
    events = concatenate([_at_hypothesis(toy, at_theta, theta[:half]), _at_hypothesis(toy, at_nominal, theta[half:])])
    return events[torch.randperm(n_train, generator=generator)]


def _nominal_events(toy: SimulatedToy, n_train: int, generator: torch.Generator) -> Events:
    toy = _with_gold(toy, "nominal")
    theta = toy.spec.parameters.nominal.repeat(n_train, 1)
    return _at_hypothesis(toy, toy.sample(theta, generator=generator), theta)


def _with_gold(toy: SimulatedToy, design: str) -> ExactToy:
    if not isinstance(toy, ExactToy):
        raise SkipCell(f"design {design} needs a toy with joint ratios; {toy.spec.name} has none")
    return toy


def _at_hypothesis(toy: ExactToy, events: Events, theta: Tensor) -> Events:
    """The same events with joint ratio and score evaluated at ``theta``, which need not have generated them."""
    if events.label is None:
        joint = toy.log_ratio(events.x, theta), toy.score(events.x, theta)
    else:
        joint = joint_truth(toy, events.x, events.label, theta)
    return replace(events, theta=theta, generated_at=events.theta, joint_log_ratio=joint[0], joint_score=joint[1])
