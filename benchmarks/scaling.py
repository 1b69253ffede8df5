"""How costs grow: ``python -m netloom.benchmarks.scaling [-o FOLDER] [--parts
threads,batches,depth] …``.

``threads``: the same program on one thread and on more, side by side, beside the bound that memory
sets. ``batches``: time per image and memory against the batch, of programs whose batch is free.
``depth``: compile time of ResNet-18 to -152. Writes FOLDER/scaling.json and FOLDER/scaling.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netloom.benchmarks import harness, peaks, report
from netloom.benchmarks.child import compile_seconds
from netloom.benchmarks.comparison import load_model, random_feeds
from netloom.benchmarks.goals import Goal, Sense, goal_lines
from netloom.benchmarks.harness import Contender
from netloom.benchmarks.launches import LaunchCost, launch_costs
from netloom.benchmarks.peaks import Peaks
from netloom.compiler.driver import Options, compile_graph
from netloom.frontends.dsl import zoo
from netloom.runtime.session import load

PARTS = ("threads", "batches", "depth")
GOALS: Mapping[str, float] = {
    "light:vgg19": 1.75,
    "light:resnet50": 1.75,
    "light:bvlc_alexnet": 1.4,
    "light:zfnet512": 1.4,
}
BATCHED = ("resnet18", "resnet50")
DEEP = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@dataclass(frozen=True)
class ThreadsRow:
    """``speedup`` over one thread (median, p10, p90); ``bound``: what reading the weights allows;
    ``cores``: what the multiply-add peaks do."""

    network: str
    threads: int
    one: float  # milliseconds on one thread
    many: float
    speedup: tuple[float, float, float]
    bound: float
    cores: float


@dataclass(frozen=True)
class BatchRow:
    """Milliseconds of an image; MB of the planned arena and of the process at most, its inputs
    and outputs included.
    """

    network: str
    batch: int
    threads: int
    milliseconds: float
    arena: float
    resident: float


@dataclass(frozen=True)
class DepthRow:
    """Seconds of compiling with an empty cache and again; kernels launched; MB of weights as
    they are stored.
    """

    network: str
    cold: float
    again: float
    launches: int
    weights: float


@dataclass
class Found:
    """The rows of each part."""

    threads: list[ThreadsRow] = field(default_factory=list)
    batches: list[BatchRow] = field(default_factory=list)
    depth: list[DepthRow] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = report.parser_of(__doc__, "scaling")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument(
        "--networks",
        default=",".join(GOALS),
        help="of the part threads: light:NAME or models' files",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--batched", default=",".join(BATCHED), help="of the part batches: networks of the zoo"
    )
    parser.add_argument("--batches", default="1,2,4,8,16,32,64")
    parser.add_argument(
        "--deep", default=",".join(DEEP), help="of the part depth: networks of the zoo"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=20,
        help="of the part threads; of the others a quarter, one at least",
    )
    given = parser.parse_args(arguments)
    machine = peaks.measure([given.threads])
    found, few = Found(), max(given.rounds // 4, 1)
    for part in report.words(given.parts):
        match part:
            case "threads":
                for name in report.words(given.networks):
                    found.threads.append(threads_row(name, given.threads, given.rounds, machine))
                    _say(report.Files.of(given), machine, found, found.threads[-1])
            case "batches":
                for name in report.words(given.batched):
                    for batch in report.numbers(given.batches):
                        found.batches.append(batch_row(name, batch, given.threads, few))
                        _say(report.Files.of(given), machine, found, found.batches[-1])
            case "depth":
                for name in report.words(given.deep):
                    found.depth.append(depth_row(name, few))
                    _say(report.Files.of(given), machine, found, found.depth[-1])
            case _:
                parser.error(f"there is no part {part!r}")


def _say(
    files: report.Files, machine: Peaks, found: Found, row: ThreadsRow | BatchRow | DepthRow
) -> None:
    print(row, flush=True)
    write(files, machine, found)


def threads_row(network: str, threads: int, rounds: int, machine: Peaks) -> ThreadsRow:
    """The same file on one thread and on several, in rounds."""
    with tempfile.TemporaryDirectory(prefix="netloom-") as name:
        folder = Path(name)
        graph, _ = load_model(network, folder)
        compiled = compile_graph(graph, Options())
        compiled.save(folder / "network.so")
        contenders = [
            Contender(f"{n} threads", "netloom", folder / "network.so", n) for n in (1, threads)
        ]
        one, many = harness.run(contenders, random_feeds(graph, 0, {}), folder, rounds)
        bound = memory_bound(launch_costs(compiled, runs=3), threads, machine.read[threads] * 1e9)
    return ThreadsRow(network, threads, one.milliseconds, many.milliseconds, many.ratio_to(one),
                      bound,
                      machine.flops[threads] / machine.flops[1])  # fmt: skip


def memory_bound(costs: Sequence[LaunchCost], threads: int, rate: float) -> float:
    """The largest speedup if every kernel's work divides evenly, but its weights come from
    memory at ``rate`` bytes a second.
    """
    least = sum(max(cost.seconds / threads, cost.weight_bytes / rate) for cost in costs)
    return sum(cost.seconds for cost in costs) / least


def batch_row(network: str, batch: int, threads: int, rounds: int) -> BatchRow:
    """A network of the zoo, compiled with a free batch, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="netloom-") as name:
        folder = Path(name)
        file = folder / "network.so"
        graph = zoo.NETWORKS[network]()
        (symbol,) = graph.symbols
        compile_graph(graph, Options()).save(file)
        feeds = random_feeds(graph, 0, {symbol.name: batch})
        (result,) = harness.run(
            [Contender(network, "netloom", file, threads)], feeds, folder, rounds, calls=3
        )
        arena = load(file, threads=threads).arena_bytes(**{symbol.name: batch})
    return BatchRow(
        network, batch, threads, result.milliseconds / batch, arena / 1e6, result.peak_bytes / 1e6
    )


