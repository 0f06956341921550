r"""One training by several processes (ranks), one for each device, by Lightning's distributed data parallel strategy.

``touchneedle run ... trainer.devices=2`` starts two processes on this machine and scores what they have trained. Each
builds the cell from its configuration: events, initial weights and the order of events follow from seeds. It computes the
loss of its `Share` of every batch of ``trainer.batch_size`` events, so there are as many steps as in one process,
on the same events. The result is that of one process within rounding, unless the loss draws random numbers or pairs the
events of a batch (ratio estimators do both): a rank draws and pairs within its share. Every rank holds all events in memory.

On several machines ``torchrun`` starts the ranks, on each of them, and ``touchneedle run`` with the same words scores the result:

    torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT \
        -m touchneedle.benchmark.ranks toy=mass_bump estimator=zuko_nsf trainer.devices=4 trainer.nodes=2
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, cast

import torch
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from touchneedle.benchmark.config import ExperimentConfig, TrainerConfig
from touchneedle.benchmark.environment import device_of
from touchneedle.benchmark.share import Share
from touchneedle.conf.errors import InputError


def n_ranks(trainer: TrainerConfig) -> int:
    """Processes that share a training."""
    return trainer.devices * trainer.nodes


def share_of(trainer: TrainerConfig) -> Share | None:
    """The share of this process: by the variables of ``torchrun``; None where a training's ranks have yet to be started."""
    ranks = n_ranks(trainer)
    if ranks == 1:
        return Share()
    return Share(int(os.environ["RANK"]), ranks) if os.environ.get("WORLD_SIZE") == str(ranks) else None


def check_ranks(config: ExperimentConfig) -> None:
    """Raise `InputError` for what several processes cannot train."""
    ranks = n_ranks(config.trainer)
    if ranks > 1 and config.ensemble.members > 1 and config.ensemble.stacked == "yes":
        raise InputError(f"ensemble.stacked=yes: expected a training by one process; got {ranks} (trainer.devices, trainer.nodes)")
    if ranks > 1 and config.data.memory_limit is not None:
        raise InputError(f"data.memory_limit: expected a training by one process; got {ranks}, each of which holds all events in memory")


def peak_memory_mb(trainer: TrainerConfig) -> float:
    """The most resident memory that one process has had, in units of 2^20 bytes: this one, or a rank that it has started and waited for.

    Ranks are not added up, since they share pages; those that ``torchrun`` starts are not seen from here.
    """
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if n_ranks(trainer) > 1 else (resource.RUSAGE_SELF,)
    return max(resource.getrusage(who).ru_maxrss for who in processes) / 1024


def train_in_ranks(config: ExperimentConfig, fit_id: str) -> None:
    """Start the processes of a training and wait for them; its weights lie in the results folder then.

    Raises:
        InputError: what a rank raised, too few GPUs, a process that was killed, or several nodes, whose ranks start elsewhere.
    """
    check_ranks(config)
    trainer = config.trainer
    if trainer.nodes > 1:
        raise InputError(
            f"trainer.nodes={trainer.nodes}: expected weights that {trainer.nodes} machines have trained; there are none: start, on each, "
            f"torchrun --nnodes={trainer.nodes} --nproc-per-node={trainer.devices} --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT "
            f"-m {__name__} KEY=VALUE..., and repeat this command then"
        )
    if device_of(trainer).type == "cuda" and torch.cuda.device_count() < trainer.devices:
        raise InputError(f"trainer.devices={trainer.devices}: expected as many GPUs; this machine has {torch.cuda.device_count()}")
    run_ranks(_train, (config, fit_id), trainer)


def run_ranks(function: Callable[..., None], arguments: tuple[Any, ...], trainer: TrainerConfig) -> None:
    """Call a function of a module in a process of its own for each device; one that fails ends all.

    Raises `InputError` as a rank raised it, or if one was killed; `RuntimeError` for any other error in one.
    """
    from torch.distributed.elastic.utils.distributed import get_free_port

    # Warnings that the other processes are ended, and that a search for unused parameters finds none, would stand beside the reason.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Fresh processes: one that was forked cannot use a GPU that its parent has used.
    errors: SimpleQueue[InputError] = multiprocessing.get_context("spawn").SimpleQueue()
    task = (function, arguments, trainer, get_free_port(), errors)
    context = cast(ProcessContext, start_processes(_take_part, task, trainer.devices, join=False, start_method="spawn"))
    try:
        while not context.join():
            continue
    except (ProcessExitedException, ProcessRaisedException) as error:
        raise _cause(error, context, errors) from error
    finally:
        for process in context.processes:
            process.kill()


def _take_part(
    rank: int, function: Callable[..., None], arguments: tuple[Any, ...], trainer: TrainerConfig, port: int, errors: SimpleQueue[InputError]
) -> None:
    """What each process does; what a user can cause is told to the parent."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(trainer.devices)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = trainer.threads or max(1, torch.get_num_threads() // trainer.devices)
    torch.set_num_threads(threads)
    # Lightning chooses for itself unless this says that it is done.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    parent = multiprocessing.parent_process()
    # The death of a parent ends its ranks from now on, but not that before.
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)
    try:
        function(*arguments)
    except InputError as error:
        errors.put(error)
        raise SystemExit(1) from error


def _cause(error: ProcessExitedException | ProcessRaisedException, context: ProcessContext, errors: SimpleQueue[InputError]) -> Exception:
    """Why a rank failed: the others fail as well, since they wait for it."""
    if not errors.empty():
        return errors.get()
    if any(process.exitcode == -signal.SIGKILL for process in context.processes):
        return InputError("a process of the training was killed, by want of memory perhaps; repeat the command to go on")
    return RuntimeError(f"process {error.error_index} of the training failed: {error.msg.strip().splitlines()[-1]}")


def _train(config: ExperimentConfig, fit_id: str) -> None:
    """Train a cell as one of its ranks."""
    from touchneedle.benchmark.cell_checks import load_plugins
    from touchneedle.benchmark.fitted import fitted
    from touchneedle.toys.base import build_toy

    load_plugins(config)
    fitted(config, build_toy(config.toy.name, **config.toy.params), fit_id)


def main(words: Sequence[str]) -> None:
    """Train the cell that the words after ``touchneedle run`` describe as a rank that ``torchrun`` has started."""
    from touchneedle.benchmark.cell_checks import check_config
    from touchneedle.benchmark.compose import compose_cell
    from touchneedle.benchmark.identity import identify
    from touchneedle.benchmark.store import hold_cell
    from touchneedle.benchmark.sweep import expand

    config = compose_cell(expand(words, multirun=False).cells[0])
    check_config(config)
    share = share_of(config.trainer)
    if share is None:
        raise InputError(f"expected {n_ranks(config.trainer)} ranks (trainer.devices times trainer.nodes) of torchrun")
    fit_id = identify(config)[0]
    with nullcontext() if share.rank else hold_cell(Path(config.results), fit_id, wait=True):
        _train(config, fit_id)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as wrong:
        sys.exit(f"touchneedle: error: {wrong}")
