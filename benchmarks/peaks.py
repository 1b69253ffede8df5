"""What this machine can do at most, measured: multiply-adds, clock, and memory bandwidth.

Every benchmark prints these first and gives its results as parts of them. Copies are programs of
one hand-made loop, run by the pool that runs networks, with ordinary stores: y = -x where one array
is read, y = the sum where several are. The multiply-add peak runs chains that never leave the
registers; on a core that issues two 8-lane (or one 16-lane) multiply-adds a cycle it is 32 flop x
clock.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from netloom.benchmarks import conditions
from netloom.compiler import dim, scalar
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
from netloom.compiler.op import Array
from netloom.compiler.program import BufferRef, Entry, Launch, Port, Program, Space
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.llvm import compile_kernels
from netloom.compiler.targets.cpu.machine import Cpu, host_cpu
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.buffer import empty
from netloom.runtime.program import PortInfo
from netloom.runtime.session import Bound, Session

TRIPS = 1 << 21  # of the loop around the chains
LATENCY = 4  # cycles of a float32 multiply-add, on every x86-64 core since 2016
CACHED = 14 << 10  # bytes: less than half of any first cache
COPIED = 256 << 20  # bytes: several times the largest cache
READS = (1, 2, 4)  # arrays that a copy reads for one that it writes
_ITEM = 64  # rows of four vectors in a copy's work item


@dataclass(frozen=True)
class Peaks:
    """GHz; by number of threads: GFLOP/s of multiply-adds, GB/s (read and written bytes) of a copy
    and of reading; ``copies``: also of those that read as many arrays of equal size for one that
    they write. ``warnings``: what disturbs times on this machine, looked up before anything was
    measured."""

    clock: float
    flops: dict[int, float]
    copy: dict[int, float]
    read: dict[int, float]
    chains: int
    cpu: str
    copies: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def flops_per_cycle(self) -> float:
        return self.flops[1] / self.clock

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(threads: Sequence[int] = ()) -> Peaks:
    """The peaks of this machine on one thread and on these numbers of threads, in about five
    seconds.
    """
    threads = sorted({1, *threads})
    cpu, doubts = host_cpu(), conditions.warnings(max(threads))
    chains = _chains(cpu)
    one_chain = _chains_on(_chain_kernel(1, False, TRIPS), cpu, 1, TRIPS)
    clock = max(one_chain() for _ in range(3)) * LATENCY
    runs = {n: multiplier(n, TRIPS) for n in threads}
    flops = {n: max(run() for _ in range(3)) for n, run in runs.items()}
    copies = {n: {reads: _copy_rate(reads, n) for reads in READS} for n in threads}
    copy, read = {n: copies[n][1] for n in threads}, {n: _read(n) for n in threads}
    return Peaks(clock, flops, copy, read, chains, cpu.name, copies, tuple(doubts))


def multiplier(threads: int, trips: int, reads_cache: bool = False) -> Callable[[], float]:
    """What runs the chains so many times on each thread: GFLOP/s that a run reached. With
    ``reads_cache`` each multiply-add loads its addend, all of which lie in the first cache."""
    cpu = host_cpu()
    chains = _chains(cpu)
    rows = max(CACHED // (chains * LANES * 4), 1) if reads_cache else 0
    run = _chains_on(_chain_kernel(chains, True, trips, rows), cpu, threads, trips)
    return lambda: 2 * LANES * chains * run()


def _chains(cpu: Cpu) -> int:
    """As many independent chains as the registers hold beside two operands."""
    return max(cpu.machine.vectors - 4, 3)


def _chain_kernel(chains: int, is_vector: bool, trips: int, rows: int = 0) -> Kernel:
    """chains x (a = a * b + c), so many times; one item per thread. c is one number, or another for
    each chain out of ``rows`` rows in turn."""
    item, trip = Symbol("w", 0, None), variable("t", trips)
    x = Buffer("x", FLOAT32, (1 + max(rows, 1), chains, LANES))
    y = Buffer("y", FLOAT32, (chains, LANES))
    shape = (chains, LANES) if is_vector else (chains,)
    sums = Buffer("a", FLOAT32, shape, is_local=True)
    chain = variable("k", chains)
    at = (Dim.of(chain), Dim.of(LANE)) if is_vector else (Dim.of(chain),)

    def each(statement: Statement) -> Statement:
        inner = loop(LANE, LANES, statement, Kind.VECTOR) if is_vector else statement
        return loop(chain, chains, inner, Kind.UNROLLED)

    addend = Load(x, (Dim.of(trip) % rows + 1, *at) if rows else (1, 0, 0))
    step = Store(sums, at, scalar.call("fma", Load(sums, at), Load(x, (0, 0, 0)), addend))
    body = block(
        each(Store(sums, at, scalar.literal(1.0, FLOAT32))),
        loop(trip, trips, each(step)),
        each(Store(y, (Dim.of(chain), Dim.of(LANE) if is_vector else 0), Load(sums, at))),
    )
    return Kernel("chains", (x, y), (), Dim.of(item) + 1, item, Allocate(sums, body))


def _chains_on(kernel: Kernel, cpu: Cpu, threads: int, trips: int) -> Callable[[], float]:
    """What runs the chains on each thread: 1e9 steps of every chain a second, over all threads."""
    builder = (
        llvm.JITLibraryBuilder()
        .add_current_process()
        .add_object_img(compile_kernels({"chains": kernel}, cpu))
    )
    library = builder.export_symbol("chains").link(
        llvm.create_lljit_compiler(use_jit_link=True), "chains"
    )
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        library["chains"]
    )
    x = np.full([dim.evaluate(extent, {}) for extent in kernel.buffers[0].shape], 0.5, np.float32)
    words = []
    for _ in range(threads):
        y = np.zeros((64, LANES), np.float32)
        words.append((np.array([x.ctypes.data, y.ctypes.data, 0], np.int64), y))

    def run() -> float:
        assert library and x.size  # which the code and its arguments lie in
        seconds = _together([lambda w=w: function(w[0].ctypes.data, 0, 1) for w in words])  # type: ignore[misc]
        return threads * trips / seconds / 1e9

    return run


def _together(calls: list[Callable[[], object]]) -> float:
    """Seconds until all calls, each on a thread of its own, are done (the calls release the GIL); a
    single one is made by the caller, on whose core the clock is that of what it is compared with.
    """
    if len(calls) == 1:
        start = time.perf_counter()
        calls[0]()
        return time.perf_counter() - start
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


@dataclass(frozen=True)
class Copy:
    """A copy ready to run: calling ``call`` moves ``moved`` bytes, read and written ones
    together.
    """

    call: Bound
    moved: int


def copier(reads: int, threads: int, size: int) -> Copy:
    """A copy that reads ``reads`` arrays of about ``size`` bytes and writes one; more than
    max(READS) of them behind each other, as one array."""
    cpu = host_cpu()
    items = max(size // (4 * 4 * LANES * _ITEM), 1)
    kernel = _copy_kernel(reads, items) if reads <= max(READS) else _fold_kernel(reads, items)
    *inputs, output = (Port(b.name, TensorType(FLOAT32, b.shape)) for b in kernel.buffers)
    refs = (
        *(BufferRef(Space.INPUT, position) for position in range(len(inputs))),
        BufferRef(Space.OUTPUT, 0),
    )
    entry = Entry(
        "run", tuple(inputs), (output,), (Launch(kernel.name, refs, (), kernel.items),), ()
    )
    program = Program("copy", (), (entry,), (), (), {kernel.name: kernel})
    image = load_in_process(
        [
            Variant(
                program,
                [compile_kernels(program.kernels, cpu)],
                cpu.required,
                cpu.name,
                cpu.architecture,
            )
        ]
    )
    arrays = {port.name: _at_line(port.type.static_shape) for port in (*inputs, output)}
    return Copy(
        Session.in_process(image, threads=threads).bind(**arrays),
        sum(array.nbytes for array in arrays.values()),
    )


def _at_line(shape: tuple[int, ...]) -> Array:
    """Ones, from the start of a cache line on."""
    array = empty(shape, PortInfo("", FLOAT32.value, shape))
    array.fill(1)
    return array


def _copy_kernel(reads: int, items: int) -> Kernel:
    """One work item: _ITEM rows of four vectors."""
    shape = (items, _ITEM, 4, LANES)
    item, row, vector = variable("w", items), variable("t", _ITEM), variable("k", 4)
    at = (Dim.of(item), Dim.of(row), Dim.of(vector), Dim.of(LANE))
    inputs, output = (
        [Buffer(f"x{number}", FLOAT32, shape) for number in range(reads)],
        Buffer("y", FLOAT32, shape),
    )
    first, *others = (Load(buffer, at) for buffer in inputs)
    value: scalar.Expr = first if others else -first
    for other in others:
        value = value + other
    lanes = loop(LANE, LANES, Store(output, at, value), Kind.VECTOR)
    body = loop(row, _ITEM, loop(vector, 4, lanes, Kind.UNROLLED))
    return Kernel("copy", (*inputs, output), (), items, item, body)


def _fold_kernel(reads: int, items: int) -> Kernel:
    """One work item, _ITEM times: the sum of ``reads`` rows of four vectors that lie behind each
    other."""
    x = Buffer("x0", FLOAT32, (items, _ITEM, reads, 4, LANES))
    y = Buffer("y", FLOAT32, (items, _ITEM, 4, LANES))
    sums = Buffer("a", FLOAT32, (4, LANES), is_local=True)
    item, row, term = variable("w", items), variable("t", _ITEM), variable("r", reads)
    vector = variable("k", 4)
    at = (Dim.of(vector), Dim.of(LANE))
    place = (Dim.of(item), Dim.of(row))

    def each(statement: Statement) -> Statement:
        return loop(vector, 4, loop(LANE, LANES, statement, Kind.VECTOR), Kind.UNROLLED)

    added = Load(sums, at) + Load(x, (*place, Dim.of(term), *at))
    body = block(
        each(Store(sums, at, scalar.literal(0.0, FLOAT32))),
        loop(term, reads, each(Store(sums, at, added))),
        each(Store(y, (*place, *at), Load(sums, at))),
    )
    return Kernel("copy", (x, y), (), items, item, loop(row, _ITEM, Allocate(sums, body)))


def _copy_rate(reads: int, threads: int) -> float:
    """GB/s of copies of COPIED bytes, read and written ones together."""
    copy = copier(reads, threads, COPIED // (reads + 1))
    return copy.moved / best_seconds(copy.call) / 1e9


def _read(threads: int) -> float:
    """GB/s of summing rows of a large array."""
    b = Builder("read")
    shape = (512, COPIED // 4 // 512)
    x = b.input(TensorType(FLOAT32, shape), "x")
    graph = b.build([b("reduce_sum", x, axes=(1,), keep=False)], ["y"])
    session = Session.in_process(
        compile_graph(graph, Options(threads=threads)).image, threads=threads
    )
    return COPIED / best_seconds(session.bind(x=np.ones(shape, np.float32))) / 1e9


def best_seconds(call: Callable[[], None]) -> float:
    """The least of five calls."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    peaks = measure((2,))
    print(
        f"clock {peaks.clock:.2f} GHz, {peaks.chains} chains: {peaks.flops_per_cycle:.1f} flop a cycle"
    )
    for threads in peaks.flops:
        print(f"{threads} thread(s): {peaks.flops[threads]:.1f} GFLOP/s, copy {peaks.copy[threads]:.1f} GB/s, "
              f"read {peaks.read[threads]:.1f} GB/s")  # fmt: skip
