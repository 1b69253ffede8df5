"""A program's code for one CPU level or several -> one shared object and its header.

The file appears whole or not at all, depends on libc, libm and pthread only, exports one symbol,
and has the same bytes for the same input. Its last 64 bytes (netloom/abi.py) record its size and
digest, which loading and ``verify`` check.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from netloom import abi
from netloom.errors import UsageError

from ...dim import Extent
from ...program import Entry, Port, Program
from .architecture import Architecture
from .features import required_features
from .header import model_header
from .host_api import build_host_object
from .host_tables import EntryPlan
from .host_types import WEIGHTS_SYMBOL
from .link import link_shared_object
from .segments import Weights, lay_out
from .variant import Variant

_LARGE = 1 << 30  # bytes of an image that goes into a large section


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
    host = build_host_object(variants, weights, build_manifests(variants, weights), image=True)
    objects = [host, *(data for variant in variants for data in variant.objects)]
    temporary = _temporary(target)
    try:
        with tempfile.TemporaryDirectory(prefix="netloom-") as folder:
            files = _write_objects(Path(folder), objects, weights, architecture)
            link_shared_object(files, temporary, Path(folder), architecture)
        replace_file(target.with_suffix(".h"), model_header(program).encode())
        _record_contents(temporary)
        _put(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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
    if path.is_dir():
        raise UsageError(f"{str(path)!r} cannot be written: it is a folder.")
    if path.suffix == ".h":
        raise UsageError(
            f"{str(path)!r} cannot be written: the suffix .h is the header's.", hint="Name it .so."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{str(path)!r} cannot be written: its folder is read-only.")


def _write_objects(
    folder: Path, objects: Sequence[bytes], weights: Weights, architecture: Architecture
) -> list[Path]:
    paths = []
    for number, data in enumerate(objects):
        paths.append(folder / f"object{number}.o")
        paths[-1].write_bytes(data)
    if weights.size:
        paths.append(folder / "weights.o")
        with paths[-1].open("wb") as file:
            write_weights_object(file, weights, architecture)
    return paths


def replace_file(path: Path, data: bytes) -> None:
    """Puts the data at the path: whole or not at all."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        _put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A new name in the same folder, which is swept of what killed processes have left there."""
    for stale in path.parent.glob(".netloom-*-*.tmp"):
        number = stale.name.split("-")[1]
        if number.isdecimal() and not Path("/proc", number).exists():
            stale.unlink(missing_ok=True)
    return path.with_name(f".netloom-{os.getpid()}-{uuid4().hex}.tmp")


def _record_contents(path: Path) -> None:
    """Appends the trailer with the file's size and digest; others must not be able to write what
    will run as code.
    """
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~stat.S_IWOTH)
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        size = file.seek(0, os.SEEK_END) + struct.calcsize(abi.TRAILER_FORMAT)
        file.write(
            struct.pack(abi.TRAILER_FORMAT, abi.TRAILER_MAGIC, abi.ABI_VERSION, 0, size, digest)
        )


def _put(temporary: Path, path: Path) -> None:
    """Renames a file of the same folder, after its contents have reached the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# -- the weights object ----------------------------------------------------------------------------


def write_weights_object(file: BinaryIO, weights: Weights, architecture: Architecture) -> None:
    """Writes a relocatable ELF object that holds the image under the hidden symbol nl_weights.

    The container is written directly, because an assembler's .incbin holds the image twice in
    memory and takes seconds. Layout: ELF-64 (System V ABI, chapter 4), little-endian. On x86-64 an
    image that would push the data out of the code's reach of 2 GiB goes into a large section
    (SHF_X86_64_LARGE), which GNU ld maps writable; others are read-only.
    """
    is_large = architecture.has_large_sections and weights.size >= _LARGE
    section, flags = (".lrodata", 0x10000002) if is_large else (".rodata", 2)
    strings = b"\0" + WEIGHTS_SYMBOL.encode() + b"\0"
    names = b"\0" + section.encode() + b"\0.symtab\0.strtab\0.shstrtab\0.note.GNU-stack\0"
    # global object, hidden, section 1
    symbols = bytes(24) + struct.pack("<IBBHQQ", 1, 0x11, 2, 1, 0, weights.size)
    start = 64
    tail = start + weights.size
    places = [tail, tail + len(symbols), tail + len(symbols) + len(strings)]
    table = -(-(places[2] + len(names)) // 8) * 8
    file.write(b"\x7fELF\x02\x01\x01" + bytes(9))
    file.write(
        struct.pack(
            "<HHIQQQIHHHHHH", 1, architecture.elf_machine, 1, 0, 0, table, 0, 64, 0, 0, 64, 6, 4
        )
    )
    weights.write(file)
    file.write(symbols + strings + names)
    file.write(bytes(table - places[2] - len(names)))
    for name, kind, attributes, offset, size, link, info, align, item in (
        ("", 0, 0, 0, 0, 0, 0, 0, 0),
        (section, 1, flags, start, weights.size, 0, 0, 64, 0),
        (".symtab", 2, 0, places[0], len(symbols), 3, 1, 8, 24),
        (".strtab", 3, 0, places[1], len(strings), 0, 0, 1, 0),
        (".shstrtab", 3, 0, places[2], len(names), 0, 0, 1, 0),
        (".note.GNU-stack", 1, 0, places[2], 0, 0, 0, 1, 0),
    ):
        where = names.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
        file.write(
            struct.pack(
                "<IIQQQQIIQQ", where, kind, attributes, 0, offset, size, link, info, align, item
            )
        )


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
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": port.type.dtype.value,
        "shape": [_extent(extent) for extent in port.type.shape],
    }


def _extent(extent: Extent) -> int | str:
    return extent if isinstance(extent, int) else str(extent)
