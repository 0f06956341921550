"""Results: what every answer of this room can do. Print itself, be written as JSON, be drawn.

A result is a frozen dataclass that derives from `Result`, writes its `summary`, and draws its standard figure
with `draw` (matplotlib is imported there and nowhere else).
"""

from __future__ import annotations

import json
import math
import os
import uuid
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from touchneedle.conf.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result:
    """Base of all results; subclasses are frozen dataclasses."""

    def summary(self) -> str:
        """A few lines for a terminal: values with errors and units, then what is doubtful."""
        raise NotImplementedError

    def draw(self) -> Figure:
        """The standard figure; raises `InputError` where matplotlib is missing."""
        raise InputError(f"{type(self).__name__}: there is no figure of this result; its numbers are in to_dict()")

    def __str__(self) -> str:
        return self.summary()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists; what is not finite is None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(cast(Any, self))}

    def write_json(self, path: str | Path) -> Path:
        """Write `to_dict` to a file, whole or not at all; raises `InputError` where that is impossible."""
        path = Path(path)
        text = json.dumps({"result": type(self).__name__, **self.to_dict()}, indent=1, allow_nan=False) + "\n"
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise InputError(f"cannot write {path}: {error.strerror or error}; choose a writable folder with free space") from error
        return path


def plain(value: Any) -> Any:
    """Dataclasses, tensors and containers as what JSON knows; NaN and infinities as None."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return value.to_dict() if isinstance(value, Result) else {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"expected plain data, tensors or dataclasses of them; got {type(value).__name__}")
