"""A device of its own kind that computes on the CPU: what lies on it and what does not is told apart as on a GPU.

Its tensors wrap those of the CPU and follow the rules of CUDA: operations refuse tensors of two devices, unless they copy, take
rows by indices of the CPU, or one is a number; random numbers need a generator of the device; events have to be sent there and
answers fetched. What has no GPU to run on is shown to keep these rules, and to give the same numbers as on the CPU.

``with computing():`` the device is ``DEVICE``. Importing this registers it for the whole process: use a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("simulated_gpu")
DEVICE = torch.device("simulated_gpu", 0)
_CPU = torch.device("cpu")
# What may take tensors of both devices, as on a GPU.
_BETWEEN = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Elsewhere(Tensor):
    """A tensor on the second device; ``held`` is what it wraps."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=DEVICE
        )

    def __init__(self, held: Tensor) -> None:
        # Autograd's zeros have no memory, and below it nothing knows what they are.
        self.held = torch.zeros(held.shape, dtype=held.dtype) if held._is_zerotensor() else held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = Elsewhere(self.held.detach().clone())
        copied = nn.Parameter(copied) if isinstance(self, nn.Parameter) else copied
        return copied.requires_grad_(self.requires_grad)

    def tolist(self) -> Any:
        return self.held.tolist()

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return Elsewhere(self.held)

    @data.setter
    def data(self, other: Tensor) -> None:
        assert isinstance(other, Elsewhere)
        self.held = other.held


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do on the CPU what is asked of the second device; raises RuntimeError where a GPU would."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    asked = kwargs.get("device")
    stays = asked is None or torch.device(asked).type == DEVICE.type
    if not any(isinstance(tensor, Elsewhere) for tensor in tensors) and (asked is None or not stays):
        return func(*args, **kwargs)
    _check(func, args, kwargs, tensors)
    here = kwargs if asked is None else kwargs | {"device": _CPU}
    found = func(*tree_map(_held, args), **tree_map(_held, here))
    if func._schema.name == "aten::copy_":
        return args[0]
    return tree_map(lambda value: _as_asked(value, args), found) if stays else found


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    name = func._schema.name
    strangers = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim()]
    if name not in _BETWEEN and strangers:
        raise RuntimeError(f"{func}: expected all tensors on {DEVICE}; got one of shape {tuple(strangers[0].shape)} on the CPU")
    if name == "aten::index" and not isinstance(args[0], Elsewhere):
        raise RuntimeError(f"{func}: expected indices on the CPU for a tensor on the CPU")
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: expected a generator of {DEVICE}; got one of the CPU")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _as_asked(value: Any, args: tuple[Any, ...]) -> Any:
    """A result on the second device; the first argument itself where it was changed in place."""
    if args and isinstance(args[0], Elsewhere) and value is args[0].held:
        return args[0]
    return Elsewhere(value) if isinstance(value, Tensor) else value


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch makes of Python's numbers and lists, it makes below all modes: here they go by the CPU."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or _CPU).type == DEVICE.type:
            return func(*args, **{name: value for name, value in kwargs.items() if name != "device"}).to(DEVICE)
        if func is Tensor.__getitem__ and isinstance(args[0], Elsewhere):
            args = (args[0], tuple(map(_index, args[1])) if isinstance(args[1], tuple) else _index(args[1]))
        return func(*args, **kwargs)


def _index(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.long) if isinstance(value, list) else value


@contextmanager
def computing() -> Iterator[None]:
    """The second device can be used; networks that are sent there keep their parameters, as on a GPU."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Functions(), _Operations():
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@contextmanager
def new_parameters() -> Iterator[None]:
    """Networks that are moved or cast get new parameters: those that a gradient was taken of can't be exchanged."""
    torch.__future__.set_swap_module_params_on_conversion(False)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch.__future__.set_swap_module_params_on_conversion(True)
