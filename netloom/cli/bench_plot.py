"""Rows of a benchmark -> a picture: one panel for each group, one bar for each contender's
median, a line up to its p95.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netloom.benchmarks.comparison import Row


def drawn(groups: Sequence[tuple[str, Sequence[Row]]], form: str) -> bytes:
    """The contents of a png, svg or pdf file; the same rows give the same bytes."""
    from matplotlib.figure import Figure

    from netloom.benchmarks.plots import rendered

    heights = [len(rows) + 1 for _, rows in groups]
    figure = Figure(figsize=(8, 0.4 * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[
        :, 0
    ]
    for panel, (title, rows) in zip(panels, groups, strict=True):
        medians = [row.times["p50_ms"] for row in rows]
        above = [row.times["p95_ms"] - row.times["p50_ms"] for row in rows]
        colors = ["tab:blue" if row.contender.startswith("netloom") else "tab:gray" for row in rows]
        panel.barh(
            [row.contender for row in rows], medians, xerr=[[0.0] * len(rows), above], color=colors
        )
        panel.invert_yaxis()
        panel.set_title(title, fontsize="medium", loc="left")
    panels[-1].set_xlabel("milliseconds a call: median, and the 95th percentile")
    return rendered(figure, form)
