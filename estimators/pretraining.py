"""Pre-training: begin at the weights of another training of the same kind."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.estimators.standardise import Standardise


def start_from(estimator: Estimator, tensors: Mapping[str, Tensor]) -> None:
    """Give a prepared estimator the parameters of a ``state_dict``, and the standardisation that they know.

    What else `Estimator.prepare` learned stays. Raises `InputError` where names or shapes differ.
    """
    scalers = tuple(f"{name}." for name, module in estimator.named_modules() if isinstance(module, Standardise))
    own = dict(estimator.named_parameters()) | {name: buffer for name, buffer in estimator.named_buffers() if name.startswith(scalers)}
    for name, tensor in own.items():
        given = tensors.get(name)
        if given is None or given.shape != tensor.shape:
            have = "none" if given is None else f"shape {tuple(given.shape)}"
            raise InputError(f"start: expected {name} of shape {tuple(tensor.shape)}, as in {type(estimator).__name__}; got {have}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
