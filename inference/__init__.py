"""Inference: what fits. Start with `touchneedle.inference.likelihood` (events) or `pseudo_fits` (pseudo-experiments)."""

from touchneedle.inference.bundle import Bundle, load_bundle, save_bundle
from touchneedle.inference.control_regions import ControlRegions, regions_of_models
from touchneedle.inference.event_files import EventFile, open_events
from touchneedle.inference.fit import FitResult, ProfileScan, fit, profile_scan
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.mixture import ProcessMixture
from touchneedle.inference.processes import Factor, Process
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import FitOptions, PseudoFits, fit_pseudo_experiments
from touchneedle.inference.rates import RateModel, fit_rate_model

__all__ = [
    "Bundle",
    "ControlRegions",
    "EventFile",
    "Factor",
    "FitOptions",
    "FitResult",
    "Likelihood",
    "Process",
    "ProcessMixture",
    "ProfileScan",
    "PseudoExperiments",
    "PseudoFits",
    "RateModel",
    "draw_pseudo_experiments",
    "fit",
    "fit_pseudo_experiments",
    "fit_rate_model",
    "load_bundle",
    "open_events",
    "profile_scan",
    "regions_of_models",
    "save_bundle",
]
