"""An entry of the machine table for this machine, measured (compiler/strategies/machines.py):
peaks, caches, barrier.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from netloom.benchmarks import peaks
from netloom.benchmarks.conditions import processor
from netloom.compiler import dim
from netloom.compiler.driver import Compiled, Options, compile_graph
from netloom.compiler.graph import Builder
from netloom.compiler.strategies.machines import MachineEntry, machine_entry
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

CHAIN = 64  # products one after another
ROWS = 64  # of each: too little work to matter beside the barrier behind it
ROUNDS = 300
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def measure_entry(
    root: Path = Path("/"), peaks_of: Callable[[], peaks.Peaks] = lambda: peaks.measure((1,)),
    cached: Callable[[int], float] | None = None, barrier: Callable[[], float] | None = None,
) -> MachineEntry:  # fmt: skip
    """The entry of this machine at its highest CPU level; what the system below ``root`` does not
    tell stays as the level's entry in the table has it."""
    found = peaks_of()
    known = machine_entry(found.cpu)
    caches = cache_sizes(root)
    last = caches.get(3, known.l3)
    return replace(
        known, source=f"measured: {processor(root)}", clock=round(found.clock, 2),
        products=round(found.flops[1] / 2 / found.clock, 1), read=round(found.read[1], 1), copy=round(found.copy[1], 1),
        cached=round((cached or copy_rate)(last // 4), 1),
        l1=caches.get(1, known.l1), l2=caches.get(2, known.l2), l3=last,
        barrier=float(f"{(barrier or barrier_seconds)():.1e}"),
    )  # fmt: skip


def entry_text(entry: MachineEntry) -> str:
    """The entry as it stands in the table."""
    values = ", ".join(f"{field.name}={getattr(entry, field.name)!r}" for field in fields(entry))
    return f"MachineEntry({values}),"


def cache_sizes(root: Path = Path("/")) -> dict[int, int]:
    """Bytes of the first processor's caches for data, by level."""
    sizes = {}
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction" and size[:-1].isdecimal() and size[-1] in _UNITS:
            sizes[int(level)] = int(size[:-1]) * _UNITS[size[-1]]
    return sizes


def copy_rate(
    size: int, clock: Callable[[], float] = time.perf_counter, rounds: int = ROUNDS
) -> float:
    """GB/s of y = -x, of which x and y together have so many bytes: read and written ones."""
    b = Builder("copy")
    x = b.input(TensorType(FLOAT32, (size // 8,)), "x")
    compiled = compile_graph(b.build([b("neg", x)], ["y"]), Options(threads=1))
    return (
        size
        / _least(
            compiled,
            1,
            clock,
            rounds,
            x=np.zeros(size // 8, np.float32),
            y=np.zeros(size // 8, np.float32),
        )
        / 1e9
    )


def barrier_seconds(
    clock: Callable[[], float] = time.perf_counter, rounds: int = ROUNDS, length: int = CHAIN
) -> float:
    """What each launch of a chain costs on two threads beyond its longer half on one."""
    compiled = _chain(length)
    launches = compiled.program.entries[0].launches
    items = dim.evaluate(launches[0].items, {})
    x, w = np.zeros((ROWS, 16), np.float32), np.zeros((16, 16), np.float32)
    one, two = (_least(compiled, threads, clock, rounds, x=x, w=w) for threads in (1, 2))
    return max(two - one * -(-items // 2) / items, 0.0) / len(launches)


def _chain(length: int) -> Compiled:
    """y = x w w ... w for x of ROWS x 16 and w of 16 x 16."""
    b = Builder("chain")
    x = b.input(TensorType(FLOAT32, (ROWS, 16)), "x")
    w = b.input(TensorType(FLOAT32, (16, 16)), "w")
    for _ in range(length):
        x = b("matmul", x, w)
    return compile_graph(b.build([x], ["y"]), Options(threads=2))


def _least(
    compiled: Compiled,
    threads: int,
    clock: Callable[[], float],
    rounds: int,
    **buffers: npt.NDArray[np.float32],
) -> float:
    session = Session.in_process(compiled.image, threads=threads)
    call = session.bind(**buffers)
    best = float("inf")
    for _ in range(rounds):
        start = clock()
        call()
        best = min(best, clock() - start)
    return best


__all__ = ["barrier_seconds", "cache_sizes", "copy_rate", "entry_text", "measure_entry"]
