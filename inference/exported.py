"""The graph of an estimator as a ``.pt2`` file, float64, by torch.export: (x, theta) -> log_ratio, preprocessing inside.

Whoever has torch can use it, without Touchneedle and without the library that the estimator was built with:
``torch.export.load("log_ratio.pt2").module()(x, theta)``; gradients in theta pass through it. Loading a ``.pt2`` file is as
safe as running a program: torch unpickles constants from it (``torch.export.load`` warns of that) and gives its symbolic expressions to
sympy, which evaluates them. So `load_bundle` opens it for those who ask, and only then.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.manifest import GRAPH
from touchneedle.inference.parity import Parity


class ExportFailed(InputError):
    """An estimator that has no graph of some format, with the reason in one line."""


class LogRatio(nn.Module):
    """log_ratio of a copy of a float64 estimator as a plain module: x (n, d), theta (n, p) -> (n,)."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = _with_fixed_counts(copy.deepcopy(estimator).requires_grad_(False))

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        """log_ratio without checks, casts and chunks, which are not for graphs."""
        return self.estimator._log_ratio(x, theta)


def _with_fixed_counts(estimator: Estimator) -> Estimator:
    """Buffers that count (numbers of steps) become plain integers, as a graph's form cannot depend on its data."""
    for module in estimator.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.ndim == 0 and not buffer.is_floating_point():
                delattr(module, name)
                setattr(module, name, buffer.item())
    return estimator


def export_pt2(estimator: Estimator, parity: Parity) -> dict[str, bytes]:
    """The ``.pt2`` file of a float64 estimator, checked against ``parity``; raises `ExportFailed` with the reason."""
    with quiet(), failing_clearly():
        buffer = io.BytesIO()
        torch.export.save(export_graph(LogRatio(estimator), parity), buffer)
        content = buffer.getvalue()
        parity.check(GRAPH, load_pt2(Path(GRAPH), content))
    return {GRAPH: content}


def load_pt2(path: Path, content: bytes) -> Callable[[Tensor, Tensor], Tensor]:
    """The graph in a ``.pt2`` file, as a function of x (n, d) and theta (n, p); only for files that are trusted.

    Raises `InputError` for a file that is damaged, or packed (torch stores its parts as they are, so none can unfold
    to more than the file's own size).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED or part.file_size > len(content) for part in archive.infolist()):
                raise InputError(f"{path}: expected a .pt2 file as torch writes it; its parts are packed")
        with quiet():
            module = torch.export.load(io.BytesIO(content)).module()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: expected a .pt2 file of this torch version ({torch.__version__}); {reason(error)}") from error
    return module


def export_graph(module: nn.Module, parity: Parity) -> torch.export.ExportedProgram:
    """The graph of a module of (x, theta), for any number of events."""
    x, theta = (torch.tensor(rows[:7] or rows, dtype=torch.float64) for rows in (parity.x, parity.theta))
    rows = torch.export.Dim("n", min=1)
    return torch.export.export(module, (x, theta), dynamic_shapes=({0: rows}, {0: rows}), strict=False)


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Whatever an exporter raises, as one line."""
    try:
        yield
    except ExportFailed:
        raise
    except Exception as error:
        raise ExportFailed(reason(error)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, log lines and printed graphs of exporters, whose errors say enough."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def reason(error: BaseException) -> str:
    """What went wrong at the root, in one line of printable characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{type(error).__name__}: {''.join(filter(str.isprintable, lines[0]))[:160]}"
