"""The graph of an estimator as ONNX, float64, for C++ and Java: log_ratio, and log_ratio with its gradient in theta.

ONNX Runtime has no automatic differentiation, so a graph that gives value and gradient at once stands beside that of the value:
the gradient is traced as operations (``make_fx``), then exported. Inputs are ``x`` (n, d) and ``theta`` (n, p), outputs
``log_ratio`` (n,) and ``gradient`` (n, p), n free. Needs the extra ``onnx``.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.exported import LogRatio, export_graph, failing_clearly, quiet
from touchneedle.inference.manifest import ONNX, ONNX_GRADIENT
from touchneedle.inference.parity import Parity

ONNX_TOLERANCE = 1e-5
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(estimator: Estimator, parity: Parity) -> dict[str, bytes]:
    """Both ONNX files of a float64 estimator, checked against ``parity`` by ONNX Runtime.

    Raises `ExportFailed` with the reason, and `InputError` if a package of the extra is missing.
    """
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(f"onnx: this needs the package {package}; pip install 'touchneedle[onnx]'") from error
    log_ratio = LogRatio(estimator)
    with quiet(), failing_clearly():
        value = _to_onnx(log_ratio, parity, ["log_ratio"])
        both = _to_onnx(_with_gradient(log_ratio, parity), parity, ["log_ratio", "gradient"])
        parity.compare(ONNX, *run_onnx(value, parity), ONNX_TOLERANCE)
        parity.compare(ONNX_GRADIENT, *run_onnx(both, parity), ONNX_TOLERANCE)
    return {ONNX: value, ONNX_GRADIENT: both}


def run_onnx(content: bytes, parity: Parity) -> tuple[Tensor, Tensor | None]:
    """What ONNX Runtime answers at the probes: log_ratio (n,), and the gradient (n, p) if the graph gives one."""
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = {name: torch.tensor(getattr(parity, name), dtype=torch.float64).numpy() for name in ("x", "theta")}
    value, *gradient = (torch.from_numpy(output).double() for output in session.run(None, inputs))
    return value, gradient[0] if gradient else None


def _with_gradient(log_ratio: LogRatio, parity: Parity) -> nn.Module:
    """x, theta -> (log_ratio, gradient) as a graph of plain operations."""
    from torch._decomp import get_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    # The gradient of SiLU has no operation in ONNX: it is written out.
    written_out: Any = get_decompositions([torch.ops.aten.silu_backward])

    def both(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            value = log_ratio(x, theta)
            (gradient,) = torch.autograd.grad(value.sum(), theta)
        return value.detach(), gradient

    x, theta = (torch.tensor(rows[:7], dtype=torch.float64) for rows in (parity.x, parity.theta))
    return make_fx(both, decomposition_table=written_out, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x, theta)


def _to_onnx(module: nn.Module, parity: Parity, outputs: list[str]) -> bytes:
    program = torch.onnx.export(export_graph(module, parity), input_names=["x", "theta"], output_names=outputs, dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return program.model_proto.SerializeToString()
