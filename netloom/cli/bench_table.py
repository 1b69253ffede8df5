"""Rows of a benchmark -> two tables in plain text: the times, and what they are worth beside
peers and float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .output import columns

if TYPE_CHECKING:
    from netloom.benchmarks.comparison import Row

_TIMES = ("min", "mean", "p50", "p90", "p95", "p99")


def table(rows: Sequence[Row], peak: float | None, batch: int) -> str:
    """Milliseconds, rates and parts of ``peak`` (GFLOP/s); then sizes, errors and ratios.
    Samples count ``batch`` a call.
    """
    peers = list(dict.fromkeys(peer for row in rows for peer in row.ratios))
    heads = ("ms a call", *_TIMES, "samples/s", "GFLOP/s", *(("% of peak",) if peak else ()))
    times = [
        [
            row.contender,
            *(_time(row.times[f"{name}_ms"]) for name in _TIMES),
            f"{1e3 * batch / row.milliseconds:.4g}",
            _number(row.gflops, ".4g"),
            *((_number(100 * row.gflops / peak, ".1f"),) if peak else ()),
        ]
        for row in rows
    ]
    facts = [[*_facts(row), *(_ratio(row, peer) for peer in peers)] for row in rows]
    fact_heads = (
        "",
        "version",
        "compile s",
        "load, run ms",
        "MB",
        "error",
        *(f"faster than {peer}" for peer in peers),
    )
    return f"{columns(times, heads)}\n{columns(facts, fact_heads)}"


def _facts(row: Row) -> tuple[str, ...]:
    return (row.contender, row.version.partition("-")[0], _number(row.compile_s or math.nan, ".2f"),
            f"{row.ready_s * 1e3:.4g}",
            f"{row.bytes / 1e6:.3g}", _number(row.error, ".1e"))  # fmt: skip


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.4g}"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _ratio(row: Row, peer: str) -> str:
    if peer not in row.ratios:
        return ""
    middle, low, high = row.ratios[peer]
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
