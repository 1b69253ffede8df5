"""How good the estimates are: ``python -m netloom.benchmarks.choices [-o FOLDER] [--limit N]
[--threads 1] …``.

Every different convolution of the networks is measured with each strategy that applies, by the
timer that ``--tune`` uses: CPU time of the layer's kernels between two small convolutions that give
its operands their layout, weights from memory where the network has more of them than the largest
cache holds. A row says what the estimates chose without measuring, and how much slower that is than
the best. Matrix products have one way of being computed, so there is nothing to choose. Writes
FOLDER/choices.json and FOLDER/choices.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from netloom.benchmarks import peaks, report
from netloom.benchmarks.models import LIGHT, light_models
from netloom.compiler.cache import default_cache
from netloom.compiler.graph import Graph
from netloom.compiler.passes.select_strategies import Decision, select_strategies
from netloom.compiler.pipeline import GRAPH_PASSES, Pipeline
from netloom.compiler.strategies import CONVOLUTIONS, Rates, rates_of
from netloom.compiler.targets.cpu.layer_timer import LayerTimer
from netloom.compiler.targets.cpu.machine import cpu_named
from netloom.compiler.tuning import Layer, Timer, layer_of, weight_bytes
from netloom.frontends.onnx.importer import from_onnx

NEAR = 1.10  # times the best measured time: a choice up to that counts as good
GOAL = 90  # percent of the layers whose choice is to be good
SECONDS = 120.0  # for one layer at most


@dataclass(frozen=True)
class Case:
    """A layer, the estimates' decision about it, and how often it occurs, by network."""

    layer: Layer
    decision: Decision
    counts: dict[str, int]

    @property
    def weight(self) -> float:
        """Estimated seconds of all its occurrences."""
        return sum(self.counts.values()) * self.decision.seconds[self.decision.strategy]


@dataclass(frozen=True)
class Row:
    """Milliseconds estimated and measured by strategy; ``ratio``: of the chosen one's time to
    the best.
    """

    shape: str
    is_cold: bool
    counts: dict[str, int]
    chosen: str
    best: str
    ratio: float
    estimated: dict[str, float]
    measured: dict[str, float]

    @property
    def count(self) -> int:
        return sum(self.counts.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = report.parser_of(__doc__, "choices")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", default=",".join(LIGHT))
    parser.add_argument("--accuracy", default="default")
    parser.add_argument(
        "--limit",
        type=int,
        default=None,
        help="only so many layers, those with the most estimated time",
    )
    given = parser.parse_args(arguments)
    cpu = cpu_named("host")
    machine = peaks.measure((1,))
    timer = LayerTimer(cpu, given.threads, default_cache())
    networks = ((name, _network(name)) for name in report.words(given.networks))
    cases = gathered(networks, given.accuracy, rates_of(cpu.name), timer.cached)
    rows: list[Row] = []
    try:
        for row in measured(cases[: given.limit], timer):
            rows.append(row)
            print(line(row), flush=True)
            write(report.Files.of(given), machine, rows, given.threads)
    finally:
        timer.close()


def _network(name: str) -> Graph:
    return Pipeline(GRAPH_PASSES).run(from_onnx(light_models()[name]))[0]


def gathered(
    networks: Iterable[tuple[str, Graph]], accuracy: str, rates: Rates, cached: int
) -> list[Case]:
    """The different layers of graphs before selection, those with the most estimated time first;
    ``cached``: bytes of weights that stay in caches."""
    cases: dict[Layer, Case] = {}
    for name, graph in networks:
        decisions: list[Decision] = []
        select_strategies(graph, accuracy, decisions=decisions, rates=rates)
        nodes = [node for node in graph.nodes if node.op.name in CONVOLUTIONS]
        for node, decision in zip(nodes, decisions, strict=True):
            layer = layer_of(graph, node, 1, weight_bytes(graph) > cached)
            case = cases.setdefault(layer, Case(layer, decision, {}))
            cases[layer] = replace(case, counts={**case.counts, name: case.counts.get(name, 0) + 1})
    return sorted(cases.values(), key=lambda case: -case.weight)


def measured(cases: Iterable[Case], timer: Timer, seconds: float = SECONDS) -> Iterator[Row]:
    """A row for each layer; strategies that cannot be measured are left out, layers without any
    as well.
    """
    for case in cases:
        times = timer.measure(case.layer, list(case.decision.seconds), seconds)
        found = {name: time for name, time in times.items() if time is not None}
        if case.decision.strategy in found:
            yield _row(case, found)


def _row(case: Case, times: dict[str, float]) -> Row:
    chosen, best = case.decision.strategy, min(times, key=lambda name: times[name])
    return Row(case.decision.shape, case.layer.is_cold, case.counts, chosen, best,
               round(times[chosen] / times[best], 3),
               _milliseconds(case.decision.seconds), _milliseconds(times))  # fmt: skip


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(1e3 * value, 4) for name, value in seconds.items()}


def line(row: Row) -> str:
    """A layer on a line."""
    times = ", ".join(
        f"{name} {row.estimated[name]:.3f} / {time:.3f} ms" for name, time in row.measured.items()
    )
    return f"{row.shape} x {row.count}: {row.chosen} is {row.ratio:.2f} times the best ({times})"


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """``layers``: different ones; ``percent``: those whose choice is good; ``chosen_ms`` and
    ``best_ms``: sums over all of them.
    """
    good = sum(row.ratio <= NEAR for row in rows)
    return {"layers": len(rows), "good": good, "percent": 100 * good / max(len(rows), 1),
            "chosen_ms": sum(row.count * row.measured[row.chosen] for row in rows),
            "best_ms": sum(row.count * row.measured[row.best] for row in rows)}  # fmt: skip


def write(files: report.Files, machine: peaks.Peaks, rows: Sequence[Row], threads: int) -> None:
    """The results so far, as JSON and as a table."""
    total, strategies = summary(rows), _strategies(rows)
    cells = [
        [
            row.shape,
            str(row.count),
            row.chosen,
            row.best,
            f"{row.ratio:.2f}",
            *_times(row, strategies),
        ]
        for row in rows
    ]
    lines = [
        f"The estimates' choice is within {NEAR - 1:.0%} of the best measured one on "
        f"{total['good']} of {total['layers']} layers "
        f"({total['percent']:.0f} %; the goal is {GOAL} %).",
        f"All layers, as often as they occur: {total['chosen_ms']:.1f} ms as chosen, "
        f"{total['best_ms']:.1f} ms at best.",
        f"CPU time on {threads} thread(s), estimated / measured ms.",
        "",
        *report.table(["layer", "count", "chosen", "best", "chosen / best", *strategies], cells),
    ]
    files.write(machine, {"threads": threads, "summary": total, "rows": rows}, lines)


def _times(row: Row, strategies: Sequence[str]) -> list[str]:
    """Estimated and measured milliseconds, where there are any."""
    return [
        f"{row.estimated[name]:.3f} / {row.measured[name]:.3f}" if name in row.measured else ""
        for name in strategies
    ]


def _strategies(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.measured))


if __name__ == "__main__":
    main()
