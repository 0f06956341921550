"""A folder of plain files: read without following links, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path

from touchneedle.conf.errors import InputError


def list_folder(folder: Path) -> set[str]:
    """Names in a bundle's folder; raises `InputError` if there is anything but plain files."""
    if not folder.is_dir():
        raise InputError(f"bundle {folder}: expected a folder; there is none")
    try:
        entries = list(os.scandir(folder))
        for entry in entries:
            if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                kind = "link" if entry.is_symlink() else "folder or device"
                raise InputError(f"bundle {folder}: expected plain files only; {entry.name!r} is a {kind}")
    except OSError as error:
        raise InputError(f"bundle {folder}: cannot read it: {error.strerror or error}") from error
    return {entry.name for entry in entries}


def read_plain(folder: Path, name: str) -> bytes:
    """Content of one file of a bundle; a link is not followed, even if it appeared a moment ago."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"bundle {folder}: cannot read {name}: {error.strerror or error}") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder, which appears whole or not at all.

    Raises `InputError` if the folder exists or cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise InputError(f"folder {folder}: expected one that does not exist yet; remove it or choose another")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        temporary.rename(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise InputError(f"cannot write bundle {folder}: {error.strerror or error}; choose a writable folder with free space") from error
