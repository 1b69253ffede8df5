"""What this machine can do at most, measured: multiply-adds, clock, and memory bandwidth.

Every benchmark prints these first and gives its results as parts of them. The multiply-add peak runs chains that never
leave the registers; on a core that issues two 8-lane (or one 16-lane) multiply-adds a cycle it is 32 flop x clock.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from netloom.compiler import scalar
from netloom.compiler.dim import Dim, Symbol
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder
from netloom.compiler.loops.ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kernel,
    Kind,
    Load,
    Statement,
    Store,
    block,
    loop,
    variable,
)  # fmt: skip
from netloom.compiler.targets.cpu.llvm import compile_kernels
from netloom.compiler.targets.cpu.machine import Cpu, host_cpu
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

TRIPS = 1 << 21  # of the loop around the chains
LATENCY = 4  # cycles of a float32 multiply-add, on every x86-64 core since 2016
COPIED = 256 << 20  # bytes: several times the largest cache


@dataclass(frozen=True)
class Peaks:
    """GHz; GFLOP/s of multiply-adds on 1 and 2 threads; GB/s of a copy (read and written bytes) and of reading."""

    clock: float
    flops: dict[int, float]
    copy: dict[int, float]
    read: dict[int, float]
    chains: int
    cpu: str

    @property
    def flops_per_cycle(self) -> float:
        return self.flops[1] / self.clock

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(threads: tuple[int, ...] = (1, 2)) -> Peaks:
    """The peaks of this machine, in about five seconds."""
    cpu = host_cpu()
    chains = _chains(cpu)
    clock = max(_rate(_chain_kernel(1, False), cpu, 1) for _ in range(3)) * LATENCY
    flops = {n: 2 * LANES * chains * max(_rate(_chain_kernel(chains, True), cpu, n) for _ in range(3)) for n in threads}
    return Peaks(clock, flops, {n: _copy(n) for n in threads}, {n: _read(n) for n in threads}, chains, cpu.name)


def _chains(cpu: Cpu) -> int:
    """As many independent chains as the registers hold beside two operands."""
    return max(cpu.machine.vectors - 4, 3)


def _chain_kernel(chains: int, is_vector: bool) -> Kernel:
    """chains x (a = a * b + c), TRIPS times; one item per thread."""
    item = Symbol("w", 0, None)
    x, y = Buffer("x", FLOAT32, (2,)), Buffer("y", FLOAT32, (chains, LANES))
    shape = (chains, LANES) if is_vector else (chains,)
    sums = Buffer("a", FLOAT32, shape, is_local=True)
    chain = variable("k", chains)
    at = (Dim.of(chain), Dim.of(LANE)) if is_vector else (Dim.of(chain),)

    def each(statement: Statement) -> Statement:
        inner = loop(LANE, LANES, statement, Kind.VECTOR) if is_vector else statement
        return loop(chain, chains, inner, Kind.UNROLLED)

    step = Store(sums, at, scalar.call("fma", Load(sums, at), Load(x, (0,)), Load(x, (1,))))
    body = block(
        each(Store(sums, at, scalar.literal(1.0, FLOAT32))),
        loop(variable("t", TRIPS), TRIPS, each(step)),
        each(Store(y, (Dim.of(chain), Dim.of(LANE) if is_vector else 0), Load(sums, at))),
    )
    return Kernel("chains", (x, y), (), Dim.of(item) + 1, item, Allocate(sums, body))


def _rate(kernel: Kernel, cpu: Cpu, threads: int) -> float:
    """1e9 steps of every chain a second, over all threads."""
    builder = llvm.JITLibraryBuilder().add_current_process().add_object_img(compile_kernels({"chains": kernel}, cpu))
    library = builder.export_symbol("chains").link(llvm.create_lljit_compiler(use_jit_link=True), "chains")
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(library["chains"])
    x = np.array([0.5, 0.25], np.float32)
    words = []
    for _ in range(threads):
        y = np.zeros((64, LANES), np.float32)
        words.append((np.array([x.ctypes.data, y.ctypes.data, 0], np.int64), y))
    seconds = _together([lambda w=w: function(w[0].ctypes.data, 0, 1) for w in words])  # type: ignore[misc]
    return threads * TRIPS / seconds / 1e9


def _together(calls: list[Callable[[], object]]) -> float:
    """Seconds until all calls, each on a thread of its own, are done (the calls release the GIL)."""
    gate = threading.Barrier(len(calls) + 1)

    def work(call: Callable[[], object]) -> None:
        gate.wait()
        call()

    workers = [threading.Thread(target=work, args=(call,)) for call in calls]
    for worker in workers:
        worker.start()
    gate.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def _copy(threads: int) -> float:
    """GB/s of y = x over large arrays, read and written bytes together."""
    b = Builder("copy")
    x = b.input(TensorType(FLOAT32, (COPIED // 8,)), "x")
    return _bandwidth(b, b("neg", x), threads, COPIED)


def _read(threads: int) -> float:
    """GB/s of summing rows of a large array."""
    b = Builder("read")
    x = b.input(TensorType(FLOAT32, (512, COPIED // 4 // 512)), "x")
    return _bandwidth(b, b("reduce_sum", x, axes=(1,), keep=False), threads, COPIED)


def _bandwidth(b: Builder, result: Any, threads: int, moved: int) -> float:
    graph = b.build([result], ["y"])
    session = Session.in_process(compile_graph(graph, Options(threads=threads)).image, threads=threads)
    port = session.inputs[0]
    x = np.ones(tuple(int(e) for e in graph.inputs[0].shape), np.float32)  # type: ignore[arg-type]
    y = np.empty(tuple(int(e) for e in graph.outputs[0].shape), np.float32)  # type: ignore[arg-type]
    call = session.bind(**{port.name: x, "y": y})
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return moved / best / 1e9


if __name__ == "__main__":
    peaks = measure()
    print(f"clock {peaks.clock:.2f} GHz, {peaks.chains} chains: {peaks.flops_per_cycle:.1f} flop a cycle")
    for threads in peaks.flops:
        print(f"{threads} thread(s): {peaks.flops[threads]:.1f} GFLOP/s, copy {peaks.copy[threads]:.1f} GB/s, "
              f"read {peaks.read[threads]:.1f} GB/s")  # fmt: skip
