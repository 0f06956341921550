"""The estimator contract: every family of NSBI answers ``log_ratio``. Read this first.

    log_ratio(x, theta) = log p(x|theta) - log p(x|theta_0),   theta_0 = spec.parameters.nominal

NLE gives it as a difference of log densities, NLRE of logits, NPE through posterior over prior,
NPSE by integrating scores. What a family can do beyond that is declared in ``capabilities``; a metric
names what it needs, and reports show n/a where it is missing.

Shapes, stated once: x (n, d), theta (n, p) or one point (p,), results (n,). Results are float64 and lie where x
lies; the computation runs in the module's own dtype (train in float32, call ``.double()`` to fit) on its own device. Authors
write the underscored methods on checked, cast, row-aligned tensors. State lives in parameters and
buffers only, so that ``state_dict`` is the whole estimator; a buffer may be sized in ``prepare``.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.estimators.chunks import joined
from touchneedle.estimators.pairs import on_pairs
from touchneedle.estimators.trained_range import OutsideTrainedRange, outside_range, range_of
from touchneedle.toys.base import Events, EventSource, Toy, ToySpec, check_matrix, expand_theta

Capability = Literal["log_prob", "sample", "score", "posterior_log_prob", "posterior_sample", "signed", "set"]
Design = Literal["prior", "templates", "templates_joint", "pairs", "nominal"]
# Rows computed at a time: activations of that many, or of half as many in float64, stay in the cache of a CPU (half the time of
# 2**16); elsewhere memory alone limits.
ROWS_IN_CACHE = 2**12
ROWS_IN_MEMORY = 2**18


@dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
        parameters: the parameters trained in it.
        event_filter: events (n) -> mask (n,) of those used; None for all.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    event_filter: Callable[[Events], Tensor] | None = None

    def select(self, events: Events) -> Events:
        """The events used in it."""
        return events if self.event_filter is None else events[self.event_filter(events)]


class Estimator(nn.Module, ABC):
    """Abstract. A learned (or exact) answer to ``log_ratio``, built from a `ToySpec`, never from the toy.

    Attributes:
        Config: dataclass of the options, with real defaults, in the estimator's own file.
        version: raised whenever the same training would give other numbers.
        capabilities: what it can do beyond ``log_ratio``.
        designs: event designs that it can be trained on.
        needs_truth: controls only; the toy is passed as third argument.
        normalised: E_{p(x|theta_0)}[exp log_ratio] = 1 by construction, at every theta.
        additive: the set-level ``log_likelihood_ratio`` is the sum over events.
        linear: log_ratio is t(x) . [c(theta) - c(theta_0)], see `linear_terms`: a fit needs one pass over the events.
    """

    Config: ClassVar[type]
    version: ClassVar[str] = "1"
    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    designs: ClassVar[frozenset[Design]] = frozenset({"prior"})
    needs_truth: ClassVar[bool] = False
    normalised: ClassVar[bool] = False
    additive: ClassVar[bool] = True
    linear: bool = False

    nominal: Tensor
    trained_range: Tensor

    def __init__(self, spec: ToySpec, config: Any) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        self.register_buffer("nominal", spec.parameters.nominal.float())
        self._warned = False
        ends = torch.tensor([[-torch.inf], [torch.inf]])
        self.register_buffer("trained_range", ends.expand(2, spec.theta_dim).clone())

    # What an author writes: _log_ratio always, the rest where the method learns or can do more.

    @abstractmethod
    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor: ...

    def _prepare(self, source: EventSource) -> None:
        """Learn standardisation from training events; closed-form methods fit here."""

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no loss: it is not trained by gradient")

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        raise self._lacks("log_prob")

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        raise self._lacks("sample")

    def _posterior_log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        raise self._lacks("posterior_log_prob")

    def _posterior_sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        raise self._lacks("posterior_sample")

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Override where log_ratio is a difference of two terms: the one at theta is enough."""
        return self._log_ratio(x, theta)

    def _linear_terms(self, x: Tensor) -> Tensor:
        raise self._lacks("linear terms")

    def _linear_coefficients(self, theta: Tensor) -> Tensor:
        raise self._lacks("linear terms")

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        """(n, m) from (n, d) and (m, p); override where work can be shared between thetas."""
        return on_pairs(self._log_ratio, x, theta)

    # Training.

    def prepare(self, source: EventSource) -> None:
        """See the training events once before training: standardisation, closed-form fits, the range of theta."""
        self._prepare(source)
        if not self.needs_truth:
            self.trained_range = self._cast(range_of(source))

    def stages(self) -> tuple[Stage, ...]:
        """Training stages in order; one with all parameters by default, none if there are no parameters."""
        parameters = tuple(p for p in self.parameters() if p.requires_grad)
        return (Stage("train", parameters),) if parameters else ()

    def loss(self, events: Events, generator: torch.Generator) -> Tensor:
        """Weighted loss of each event, shape (n,); the trainer only averages."""
        return self._loss(self._cast_events(events), generator)

    def finish(self, validation: Events) -> None:
        """Calibration or ensemble weights, from validation events; nothing by default."""

    # The one idea.

    def log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(x|theta) - log p(x|theta_0), shape (n,); NaN where a signed ratio is <= 0; warns outside the trained range."""
        self.warn_outside(theta)
        return self._in_chunks(self._log_ratio, x, theta)

    def log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        """``log_ratio`` of every event x (n, d) at every point theta (m, p): shape (n, m), in chunks of events."""
        self.warn_outside(theta)
        home = x.device
        x = self._cast(check_matrix("x", x, self.spec.x_dim))
        theta = self._cast(check_matrix("theta", theta, self.spec.theta_dim))
        size = max(1, self.rows_per_chunk // max(1, len(theta)))
        return joined((self._log_ratio_grid(part, theta).double().to(home) for part in x.split(size)), len(x))

    def relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """log_ratio up to a function of x alone, shape (n,): what a fit needs, often at half the cost."""
        return self._in_chunks(self._relative_log_prob, x, theta)

    def log_likelihood_ratio(self, events: Events, theta: Tensor) -> Tensor:
        """Weighted sum of ``log_ratio`` over a set of events at theta (m, p): shape (m,)."""
        return events.weight.double() @ self.log_ratio_grid(events.x, theta)

    def log_normalisation(self, theta: Tensor) -> Tensor:
        """log E[r(x|theta)] over the reference events at theta (m, p): shape (m,); 0 if not to be corrected.

        A fit subtracts it once per event (local normalisation): a ratio whose expectation drifts
        with theta biases the fit n times over.
        """
        return torch.zeros(len(theta), dtype=torch.float64, device=theta.device)

    # What is linear.

    def linear_terms(self, x: Tensor) -> Tensor:
        """t(x) of x (n, d), shape (n, k), without gradients; raises `InputError` unless the estimator is ``linear``."""
        home, x = x.device, self._cast(check_matrix("x", x, self.spec.x_dim))
        with torch.no_grad():
            return joined((self._linear_terms(part).double().to(home) for part in x.split(self.rows_per_chunk)), len(x))

    def linear_coefficients(self, theta: Tensor) -> Tensor:
        """c(theta) - c(theta_0) at theta (m, p), shape (m, k), differentiable; raises `InputError` unless it is ``linear``."""
        both = torch.cat([self.nominal[None], self._cast(check_matrix("theta", theta, self.spec.theta_dim))])
        values = self._linear_coefficients(both).double().to(theta.device)
        return values[1:] - values[:1]

    # By capability.

    def ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """p(x|theta) / p(x|theta_0), shape (n,); signed methods override it and may return negative values."""
        return self.log_ratio(x, theta).exp()

    def is_positive(self, x: Tensor, theta: Tensor) -> Tensor:
        """Whether a density that may be signed is positive, shape (n,); true for all others."""
        if "signed" not in self.capabilities:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        return ~self.relative_log_prob(x, theta).isnan()

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(x|theta), shape (n,)."""
        self.warn_outside(theta)
        return self._in_chunks(self._log_prob, x, theta)

    def sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """One x per row of theta (n, p): shape (n, d)."""
        return self._sample(self._cast(check_matrix("theta", theta, self.spec.theta_dim)), generator).to(theta.device)

    def score(self, x: Tensor, theta: Tensor) -> Tensor:
        """grad_theta log p(x|theta), shape (n, p); by default the gradient of ``relative_log_prob``."""
        theta = expand_theta(theta, len(x)).detach().clone().requires_grad_()
        with torch.enable_grad():
            (score,) = torch.autograd.grad(self.relative_log_prob(x, theta).sum(), theta)
        return score.double()

    def posterior_log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """log p(theta|x_1..x_k) for theta (b, p) and sets x (b, k, d): shape (b,)."""
        return self._posterior_log_prob(self._cast(theta), self._cast(self._check_sets(x))).double().to(x.device)

    def posterior_sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """``n`` draws from p(theta|x_1..x_k) for each set in x (b, k, d): shape (b, n, p)."""
        return self._posterior_sample(self._cast(self._check_sets(x)), n, generator).double().to(x.device)

    def cost(self) -> dict[str, float | int]:
        """What an answer costs in the method's own terms (steps, evaluations of a network); part of a record's cost."""
        return {}

    def warn_outside(self, theta: Tensor) -> None:
        """Warn (`OutsideTrainedRange`) once of the parameters that lie where no training event was; theta (..., p)."""
        if self._warned or theta.shape[-1:] != self.trained_range.shape[-1:]:
            return
        found = outside_range(theta, self.trained_range, self.spec.parameters.names)
        if found:
            self._warned = True
            message = (
                f"{type(self).__name__} was trained with {', '.join(found)} and is asked outside: its answers are extrapolations there"
            )
            warnings.warn(message, OutsideTrainedRange, stacklevel=3)

    # Housekeeping.

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the computation."""
        return self._first_tensor().dtype

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        return self._first_tensor().device

    @property
    def rows_per_chunk(self) -> int:
        """Rows computed at a time, on this device."""
        network = any(True for _ in self.parameters())
        if not network or self.device.type != "cpu":
            return ROWS_IN_MEMORY
        return ROWS_IN_CACHE // 2 if self.dtype == torch.float64 else ROWS_IN_CACHE

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a ``state_dict`` whose buffers may have been sized in ``prepare``; one without a trained range keeps none."""
        ranges = {name: buffer for name, buffer in self.named_buffers() if name.endswith("trained_range")}
        tensors = {**ranges, **tensors}
        for name, buffer in list(self.named_buffers()):
            if name in tensors and tensors[name].shape != buffer.shape:
                owner, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(owner), leaf, buffer.new_empty(tensors[name].shape))
        self.load_state_dict(dict(tensors))

    def require(self, capability: Capability) -> None:
        """Raise `InputError` if the estimator lacks a capability."""
        if capability not in self.capabilities:
            raise self._lacks(capability)

    def _lacks(self, capability: str) -> InputError:
        have = ", ".join(sorted(self.capabilities)) or "log_ratio only"
        return InputError(f"{type(self).__name__} has no {capability}; it offers: {have}")

    def _in_chunks(self, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, theta: Tensor) -> Tensor:
        """function(x, theta), shape (n,) in float64, of checked rows, a chunk at a time."""
        home = x.device
        x, theta = self._checked(x, theta)
        size = self.rows_per_chunk
        if len(x) <= size:
            return function(x, theta).double().to(home)
        return joined((function(*pair).double().to(home) for pair in zip(x.split(size), theta.split(size), strict=True)), len(x))

    def _first_tensor(self) -> Tensor:
        return next(t for t in itertools.chain(self.parameters(), self.buffers()) if t.is_floating_point())

    def _checked(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        x = check_matrix("x", x, self.spec.x_dim)
        theta = check_matrix("theta", expand_theta(theta, len(x)), self.spec.theta_dim)
        return self._cast(x), self._cast(theta)

    def _check_sets(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.spec.x_dim:
            raise InputError(f"x: expected shape (b, n_set, {self.spec.x_dim}); got {tuple(x.shape)}")
        return x

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self._first_tensor())

    def _cast_events(self, events: Events) -> Events:
        values, like = {name: getattr(events, name) for name in _FLOAT_COLUMNS}, self._first_tensor()
        columns: dict[str, Any] = {name: None if value is None else value.to(like) for name, value in values.items()}
        return Events(label=events.label, **columns)


_FLOAT_COLUMNS = ("x", "theta", "weight", "generated_at", "joint_log_ratio", "joint_score")


def in_float32(estimator: Estimator) -> Estimator:
    """A copy of a network for mass production, twice as fast as in float64; closed forms are returned as they are."""
    return copy.deepcopy(estimator).float() if any(True for _ in estimator.parameters()) else estimator


def build_estimator(name: str, spec: ToySpec, *, truth: Toy | None = None, **params: Any) -> Estimator:
    """The estimator called ``name`` for a toy's spec; raises `InputError` for a wrong name or option.

    ``truth`` is the toy itself, required by (and passed to) controls with ``needs_truth`` only.
    """
    estimator_class: Any = registry.estimators.load(name)
    config = registry.build_options(estimator_class.Config, params, f"estimator {name}")
    if not estimator_class.needs_truth:
        return estimator_class(spec, config)
    if truth is None:
        raise InputError(f"estimator {name} is a control: expected the toy as truth=...; got none")
    return estimator_class(spec, config, truth)


def register_estimator(name: str) -> Callable[[registry.Component], registry.Component]:
    """Class decorator: makes an estimator available under ``name`` in this process."""
    return registry.estimators.register(name)
