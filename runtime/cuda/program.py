"""A program file for CUDA devices: manifest, cubins and constants, read without a device.

The file is a header (magic, size of the manifest), the manifest as JSON, blobs, and the SHA-256 of
all before. Extents in the manifest are ints, or lists of [factor, atoms]: a sum of products of
names, ["//", extent, divisor], ["%", extent, divisor] and ["min", extent, extent], with floored
division.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.errors import InputError, ProgramError

from ..buffer import numpy_dtype
from ..program import PortInfo

MAGIC: Final = b"NLCUDA03"
HEADER: Final = struct.Struct("<8sQ")
DIGEST_BYTES: Final = 32
ALIGNMENT: Final = 256  # of blobs in the file and buffers on the device

Extent: TypeAlias = "int | list[Any]"


@dataclass(frozen=True)
class Port:
    """A named tensor of an entry, its extents as in the manifest."""

    info: PortInfo
    shape: tuple[Extent, ...]

    def at(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(evaluate(extent, dims) for extent in self.shape)


@dataclass(frozen=True)
class Launch:
    """A kernel over buffers (space, index), the last of which it writes, with int32 arguments;
    ``items``: blocks of its grid.
    """

    kernel: int
    buffers: tuple[tuple[str, int], ...]
    extents: tuple[Extent, ...]
    items: Extent
    label: str


@dataclass(frozen=True)
class Entry:
    """``run`` or ``train_step``."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    slots: tuple[Extent, ...]
    launches: tuple[Launch, ...]

    def arena_bytes(self, dims: Mapping[str, int]) -> int:
        """Of all slots, one after another."""
        return sum(-(-evaluate(slot, dims) // ALIGNMENT) * ALIGNMENT for slot in self.slots)


@dataclass(frozen=True)
class KernelCode:
    """An entry's name in its cubins, threads of a block, and the cubin of each architecture.
    ``form``, ``registers`` (by architecture) and ``shared`` bytes of a block are for people;
    ``checks_indices``: whether it may set the error flag. ``dynamic_shared``: by architecture, the
    bytes that a launch must ask for, if any. ``terms`` of its longest sum, if free dims decide it,
    over ``symbols``, which stand for the launch's int32 arguments."""

    name: str
    threads: int
    cubins: Mapping[str, bytes]
    form: str
    registers: Mapping[str, int]
    shared: int
    checks_indices: bool
    dynamic_shared: Mapping[str, int]
    terms: Extent = 0
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """A constant (one element stands for a splat) or a state. ``data``: a view of the file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    @property
    def array(self) -> npt.NDArray[Any]:
        stored = np.frombuffer(self.data, numpy_dtype(self.dtype))
        count = int(np.prod(self.shape, dtype=np.int64))
        return (
            np.broadcast_to(stored, self.shape)
            if stored.size == 1 != count
            else stored.reshape(self.shape)
        )

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * int(numpy_dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class State:
    """A tensor that outlives a run: constant number ``initial`` at first."""

    name: str
    initial: int


@dataclass(frozen=True)
class Program:
    """The whole file in memory. ``dims``: name -> (lowest, highest or None)."""

    name: str
    dims: Mapping[str, tuple[int, int | None]]
    entries: Mapping[str, Entry]
    kernels: tuple[KernelCode, ...]
    constants: tuple[Tensor, ...]
    states: tuple[State, ...]
    architectures: tuple[str, ...]
    strategies: tuple[str, ...]  # of the convolutions
    metadata: Mapping[str, Any]


def evaluate(extent: Extent, dims: Mapping[str, int]) -> int:
    """An extent as a number."""
    if isinstance(extent, int):
        return extent
    total = 0
    for factor, atoms in extent:
        product = int(factor)
        for atom in atoms:
            product *= _atom(atom, dims)
        total += product
    return total


def _atom(atom: Any, dims: Mapping[str, int]) -> int:
    match atom:
        case str():
            return dims[atom]
        case ["//", inner, divisor]:
            return evaluate(inner, dims) // int(divisor)
        case ["%", inner, divisor]:
            return evaluate(inner, dims) % int(divisor)
        case ["min", left, right]:
            return min(evaluate(left, dims), evaluate(right, dims))
    raise ProgramError("The program's manifest is damaged.", hint="Compile the model again.")


def bind_dims(
    entry: Entry, shapes: Mapping[str, tuple[int, ...]], program: Program
) -> dict[str, int]:
    """The free dims' values that the inputs' shapes give; InputError if they do not fit the
    ports.
    """
    dims: dict[str, int] = {}
    for port in entry.inputs:
        given = shapes[port.info.name]
        if len(given) != len(port.shape):
            raise _misfit(port, given)
        for extent, size in zip(port.shape, given, strict=True):
            match extent:
                case [[1, [str() as name]]]:
                    dims.setdefault(name, size)
    for name, (low, high) in program.dims.items():
        if name in dims and not (low <= dims[name] and (high is None or dims[name] <= high)):
            raise InputError(
                f"The free dim {name} is {dims[name]}, but must lie in [{low}, "
                f"{'' if high is None else high}]."
            )
    for port in entry.inputs:
        given = shapes[port.info.name]
        try:
            expected = port.at(dims)
        except KeyError as error:
            raise InputError(
                f"No input tells the free dim {error.args[0]}.",
                hint="Fix it when compiling (--dim).",
            ) from error
        if expected != given:
            raise _misfit(port, given)
    return dims


def _misfit(port: Port, given: tuple[int, ...]) -> InputError:
    return InputError(
        f'The input "{port.info.name}" must be {port.info}, but has the shape {list(given)}.'
    )


# -- reading ---------------------------------------------------------------------------------------


def read_program(path: Path) -> Program:
    """The program in a file; ProgramError if the file is not one, cut off, or changed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProgramError(
            f"The program {str(path)!r} cannot be read: {error.strerror}."
        ) from error
    return parse_program(data, str(path))


def parse_program(data: bytes, where: str = "program") -> Program:
    """The program in bytes."""
    if len(data) < HEADER.size + DIGEST_BYTES or not data.startswith(MAGIC):
        raise ProgramError(
            f"{where!r} is not a netloom program for CUDA, or it is cut off.",
            hint="Compile the model again.",
        )
    body = memoryview(data)[:-DIGEST_BYTES]
    if hashlib.sha256(body).digest() != data[-DIGEST_BYTES:]:
        raise ProgramError(
            f"The contents of {where!r} have changed since it was written.",
            hint="Compile the model again.",
        )
    _, size = HEADER.unpack_from(data)
    try:
        manifest = json.loads(bytes(body[HEADER.size : HEADER.size + size]))
        return _program(manifest, body)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ProgramError(
            "The program's manifest is damaged.", hint="Compile the model again."
        ) from error


def _program(manifest: Mapping[str, Any], body: memoryview) -> Program:
    kernels = tuple(
        KernelCode(k["name"], int(k["threads"]),
                   {arch: bytes(_blob(place, body)) for arch, place in k["cubins"].items()}, k["form"],
                   {arch: int(count) for arch, count in k["registers"].items()}, int(k["shared"]),
                   bool(k["checks_indices"]),
                   {arch: int(size) for arch, size in k["dynamic_shared"].items()},
                   k.get("terms", 0), tuple(map(str, k.get("symbols", ()))))
        for k in manifest["kernels"]
    )  # fmt: skip
    constants = tuple(
        Tensor(c["dtype"], tuple(c["shape"]), _blob(c["data"], body)) for c in manifest["constants"]
    )
    states = tuple(State(s["name"], int(s["initial"])) for s in manifest["states"])
    entries = {entry["name"]: _entry(entry) for entry in manifest["entries"]}
    dims = {d["name"]: (int(d["lo"]), d["hi"]) for d in manifest["dims"]}
    architectures = tuple(manifest["architectures"])
    strategies = tuple(str(row["strategy"]) for row in manifest["strategies"])
    program = Program(
        manifest["name"],
        dims,
        entries,
        kernels,
        constants,
        states,
        architectures,
        strategies,
        manifest,
    )
    tuning = manifest["tuning"] or dict.fromkeys(("machine", "layers", "measured"))
    facts = {"options", "tools", "source_hash"} <= set(manifest) and {
        "machine",
        "layers",
        "measured",
    } <= set(tuning)
    if not (facts and _is_consistent(program)):
        raise ValueError("a number names nothing")
    return program


def _is_consistent(program: Program) -> bool:
    """Whether every number names something, and every constant has its bytes."""
    constants, kernels = range(len(program.constants)), range(len(program.kernels))
    spaces = {"constant": constants, "state": range(len(program.states))}
    for entry in program.entries.values():
        own = {
            "input": range(len(entry.inputs)),
            "output": range(len(entry.outputs)),
            "arena": range(len(entry.slots)),
        }
        named = spaces | own
        for launch in entry.launches:
            if launch.kernel not in kernels or any(
                index not in named[space] for space, index in launch.buffers
            ):
                return False
    return all(state.initial in constants for state in program.states) and all(
        len(tensor.data) in (tensor.nbytes, numpy_dtype(tensor.dtype).itemsize)
        for tensor in program.constants
    )


def _blob(place: tuple[int, int], body: memoryview) -> memoryview:
    start, size = map(int, place)
    if not (0 <= start <= start + size <= len(body)):
        raise ValueError("a blob lies outside the file")
    return body[start : start + size]


def _entry(data: Mapping[str, Any]) -> Entry:
    launches = tuple(
        Launch(int(item["kernel"]), tuple((space, int(index)) for space, index in item["buffers"]),
               tuple(item["extents"]), item["items"], item["label"])
        for item in data["launches"]
    )  # fmt: skip
    inputs, outputs = (tuple(map(_port, data[side])) for side in ("inputs", "outputs"))
    return Entry(data["name"], inputs, outputs, tuple(data["slots"]), launches)


def _port(data: Mapping[str, Any]) -> Port:
    return Port(PortInfo(data["name"], data["dtype"], tuple(data["shape"])), tuple(data["extents"]))
