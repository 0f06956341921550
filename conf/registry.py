"""The registry: one sorted table of names, and the three doors by which others join it.

Built-ins stand in the tables below (the one line that a new component adds). Plugins come through
the entry-point groups ``touchneedle.toys`` and ``touchneedle.estimators``, through the decorators
``register_toy`` and ``register_estimator``, or through ``--plugin file.py``. Nothing is imported
until its name is chosen.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from touchneedle.conf.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TOY_TABLE = {
    "amplitude_interference": "touchneedle.toys.amplitude_interference:AmplitudeInterference",
    "breit_wigner_interference": "touchneedle.toys.breit_wigner_interference:BreitWignerInterference",
    "checkerboard": "touchneedle.toys.checkerboard:Checkerboard",
    "copula": "touchneedle.toys.copula:Copula",
    "counting_and_shape": "touchneedle.toys.counting_and_shape:CountingAndShape",
    "crystal_ball": "touchneedle.toys.crystal_ball:CrystalBall",
    "dalitz": "touchneedle.toys.dalitz:Dalitz",
    "decay_time": "touchneedle.toys.decay_time:DecayTime",
    "dijet": "touchneedle.toys.dijet:Dijet",
    "dirichlet_fractions": "touchneedle.toys.dirichlet_fractions:DirichletFractions",
    "drell_yan_angular": "touchneedle.toys.drell_yan_angular:DrellYanAngular",
    "drell_yan_angular_mc": "touchneedle.toys.drell_yan_angular_mc:DrellYanAngularMc",
    "eft_quadratic": "touchneedle.toys.eft_quadratic:EftQuadratic",
    "energy_scale": "touchneedle.toys.energy_scale:EnergyScale",
    "event_table": "touchneedle.toys.event_table:EventTable",
    "fair_universe": "touchneedle.toys.fair_universe:FairUniverse",
    "fnf_two_class": "touchneedle.toys.fnf_two_class:FnfTwoClass",
    "forward_backward": "touchneedle.toys.forward_backward:ForwardBackward",
    "gaussian_mixture": "touchneedle.toys.gaussian_mixture:GaussianMixture",
    "gaussian_shift": "touchneedle.toys.gaussian_shift:GaussianShift",
    "higgs_tautau": "touchneedle.toys.higgs_tautau:HiggsTautau",
    "linear_gaussian": "touchneedle.toys.linear_gaussian:LinearGaussian",
    "many_nuisances": "touchneedle.toys.many_nuisances:ManyNuisances",
    "mass_bump": "touchneedle.toys.mass_bump:MassBump",
    "mixed_multiplicity": "touchneedle.toys.mixed_multiplicity:MixedMultiplicity",
    "mixture_weights": "touchneedle.toys.mixture_weights:MixtureWeights",
    "near_manifold": "touchneedle.toys.near_manifold:NearManifold",
    "neutrino_oscillation": "touchneedle.toys.neutrino_oscillation:NeutrinoOscillation",
    "offshell_interference": "touchneedle.toys.offshell_interference:OffshellInterference",
    "power_law_tail": "touchneedle.toys.power_law_tail:PowerLawTail",
    "signed_mixture": "touchneedle.toys.signed_mixture:SignedMixture",
    "slcp": "touchneedle.toys.slcp:Slcp",
    "spherical_shell": "touchneedle.toys.spherical_shell:SphericalShell",
    "two_moons": "touchneedle.toys.two_moons:TwoMoons",
}

ESTIMATOR_TABLE = {
    "affine_flow": "touchneedle.estimators.affine_flow:AffineFlow",
    "best_gaussian": "touchneedle.estimators.best_gaussian:BestGaussian",
    "counting": "touchneedle.estimators.counting:Counting",
    "diffusion_likelihood": "touchneedle.estimators.diffusion_likelihood:DiffusionLikelihood",
    "event_embedding": "touchneedle.estimators.event_embedding:EventEmbedding",
    "factorizable_flow": "touchneedle.estimators.factorizable_flow:FactorizableFlow",
    "flow_matching": "touchneedle.estimators.flow_matching:FlowMatching",
    "flow_times_ratio": "touchneedle.estimators.flow_times_ratio:FlowTimesRatio",
    "kernel_density": "touchneedle.estimators.kernel_density:KernelDensity",
    "mined_alice": "touchneedle.estimators.mined_alice:MinedAlice",
    "mined_alices": "touchneedle.estimators.mined_alices:MinedAlices",
    "mined_rascal": "touchneedle.estimators.mined_rascal:MinedRascal",
    "mined_rolr": "touchneedle.estimators.mined_rolr:MinedRolr",
    "mined_scandal": "touchneedle.estimators.mined_scandal:MinedScandal",
    "mixture_density": "touchneedle.estimators.mixture_density:MixtureDensity",
    "nflows_coupling_nsf": "touchneedle.estimators.nflows_coupling_nsf:NflowsCouplingNsf",
    "nflows_maf": "touchneedle.estimators.nflows_maf:NflowsMaf",
    "nflows_nsf": "touchneedle.estimators.nflows_nsf:NflowsNsf",
    "normflows_nsf": "touchneedle.estimators.normflows_nsf:NormflowsNsf",
    "normflows_realnvp": "touchneedle.estimators.normflows_realnvp:NormflowsRealnvp",
    "oracle": "touchneedle.estimators.oracle:Oracle",
    "oracle_narrow": "touchneedle.estimators.oracle_narrow:OracleNarrow",
    "oracle_shifted": "touchneedle.estimators.oracle_shifted:OracleShifted",
    "posterior_flow": "touchneedle.estimators.posterior_flow:PosteriorFlow",
    "posterior_flow_matching": "touchneedle.estimators.posterior_flow_matching:PosteriorFlowMatching",
    "posterior_mixture": "touchneedle.estimators.posterior_mixture:PosteriorMixture",
    "posterior_score": "touchneedle.estimators.posterior_score:PosteriorScore",
    "ratio_balanced": "touchneedle.estimators.ratio_balanced:RatioBalanced",
    "ratio_bce": "touchneedle.estimators.ratio_bce:RatioBce",
    "ratio_gp": "touchneedle.estimators.ratio_gp:RatioGp",
    "ratio_morphed": "touchneedle.estimators.ratio_morphed:RatioMorphed",
    "ratio_nre_c": "touchneedle.estimators.ratio_nre_c:RatioNreC",
    "ratio_parametric": "touchneedle.estimators.ratio_parametric:RatioParametric",
    "ratio_quadratic": "touchneedle.estimators.ratio_quadratic:RatioQuadratic",
    "ratio_regression": "touchneedle.estimators.ratio_regression:RatioRegression",
    "ratio_signed_mixture": "touchneedle.estimators.ratio_signed_mixture:RatioSignedMixture",
    "ratio_signed_pare": "touchneedle.estimators.ratio_signed_pare:RatioSignedPare",
    "ratio_signed_revert": "touchneedle.estimators.ratio_signed_revert:RatioSignedRevert",
    "ratio_wifi": "touchneedle.estimators.ratio_wifi:RatioWifi",
    "score_sally": "touchneedle.estimators.score_sally:ScoreSally",
    "spline_flow": "touchneedle.estimators.spline_flow:SplineFlow",
    "template_histogram": "touchneedle.estimators.template_histogram:TemplateHistogram",
    "zuko_cnf": "touchneedle.estimators.zuko_cnf:ZukoCnf",
    "zuko_gf": "touchneedle.estimators.zuko_gf:ZukoGf",
    "zuko_maf": "touchneedle.estimators.zuko_maf:ZukoMaf",
    "zuko_nsf": "touchneedle.estimators.zuko_nsf:ZukoNsf",
    "zuko_realnvp": "touchneedle.estimators.zuko_realnvp:ZukoRealnvp",
}

ENSEMBLE_TABLE = {
    "average": "touchneedle.estimators.ensemble:AveragedEnsemble",
    "mean": "touchneedle.estimators.ensemble:Ensemble",
    "wifi": "touchneedle.estimators.wifi_ensemble:WifiEnsemble",
}

GENERATOR_TABLE = {
    "drell_yan_angular_mc": "touchneedle.toys.drell_yan_pythia:DrellYanPythia",
    "higgs_tautau": "touchneedle.toys.higgs_tautau_pythia:HiggsTautauPythia",
}

BUILT_IN = "touchneedle"
Component = TypeVar("Component", bound=type)


@dataclass(frozen=True)
class Entry:
    """Where a component comes from: its name, ``module:Class`` target and distribution."""

    name: str
    target: str
    distribution: str


class Registry:
    """Names of one kind of component (``toy``, ``estimator``, ``ensemble`` or ``generator``), imported only when chosen."""

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = f"touchneedle.{kind}s"
        self._table = table
        self._registered: dict[str, tuple[type, str]] = {}

    def entries(self) -> dict[str, Entry]:
        """All names, sorted, with their origin; raises `InputError` on a name claimed twice."""
        found = {name: Entry(name, target, BUILT_IN) for name, target in self._table.items()}
        for point in self._entry_points():
            self._claim(found, Entry(point.name, point.value, _distribution(point)))
        for name, (component, origin) in self._registered.items():
            target = f"{component.__module__}:{component.__qualname__}"
            self._claim(found, Entry(name, target, origin))
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """Sorted names of everything that can be chosen."""
        return list(self.entries())

    def entry(self, name: str) -> Entry:
        """Origin of ``name``; raises `InputError` listing the known names."""
        found = self.entries()
        if name not in found:
            raise InputError(self._unknown(name, list(found)))
        return found[name]

    def load(self, name: str) -> type:
        """Import and return the class called ``name``; raises `InputError` if it is unknown or broken."""
        entry = self.entry(name)
        if name in self._registered:
            return self._registered[name][0]
        return _import_target(entry, self.kind)

    def broken(self) -> dict[str, str]:
        """Plugin names that fail to import, each with its reason (imports every plugin)."""
        reasons = {}
        for entry in self.entries().values():
            if entry.distribution == BUILT_IN:
                continue
            try:
                self.load(entry.name)
            except InputError as error:
                reasons[entry.name] = str(error)
        return reasons

    def register(self, name: str) -> Callable[[Component], Component]:
        """Decorator that adds a class under ``name`` for this process (notebooks, tests, plugin files)."""

        def add(component: Component) -> Component:
            known = self.entries()
            target = f"{component.__module__}:{component.__qualname__}"
            if name in known and known[name].target != target:
                raise InputError(f"{self.kind} {name!r} exists already ({known[name].target}); choose another name for {target}")
            self._registered[name] = (component, _origin(component))
            return component

        return add

    def _entry_points(self) -> list[EntryPoint]:
        points = _installed(entry_points, self.group, tuple(sys.path))
        return sorted((point for point in points if self._table.get(point.name) != point.value), key=lambda point: point.name)

    def _claim(self, found: dict[str, Entry], entry: Entry) -> None:
        other = found.get(entry.name)
        if other is not None and other.target != entry.target:
            raise InputError(
                f"{self.kind} {entry.name!r} is claimed twice: by {other.target} ({other.distribution}) "
                f"and {entry.target} ({entry.distribution}); uninstall or rename one"
            )
        found[entry.name] = entry

    def _unknown(self, name: str, names: list[str]) -> str:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        return f"unknown {self.kind} {name!r}{hint} Known: {', '.join(names)}"


toys = Registry("toy", TOY_TABLE)
estimators = Registry("estimator", ESTIMATOR_TABLE)
# Combinations of estimators of one kind, built from their members.
ensembles = Registry("ensemble", ENSEMBLE_TABLE)
# What `touchneedle data make` generates, under the name of the toy that reads it.
generators = Registry("generator", GENERATOR_TABLE)


def load_plugin_file(path: str | Path) -> None:
    """Import a Python file whose decorators register components; raises `InputError` with the reason."""
    file = Path(path).resolve()
    if not file.is_file():
        raise InputError(f"plugin {file}: no such file")
    module_name = f"touchneedle_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"plugin {file}: expected a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise InputError(f"plugin {file} failed to import: {_reason(error)}") from error


def build_options(config_class: type, params: Mapping[str, Any], owner: str) -> Any:
    """Fill the dataclass ``config_class`` from ``params``; raises `InputError` naming the wrong field."""
    from pydantic import ValidationError

    known = [field.name for field in dataclasses.fields(config_class)]
    for name in params:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(f"{owner}: unknown option {name!r}{hint}; known options: {', '.join(known) or 'none'}")
    try:
        return _reader(config_class).validate_python(dict(params))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{owner}: option {field}: {first['msg']}; got {first['input']!r}") from error


def _import_target(entry: Entry, kind: str) -> type:
    module_name, _, class_name = entry.target.partition(":")
    try:
        component = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise InputError(f"{kind} {entry.name!r} from {entry.distribution} failed to import: {_reason(error)}") from error
    if not isinstance(component, type):
        raise InputError(f"{kind} {entry.name!r} from {entry.distribution}: expected a class at {entry.target}")
    return component


@cache
def _installed(find: Callable[..., Iterable[EntryPoint]], group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of a group, looked for once on a path: that opens a file of every installed package."""
    return tuple(find(group=group))


@cache
def _reader(config_class: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(config_class)


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"


def _origin(component: type) -> str:
    """The plugin file with its content hash, or the module that defined the class."""
    file = getattr(sys.modules.get(component.__module__), "__file__", None)
    if file is None:
        return component.__module__
    return f"{Path(file).name} {hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
