"""An entry for one set of free dims: its buffers in one arena, and its launches captured as one
graph.

A captured launch holds the addresses of its arguments. ``Plan.bind`` puts others there for inputs
that are read in place and for results that stay on the device: an update costs the host a
microsecond a launch, where a copy would cost memory and the device's time twice the tensor's bytes.
Only what has changed since the replay before is updated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from netloom.errors import DeviceError, InputError

from ..buffer import numpy_dtype
from .device import Call, Device
from .device_array import Pool
from .order import Access, predecessors
from .program import ALIGNMENT, Entry, KernelCode, Program, evaluate

Place: TypeAlias = "tuple[str, int]"  # a buffer: (space, index)
# bytes of a buffer, whatever its dtype, and terms of a sum: then no index leaves int32
_MOST = (1 << 31) - 1


class Resident:
    """A program's kernels, constants and error flag on a device, and the memory of results that
    stay there."""

    def __init__(self, program: Program, device: Device) -> None:
        self.device, self.program, self.pool = device, program, Pool(device)
        self.functions: list[tuple[Any, int]] = []  # each with the threads of a block
        self._owned: list[int] = []
        try:
            self._fill()
        except BaseException:
            self.free()
            raise

    def _fill(self) -> None:
        device, program = self.device, self.program
        for kernel in program.kernels:
            function = device.load(kernel.name, kernel.cubins, kernel.dynamic_shared)
            self.functions.append((function, kernel.threads))
        places, total = laid_out({"constant": [constant.nbytes for constant in program.constants]})
        base = self._allocated(total)
        self.constants = [base + place for place in places["constant"]]
        for address, constant in zip(self.constants, program.constants, strict=True):
            device.upload(address, np.ascontiguousarray(constant.array))
        self.initial_states = [self.constants[state.initial] for state in program.states]
        self.flag = self._allocated(4)
        device.upload(self.flag, np.zeros(1, np.int32))

    def _allocated(self, size: int) -> int:
        self._owned.append(self.device.allocate(size))
        return self._owned[-1]

    def free(self) -> None:
        self.pool.close()
        while self._owned:
            self.device.free(self._owned.pop())
        while self.functions:
            self.device.unload(self.functions.pop()[0])

    def check_flag(self) -> None:
        """InputError if a kernel met an index out of range."""
        flag = np.zeros(1, np.int32)
        self.device.download(flag, self.flag)
        if flag[0]:
            self.device.upload(self.flag, np.zeros(1, np.int32))
            raise InputError("An index in the inputs is out of range.")


@dataclass(frozen=True)
class _Captured:
    """A call and the buffers that its pointers are of."""

    call: Call
    places: tuple[Place, ...]


class Plan:
    """One entry, ready to be replayed. ``shapes``: of its outputs; ``inputs``, ``outputs``:
    addresses of its own for them."""

    def __init__(
        self, resident: Resident, entry: Entry, states: Sequence[int], dims: Mapping[str, int]
    ) -> None:
        self._device, self.entry = resident.device, entry
        self.shapes = tuple(port.at(dims) for port in entry.outputs)
        sizes = buffer_sizes(resident.program, entry, dims)
        own = {space: sizes[space] for space in ("input", "output", "arena")}
        places, total = laid_out(own)
        self._arena = arena = resident.device.allocate(total)
        self._where: dict[Place, int] = {
            (s, i): arena + p for s, group in places.items() for i, p in enumerate(group)
        }
        self.inputs = tuple(self._where["input", index] for index in range(len(entry.inputs)))
        self.outputs = tuple(self._where["output", index] for index in range(len(entry.outputs)))
        for space, addresses in (("constant", resident.constants), ("state", states)):
            self._where |= {(space, index): address for index, address in enumerate(addresses)}
        try:
            self._captured = self._calls(resident, dims)
            accesses = [self._access(item, sizes) for item in self._captured]
            self.graph = self._device.capture(
                [item.call for item in self._captured], predecessors(accesses)
            )
        except BaseException:
            self._device.free(arena)
            raise
        kernels = resident.program.kernels
        self.checks_indices = any(
            kernels[launch.kernel].checks_indices for launch in entry.launches
        )

    def bind(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """From now on replays read the inputs and write the outputs at these addresses."""
        wanted = {("input", i): a for i, a in enumerate(inputs)} | {
            ("output", i): a for i, a in enumerate(outputs)
        }
        changed = {place for place, address in wanted.items() if self._where[place] != address}
        if not changed:
            return
        self._where |= wanted
        for number, item in enumerate(self._captured):
            if not changed.isdisjoint(item.places):
                call = replace(
                    item.call, pointers=tuple(self._where[place] for place in item.places)
                )
                self._captured[number] = replace(item, call=call)
                self._device.rebind(self.graph, number, call)

    def free(self) -> None:
        self._device.release(self.graph)
        self._device.free(self._arena)

    def _calls(self, resident: Resident, dims: Mapping[str, int]) -> list[_Captured]:
        """The launches that have work, their arguments as numbers."""
        found = []
        for launch in self.entry.launches:
            blocks = evaluate(launch.items, dims)
            if blocks == 0:
                continue
            function, threads = resident.functions[launch.kernel]
            numbers = tuple(evaluate(extent, dims) for extent in launch.extents)
            _check_terms(resident.program.kernels[launch.kernel], numbers, launch.label)
            pointers = tuple(self._where[place] for place in launch.buffers)
            found.append(
                _Captured(
                    Call(function, blocks, threads, pointers, numbers, resident.flag),
                    launch.buffers,
                )
            )
        return found

    def _access(self, item: _Captured, sizes: Mapping[str, Sequence[int]]) -> Access:
        pieces = [
            (self._where[space, index], self._where[space, index] + sizes[space][index])
            for space, index in item.places
        ]
        return Access(tuple(pieces[:-1]), (pieces[-1],))


def buffer_sizes(program: Program, entry: Entry, dims: Mapping[str, int]) -> dict[str, list[int]]:
    """Bytes of every buffer of each space; DeviceError if one is too large."""
    sizes = {
        "input": [_bytes(port.at(dims), port.info.dtype) for port in entry.inputs],
        "output": [_bytes(port.at(dims), port.info.dtype) for port in entry.outputs],
        "arena": [evaluate(slot, dims) for slot in entry.slots],
        "constant": [constant.nbytes for constant in program.constants],
        "state": [program.constants[state.initial].nbytes for state in program.states],
    }
    if max((size for group in sizes.values() for size in group), default=0) > _MOST:
        raise DeviceError(
            f"a buffer of more than {_MOST} bytes is too large for the cuda target.",
            hint="Choose a smaller batch.",
        )
    return sizes


def _check_terms(kernel: KernelCode, numbers: Sequence[int], label: str) -> None:
    terms = evaluate(kernel.terms, dict(zip(kernel.symbols, numbers, strict=False)))
    if terms > _MOST:
        raise DeviceError(
            f"{label}: a sum of {terms} terms is too large for the cuda target, which takes {_MOST}.",
            hint="Choose a smaller batch.",
        )


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * int(numpy_dtype(dtype).itemsize)


def laid_out(sizes: Mapping[str, Sequence[int]]) -> tuple[dict[str, list[int]], int]:
    """Offsets one after another, aligned, and the size of all."""
    place = 0
    places: dict[str, list[int]] = {}
    for space, group in sizes.items():
        places[space] = []
        for size in group:
            places[space].append(place)
            place += -(-size // ALIGNMENT) * ALIGNMENT
    return places, place


__all__ = ["Plan", "Resident", "buffer_sizes", "laid_out"]
