"""Every method that learns, on a toy that it needs."""

from touchneedle.benchmark.data import make_events
from touchneedle.conf.registry import ESTIMATOR_TABLE
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, Toy, build_toy

TOYS = {"mined": "eft_quadratic", "signed": "signed_mixture"}
DESIGNS = ("prior", "templates", "pairs", "nominal")
NEEDS_TEMPLATES = ("ratio_morphed", "template_histogram")
TRAINED = [name for name in sorted(ESTIMATOR_TABLE) if name not in ("best_gaussian", "oracle", "oracle_narrow", "oracle_shifted")]


def prepared(name: str, n_events: int = 4_000) -> tuple[Estimator, Events, Toy]:
    """An estimator and its training events, and their toy."""
    toy = build_toy(next((toy for word, toy in TOYS.items() if word in name or name == "score_sally"), "fnf_two_class"))
    estimator = build_estimator(name, toy.spec)
    design = "templates" if name in NEEDS_TEMPLATES else next(design for design in DESIGNS if design in estimator.designs)
    return estimator, make_events(toy, n_events, design, 0), toy
