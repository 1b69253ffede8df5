"""Where a program's time goes: every launch of an entry timed by itself, on one thread, in that thread's CPU time.

``profile(compiled)`` loads the kernels a second time, apart from the program's own host code, and runs the launches in
order over arrays of its own: nothing is added to the program, and what is measured is the kernels alone.
``launch_costs`` says beside each time what the launch computes: its ops, their operations and bytes.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from netloom.compiler import dim
from netloom.compiler.driver import Compiled
from netloom.compiler.graph import Node
from netloom.compiler.program import BufferRef, Entry, Launch, Program, Space

from .operations import operations, stored_bytes, values_of

_KernelFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class KernelTime:
    """One launch: the best of its runs in seconds, and its work items."""

    label: str
    kernel: str
    seconds: float
    items: int


@dataclass(frozen=True)
class LaunchCost:
    """One launch of an inference. ``operations`` are those of its ops as written, ``bytes`` those of the tensors that it
    reads and writes, ``weight_bytes`` those of the constants among them."""

    node: str
    ops: tuple[str, ...]
    family: str
    strategy: str
    kernel: str
    items: int
    seconds: float
    operations: int
    bytes: int
    weight_bytes: int

    @property
    def gflops(self) -> float:
        return self.operations / self.seconds / 1e9

    @property
    def gigabytes(self) -> float:
        return self.bytes / self.seconds / 1e9


def launch_costs(compiled: Compiled, runs: int = 5, dims: Mapping[str, int] | None = None) -> list[LaunchCost]:
    """What the entry ``run`` spends, launch by launch. Copies to results, which come last, have no node."""
    times = profile(compiled, runs=runs, dims=dims)
    strategies = {decision.node: decision.strategy for decision in compiled.decisions if decision.node}
    nodes: list[Node | None] = [node for node in compiled.graphs["run"].nodes if node.op.name != "constant"]
    nodes += [None] * (len(times) - len(nodes))
    constants = {node.output for node in compiled.graphs["run"].nodes if node.op.name == "constant"}
    found = []
    for node, time_ in zip(nodes, times, strict=True):
        strategy = strategies.get(time_.label, "")
        ops, family, work, moved, weights = ("copy",), "copy", 0, 0, 0
        if node is not None:
            body = [inner for inner in node.attrs.body.nodes if inner.op.name != "constant"]
            ops, family, work = tuple(inner.op.name for inner in body), _family(body, strategy), operations(body, dims or {})
            sizes = {value: stored_bytes(value, dims or {}) for value in (*node.inputs, *node.outputs)}
            moved, weights = sum(sizes.values()), sum(size for value, size in sizes.items() if value in constants)
        found.append(LaunchCost(time_.label, ops, family, strategy, time_.kernel, time_.items, time_.seconds, work, moved, weights))
    return found


def _family(body: Sequence[Node], strategy: str) -> str:
    """What kind of work a kernel is: its op with the most operations, with the window of a convolution."""
    others = [node for node in body if not node.op.is_elementwise]
    if not others:
        return "elementwise"
    node = max(others, key=lambda node: operations([node], {}))
    name = node.op.name
    if name == "conv":
        return f"{strategy or 'conv'} {'x'.join(map(str, node.inputs[1].shape[2:]))}"
    return f"{strategy}: {name}" if strategy and not name.startswith(strategy.partition("_")[0]) else name


def profile(compiled: Compiled, entry: str = "run", runs: int = 5, dims: Mapping[str, int] | None = None) -> list[KernelTime]:
    """Times of an entry's launches in order; inputs are uniform random numbers; free dims 1 unless given."""
    chosen = next(e for e in compiled.program.entries if e.name == entry)
    return _Bench(compiled, chosen, dims or {}).times(runs)


class _Bench:
    def __init__(self, compiled: Compiled, entry: Entry, dims: Mapping[str, int]) -> None:
        self.program: Program = compiled.program
        self.entry = entry
        self.dims = values_of(self.program.symbols, dims)
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


__all__ = ["KernelTime", "LaunchCost", "launch_costs", "profile"]
