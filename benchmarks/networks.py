"""The nine light networks against the peers: ``python -m netloom.benchmarks.networks [-o FOLDER]
[--threads 1,2] …``.

Writes FOLDER/networks.json and FOLDER/networks.md: the machine's measured peaks, then one row per
network and number of threads.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from netloom.benchmarks import peaks, report
from netloom.benchmarks.comparison import PEERS, Row, Variant, compare, load_model, variants
from netloom.benchmarks.goals import Ratio, reached
from netloom.benchmarks.models import LIGHT
from netloom.benchmarks.peaks import Peaks
from netloom.compiler.driver import Options

GOALS = {
    "vgg19": Ratio(2.0, 2.5), "resnet50": Ratio(1.12, 1.25), "inception_v1": Ratio(1.3, 1.4),
    "inception_v2": Ratio(1.3, 1.45),
    "densenet121": Ratio(1.05, 1.2), "squeezenet": Ratio(1.1, 1.3), "shufflenet": Ratio(1.15, 1.3),
    "bvlc_alexnet": Ratio(1.15, 1.3),
    "zfnet512": Ratio(1.25, 1.4),
}  # fmt: skip
INTRODUCTION = (
    "Median milliseconds; a ratio is how many times faster netloom is (median of the rounds, "
    "p10–p90); errors are",
    "relative L2 against float64 before a final softmax. `strict` is `--accuracy strict`. `best` "
    "is the ratio to the faster peer;",
    "beside it what it must be and what is aimed at.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = report.parser_of(__doc__, "networks")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", default=",".join(f"light:{name}" for name in LIGHT))
    parser.add_argument("--peers", default=",".join(PEERS))
    given = parser.parse_args(arguments)
    threads = report.numbers(given.threads)
    machine = peaks.measure(threads)
    ways = [*variants(), Variant("netloom/strict", Options(accuracy="strict"))]
    rows: list[Row] = []
    for name in report.words(given.networks):
        with tempfile.TemporaryDirectory() as folder:
            graph, model = load_model(name, Path(folder))
            label = (
                name.removeprefix("light:")
                if name.startswith("light:")
                else Path(name).parent.name or name
            )
            for count in threads:
                found = compare(
                    label, graph, ways, report.words(given.peers), count, given.rounds, model
                )
                rows += found
                print(line(found), flush=True)
        write(report.Files.of(given), machine, rows)


def line(rows: Sequence[Row]) -> str:
    """One network on a line."""
    times = ", ".join(
        f"{row.contender} {row.milliseconds:.2f} ms (error {row.error:.1e})" for row in rows
    )
    return f"{rows[0].network}, {rows[0].threads} thread(s): {times}"


def write(files: report.Files, machine: Peaks, rows: Sequence[Row]) -> None:
    """The results so far, as JSON and as a table: each network's times, ratios to the peers and
    errors.
    """
    peers = [p for p in PEERS if any(row.contender == p for row in rows)]
    heads = ["network", "threads", "netloom", "strict", *peers, *(f"ratio to {p}" for p in peers),
             "best", "must / aim", "GFLOP/s", "error",
             "strict", *peers]  # fmt: skip
    cells = [_cells([r for r in rows if (r.network, r.threads) == key], peers)
             for key in dict.fromkeys((row.network, row.threads) for row in rows)]  # fmt: skip
    files.write(
        machine,
        {"rows": rows},
        [*INTRODUCTION, "", *report.table(heads, cells), *_means(rows)],
    )


def _cells(rows: Sequence[Row], peers: Sequence[str]) -> list[str]:
    """One network's line of the table."""
    found = {row.contender: row for row in rows}
    ours, strict = found["netloom"], found["netloom/strict"]
    times = [f"{found[p].milliseconds:.2f}" for p in peers]
    errors = [f"{found[p].error:.1e}" for p in peers]
    return [ours.network, str(ours.threads), f"{ours.milliseconds:.2f}",
            f"{strict.milliseconds:.2f}", *times,
            *(report.spread(ours.ratios[p]) for p in peers), f"{best(ours):.2f}",
            str(GOALS.get(ours.network, "-")),
            f"{ours.gflops:.0f}", f"{ours.error:.1e}", f"{strict.error:.1e}", *errors]  # fmt: skip


def _means(rows: Sequence[Row]) -> list[str]:
    lines = []
    for threads in dict.fromkeys(row.threads for row in rows):
        own = [row for row in rows if row.contender == "netloom" and row.threads == threads]
        mean = math.exp(float(np.mean([math.log(best(row)) for row in own])))
        lines += [
            "",
            f"{threads} thread(s): geometric mean of the ratio to the faster peer {mean:.2f}.",
        ]
        if aimed := [(GOALS[row.network], best(row)) for row in own if row.network in GOALS]:
            lines[-1] += f" {reached(aimed)}"
    return lines


def best(row: Row) -> float:
    """The ratio to the faster peer."""
    return min((ratio[0] for ratio in row.ratios.values()), default=math.nan)


if __name__ == "__main__":
    main()
