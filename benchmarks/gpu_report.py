"""The results of a run on a GPU -> docs/benchmarks/gpu.json and gpu.md, which name the device.

The page holds the figures beside their goals and beside what was predicted, then every row, and what
failed or was left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from netloom.benchmarks import report
from netloom.benchmarks.goals import Goal, Sense, goal_lines
from netloom.benchmarks.gpu_cases import MEMORY_BOUND
from netloom.benchmarks.gpu_predictions import PREDICTIONS
from netloom.benchmarks.gpu_results import KernelRow, Results, mean, read_results
from netloom.errors import UsageError

NAME = "gpu"


def write(results: Path, folder: Path | None = None) -> None:
    """The two files; UsageError if there are no results."""
    found = read_results(results)
    if not found.outcomes:
        raise UsageError(f"{str(results)!r} holds no results.", hint="Run the benchmark first.")
    folder = folder or report.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(results, folder / f"{NAME}.json")
    (folder / f"{NAME}.md").write_text("\n".join(lines(found)) + "\n", encoding="utf-8")


def lines(results: Results) -> list[str]:
    """The page."""
    sections = (
        ("", _head(results)),
        ("Goals", _goals(results)),
        ("Predictions", _predictions(results)),
        ("Networks and training steps", _networks(results)),
        ("Matrix products", _kernels(r for r in results.kernels if r.case.kind == "matmul")),
        ("Bound by memory", _kernels(r for r in results.kernels if r.case.kind in MEMORY_BOUND)),
        ("Attention", _kernels(r for r in results.kernels if r.case.kind == "attention")),
        ("Convolutions", _convolutions(results)),
        ("Failed", [f"- {name}: {reason}" for name, reason in results.failures.items()]),
        ("Peers that failed", [f"- {name}: {note}" for name, note in results.notes.items()]),
        ("Left out for want of time", [f"- {name}" for name in results.left_out]),
    )
    found = [f"# {NAME}"]
    for head, body in sections:
        if body:
            found += ["", *([f"## {head}", ""] if head else []), *body]
    return found


def _head(results: Results) -> list[str]:
    facts = (f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in results.device.items()
             if value is not None)  # fmt: skip
    return [
        f"Device: {'; '.join(facts)}.",
        "",
        "Times are medians over rounds of the mean of a block of graph replays, between two",
        "events, without the copies of inputs and outputs; PyTorch's calls are eager unless it says",
        "otherwise. Every row's results were compared before it was timed.",
    ]


def _goals(results: Results) -> list[str]:
    return goal_lines([
        Goal(f.name, f.value, f.goal, "", Sense.MOST if f.is_most else Sense.LEAST)
        for f in results.figures()
    ])  # fmt: skip


def _predictions(results: Results) -> list[str]:
    rows = []
    for item in PREDICTIONS:
        value = item.measured(results.kernels)
        measured = "-" if value is None else f"{value:.3g} {item.unit}"
        predicted = f"{item.low:g}–{item.high:g} {item.unit}"
        rows.append([item.name, predicted, measured, item.verdict(value)])
    return report.table(["figure", "predicted", "measured", "verdict"], rows)


def _networks(results: Results) -> list[str]:
    rows = [
        [row.case, f"{row.microseconds:.1f}", f"{row.host_microseconds:.1f}", f"{row.error:.1e}",
         _ratio(row.ratios.get("torch")), _ratio(row.ratios.get("torch.compile"))]
        for row in results.networks
    ]  # fmt: skip
    heads = ["case", "µs", "host µs", "error", "x torch", "x torch.compile"]
    return report.table(heads, rows) if rows else []


def _kernels(rows: Iterable[KernelRow]) -> list[str]:
    cells = [
        [row.case.name, f"{row.microseconds:.1f}", f"{row.tflops:.2f}",
         f"{row.gigabytes_per_second:.0f}", f"{row.error:.1e}", _ratio(row.ratio)]
        for row in rows
    ]  # fmt: skip
    heads = ["case", "µs", "TFLOP/s", "GB/s", "error", "x torch"]
    return report.table(heads, cells) if cells else []


def _convolutions(results: Results) -> list[str]:
    """Every row, below how far the choice by predictions is from the fastest that was measured."""
    rows = [row for row in results.kernels if row.case.kind == "conv"]
    table = _kernels(rows)
    lost = []
    for row in rows:
        peers = [r for r in rows if (r.case.layer, r.case.precision) == (row.case.layer, "f32")]
        if row.case.strategy == "auto" and row.case.precision == "f32" and len(peers) > 1:
            lost.append(row.microseconds / min(r.microseconds for r in peers))
    if not lost:
        return table
    told = (
        f"The strategy that predictions choose takes {mean(lost):.2f} times as long as the fastest "
        f"(geometric mean of {len(lost)} layers; at most {max(lost):.2f})."
    )
    return [told, "", *table]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _plain(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
