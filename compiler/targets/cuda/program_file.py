"""Program + compiled kernels -> one file that runtime/cuda reads: the same bytes for the same
input.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np

from netloom.errors import UsageError

from ...constant import Constant
from ...dim import Extent, Minimum, Quotient, Remainder, Symbol
from ...program import Entry, Launch, Port, Program
from .compile import CompiledKernel
from .forms import THREADS, DeviceKernel, Form, Product, Rows, Transform
from .source import KernelSource

Bytes: TypeAlias = "bytes | memoryview"
MAGIC = b"NLCUDA03"
ALIGNMENT = 256


@dataclass(frozen=True)
class KernelFile:
    """What a file holds of one kernel: its code, the form that it was printed from, and its
    source.
    """

    code: CompiledKernel
    form: DeviceKernel
    source: KernelSource


def write_file(path: Path, data: bytes) -> None:
    """Writes the file whole or not at all; UsageError if the place cannot be written."""
    if not path.parent.is_dir() or (path.exists() and not path.is_file()):
        raise UsageError(
            f"{str(path)!r} cannot be written: its folder does not exist, or it is no regular file."
        )
    temporary = path.with_name(f".netloom-{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def program_bytes(program: Program, kernels: Mapping[str, KernelFile]) -> bytes:
    """The file's contents."""
    blobs = _Blobs()
    order = {name: number for number, name in enumerate(sorted(kernels))}
    manifest = {
        **program.metadata,
        "name": program.name,
        "target": "cuda",
        "training": program.is_training,
        "architectures": sorted({b.architecture for kernel in kernels.values() for b in kernel.code.binaries}),
        "dims": [{"name": s.name, "lo": s.lo, "hi": s.hi} for s in program.symbols],
        "kernels": [_kernel(kernels[name], blobs) for name in order],
        "constants": [_constant(constant, blobs) for constant in program.constants],
        "states": [{"name": s.name, "dtype": s.type.dtype.value, "shape": s.type.static_shape, "initial": s.initial}
                   for s in program.states],
        "entries": [_entry(entry, order) for entry in program.entries],
    }  # fmt: skip
    return blobs.file(manifest)


class _Blobs:
    """Aligned blobs behind a manifest of a size that is known only when they are."""

    def __init__(self) -> None:
        self.parts: list[tuple[dict[str, Any], str, Bytes]] = []

    def put(self, record: dict[str, Any], key: str, data: Bytes) -> None:
        """Notes that ``record[key]`` is to become the blob's (start, size)."""
        self.parts.append((record, key, data))

    def file(self, manifest: Mapping[str, Any]) -> bytes:
        for record, key, data in self.parts:
            record[key] = [1 << 52, len(data)]  # as long as any real start may get
        room = _aligned(16 + len(_json(manifest)))
        place = room
        for record, key, data in self.parts:
            record[key] = [place, len(data)]
            place += _aligned(len(data))
        text = _json(manifest)
        chunks: list[Bytes] = [struct.pack("<8sQ", MAGIC, len(text)), text]
        chunks.append(bytes(room - sum(map(len, chunks))))
        for _, _, data in self.parts:
            chunks += [data, bytes(_aligned(len(data)) - len(data))]
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
        return b"".join([*chunks, digest.digest()])


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _kernel(kernel: KernelFile, blobs: _Blobs) -> dict[str, Any]:
    code = kernel.code
    cubins: dict[str, Any] = {}
    for binary in code.binaries:
        blobs.put(cubins, binary.architecture, binary.cubin)
    registers = {b.architecture: b.registers for b in code.binaries}
    shared = max((b.shared for b in code.binaries), default=0)
    return {
        "name": code.name,
        "form": form_text(kernel.form.form),
        "threads": THREADS,
        "shared": shared,
        "dynamic_shared": {b.architecture: b.shared for b in code.binaries if b.is_dynamic},
        "registers": registers,
        "checks_indices": kernel.source.checks_indices,
        "cubins": cubins,
        **_long_sums(kernel.form),
    }


def _long_sums(kernel: DeviceKernel) -> dict[str, Any]:
    """What a run needs to check that no sum is too long, where free dims decide it: its terms, by the
    kernel's int32 arguments."""
    if isinstance(kernel.terms, int):
        return {}
    return {"terms": _extent(kernel.terms), "symbols": [s.name for s in kernel.symbols]}


def form_text(form: Form) -> str:
    """A form in a few words, for people."""
    match form:
        case Rows(lanes=lanes):
            return f"rows, {lanes} lanes a sum"
        case Product(tile=tile, engine=engine):
            return f"product, tile {tile.rows} x {tile.columns} x {tile.depth}, {engine.value}"
        case Transform(name=name):
            return f"transform {name}"
    return re.sub(r"(?<=.)(?=[A-Z])", " ", type(form).__name__).lower()


def _constant(constant: Constant, blobs: _Blobs) -> dict[str, Any]:
    """A splat is stored as its one element."""
    array = (
        np.asarray(constant.splat_value)
        if constant.is_splat
        else np.ascontiguousarray(constant.array)
    )
    record: dict[str, Any] = {
        "dtype": constant.type.dtype.value,
        "shape": constant.type.static_shape,
    }
    blobs.put(record, "data", array.reshape(-1).view(np.uint8).data)  # weights are not copied here
    return record


def _entry(entry: Entry, kernels: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "inputs": [_port(port) for port in entry.inputs],
        "outputs": [_port(port) for port in entry.outputs],
        "slots": [_extent(slot) for slot in entry.slots],
        "launches": [_launch(launch, kernels) for launch in entry.launches],
    }


def _port(port: Port) -> dict[str, Any]:
    shape = [extent if isinstance(extent, int) else str(extent) for extent in port.type.shape]
    return {
        "name": port.name,
        "dtype": port.type.dtype.value,
        "shape": shape,
        "extents": _extents(port.type.shape),
    }


def _launch(launch: Launch, kernels: Mapping[str, int]) -> dict[str, Any]:
    return {
        "kernel": kernels[launch.kernel],
        "buffers": [[ref.space.value, ref.index] for ref in launch.buffers],
        "extents": _extents(launch.extents),
        "items": _extent(launch.items),
        "label": launch.label,
    }


def _extents(extents: Sequence[Extent]) -> list[Any]:
    return [_extent(extent) for extent in extents]


def _extent(extent: Extent) -> Any:
    """An int, or [[factor, [atom…]]…] (runtime/cuda/program.py)."""
    if isinstance(extent, int):
        return extent
    return [[factor, [_atom(atom) for atom in atoms]] for atoms, factor in extent.terms]


def _atom(atom: Symbol | Quotient | Remainder | Minimum) -> Any:
    match atom:
        case Symbol(name):
            return name
        case Quotient(numerator, divisor):
            return ["//", _extent(numerator), divisor]
        case Remainder(numerator, divisor):
            return ["%", _extent(numerator), divisor]
        case Minimum(left, right):
            return ["min", _extent(left), _extent(right)]


__all__ = ["KernelFile", "form_text", "program_bytes", "write_file"]
