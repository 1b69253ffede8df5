"""``netloom profile``: where a model's time goes, kernel by kernel, on one thread."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netloom.errors import UsageError

from .explain import fused_ops
from .files import check_target, replace_file
from .models import compile_model, inference_form, is_program, load_for_timing
from .options import Binding, Build, FileType, binding_options, printing, profile_options
from .output import Output, columns

if TYPE_CHECKING:
    from netloom.compiler.driver import Compiled
    from netloom.compiler.graph import Node, Value


@dataclass(frozen=True)
class Row:
    """One launch. ``operations`` are those of its ops as written, ``bytes`` those of the tensors it reads and writes."""

    node: str
    ops: str
    strategy: str
    kernel: str
    items: int
    seconds: float
    operations: int
    bytes: int

    @property
    def gflops(self) -> float:
        return self.operations / self.seconds / 1e9

    @property
    def gigabytes(self) -> float:
        return self.bytes / self.seconds / 1e9


@click.command()
@click.argument("model")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="Each kernel's time is the best of so many.")
@click.option("--trace", type=FileType(), help="Write a trace for chrome://tracing or ui.perfetto.dev.")
@click.option("--peaks/--no-peaks", "has_peaks", default=True, help="Measure what the machine can do (5 s).")
@binding_options
@profile_options
@printing
def profile(output: Output, model: str, runs: int, trace: Path | None, has_peaks: bool, binding: Binding, build: Build) -> None:
    """Time every kernel of MODEL by itself, on one thread and random inputs.

    The strategy is that of the kernel's convolution; parts of the machine's peaks are of multiply-adds and of a copy.
    """
    if is_program(model):
        raise UsageError("a program no longer knows what its kernels are.", hint="Give the model that it was compiled from.")
    if trace is not None:
        check_target(trace)
    from netloom.benchmarks import profile as profiler

    with tempfile.TemporaryDirectory(prefix="netloom-") as place:
        graph, _ = load_for_timing(model, binding, Path(place))
    compiled = compile_model(inference_form(graph), build)
    rows = _rows(compiled, profiler.profile(compiled, runs=runs, dims=binding.numbers), binding.numbers)
    peaks = _peaks() if has_peaks else None
    data = {"cpu": compiled.cpu.name, "seconds": sum(row.seconds for row in rows), "peaks": peaks, "kernels": [asdict(r) for r in rows]}
    output.result(data, _text(output, rows, peaks))
    if trace is not None:
        replace_file(trace, as_trace(rows).encode())


def _rows(compiled: Compiled, times: Sequence[Any], dims: Mapping[str, int]) -> list[Row]:
    """Launches with what they compute. Copies to results, which come last, have no node."""
    strategies = {decision.node: decision.strategy for decision in compiled.decisions if decision.node}
    nodes: list[Node | None] = [node for node in compiled.graphs["run"].nodes if node.op.name != "constant"]
    nodes += [None] * (len(times) - len(nodes))
    return [
        Row(time.label, "copy" if node is None else " > ".join(fused_ops(node)), strategies.get(time.label, ""), time.kernel,
            time.items, time.seconds, 0 if node is None else _operations(node, dims), 0 if node is None else _bytes(node, dims))
        for node, time in zip(nodes, times, strict=True)
    ]  # fmt: skip


def _operations(kernel: Node, dims: Mapping[str, int]) -> int:
    from netloom.benchmarks.comparison import nominal

    total = 0
    for node in kernel.attrs.body.nodes:
        if node.op.flops is not None:
            types = [value.type for value in node.inputs], [value.type for value in node.outputs]
            total += nominal(node.op.flops(node.attrs, *types), dims)
    return total


def _bytes(kernel: Node, dims: Mapping[str, int]) -> int:
    return sum(_size(value, dims) for value in dict.fromkeys((*kernel.inputs, *kernel.outputs)))


def _size(value: Value, dims: Mapping[str, int]) -> int:
    from netloom.benchmarks.comparison import nominal
    from netloom.compiler import dim

    shape = value.layout.physical_shape(value.shape) if value.layout else value.shape
    return nominal(dim.product(shape), dims) * value.dtype.bytes


def _peaks() -> dict[str, float]:
    """Of one thread: GFLOP/s of multiply-adds, GB/s of a copy."""
    from netloom.benchmarks import peaks

    found = peaks.measure((1,))
    return {"gflops": found.flops[1], "gigabytes": found.copy[1]}


def _text(output: Output, rows: Sequence[Row], peaks: Mapping[str, float] | None) -> str:
    total = sum(row.seconds for row in rows)
    heads = ["ms", "%", "GFLOP/s", "GB/s", *(("% of peak", "% of copy") if peaks else ()), "strategy", "ops", "node"]
    cells = []
    for row in rows:
        parts = (f"{100 * row.gflops / peaks['gflops']:.1f}", f"{100 * row.gigabytes / peaks['gigabytes']:.1f}") if peaks else ()
        cells.append([f"{row.seconds * 1e3:.4f}", f"{100 * row.seconds / total:.1f}", f"{row.gflops:.1f}", f"{row.gigabytes:.1f}",
                      *parts, row.strategy, row.ops, row.node])  # fmt: skip
    lines = [f"{len(rows)} kernels, {total * 1e3:.4g} ms on one thread, {sum(r.operations for r in rows) / total / 1e9:.1f} GFLOP/s"]
    if peaks:
        lines.append(f"peaks: {peaks['gflops']:.1f} GFLOP/s of multiply-adds, {peaks['gigabytes']:.1f} GB/s of a copy")
    return "\n".join([output.styled(lines[0], bold=True), *lines[1:], columns(cells, heads)])


def as_trace(rows: Sequence[Row]) -> str:
    """Chrome's trace event format: one complete event for each launch, end to end, times in microseconds."""
    events: list[dict[str, Any]] = []
    start = 0.0
    for row in rows:
        length = row.seconds * 1e6
        facts = {"node": row.node, "strategy": row.strategy, "kernel": row.kernel, "items": row.items, "GFLOP/s": row.gflops,
                 "GB/s": row.gigabytes}  # fmt: skip
        events.append({"name": row.ops, "cat": row.strategy or "kernel", "ph": "X", "ts": start, "dur": length, "pid": 1, "tid": 1,
                       "args": facts})  # fmt: skip
        start += length
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})
