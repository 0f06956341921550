"""Files that are finished once a note with their hash lies beside them: what is found there when a command is repeated."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from touchneedle.conf.errors import InputError
from touchneedle.toys.generated import sha256


class FileNote(BaseModel):
    """What is known of one finished parquet file.

    Attributes:
        sha256: hash of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str


N = TypeVar("N", bound=FileNote)


def read_noted(file: Path, kind: type[N], command: str) -> N | None:
    """The note of a file that is there and whole; None if it has to be made; raises `InputError` if either is corrupt."""
    try:
        note = kind.model_validate_json(file.with_suffix(".json").read_bytes())
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{command}: cannot read {error.filename}: {error.strerror}; choose another --output") from error
    except ValidationError as error:
        raise InputError(f"{command}: {file.with_suffix('.json')} is corrupt; delete it and repeat the command") from error
    if sha256(content) != note.sha256:
        raise InputError(f"{command}: {file} is corrupt: its hash is not the one that was noted; delete it and repeat the command")
    return note
