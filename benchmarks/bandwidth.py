"""Kernels that memory bounds, as parts of a copy: ``python -m netloom.benchmarks.bandwidth [-o
FOLDER] [--threads 1,2] …``.

Each kernel is a program of its own over arrays far larger than the caches. In every round it is
timed beside a copy with the same ratio of read to written bytes, with ordinary stores and as many
threads; its part is the median over the rounds of the quotient of the two rates (p10–p90).
Bytes are those of inputs and results, each moved once: a kernel that passes over
memory twice cannot reach the copy. Writes FOLDER/bandwidth.json and FOLDER/bandwidth.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from netloom.benchmarks import peaks, report
from netloom.benchmarks.goals import Goal, Sense, goal_lines
from netloom.benchmarks.peaks import Peaks
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Value
from netloom.compiler.op import Array
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.runtime.buffer import empty
from netloom.runtime.program import PortInfo
from netloom.runtime.session import Session

SIZE = 128 << 20  # bytes of the largest array
GOAL = 85.0  # percent of the copy
ALL = 64  # bytes that a copy reads for one that it writes, where a kernel writes next to nothing
Make: TypeAlias = Callable[[Builder, int], Value]


@dataclass(frozen=True)
class Case:
    """A kernel: ``make`` builds it for arrays of about so many elements; ``reads``: bytes read
    for one written, ALL if hardly any are.
    """

    name: str
    reads: int
    make: Make


@dataclass(frozen=True)
class Row:
    """``part``: percent of the copy (median, p10, p90); megabytes of all arrays together."""

    kernel: str
    shape: str
    reads: int
    threads: int
    megabytes: float
    milliseconds: float
    gigabytes: float
    copy: float
    part: tuple[float, float, float]


def _input(b: Builder, shape: tuple[int, ...]) -> Value:
    return b.input(TensorType(FLOAT32, shape), f"x{len(b.inputs)}")


def _vector(b: Builder, length: int) -> Value:
    return b.constant(np.random.default_rng(0).uniform(0.5, 1.5, length).astype(np.float32))


def _rows(b: Builder, elements: int, width: int) -> Value:
    return _input(b, (elements // width, width))


def _images(b: Builder, elements: int) -> Value:
    return _input(b, (elements // (64 * 56 * 56) or 1, 64, 56, 56))


def _bias_relu(b: Builder, elements: int) -> Value:
    bias = b("reshape", _vector(b, 64), shape=(1, 64, 1, 1))
    return b("relu", b("add", _images(b, elements), bias))


def _batch_norm(b: Builder, elements: int) -> Value:
    return b("batch_norm", _images(b, elements), *(_vector(b, 64) for _ in range(4)), epsilon=1e-5)


def _pool(op: str) -> Make:
    """Windows of 2 x 2 that do not overlap."""

    def make(b: Builder, elements: int) -> Value:
        pair, none = (2, 2), (0, 0)
        images = _images(b, elements)
        return b(op, images, kernel=pair, stride=pair, dilation=(1, 1), lo=none, hi=none)

    return make


def _layer_norm(b: Builder, elements: int) -> Value:
    return b(
        "layer_norm",
        _rows(b, elements, 1024),
        _vector(b, 1024),
        _vector(b, 1024),
        axis=1,
        epsilon=1e-5,
    )


def _batch_sum(width: int) -> Make:
    return lambda b, n: b("reduce_sum", _rows(b, n, width), axes=(0,), keep=False)


def _gather(width: int) -> Make:
    def make(b: Builder, elements: int) -> Value:
        rows = _rows(b, elements, width)
        return b("gather", rows, b.input(TensorType(INT64, (elements // width,)), "i"), axis=0)

    return make


def _transpose(b: Builder, elements: int) -> Value:
    return b("transpose", _rows(b, elements, min(4096, elements // 256)), permutation=(1, 0))


CASES = (
    Case("relu", 1, lambda b, n: b("relu", _input(b, (n,)))),
    Case("add", 2, lambda b, n: b("add", _input(b, (n,)), _input(b, (n,)))),
    Case("bias + relu", 1, _bias_relu),
    Case("softmax over rows of 1000", 1, lambda b, n: b("softmax", _rows(b, n, 1000), axis=1)),
    Case("layer_norm over rows of 1024", 1, _layer_norm),
    Case("batch_norm, inference", 1, _batch_norm),
    Case("max_pool 2x2", 4, _pool("max_pool")),
    Case("average_pool 2x2", 4, _pool("average_pool")),
    Case("transpose", 1, _transpose),
    Case("sum over a batch of rows of 1024", ALL, _batch_sum(1024)),
    Case("sum over a batch of rows of 64", ALL, _batch_sum(64)),
    Case("gather of rows of 64", 1, _gather(64)),
    Case("gather of rows of 1024", 1, _gather(1024)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = report.parser_of(__doc__, "bandwidth")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--megabytes", type=float, default=SIZE / (1 << 20), help="MiB of the largest array"
    )
    parser.add_argument(
        "--kernels",
        default="",
        help="only kernels in whose names one of these occurs, with commas between",
    )
    given = parser.parse_args(arguments)
    counts = report.numbers(given.threads)
    machine = peaks.measure(counts)
    parts = report.words(given.kernels)
    rows: list[Row] = []
    for case in CASES:
        for threads in counts if not parts or any(part in case.name for part in parts) else ():
            rows.append(measure(case, threads, int(given.megabytes * (1 << 20)), given.rounds))
            print(line(rows[-1]), flush=True)
            write(report.Files.of(given), machine, rows)


def measure(case: Case, threads: int, size: int, rounds: int) -> Row:
    """A kernel over arrays of ``size`` bytes at most, beside its copy; both run once before they
    are timed.
    """
    b = Builder("kernel")
    graph = b.build([case.make(b, size // 4)], ["y"])
    session = Session.in_process(
        compile_graph(graph, Options(threads=threads)).image, threads=threads
    )
    rng = np.random.default_rng(0)
    arrays = {value.label: _filled(rng, value.type) for value in graph.inputs}
    call = session.bind(**arrays)
    moved = sum(array.nbytes for array in (*arrays.values(), *call.outputs.values()))
    copy = peaks.copier(case.reads, threads, moved // (case.reads + 1))
    call()
    copy.call()
    pairs = [(_seconds(call), _seconds(copy.call)) for _ in range(rounds)]
    rates, copies = (
        np.array([moved / pair[0] for pair in pairs]),
        np.array([copy.moved / pair[1] for pair in pairs]),
    )
    low, middle, high = (float(p) for p in np.percentile(100 * rates / copies, (10, 50, 90)))
    seconds = float(np.median([pair[0] for pair in pairs]))
    shapes = " ".join("x".join(map(str, value.type.static_shape)) for value in graph.inputs)
    return Row(case.name, shapes, case.reads, threads, moved / 1e6, seconds * 1e3,
               moved / seconds / 1e9,
               float(np.median(copies)) / 1e9, (middle, low, high))  # fmt: skip


def _filled(rng: np.random.Generator, type: TensorType) -> Array:
    """Random numbers, from the start of a cache line on, as in a program's own memory; of integers
    each one that counts an element once, in any order."""
    shape = type.static_shape
    array = empty(shape, PortInfo("", type.dtype.value, shape))
    if type.dtype is INT64:
        array[...] = rng.permutation(array.size).reshape(shape)
    else:
        rng.random(out=array, dtype=np.float32)
    return array


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def line(row: Row) -> str:
    """A row as text."""
    return (f"{row.kernel:30} {row.threads} thread(s) {row.milliseconds:8.2f} ms "
            f"{row.gigabytes:6.1f} GB/s, "
            f"{row.part[0]:5.1f} % of a copy {row.reads}:1 at {row.copy:.1f} GB/s")  # fmt: skip


def write(files: report.Files, machine: Peaks, rows: Sequence[Row]) -> None:
    """The results so far, as JSON and as a table."""
    goals = [
        Goal(
            f"{row.kernel}, {row.threads} thread(s)",
            row.part[0],
            GOAL,
            "% of the copy",
            Sense.LEAST,
        )
        for row in rows
    ]
    cells = [
        [
            r.kernel,
            r.shape,
            f"{r.reads}:1",
            str(r.threads),
            f"{r.megabytes:.0f}",
            f"{r.milliseconds:.2f}",
            f"{r.gigabytes:.1f}",
            f"{r.copy:.1f}",
            f"{r.part[0]:.0f} ({r.part[1]:.0f}–{r.part[2]:.0f})",
        ]
        for r in rows
    ]
    lines = [
        "A copy has the same ratio of read to written bytes and as many threads, and takes turns "
        "with the kernel; it uses ordinary",
        "stores, where a transpose stores past the caches, which saves it the reading of what it "
        "overwrites,",
        "and no hints for what comes next, which kernels give: parts above 100 % occur;",
        "the part is the median over the rounds of the quotient of the two rates, with p10–p90. "
        "MB: all arrays together, each",
        "moved once.", "",
        *report.table(["kernel", "inputs", "read:written", "threads", "MB", "ms", "GB/s",
                       "copy GB/s", "% of the copy"], cells), "",
        "## Goals", "", *goal_lines(goals),
    ]  # fmt: skip
    files.write(machine, {"rows": rows, "goals": goals}, lines)


if __name__ == "__main__":
    main()
