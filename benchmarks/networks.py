"""The nine light networks against the peers: ``python -m netloom.benchmarks.networks [-o FOLDER] [--threads 1,2] …``.

Writes FOLDER/networks.json and FOLDER/networks.md: the machine's measured peaks, then one row per network and number of threads.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from netloom.benchmarks import peaks
from netloom.benchmarks.comparison import PEERS, Row, Variant, compare, load_model, variants
from netloom.benchmarks.conditions import processor
from netloom.benchmarks.models import LIGHT
from netloom.compiler.driver import Options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", default=",".join(f"light:{name}" for name in LIGHT))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--name", default="networks")
    given = parser.parse_args(arguments)
    threads = [int(n) for n in given.threads.split(",")]
    machine = peaks.measure(tuple(sorted({1, *threads})))  # one thread tells the rate of a core
    ways = [*variants(), Variant("netloom/strict", Options(accuracy="strict"))]
    rows: list[Row] = []
    for name in given.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            graph, model = load_model(name, Path(folder))
            label = name.removeprefix("light:") if name.startswith("light:") else Path(name).parent.name or name
            for count in threads:
                found = compare(label, graph, ways, given.peers.split(","), count, given.rounds, model)
                rows += found
                print(line(found), flush=True)
        write(given.output, given.name, machine, rows)


def line(rows: Sequence[Row]) -> str:
    """One network on a line."""
    times = ", ".join(f"{row.contender} {row.milliseconds:.2f} ms (error {row.error:.1e})" for row in rows)
    return f"{rows[0].network}, {rows[0].threads} thread(s): {times}"


def write(folder: Path, name: str, machine: peaks.Peaks, rows: Sequence[Row]) -> None:
    """The results so far, as JSON and as a table."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine_record(machine), "rows": [asdict(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table(name, machine, rows))


def table(name: str, machine: peaks.Peaks, rows: Sequence[Row]) -> str:
    """Markdown: the machine, then each network's times, ratios to the peers and errors."""
    peers = [p for p in PEERS if any(row.contender == p for row in rows)]
    lines = [f"# {name}", "", *describe(machine), "",
             "Median milliseconds; a ratio is how many times faster netloom is (median of the rounds, p10–p90); errors are",
             "relative L2 against float64 before a final softmax. `strict` is `--accuracy strict`.", "",
             "| network | threads | netloom | strict | " + " | ".join(peers) + " | "
             + " | ".join(f"ratio to {p}" for p in peers) + " | best | GFLOP/s | error | strict | " + " | ".join(peers) + " |",
             "|---" * (9 + 3 * len(peers) - 1) + "|"]  # fmt: skip
    groups = dict.fromkeys((row.network, row.threads) for row in rows)
    for network, threads in groups:
        found = {r.contender: r for r in rows if (r.network, r.threads) == (network, threads)}
        ours, strict = found["netloom"], found["netloom/strict"]
        ratios = [f"{m:.2f} ({a:.2f}–{z:.2f})" for m, a, z in (ours.ratios[p] for p in peers)]
        times = [f"{found[p].milliseconds:.2f}" for p in peers]
        errors = [f"{found[p].error:.1e}" for p in peers]
        cells = [network, str(threads), f"{ours.milliseconds:.2f}", f"{strict.milliseconds:.2f}", *times, *ratios,
                 f"{best(ours):.2f}", f"{ours.gflops:.0f}", f"{ours.error:.1e}", f"{strict.error:.1e}", *errors]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    for threads in dict.fromkeys(row.threads for row in rows):
        own = [r for r in rows if r.contender == "netloom" and r.threads == threads]
        mean = math.exp(float(np.mean([math.log(best(r)) for r in own])))
        lines.append(f"\n{threads} thread(s): geometric mean of the ratio to the faster peer {mean:.2f}.")
    return "\n".join(lines) + "\n"


def best(row: Row) -> float:
    """The ratio to the faster peer."""
    return min((ratio[0] for ratio in row.ratios.values()), default=math.nan)


def machine_record(machine: peaks.Peaks) -> dict[str, Any]:
    """The machine and its peaks, for JSON."""
    return {"cpu": processor(), "python": platform.python_version(), **machine.as_dict()}


def describe(machine: peaks.Peaks) -> list[str]:
    """The machine in three lines."""
    rates = "; ".join(
        f"{n} thread(s) {machine.flops[n]:.1f} GFLOP/s, copy {machine.copy[n]:.1f} GB/s, read {machine.read[n]:.1f} GB/s"
        for n in machine.flops
    )
    return [f"Machine: {processor()}, {machine.clock:.2f} GHz ({machine.cpu}).",
            f"Peaks measured in the same run: {rates}",
            f"({machine.chains} chains in registers: {machine.flops_per_cycle:.1f} flop a cycle)."]  # fmt: skip


if __name__ == "__main__":
    main()
