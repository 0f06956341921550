"""Inference: what fits. Start with `touchneedle.inference.likelihood` (events) or `pseudo_fits` (pseudo-experiments)."""

from touchneedle.inference.averaged import AveragedLikelihood
from touchneedle.inference.bundle import Bundle, load_bundle, save_bundle
from touchneedle.inference.closure import Closure, closure
from touchneedle.inference.control_regions import ControlRegions, regions_of_models
from touchneedle.inference.event_files import EventFile, open_events
from touchneedle.inference.figures import draw_corner
from touchneedle.inference.fit import FitResult, fit
from touchneedle.inference.impacts import Impact, Impacts, impacts
from touchneedle.inference.interval import Interval
from touchneedle.inference.intervals import ProfileIntervals, profile_intervals
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.mixture import ProcessMixture
from touchneedle.inference.normalisation_check import NormalisationCheck, check_normalisation, fit_normalisation
from touchneedle.inference.processes import Factor, Process
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import FitOptions, PseudoFits, fit_pseudo_experiments
from touchneedle.inference.rates import RateModel, fit_rate_model
from touchneedle.inference.scan import ProfileGrid, ProfileScan, profile_grid, profile_scan
from touchneedle.inference.spread import EnsembleSpread, spread_as_nuisance

__all__ = [
    "AveragedLikelihood",
    "Bundle",
    "Closure",
    "ControlRegions",
    "EnsembleSpread",
    "EventFile",
    "Factor",
    "FitOptions",
    "FitResult",
    "Impact",
    "Impacts",
    "Interval",
    "Likelihood",
    "NormalisationCheck",
    "Process",
    "ProcessMixture",
    "ProfileGrid",
    "ProfileIntervals",
    "ProfileScan",
    "PseudoExperiments",
    "PseudoFits",
    "RateModel",
    "check_normalisation",
    "closure",
    "draw_corner",
    "draw_pseudo_experiments",
    "fit",
    "fit_normalisation",
    "fit_pseudo_experiments",
    "fit_rate_model",
    "impacts",
    "load_bundle",
    "open_events",
    "profile_grid",
    "profile_intervals",
    "profile_scan",
    "regions_of_models",
    "save_bundle",
    "spread_as_nuisance",
]
