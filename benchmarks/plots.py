"""Pictures of the tables: ``python -m netloom.benchmarks.plots [FOLDER]`` draws what FOLDER's JSON
files hold as .svg beside them.

``layers.svg`` is a roofline (Williams et al. 2009), ``networks.svg``, ``models.svg`` and
``training.svg`` are bars of the ratios to the peers with p10–p90, ``bandwidth.svg`` bars of parts
of a copy, ``scaling.svg`` lines over the batch. Colours differ in lightness, marks and hatches in
shape, so that a print in greys can be read. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from netloom.benchmarks.report import FOLDER, words

Data: TypeAlias = Mapping[str, Any]
# dark and light in turn
COLOURS = ("#0b3c5d", "#d9a404", "#a63d40", "#9fc490", "#3f7fbf", "#d0c4df", "#5b5b5b")
FILLS = ("#7ba7cc", "#f4d58d", "#c4c4c4", "#9fc490")  # of bars: light enough for the lines on them
# no multiple of the colours, so that pairs differ
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
HATCHES = ("", "//", "..", "xx")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what there is of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--tables", default=",".join(PICTURES))
    given = parser.parse_args(arguments)
    for name in words(given.tables):
        source = given.folder / f"{name}.json"
        if source.exists():
            target = source.with_suffix(".svg")
            target.write_bytes(
                rendered(PICTURES[name](json.loads(source.read_text(encoding="utf-8"))))
            )
            print(target)


def rendered(figure: Figure, form: str = "svg") -> bytes:
    """The contents of an svg, png or pdf file; equal figures give equal bytes."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "netloom", "svg.fonttype": "none"}):
        figure.savefig(
            file,
            format=form,
            metadata={"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form),
        )
    return file.getvalue()


def roofline(data: Data) -> Figure:
    """Effective rate of each layer at the smallest and the largest batch, over its operations
    per byte.
    """
    machine, rows = data["machine"], data["rows"]
    batches = sorted({row["batch"] for row in rows if row["strategy"] != "matmul"}) or [1]
    shown = list(dict.fromkeys((batches[0], batches[-1])))
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    figure = Figure(figsize=(5 * len(shown) + 1.5, 4.4), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for panel, batch in zip(panels, shown, strict=True):
        own = [row for row in rows if row["batch"] == batch]
        threads = str(own[0]["threads"])
        _roof(panel, own, machine["flops"][threads], machine["read"][threads])
        for number, strategy in enumerate(strategies):
            points = [
                (row["flops"] / row["bytes"], row["gflops"])
                for row in own
                if row["strategy"] == strategy
            ]
            panel.scatter(
                [x for x, _ in points],
                [y for _, y in points],
                s=26,
                label=strategy,
                marker=MARKS[number % len(MARKS)],
                color=COLOURS[number % len(COLOURS)],
                edgecolors="black",
                linewidths=0.4,
                zorder=3,
            )
        panel.set(xscale="log", yscale="log", xlabel="operations a byte of operands and result",
                  title=f"layers, batch {batch}, {threads} thread(s)")  # fmt: skip
        panel.grid(True, which="both", linewidth=0.4, alpha=0.5)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("effective GFLOP/s (operations as written)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), fontsize="small", loc="outside right upper"
    )
    return figure


def _roof(panel: Any, rows: Sequence[Data], peak: float, bandwidth: float) -> None:
    intensities = [row["flops"] / row["bytes"] for row in rows]
    x = np.geomspace(min(intensities) / 1.5, max(intensities) * 1.5, 100)
    panel.set_ylim(
        min(row["gflops"] for row in rows) / 1.5, 1.5 * max(peak, *(row["gflops"] for row in rows))
    )
    panel.plot(
        x,
        np.minimum(peak, bandwidth * x),
        color="black",
        linewidth=1.2,
        label=f"{peak:.0f} GFLOP/s, {bandwidth:.0f} GB/s",
    )


def ratio_bars(data: Data) -> Figure:
    """How many times faster than each peer; networks in panels of as many threads. A line stands
    at 1: as fast.
    """
    rows = [
        row
        for row in data["rows"]
        if row["ratios"] and row.get("contender", "netloom") == "netloom"
    ]
    counts = list(dict.fromkeys(row["threads"] for row in rows))
    most = max(sum(row["threads"] == count for row in rows) for count in counts)
    figure = Figure(figsize=(4 + 0.85 * most, 3.1 * len(counts)), layout="constrained")
    for panel, count in zip(
        figure.subplots(len(counts), 1, squeeze=False)[:, 0], counts, strict=True
    ):
        own = [row for row in rows if row["threads"] == count]
        _bars(
            panel,
            [row["network"] for row in own],
            {
                peer: [row["ratios"].get(peer) for row in own]
                for peer in dict.fromkeys(p for row in own for p in row["ratios"])
            },
        )
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set(ylabel="times as fast", title=f"{count} thread(s): ratio of medians, p10–p90")
    return figure


def bandwidth_bars(data: Data) -> Figure:
    """Percent of a copy of the same read:write ratio."""
    rows = data["rows"]
    names = list(dict.fromkeys(row["kernel"] for row in rows))
    parts = {(row["kernel"], row["threads"]): row["part"] for row in rows}
    groups = {
        f"{n} thread(s)": [parts.get((name, n)) for name in names]
        for n in dict.fromkeys(row["threads"] for row in rows)
    }
    figure = Figure(figsize=(4 + 1.0 * len(names), 3.6), layout="constrained")
    panel = figure.subplots()
    _bars(panel, names, groups)
    panel.axhline(100, color="black", linewidth=0.8)
    panel.set(ylabel="% of a copy", title="memory-bound kernels: median, p10–p90")
    return figure


def scaling_lines(data: Data) -> Figure:
    """Time of an image and memory over the batch."""
    rows = data["batches"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    time, memory = figure.subplots(1, 2)
    for number, name in enumerate(dict.fromkeys(row["network"] for row in rows)):
        own = [row for row in rows if row["network"] == name]
        batches = [row["batch"] for row in own]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)]}
        time.plot(batches, [row["milliseconds"] for row in own], label=name, **style)
        memory.plot(batches, [row["resident"] for row in own], label=f"{name}, process", **style)
        memory.plot(
            batches, [row["arena"] for row in own], label=f"{name}, arena", linestyle="--", **style
        )
    for panel, what in ((time, "milliseconds an image"), (memory, "MB at most")):
        panel.set(xscale="log", xlabel="batch", ylabel=what, ylim=(0, None))
        panel.set_xticks(
            sorted({row["batch"] for row in rows}),
            labels=[str(b) for b in sorted({row["batch"] for row in rows})],
        )
        panel.minorticks_off()
        panel.grid(True, linewidth=0.4, alpha=0.6)
        if rows:
            panel.legend(fontsize="small")
    return figure


