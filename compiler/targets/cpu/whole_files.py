"""Files that appear whole or not at all, on the disk when the call returns, and whether they can.

They are written under another name in the same folder first. What killed processes have left there
is removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from netloom.disk import sync_folder
from netloom.errors import UsageError

Result = TypeVar("Result")


def check_writable(path: Path) -> None:
    """UsageError unless a file can be put at the path."""
    folder = path.parent
    if "\0" in str(path):
        raise UsageError("no name of a file holds NUL.", hint="Choose another path.")
    if not folder.is_dir():
        raise UsageError(
            f"{str(path)!r} cannot be written: its folder does not exist.",
            hint="Make the folder first.",
        )
    for place in (path, path.with_suffix(".h")) if path.name else (path,):
        if place.exists() and not place.is_file():  # a device would be replaced, not written to
            kind = "a folder" if place.is_dir() else "no regular file"
            raise UsageError(f"{str(place)!r} cannot be written: it is {kind}.")
    if path.suffix == ".h":
        raise UsageError(
            f"{str(path)!r} cannot be written: the suffix .h is the header's.", hint="Name it .so."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{str(path)!r} cannot be written: its folder is read-only.")


def replace_program(path: Path, write: Callable[[Path], Result], header: str) -> Result:
    """Puts the program that ``write`` makes (a new file, sent to the disk) at the path, and the
    header beside it with the suffix .h; what ``write`` returned.
    """
    program, beside = _temporary(path), _temporary(path)
    try:
        result = write(program)
        _write(beside, header.encode())
        beside.replace(path.with_suffix(".h"))
        program.replace(path)
        sync_folder(path.parent)
        return result
    finally:
        program.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Puts the data at the path: whole or not at all."""
    temporary = _temporary(path)
    try:
        _write(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A new name in the same folder, which is swept of what killed processes have left there."""
    for stale in path.parent.glob(".netloom-*-*.tmp"):
        number = stale.name.split("-")[1]
        if number.isdecimal() and not Path("/proc", number).exists():
            stale.unlink(missing_ok=True)
    return path.with_name(f".netloom-{os.getpid()}-{uuid4().hex}.tmp")


def _write(path: Path, data: bytes) -> None:
    """Writes a file to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


__all__ = ["check_writable", "replace_file", "replace_program"]
