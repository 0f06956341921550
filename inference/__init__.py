"""Inference: what fits. Start with `touchneedle.inference.likelihood` (events) or `pseudo_fits` (pseudo-experiments)."""

from touchneedle.inference.bundle import Bundle, load_bundle, save_bundle
from touchneedle.inference.closure import Closure, closure
from touchneedle.inference.figures import draw_corner
from touchneedle.inference.fit import FitResult, fit
from touchneedle.inference.impacts import Impact, Impacts, impacts
from touchneedle.inference.interchange import write_iris_hep
from touchneedle.inference.interval import Interval
from touchneedle.inference.intervals import ProfileIntervals, profile_intervals
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.measurement import measure, measure_file
from touchneedle.inference.measurement_result import Measurement
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import FitOptions, PseudoFits, fit_pseudo_experiments
from touchneedle.inference.pyhf_workspace import pyhf_workspace
from touchneedle.inference.rates import RateModel, fit_rate_model
from touchneedle.inference.read_events import read_events
from touchneedle.inference.scan import ProfileGrid, ProfileScan, profile_grid, profile_scan

__all__ = [
    "Bundle",
    "Closure",
    "FitOptions",
    "FitResult",
    "Impact",
    "Impacts",
    "Interval",
    "Likelihood",
    "Measurement",
    "ProfileGrid",
    "ProfileIntervals",
    "ProfileScan",
    "PseudoExperiments",
    "PseudoFits",
    "RateModel",
    "closure",
    "draw_corner",
    "draw_pseudo_experiments",
    "fit",
    "fit_pseudo_experiments",
    "fit_rate_model",
    "impacts",
    "load_bundle",
    "measure",
    "measure_file",
    "profile_grid",
    "profile_intervals",
    "profile_scan",
    "pyhf_workspace",
    "read_events",
    "save_bundle",
    "write_iris_hep",
]
