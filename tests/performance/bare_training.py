"""The training and the scores of a cell by a loop of a screen: no Hydra, no Lightning, no records.

``python -m tests.performance.bare_training EPOCHS`` prints the validation losses as JSON: those of the cell, if it is the same training.
"""

import copy
import json
import sys

import torch

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.benchmark.joined_weights import JoinedWeights
from touchneedle.benchmark.seeding import derive_seed
from touchneedle.benchmark.training_split import split_events
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, Toy, build_toy

TOY, ESTIMATOR, N_TRAIN = "mass_bump", "ratio_bce", 100_000
BATCH, VALIDATION_BATCH, LEARNING_RATE, WEIGHT_DECAY, CLIP, FRACTION = 512, 8_192, 2e-3, 1e-2, 5.0, 0.1
SCORED = EvaluationConfig(n_test=5_000, n_sample=200, families=("density",))


def bare_training(epochs: int) -> tuple[Toy, Estimator, list[float]]:
    """What a cell with seed 0 and the default trainer trains."""
    toy = build_toy(TOY)
    split = split_events(make_events(toy, N_TRAIN, "prior", 0), FRACTION)
    seed = derive_seed(0, "fit", TOY, ESTIMATOR)
    torch.manual_seed(derive_seed(seed, "member", 0))
    estimator = build_estimator(ESTIMATOR, toy.spec)
    estimator.prepare(split.training)
    losses = train(estimator, split.training, split.validation, epochs, seed)
    return toy, estimator.eval(), losses


def train(estimator: Estimator, training: Events, validation: Events, epochs: int, seed: int) -> list[float]:
    """Validation loss of each epoch; the weights of the best one are kept."""
    parameters = list(estimator.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    # As the suite's loop has it: what is measured against this one is what surrounds a training.
    weights = JoinedWeights(optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(training) // BATCH))
    shuffle, draws = torch.Generator().manual_seed(seed + 1), torch.Generator().manual_seed(seed)
    losses: list[float] = []
    best = copy.deepcopy(estimator.state_dict())
    for _ in range(epochs):
        estimator.train()
        for rows in torch.randperm(len(training), generator=shuffle).split(BATCH):
            weights.zero_grad()
            estimator.loss(training[rows], draws).mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            weights.take_gradients()
            optimizer.step()
            schedule.step()
        estimator.eval()
        losses.append(mean_loss(estimator, validation, torch.Generator().manual_seed(seed + 2)))
        if losses[-1] == min(losses):
            best = copy.deepcopy(estimator.state_dict())
    estimator.load_state_dict(best)
    return losses


@torch.no_grad()
def mean_loss(estimator: Estimator, events: Events, draws: torch.Generator) -> float:
    """Mean over all events, in few batches."""
    batches = torch.arange(len(events)).split(VALIDATION_BATCH)
    return float(torch.cat([estimator.loss(events[rows], draws).double() for rows in batches]).mean())


def main() -> None:
    toy, estimator, losses = bare_training(int(sys.argv[1]))
    evaluate(toy, estimator, SCORED, 0)
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
