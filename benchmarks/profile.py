"""Where a program's time goes: every launch of an entry timed by itself, on one thread, in that thread's CPU time.

``profile(compiled)`` loads the kernels a second time, apart from the program's own host code, and runs the launches in
order over arrays of its own: nothing is added to the program, and what is measured is the kernels alone.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from netloom.compiler import dim
from netloom.compiler.driver import Compiled
from netloom.compiler.program import BufferRef, Entry, Launch, Program, Space

_KernelFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class KernelTime:
    """One launch: the best of its runs in seconds, and its work items."""

    label: str
    kernel: str
    seconds: float
    items: int


def profile(compiled: Compiled, entry: str = "run", runs: int = 5, dims: Mapping[str, int] | None = None) -> list[KernelTime]:
    """Times of an entry's launches in order; inputs are uniform random numbers; free dims 1 unless given."""
    chosen = next(e for e in compiled.program.entries if e.name == entry)
    return _Bench(compiled, chosen, dims or {}).times(runs)


class _Bench:
    def __init__(self, compiled: Compiled, entry: Entry, dims: Mapping[str, int]) -> None:
        self.program: Program = compiled.program
        self.entry = entry
        self.dims = {s.name: dims.get(s.name, max(s.lo, 1)) for s in self.program.symbols}
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        builder = llvm.JITLibraryBuilder().add_current_process()
        for part in compiled.objects:
            builder.add_object_img(part)
        for name in self.program.kernels:
            builder.export_symbol(name)
        self.library = builder.link(llvm.create_lljit_compiler(use_jit_link=True), "profile")
        self.arrays: dict[BufferRef, npt.NDArray[Any]] = {}
        self.error = np.zeros(1, np.int32)

    def times(self, runs: int) -> list[KernelTime]:
        calls = [(launch, self._call(launch)) for launch in self.entry.launches]
        best = [float("inf")] * len(calls)
        for _ in range(runs):
            for position, (_, (function, words, items)) in enumerate(calls):
                start = time.thread_time_ns()
                function(words.ctypes.data, 0, items)
                best[position] = min(best[position], (time.thread_time_ns() - start) * 1e-9)
        return [KernelTime(launch.label, launch.kernel, seconds, call[2])
                for (launch, call), seconds in zip(calls, best, strict=True)]  # fmt: skip

    def _call(self, launch: Launch) -> tuple[Any, npt.NDArray[np.int64], int]:
        words = [self._array(ref).ctypes.data for ref in launch.buffers]
        words += [dim.evaluate(extent, self.dims) for extent in launch.extents]
        packed = np.array([*words, self.error.ctypes.data], np.int64)
        return _KernelFunction(self.library[launch.kernel]), packed, dim.evaluate(launch.items, self.dims)

    def _array(self, ref: BufferRef) -> npt.NDArray[Any]:
        if ref not in self.arrays:
            self.arrays[ref] = _aligned(self._content(ref))
        return self.arrays[ref]

    def _content(self, ref: BufferRef) -> npt.NDArray[Any]:
        match ref.space:
            case Space.CONSTANT:
                return self.program.constants[ref.index].array
            case Space.STATE:
                return self.program.constants[self.program.states[ref.index].initial].array
            case Space.ARENA:
                return np.zeros(dim.evaluate(self.entry.slots[ref.index], self.dims), np.uint8)
        ports = self.entry.inputs if ref.space is Space.INPUT else self.entry.outputs
        kind = ports[ref.index].type
        shape = tuple(dim.evaluate(extent, self.dims) for extent in kind.shape)
        values = np.random.default_rng(0).random(shape) if kind.dtype.is_float else np.zeros(shape)
        return values.astype(kind.dtype.numpy)


def _aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that starts at a multiple of 64 bytes, with room behind it."""
    room = np.zeros(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return room[start : start + max(array.nbytes, 1)]


__all__ = ["KernelTime", "profile"]
