"""A program's manifest (JSON) and file: what a session must know before it runs anything.

Reading a manifest checks its form; checking a file makes sure that it is whole and that nobody else
could have put it there, because opening a shared object runs code.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from netloom import abi
from netloom.errors import CpuFeatureError, ProgramError

_TRAILER: Final = struct.calcsize(abi.TRAILER_FORMAT)


@dataclass(frozen=True)
class PortInfo:
    """A named tensor of an entry; extents are numbers, or texts such as "2*N + 1"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @cached_property
    def is_static(self) -> bool:
        return all(isinstance(extent, int) for extent in self.shape)

    @cached_property
    def static_shape(self) -> tuple[int, ...]:
        return tuple(int(extent) for extent in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class EntryInfo:
    """A function of a program: ``run`` or ``train_step``; ``position``: its number in the C
    interface.
    """

    name: str
    position: int
    inputs: tuple[PortInfo, ...]
    outputs: tuple[PortInfo, ...]
    needs_state: bool
    launches: int
    # dims that data decide: the caller gives room for the most that outputs can be
    has_data_dims: bool = False


@dataclass(frozen=True)
class Manifest:
    """The metadata of a program; ``data`` is all of it."""

    entries: Mapping[str, EntryInfo]
    dims: tuple[str, ...]
    threads: int | None
    data: Mapping[str, Any]

    @property
    def is_training(self) -> bool:
        return "train_step" in self.entries


def parse_manifest(text: str) -> Manifest:
    """The manifest from its JSON; ProgramError if it is not one of this version."""
    try:
        data = json.loads(text)
        if data["abi"] != abi.ABI_VERSION:
            raise ProgramError(
                f"The program has interface version {data['abi']}; this netloom reads version {abi.ABI_VERSION}.",
                hint="Compile the model again.",
            )
        entries = {
            entry["name"]: _entry(entry, position) for position, entry in enumerate(data["entries"])
        }
        return Manifest(
            entries, tuple(dim["name"] for dim in data["dims"]), data.get("threads"), data
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ProgramError(
            "The program's manifest is damaged.", hint="Compile the model again."
        ) from error


def _entry(data: Mapping[str, Any], position: int) -> EntryInfo:
    inputs, outputs = (tuple(map(_port, data[side])) for side in ("inputs", "outputs"))
    return EntryInfo(
        data["name"], position, inputs, outputs, bool(data["needs_state"]), int(data["launches"]),
        bool(data.get("data_dims")),
    )  # fmt: skip


def _port(data: Mapping[str, Any]) -> PortInfo:
    return PortInfo(data["name"], data["dtype"], tuple(data["shape"]))


def check_file(path: Path) -> None:
    """ProgramError unless the file is a whole program that only its owner (this user or root)
    can have written.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ProgramError(
            f"The program {str(path)!r} cannot be read: {error.strerror}."
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ProgramError(f"{str(path)!r} is not a regular file.")
    if status.st_uid not in (os.geteuid(), 0):
        raise ProgramError(
            f"The program {str(path)!r} belongs to another user (number {status.st_uid}).",
            hint="Copy it, if you trust it: opening a program runs its code.",
        )
    if status.st_mode & stat.S_IWOTH:
        raise ProgramError(
            f"The program {str(path)!r} can be written by everybody.", hint=f"Run: chmod o-w {path}"
        )
    _read_trailer(path, status.st_size)


def check_architecture(path: Path) -> None:
    """CpuFeatureError if the file's code is for machines of another kind (the system's loader
    says "no such file" then).
    """
    with path.open("rb") as file:
        head = file.read(20)
    names = {number: name for name, number in abi.ELF_MACHINES.items()}
    name = names.get(int.from_bytes(head[18:20], "little"), platform.machine())
    if head.startswith(b"\x7fELF") and name != platform.machine():
        raise CpuFeatureError(
            f"The program {str(path)!r} is for {name}, but this machine is {platform.machine()}.",
            hint="Compile it for this machine.",
        )


def _read_trailer(path: Path, size: int) -> bytes:
    """The recorded digest; ProgramError if the record does not fit the file."""
    with path.open("rb") as file:
        file.seek(max(0, size - _TRAILER))
        tail = file.read(_TRAILER)
    if len(tail) < _TRAILER or not tail.startswith(abi.TRAILER_MAGIC):
        raise ProgramError(
            f"{str(path)!r} is not a netloom program, or it is cut off.",
            hint="Compile the model again.",
        )
    _, version, _, recorded, digest = struct.unpack(abi.TRAILER_FORMAT, tail)
    if version != abi.ABI_VERSION:
        raise ProgramError(
            f"{str(path)!r} has interface version {version}; this netloom reads version {abi.ABI_VERSION}.",
            hint="Compile the model again.",
        )
    if recorded != size:
        raise ProgramError(
            f"{str(path)!r} has {size} bytes, but was written with {recorded}.",
            hint="Compile the model again.",
        )
    assert isinstance(digest, bytes)
    return digest


def verify_file(path: Path) -> None:
    """ProgramError unless the file holds exactly what was written (reads all of it)."""
    check_file(path)
    size = path.stat().st_size
    expected = _read_trailer(path, size)
    digest, left = hashlib.sha256(), size - _TRAILER
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    if digest.digest() != expected:
        raise ProgramError(
            f"The contents of {str(path)!r} have changed since it was written.",
            hint="Compile the model again.",
        )
