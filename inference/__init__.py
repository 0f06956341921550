"""Inference: what fits.

In reading order:

* the likelihood: `likelihood`, `terms`, `normalisation`; mixtures of `processes`, `rates`, `control_regions`, `streaming`, `event_files`
* one fit and what follows: `fit` (`minuit`, `curvature`), `intervals`, `scan`, `impacts`, `weighted`, `closure`; all are a `result`
* many fits: `pseudo_experiments`, `pseudo_fits` (`surface`, `batched`); with a likelihood: `simulated`, `asimov`, `calibrated`,
  `neyman`, `limits`, `goodness_of_fit`, `coverage`
* ensembles: `averaged`, `spread`, `network_error`
* a model that travels: `bundle` (`manifest`, `parity`, `exported`, `onnx`), `measurement`, `interchange`, `pyhf_workspace`
"""

from touchneedle.inference.asimov import Asimov, asimov_from_model, asimov_from_simulator
from touchneedle.inference.averaged import AveragedLikelihood
from touchneedle.inference.bundle import Bundle, load_bundle, save_bundle
from touchneedle.inference.calibrated import Thresholds, calibrated_thresholds
from touchneedle.inference.closure import Closure, closure
from touchneedle.inference.control_regions import ControlRegions, regions_of_models
from touchneedle.inference.coverage import Coverage, coverage
from touchneedle.inference.event_files import EventFile, open_events, read_events
from touchneedle.inference.figures import draw_corner
from touchneedle.inference.fit import FitResult, fit
from touchneedle.inference.fit_options import FitOptions
from touchneedle.inference.goodness_of_fit import GoodnessOfFit, goodness_of_fit
from touchneedle.inference.impacts import Impact, Impacts, impacts
from touchneedle.inference.interchange import write_iris_hep
from touchneedle.inference.interval import Interval
from touchneedle.inference.intervals import ProfileIntervals, profile_intervals
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.limits import UpperLimit, upper_limit
from touchneedle.inference.measurement import measure, measure_file
from touchneedle.inference.measurement_result import Measurement
from touchneedle.inference.mixture import ProcessMixture
from touchneedle.inference.neyman import NeymanResult, neyman
from touchneedle.inference.normalisation_check import NormalisationCheck, check_normalisation, fit_normalisation
from touchneedle.inference.processes import Factor, Process
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import PseudoFits, fit_pseudo_experiments
from touchneedle.inference.pyhf_workspace import pyhf_workspace
from touchneedle.inference.rate_fit import fit_rate_model
from touchneedle.inference.rates import RateModel
from touchneedle.inference.scan import ProfileGrid, ProfileScan, profile_grid, profile_scan
from touchneedle.inference.simulated import Simulation
from touchneedle.inference.spread import EnsembleSpread, spread_as_nuisance

__all__ = [
    "Asimov",
    "AveragedLikelihood",
    "Bundle",
    "Closure",
    "ControlRegions",
    "Coverage",
    "EnsembleSpread",
    "EventFile",
    "Factor",
    "FitOptions",
    "FitResult",
    "GoodnessOfFit",
    "Impact",
    "Impacts",
    "Interval",
    "Likelihood",
    "Measurement",
    "NeymanResult",
    "NormalisationCheck",
    "Process",
    "ProcessMixture",
    "ProfileGrid",
    "ProfileIntervals",
    "ProfileScan",
    "PseudoExperiments",
    "PseudoFits",
    "RateModel",
    "Simulation",
    "Thresholds",
    "UpperLimit",
    "asimov_from_model",
    "asimov_from_simulator",
    "calibrated_thresholds",
    "check_normalisation",
    "closure",
    "coverage",
    "draw_corner",
    "draw_pseudo_experiments",
    "fit",
    "fit_normalisation",
    "fit_pseudo_experiments",
    "fit_rate_model",
    "goodness_of_fit",
    "impacts",
    "load_bundle",
    "measure",
    "measure_file",
    "neyman",
    "open_events",
    "profile_grid",
    "profile_intervals",
    "profile_scan",
    "pyhf_workspace",
    "read_events",
    "regions_of_models",
    "save_bundle",
    "spread_as_nuisance",
    "upper_limit",
    "write_iris_hep",
]