def _bars(
    panel: Any, names: Sequence[str], groups: Mapping[str, Sequence[Sequence[float] | None]]
) -> None:
    """Groups of bars side by side: medians, with a line from p10 to p90."""
    width = 0.8 / max(len(groups), 1)
    for number, (label, values) in enumerate(groups.items()):
        places = [place for place, value in enumerate(values) if value is not None]
        known = np.array([value for value in values if value is not None]).reshape(-1, 3)
        middle, low, high = known.T
        panel.bar(np.array(places) + (number - (len(groups) - 1) / 2) * width, middle, width,
                  yerr=[np.maximum(middle - low, 0), np.maximum(high - middle, 0)], label=label,
                  capsize=2, edgecolor="black",
                  linewidth=0.5, color=FILLS[number % len(FILLS)],
                  hatch=HATCHES[number % len(HATCHES)],
                  error_kw={"elinewidth": 1.2, "ecolor": "black"})  # fmt: skip
    panel.set_xticks(range(len(names)), labels=names, rotation=30, ha="right", fontsize="small")
    panel.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars


PICTURES: Mapping[str, Callable[[Data], Figure]] = {
    "layers": roofline, "networks": ratio_bars, "models": ratio_bars, "training": ratio_bars,
    "bandwidth": bandwidth_bars,
    "scaling": scaling_lines,
}  # fmt: skip


if __name__ == "__main__":
    main()