def depth_row(network: str, repeats: int) -> DepthRow:
    """``netloom compile`` in processes of their own."""
    with tempfile.TemporaryDirectory(prefix="netloom-") as name:
        file = Path(name) / "network.so"
        cold, again = compile_seconds([f"zoo:{network}"] * 2, file, repeats)
        facts = load(file, threads=1).metadata
    return DepthRow(
        network, cold, again, facts["entries"][0]["launches"], facts["weight_bytes"] / 1e6
    )


def write(files: report.Files, machine: Peaks, found: Found) -> None:
    """The results so far, as JSON and as tables."""
    goals = [Goal(f"{row.network}, 1 to {row.threads} threads", row.speedup[0], GOALS[row.network],
                  "x", Sense.LEAST)
             for row in found.threads if row.network in GOALS and row.threads == 2]  # fmt: skip
    sections = [
        "## Threads", "",
        "Medians of rounds in which both take turns; the speedup with p10–p90. Memory's bound: "
        "every kernel's work divides evenly,",
        "but its weights must be read from memory, at the bandwidth that is measured with as many "
        "threads. Cores: what the",
        "multiply-add peak gains.", "",
        *report.table(["network", "threads", "ms, 1 thread", "ms", "speedup", "memory's bound",
                       "cores"],
                      [[r.network, str(r.threads), f"{r.one:.2f}", f"{r.many:.2f}",
                        report.spread(r.speedup), f"{r.bound:.2f}",
                        f"{r.cores:.2f}"] for r in found.threads]),
        "", *goal_lines(goals), "", "## Batches", "",
        "One program with a free batch serves all. The process's memory holds its inputs and "
        "outputs as well.", "",
        *report.table(["network", "batch", "threads", "ms an image", "planned arena MB",
                       "process at most MB"],
                      [[r.network, str(r.batch), str(r.threads), f"{r.milliseconds:.3f}",
                        f"{r.arena:.1f}", f"{r.resident:.0f}"]
                       for r in found.batches]),
        "", "## Depth", "", "`netloom compile zoo:NAME -o FILE.so`, the start of Python included.",
        "",
        *report.table(["network", "cold s", "again s", "kernels launched", "weights MB"],
                      [[r.network, f"{r.cold:.2f}", f"{r.again:.2f}", str(r.launches),
                        f"{r.weights:.0f}"] for r in found.depth]),
    ]  # fmt: skip
    data = {
        "threads": found.threads,
        "batches": found.batches,
        "depth": found.depth,
        "goals": goals,
    }
    files.write(machine, data, sections)


if __name__ == "__main__":
    main()
