"""What a metric may look at: the toy, the trained estimator in float64, the frozen test events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, EventSource, ExactToy, FiniteToy, SignedToy, SimulatedToy, Toy

# Prior quantiles of the parameters of interest at the theta points beyond nominal; nuisances sit at
# plus or minus one constraint sigma there, with alternating signs.
POINT_QUANTILES = (0.25, 0.75, 0.4, 0.6)
# Numbers of x and theta in a batch of test events: networks make some hundred numbers of each.
BATCH_NUMBERS = 2**17


@dataclass(frozen=True)
class EvaluationContext:
    """Toy, estimator and seeds of one evaluation; test events do not depend on the estimator.

    Attributes:
        seed: base seed of the test events (one per toy and repetition, the same for all estimators).
        retrain: trains the same method as network k on an event set of its own; None where nobody can.
        training: gives the events that the estimator was trained on; None where nobody knows.
    """

    toy: Toy
    estimator: Estimator
    config: EvaluationConfig
    seed: int
    retrain: Callable[[int], Estimator] | None = None
    training: Callable[[], EventSource] | None = None

    def generator(self, *labels: object) -> torch.Generator:
        """A generator for one purpose, the same for every estimator of this toy."""
        return derive_generator(self.seed, "test", self.toy.spec.name, *labels)

    @cached_property
    def points(self) -> Tensor:
        """The theta points (n_points, p): nominal first."""
        return theta_points(self.toy, self.config.n_points)

    @cached_property
    def oracle(self) -> Estimator | None:
        """The exact answer, in float64, where the toy has one."""
        if not isinstance(self.toy, ExactToy | SignedToy):
            return None
        return build_estimator("oracle", self.toy.spec, truth=self.toy).double()

    def events_at(self, theta: Tensor, n: int, *labels: object) -> Events:
        """``n`` test events at one theta point (p,); for finite toys the whole test split, moved and reweighted."""
        toy = self.toy
        if isinstance(toy, FiniteToy):
            return toy.at(toy.pool("test"), theta)
        if not isinstance(toy, SimulatedToy):
            raise TypeError(f"{toy.spec.name} can neither be sampled nor reweighted")
        return toy.sample(theta.expand(n, -1), generator=self.generator(*labels))

    @property
    def batch_size(self) -> int:
        """Events that fit into memory at once, whatever is computed of them."""
        return BATCH_NUMBERS // max(4, self.toy.spec.x_dim + self.toy.spec.theta_dim) + 1

    def batches_at(self, theta: Tensor, n: int, *labels: object) -> Iterator[Events]:
        """The same as `events_at` in batches, so that any number of events can be looked at."""
        if isinstance(self.toy, FiniteToy):
            yield from self.events_at(theta, n, *labels).batches(self.batch_size)
            return
        for start in range(0, n, self.batch_size):
            yield self.events_at(theta, min(self.batch_size, n - start), *labels, start)

    def observed_at(self, theta: Tensor, n: int, *labels: object) -> Events:
        """Like `events_at`, but as data come: signed toys give events of unit weight, or raise `InputError`."""
        if isinstance(self.toy, SignedToy):
            return self.toy.observe(theta.expand(n, -1), generator=self.generator(*labels))
        return self.events_at(theta, n, *labels)


def theta_points(toy: Toy, n_points: int) -> Tensor:
    """Nominal, then points with the parameters of interest at prior quantiles and nuisances at +-1 sigma."""
    space = toy.spec.parameters
    points = [space.nominal]
    for k, quantile in enumerate(POINT_QUANTILES[: n_points - 1]):
        u = torch.full((len(space),), quantile, dtype=torch.float64)
        point = space.from_normal(torch.special.ndtri(u))
        for order, column in enumerate(space.nuisance):
            anchors = space.parameters[column].template_anchors
            point[column] = anchors[-1] if (order + k) % 2 == 0 else anchors[0]
        points.append(point)
    return torch.stack(points)
