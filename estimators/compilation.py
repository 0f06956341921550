"""Compilation by torch, decided here and nowhere else: what is compiled answers as the plain function does, or is not used.

A compiled function is fast for the shapes that it was compiled for; callers keep the plain one for all others. On a CPU inductor
writes C++ and needs a compiler for it (``CXX``, g++ by default).
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])
# The processor's flags say which vectors it has; the test programs that ask the compiler, too, take as long as the code itself.
BACKEND: dict[str, Any] = {"backend": "inductor", "options": {"cpp.vec_isa_ok": True}}
# Of one function (the losses of all methods share some) torch keeps so many versions, and runs any other as it is.
VERSIONS = 64
_compilations = itertools.count(1)


class NotCompiled(UserWarning):
    """Compilation was asked for and is unavailable: the plain function is used."""


def compiled(function: F, trial: Callable[[F], Any], what: str) -> F:
    """``function`` compiled for the shapes that ``trial`` calls it with; itself, with one warning, if the trial fails.

    A network of the same kind and shapes as an earlier one of this process is served by the code of that one, at once.

    Args:
        trial: calls what it is given as it will be called, gradients included, and raises where the answers are wrong.
        what: name of the function, for the warning.
    """
    # Its import takes a second: only where something is compiled.
    from torch._dynamo import config

    if next(_compilations) % VERSIONS == 0:
        torch.compiler.reset()
    # Where it breaks a graph torch says so in many words; it is no fault.
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), config.patch(recompile_limit=VERSIONS):
            warnings.simplefilter("ignore")
            fast: Any = torch.compile(function, dynamic=False, **BACKEND)
            trial(fast)
    except Exception as error:  # Compilers raise what they like; a fault of the function itself shows when it is called.
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"{what} is not compiled, and slower for it: {type(error).__name__}: {reason}", NotCompiled, stacklevel=2)
        return function

    @wraps(function)
    def run(*arguments: Any) -> Any:
        # What would have to be compiled anew (another branch for other data) runs as it is: nothing fails or pauses after the trial.
        with torch.compiler.set_stance("eager_on_recompile"):
            return fast(*arguments)

    return run  # type: ignore[return-value]
