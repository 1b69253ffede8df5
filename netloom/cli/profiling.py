"""``netloom profile``: where a model's time goes, kernel by kernel, on one thread."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netloom.errors import UsageError

from .files import check_target, replace_file
from .models import compile_model, inference_form, is_program, load_for_timing
from .options import Binding, Build, FileType, binding_options, printing, profile_options
from .output import Output, columns

if TYPE_CHECKING:
    from netloom.benchmarks.launches import LaunchCost


@click.command()
@click.argument("model")
@click.option(
    "--runs",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Each kernel's time is the best of so many.",
)
@click.option(
    "--trace", type=FileType(), help="Write a trace for chrome://tracing or ui.perfetto.dev."
)
@click.option(
    "--peaks/--no-peaks", "has_peaks", default=True, help="Measure what the machine can do (5 s)."
)
@binding_options
@profile_options
@printing
def profile(
    output: Output,
    model: str,
    runs: int,
    trace: Path | None,
    has_peaks: bool,
    binding: Binding,
    build: Build,
) -> None:
    """Time every kernel of MODEL by itself, on one thread and random inputs.

    The strategy is that of the kernel's convolution; parts of the machine's peaks are of
    multiply-adds and of a copy.
    """
    if is_program(model):
        raise UsageError(
            "a program no longer knows what its kernels are.",
            hint="Give the model that it was compiled from.",
        )
    if trace is not None:
        check_target(trace)
    from netloom.benchmarks.launches import launch_costs

    with tempfile.TemporaryDirectory(prefix="netloom-") as place:
        graph, _ = load_for_timing(model, binding, Path(place))
    compiled = compile_model(inference_form(graph), build)
    rows = launch_costs(compiled, runs, binding.numbers)
    peaks = _peaks() if has_peaks else None
    data = {
        "cpu": compiled.cpu.name,
        "seconds": sum(row.seconds for row in rows),
        "peaks": peaks,
        "kernels": [_record(r) for r in rows],
    }
    output.result(data, _text(output, rows, peaks))
    if trace is not None:
        replace_file(trace, as_trace(rows).encode())


def _record(row: LaunchCost) -> dict[str, Any]:
    return {**asdict(row), "ops": _joined(row)}


def _joined(row: LaunchCost) -> str:
    return " > ".join(row.ops)


def _peaks() -> dict[str, float]:
    """Of one thread: GFLOP/s of multiply-adds, GB/s of a copy."""
    from netloom.benchmarks import peaks

    found = peaks.measure((1,))
    return {"gflops": found.flops[1], "gigabytes": found.copy[1]}


def _text(output: Output, rows: Sequence[LaunchCost], peaks: Mapping[str, float] | None) -> str:
    total = sum(row.seconds for row in rows)
    heads = [
        "ms",
        "%",
        "GFLOP/s",
        "GB/s",
        *(("% of peak", "% of copy") if peaks else ()),
        "strategy",
        "ops",
        "node",
    ]
    cells = []
    for row in rows:
        parts = (
            (
                f"{100 * row.gflops / peaks['gflops']:.1f}",
                f"{100 * row.gigabytes / peaks['gigabytes']:.1f}",
            )
            if peaks
            else ()
        )
        cells.append([f"{row.seconds * 1e3:.4f}", f"{100 * row.seconds / total:.1f}",
                      f"{row.gflops:.1f}", f"{row.gigabytes:.1f}",
                      *parts, row.strategy, _joined(row), row.node])  # fmt: skip
    lines = [
        f"{len(rows)} kernels, {total * 1e3:.4g} ms on one thread, "
        f"{sum(r.operations for r in rows) / total / 1e9:.1f} GFLOP/s"
    ]
    if peaks:
        lines.append(
            f"peaks: {peaks['gflops']:.1f} GFLOP/s of multiply-adds, {peaks['gigabytes']:.1f} GB/s "
            "of a copy"
        )
    return "\n".join([output.styled(lines[0], bold=True), *lines[1:], columns(cells, heads)])


def as_trace(rows: Sequence[LaunchCost]) -> str:
    """Chrome's trace event format: one complete event for each launch, end to end, times in
    microseconds.
    """
    events: list[dict[str, Any]] = []
    start = 0.0
    for row in rows:
        length = row.seconds * 1e6
        facts = {"node": row.node, "strategy": row.strategy, "kernel": row.kernel,
                 "items": row.items, "GFLOP/s": row.gflops,
                 "GB/s": row.gigabytes}  # fmt: skip
        events.append({"name": _joined(row), "cat": row.strategy or "kernel", "ph": "X",
                       "ts": start, "dur": length, "pid": 1, "tid": 1,
                       "args": facts})  # fmt: skip
        start += length
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})
