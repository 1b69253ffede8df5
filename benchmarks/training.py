"""Training steps against PyTorch: ``python -m netloom.benchmarks.training [-o FOLDER] [--threads 2]
[--rounds 20] …``.

One step is forward, backward and SGD with momentum, in float32, on the same batch; PyTorch runs
eagerly and, where it can, through torch.compile, each in a process of its own. Writes
FOLDER/training.json and FOLDER/training.md.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.benchmarks import harness, peaks, report
from netloom.benchmarks.goals import Ratio, reached
from netloom.benchmarks.harness import Contender
from netloom.benchmarks.peaks import Peaks


@dataclass(frozen=True)
class Task:
    """A network of the zoo (with ``options``) and a batch."""

    network: str
    batch: int
    shape: tuple[int, ...]  # of one sample
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """``ratios``: peer -> how many times faster netloom is (median, p10, p90)."""

    network: str
    batch: int
    threads: int
    milliseconds: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]


TASKS = {
    "lenet5": Task("lenet5", 64, (1, 28, 28), 10),
    "mlp": Task("mlp", 64, (784,), 10, {"hidden": (512, 512)}),
    "resnet50": Task("resnet50", 8, (3, 224, 224), 1000),
    "vgg16": Task("vgg16", 4, (3, 224, 224), 1000),
}
GOALS = {
    "lenet5": Ratio(2.0, 3.0),
    "mlp": Ratio(1.2, 1.4),
    "resnet50": Ratio(1.15, 1.3),
    "vgg16": Ratio(1.7, 2.2),
}
# name -> engine of benchmarks/contender.py
PEERS = {"torch": "torch_training", "torch.compile": "torch_compiled_training"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = report.parser_of(__doc__, "training")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", default=",".join(TASKS))
    parser.add_argument("--peers", default=",".join(PEERS))
    given = parser.parse_args(arguments)
    counts = report.numbers(given.threads)
    machine = peaks.measure(counts)
    rows: list[Row] = []
    for name in report.words(given.networks):
        for threads in counts:
            rows.append(measure(TASKS[name], threads, report.words(given.peers), given.rounds))
            print(line(rows[-1]), flush=True)
            write(report.Files.of(given), machine, rows)


def measure(task: Task, threads: int, peers: Sequence[str], rounds: int) -> Row:
    """Times of one task, side by side."""
    rng = np.random.default_rng(0)
    feeds: dict[str, npt.NDArray[Any]] = {
        "x": rng.standard_normal((task.batch, *task.shape)).astype(np.float32),
        "target": rng.integers(0, task.classes, task.batch).astype(np.int64),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spec = folder / "task.json"
        spec.write_text(json.dumps(asdict(task)))
        engines = {"netloom": "zoo_training", **{peer: PEERS[peer] for peer in peers}}
        contenders = [Contender(name, engine, spec, threads) for name, engine in engines.items()]
        results = harness.run(contenders, feeds, folder, rounds)
    ours, *others = results
    times = {r.contender.name: r.milliseconds for r in results}
    return Row(
        task.network,
        task.batch,
        threads,
        times,
        {r.contender.name: ours.ratio_to(r) for r in others},
    )


def line(row: Row) -> str:
    """A row as text."""
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in row.milliseconds.items())
    ratios = ", ".join(
        f"{m:.2f} ({a:.2f}-{z:.2f}) to {name}" for name, (m, a, z) in row.ratios.items()
    )
    return f"{row.network}, batch {row.batch}, {row.threads} thread(s): {times}; ratio {ratios}"


def write(files: report.Files, machine: Peaks, rows: Sequence[Row]) -> None:
    """The results so far, as JSON and as a table."""
    peers = list(dict.fromkeys(name for row in rows for name in row.ratios))
    heads = [
        "network",
        "batch",
        "threads",
        "netloom",
        *peers,
        *(f"ratio to {p}" for p in peers),
        "to the faster",
        "must / aim",
    ]
    cells = []
    for row in rows:
        times = [f"{row.milliseconds[name]:.2f}" for name in ("netloom", *peers)]
        cells.append([row.network, str(row.batch), str(row.threads), *times,
                      *(report.spread(row.ratios[p]) for p in peers),
                      f"{least(row):.2f}", str(GOALS[row.network])])  # fmt: skip
    files.write(machine, {"rows": rows},
                 ["Median milliseconds of one step; ratios with p10–p90 over the rounds; what the "
                  "ratio to the faster must be and",
                  "what is aimed at.", "", *report.table(heads, cells), "",
                  reached([(GOALS[row.network], least(row)) for row in rows])])  # fmt: skip


def least(row: Row) -> float:
    """The ratio to the faster peer."""
    return min((ratio[0] for ratio in row.ratios.values()), default=math.nan)


if __name__ == "__main__":
    main()
