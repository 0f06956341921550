"""The best epoch of each member by validation loss; a member that ran out of patience keeps what it had."""

from __future__ import annotations

from torch import Tensor

from touchneedle.benchmark.members import Trainee


class BestEpoch:
    """Each member's weights of the best validation loss so far.

    Attributes:
        weights: a state_dict per member.
    """

    def __init__(self, patience: int) -> None:
        self.patience, self.epoch = patience, -1
        self.weights: list[dict[str, Tensor]] = []
        self._loss: list[float] = []
        self._best: list[int] = []
        self._stopped: list[bool] = []

    @property
    def all_stopped(self) -> bool:
        """Whether no member has patience left."""
        return all(self._stopped)

    def see(self, losses: list[float], trainee: Trainee) -> None:
        """Validation losses of one epoch."""
        self.epoch += 1
        if not self.weights:
            self.weights, self._loss = trainee.states(), losses
            self._best, self._stopped = [self.epoch] * len(losses), [False] * len(losses)
            return
        better = [k for k, loss in enumerate(losses) if loss < self._loss[k] and not self._stopped[k]]
        states = trainee.states() if better else []
        for k in better:
            self.weights[k], self._loss[k], self._best[k] = states[k], losses[k], self.epoch
        self._stopped = [self.epoch - best >= self.patience for best in self._best]
