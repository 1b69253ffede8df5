"""A program's launches, each called by itself and timed in CPU time: for profiles and for the
choice of strategies.

The kernels are loaded a second time, apart from the program's own host code, and run in order over
arrays of their own: nothing is added to the program, and what is measured is the kernels alone. CPU
time hardly moves with what else runs.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from ... import dim
from ...program import BufferRef, Entry, Launch, Program, Space, Turn

EMPTY = 20  # launches without items, of which the quickest tells what calling takes

_KernelFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class _Call:
    """A launch that is ready: the kernel's function, its arguments, its number of work items."""

    function: Any
    words: npt.NDArray[np.int64]
    items: int

    def seconds(self, begin: int, end: int) -> float:
        """CPU time of the calling thread for some of the items."""
        start = time.thread_time_ns()
        self.function(self.words.ctypes.data, begin, end)
        return (time.thread_time_ns() - start) * 1e-9


class Launches:
    """An entry of a program, loaded. Inputs are uniform random numbers; free dims are at their
    least value unless given.
    """

    def __init__(
        self,
        program: Program,
        objects: Collection[bytes],
        entry: Entry,
        dims: Mapping[str, int] | None = None,
    ) -> None:
        self._program, self._entry = program, entry
        self._dims = {s.name: (dims or {}).get(s.name, max(s.lo, 1)) for s in program.symbols}
        for bound in entry.dims:  # data that would decide them are not there; turns: the first
            most = 0 if isinstance(bound, Turn) else dim.evaluate(bound.bound, self._dims)
            self._dims[bound.symbol.name] = most
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        builder = llvm.JITLibraryBuilder().add_current_process()
        for part in objects:
            builder.add_object_img(part)
        for name in program.kernels:
            builder.export_symbol(name)
        self._library = builder.link(llvm.create_lljit_compiler(use_jit_link=True), "launches")
        self._arrays: dict[BufferRef, npt.NDArray[Any]] = {}
        self._error = np.zeros(1, np.int32)
        self._calls = [self._call(launch) for launch in entry.launches]

    @property
    def items(self) -> list[int]:
        """The work items of each launch."""
        return [call.items for call in self._calls]

    @cached_property
    def overhead(self) -> float:
        """What calling and timing takes: seconds that a launch without items seems to need."""
        return min(call.seconds(0, 0) for _ in range(EMPTY) for call in self._calls[:1])

    def run(self) -> list[float]:
        """One run of all launches on this thread: seconds of each."""
        return [call.seconds(0, call.items) for call in self._calls]

    def run_on(self, pool: ThreadPoolExecutor, threads: int) -> list[float]:
        """One run on so many threads of a pool, each with a contiguous range of the items:
        seconds of the slowest one.
        """
        found = []
        for call in self._calls:
            bounds = [call.items * part // threads for part in range(threads + 1)]
            found.append(max(pool.map(call.seconds, bounds[:-1], bounds[1:])))
        return found

    def _call(self, launch: Launch) -> _Call:
        words = [self._address(ref) for ref in launch.buffers]
        words += [dim.evaluate(extent, self._dims) for extent in launch.extents]
        packed = np.array([*words, self._error.ctypes.data], np.int64)
        return _Call(
            _KernelFunction(self._library[launch.kernel]),
            packed,
            dim.evaluate(launch.items, self._dims),
        )

    def _address(self, ref: BufferRef) -> int:
        whole = self._array(replace(ref, offset=0))
        return whole.ctypes.data + dim.evaluate(ref.offset, self._dims)

    def _array(self, ref: BufferRef) -> npt.NDArray[Any]:
        if ref not in self._arrays:
            self._arrays[ref] = _aligned(self._content(ref))
        return self._arrays[ref]

    def _content(self, ref: BufferRef) -> npt.NDArray[Any]:
        match ref.space:
            case Space.CONSTANT:
                return self._program.constants[ref.index].array
            case Space.STATE:
                return self._program.constants[self._program.states[ref.index].initial].array
            case Space.ARENA:
                return np.zeros(dim.evaluate(self._entry.slots[ref.index], self._dims), np.uint8)
        ports = self._entry.inputs if ref.space is Space.INPUT else self._entry.outputs
        kind = ports[ref.index].type
        shape = tuple(dim.evaluate(extent, self._dims) for extent in kind.shape)
        values = np.random.default_rng(0).random(shape) if kind.dtype.is_float else np.zeros(shape)
        return values.astype(kind.dtype.numpy)


def _aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that starts at a multiple of 64 bytes, with room behind it."""
    room = np.zeros(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return room[start : start + max(array.nbytes, 1)]
