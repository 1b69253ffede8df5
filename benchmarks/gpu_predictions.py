"""What docs/gpu.md predicts for an H200, and which measured rows tell whether it is so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from netloom.benchmarks.gpu_cases import Case
from netloom.benchmarks.gpu_results import KernelRow, mean

Rows = Sequence[KernelRow]


@dataclass(frozen=True)
class Prediction:
    """A range, and how the figure follows from rows (None where they do not tell)."""

    name: str
    low: float
    high: float
    unit: str
    measured: Callable[[Rows], float | None]

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        if value < self.low:
            return "**below**"
        return "above" if value > self.high else "holds"


def _matmul(precision: str, rows: Rows) -> float | None:
    """TFLOP/s of the product of 4096 x 4096 matrices."""
    named = (row.tflops for row in rows if row.case.name == f"matmul 4096 {precision}")
    return next(named, None)


def _is_full(case: Case, channels: range) -> bool:
    """A 3 x 3 convolution of stride 1 that fills the device."""
    is_plain = case.kind == "conv" and case.w[2:] == (3, 3) and case.stride == 1
    return is_plain and case.precision == "f32" and case.x[0] >= 16 and case.x[1] in channels


def _direct(rows: Rows) -> float | None:
    """The geometric mean of TFLOP/s over layers."""
    found = [
        row.tflops
        for row in rows
        if row.case.strategy == "direct" and _is_full(row.case, range(64, 1024))
    ]
    return mean(found) if found else None


def _beside_direct(strategy: str, channels: range, rows: Rows) -> float | None:
    """How many times faster than direct a strategy is: the geometric mean over layers."""
    times = {(row.case.layer, row.case.strategy): row.microseconds for row in rows
             if _is_full(row.case, channels)}  # fmt: skip
    found = [
        times[layer, "direct"] / time
        for (layer, own), time in times.items()
        if own == strategy and (layer, "direct") in times
    ]
    return mean(found) if found else None


PREDICTIONS = (
    Prediction("matmul 4096, f32", 40, 50, "TFLOP/s", partial(_matmul, "f32")),
    Prediction("matmul 4096, 3xtf32", 40, 70, "TFLOP/s", partial(_matmul, "3xtf32")),
    Prediction("matmul 4096, tf32", 80, 150, "TFLOP/s", partial(_matmul, "tf32")),
    Prediction("3x3 convolutions, direct, from 64 channels and batch 16 on", 35, 45, "TFLOP/s",
               _direct),
    Prediction("Winograd F(4x4) to direct, from 128 channels and batch 16 on", 1.5, 2, "x",
               partial(_beside_direct, "winograd_f4", range(128, 1024))),
    Prediction("fused Winograd F(2x2) to direct, 64 channels, from batch 16 on", 1.5, 2, "x",
               partial(_beside_direct, "winograd_f2_fused", range(64, 128))),
)  # fmt: skip
