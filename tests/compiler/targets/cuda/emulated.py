"""Graphs on the cuda target without a device: each kernel's PTX runs in the emulator, over buffers
of exactly their size.

Every input is read-only, new memory is full of NaN, and a store to the error flag is an error
unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.compiler import dim
from netloom.compiler.graph import Graph
from netloom.compiler.program import BufferRef, Entry, Launch, Program, Space
from netloom.compiler.targets.cuda import compile as cuda_compile
from netloom.compiler.targets.cuda.compile import ARCHITECTURES, compile_kernel
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, DevicePlacement, plan
from netloom.compiler.targets.cuda.source import KernelSource
from tests.ptx_emulator.machine import emulate

Array = npt.NDArray[Any]


class IndexFault(Exception):
    """A kernel stored to the error flag."""


def run(
    graph: Graph, inputs: Mapping[str, Array], dims: Mapping[str, int] | None = None,
    options: CudaOptions | None = None,
    architecture: str = ARCHITECTURES[0],
) -> list[Array]:  # fmt: skip
    """The outputs of a graph, from inputs by name."""
    program, placement, _ = plan({"run": graph}, PIPELINE, options)
    return _Run(program, placement, program.entries[0], dims or {}, architecture).outputs(inputs)


def ptx_of(
    graph: Graph, options: CudaOptions | None = None, architecture: str = ARCHITECTURES[0]
) -> dict[str, str]:
    """Each kernel's PTX by the kernel's name."""
    _, placement, _ = plan({"run": graph}, PIPELINE, options)
    return {name: ptx(source, architecture) for name, source in placement.sources.items()}


def ptx(source: KernelSource, architecture: str) -> str:
    """The best that an architecture may run."""
    best, *others = source.of(architecture)
    if not others:
        return compile_kernel(source, ()).ptx
    if architecture == ARCHITECTURES[0]:  # by the name that other tests compile it by
        return compile_kernel(best, ()).ptx
    return cuda_compile.ptx_of(best, "kernel", architecture)


class _Run:
    def __init__(
        self,
        program: Program,
        placement: DevicePlacement,
        entry: Entry,
        dims: Mapping[str, int],
        architecture: str,
    ) -> None:
        self.program, self.placement, self.entry, self.dims = program, placement, entry, dims
        self.architecture = architecture
        self.memory: dict[BufferRef, Array] = {}

    def outputs(self, inputs: Mapping[str, Array]) -> list[Array]:
        for place, port in enumerate(self.entry.inputs):
            given = np.asarray(inputs[port.name])
            assert (
                given.shape == port.type.evaluate(self.dims)
                and given.dtype == port.type.dtype.numpy
            ), port
            self.memory[BufferRef(Space.INPUT, place)] = _raw(given)
        for launch in self.entry.launches:
            self._launch(launch)
        types = [port.type for port in self.entry.outputs]
        return [self._buffer(BufferRef(Space.OUTPUT, place), type.evaluate(self.dims),
                             type.dtype.numpy)
                for place, type in enumerate(types)]  # fmt: skip

    def _launch(self, launch: Launch) -> None:
        buffers = self.placement.forms[launch.kernel].buffers
        arrays = [self._buffer(ref, tuple(dim.evaluate(e, self.dims) for e in buffer.shape),
                               buffer.dtype.numpy)
                  for ref, buffer in zip(launch.buffers, buffers, strict=True)]  # fmt: skip
        flag = np.zeros(1, np.int32)
        arguments = [*arrays, *(dim.evaluate(extent, self.dims) for extent in launch.extents), flag]
        blocks = dim.evaluate(launch.items, self.dims)
        if not blocks:
            return
        source = self.placement.sources[launch.kernel]
        emulate(
            ptx(source, self.architecture),
            blocks,
            source.threads,
            arguments,
            inputs=len(arrays) - 1,
            flag=len(arguments) - 1,
        )
        if flag[0]:
            raise IndexFault(launch.kernel)

    def _buffer(self, ref: BufferRef, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """The memory behind a reference as an array; new memory where there is none of that size
        yet.
        """
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if ref.space is Space.CONSTANT and ref not in self.memory:
            self.memory[ref] = _raw(self.program.constants[ref.index].array)
        if ref not in self.memory or self.memory[ref].size < size:
            self.memory[ref] = np.full(size, 0xFF, np.uint8)
        return self.memory[ref][:size].view(dtype).reshape(shape)


def _raw(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()
