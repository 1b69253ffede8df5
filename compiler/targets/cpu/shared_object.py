"""A program's code for one CPU level or several -> one shared object and its header.

The file appears whole or not at all, depends on libc, libm and pthread only, exports one symbol,
and has the same bytes for the same input. Its last 64 bytes (netloom/abi.py) record its size and
digest, which loading and ``verify`` check.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from netloom import abi
from netloom.errors import UsageError

from ...cache import compiler_version, default_cache
from ...constant import Data
from ...dim import Extent
from ...program import BoundDim, Entry, Port, Program
from .architecture import Architecture
from .entry_plan import EntryPlan
from .features import required_features
from .header import model_header
from .host_object import build_host_objects
from .link import find_linker, link_shared_object
from .recorded_file import write_recorded
from .segments import ByteArray, Weights, lay_out
from .variant import Variant
from .weights_object import write_room, write_weights_object
from .weights_segment import with_weights_behind

_BLOCK = 1 << 20  # bytes that are read at a time


def write_shared_object(variants: Sequence[Variant], path: str | os.PathLike[str]) -> None:
    """Writes ``path`` and, beside it, the header of the same name with the suffix .h; the lowest
    level comes first.

    Raises UsageError if the place cannot be written (before any work), LinkError without a linker,
    ToolchainError for unknown features.
    """
    target = Path(path)
    check_writable(target)
    program, architecture = variants[0].program, variants[0].architecture
    weights = lay_out(program.constants)
    host = build_host_objects(variants, weights, build_manifests(variants, weights), image=True)
    objects = [*host, *(data for variant in variants for data in variant.objects)]
    library, header = _temporary(target), _temporary(target)
    try:
        with tempfile.TemporaryDirectory(prefix="netloom-") as folder:
            size, contents = _contents(objects, weights, architecture, Path(folder))
            write_recorded(library, contents, size)
        _write(header, model_header(program).encode())
        header.replace(target.with_suffix(".h"))
        library.replace(target)
        _sync_folder(target.parent)
    finally:
        library.unlink(missing_ok=True)
        header.unlink(missing_ok=True)


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


def _contents(
    objects: Sequence[bytes], weights: Weights, architecture: Architecture, folder: Path
) -> tuple[int, Iterator[Data]]:
    """The size of the linked file, and its contents from front to back; ``folder`` is private room
    for temporary files.
    """
    code = _linked(objects, weights.size, architecture, folder)
    front = with_weights_behind(code, architecture.page) if weights.size else code
    if front is not None:
        start = np.frombuffer(front, np.uint8)
        return start.size + weights.size, chain([start], weights.parts())
    files = _write_objects(folder, objects)
    files.append(folder / "weights.o")
    with files[-1].open("wb") as file:
        write_weights_object(file, weights, architecture)
    whole = folder / "whole.so"
    link_shared_object(files, whole, folder, architecture)
    return whole.stat().st_size, _blocks(whole)


def _blocks(path: Path) -> Iterator[ByteArray]:
    """The bytes of a file."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield np.frombuffer(block, np.uint8)


def _linked(objects: Sequence[bytes], room: int, architecture: Architecture, folder: Path) -> bytes:
    """The objects, linked, with room for ``room`` bytes of weights; kept for the next compile of a
    program with the same code.
    """
    store, linker = default_cache(), find_linker(architecture)
    digests = [hashlib.sha256(data).hexdigest() for data in objects]
    key = ("linked", compiler_version(), abi.ENTRY_POINT, str(abi.ABI_VERSION), *linker.identity,
           architecture.name, str(room), *digests)  # fmt: skip
    found = store.get(*key)
    if found is None:
        files = _write_objects(folder, objects)
        if room:
            files.append(folder / "room.o")
            with files[-1].open("wb") as file:
                write_room(file, room, architecture)
        link_shared_object(files, folder / "linked.so", folder, architecture)
        found = (folder / "linked.so").read_bytes()
        store.put(found, *key)
        store.trim()
    return found


def _write_objects(folder: Path, objects: Sequence[bytes]) -> list[Path]:
    paths = []
    for number, data in enumerate(objects):
        paths.append(folder / f"object{number}.o")
        paths[-1].write_bytes(data)
    return paths


def replace_file(path: Path, data: bytes) -> None:
    """Puts the data at the path: whole or not at all."""
    temporary = _temporary(path)
    try:
        _write(temporary, data)
        temporary.replace(path)
        _sync_folder(path.parent)
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


def _sync_folder(path: Path) -> None:
    """What was renamed in the folder reaches the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# -- the manifest ----------------------------------------------------------------------------------


def build_manifests(variants: Sequence[Variant], weights: Weights) -> tuple[str, ...]:
    """Each variant's metadata as JSON: sorted keys, ASCII; extents are numbers or texts such as
    "2*N + 1". They differ in ``level`` (the one in use), its ``features`` and its launches."""
    levels = [
        {"name": variant.level, "features": list(required_features(variant.features))}
        for variant in variants
    ]
    return tuple(
        _manifest(variant.program, level, levels, weights)
        for variant, level in zip(variants, levels, strict=True)
    )


def _manifest(
    program: Program,
    level: Mapping[str, Any],
    levels: Sequence[Mapping[str, Any]],
    weights: Weights,
) -> str:
    stored = sum(
        piece.segment.size for placement in weights.placements for piece in placement.pieces
    )
    manifest: dict[str, Any] = {
        **_plain(program.metadata),
        "abi": abi.ABI_VERSION,
        "name": program.name,
        "target": "cpu",
        "training": program.is_training,
        "level": level["name"],
        "features": level["features"],
        "levels": levels,
        "dims": [{"name": s.name, "lo": s.lo, "hi": s.hi} for s in program.symbols],
        "entries": [_entry(program, entry) for entry in program.entries],
        "states": [
            {"name": s.name, "dtype": s.type.dtype.value, "shape": s.type.static_shape}
            for s in program.states
        ],
        "constant_bytes": stored,
        "weight_bytes": weights.size,
    }
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"))


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in metadata.items()}


def _entry(program: Program, entry: Entry) -> dict[str, Any]:
    plan = EntryPlan(program, entry)
    return {
        "name": entry.name,
        "inputs": [_port(port) for port in entry.inputs],
        "outputs": [_port(port) for port in entry.outputs],
        "launches": len(entry.launches),
        "needs_state": plan.needs_state,
        "arena_bytes": _extent(plan.arena_bytes),
        "data_dims": [
            {"name": bound.symbol.name, "most": _extent(bound.bound)}
            for bound in entry.dims
            if isinstance(bound, BoundDim)
        ],
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": port.type.dtype.value,
        "shape": [_extent(extent) for extent in port.type.shape],
    }


def _extent(extent: Extent) -> int | str:
    return extent if isinstance(extent, int) else str(extent)
