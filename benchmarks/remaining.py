"""What the profile says is left: ``python -m netloom.benchmarks.remaining [-o FOLDER] [--networks
…] [--most 3]``.

Every kernel's time on one thread is set against its limit: the larger of its operations at the
multiply-add peak, and of its weights at the rate of reading memory plus its other bytes at the rate
of a copy inside the cache. Networks are compared by the sum of the limits over the sum of the
times; for those furthest from it, a table tells where the time goes, by family of
kernels. Writes FOLDER/remaining.json and FOLDER/remaining.md.

Operations are those of the kernels as they are chosen (a Winograd product counts its own, fewer
than the convolution's). Weights of a small network stay in a cache and are read faster, so a
family's limit never counts for more than its time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netloom.benchmarks import peaks, report
from netloom.benchmarks.comparison import load_model
from netloom.benchmarks.launches import LaunchCost, launch_costs
from netloom.benchmarks.models import LIGHT
from netloom.benchmarks.peaks import Peaks
from netloom.compiler.driver import Options, compile_graph

CACHED = 2 << 20  # bytes that a copy inside the cache moves


@dataclass(frozen=True)
class Rates:
    """What one core can do in a second: operations, bytes read from memory, bytes copied inside
    the cache.
    """

    operations: float
    read: float
    cached: float

    def milliseconds(self, cost: LaunchCost) -> tuple[float, float]:
        """The least time for a launch's operations, and for its bytes."""
        moved = cost.weight_bytes / self.read + (cost.bytes - cost.weight_bytes) / self.cached
        return 1e3 * cost.operations / self.operations, 1e3 * moved


@dataclass(frozen=True)
class Family:
    """Kernels of one kind in a network; milliseconds. ``limit`` is what is spent at least; the
    rest of the time is left to win.
    """

    network: str
    family: str
    launches: int
    time: float
    products: float  # operations at the multiply-add peak
    memory: float  # weights read from memory, other bytes moved inside the cache
    limit: float

    @property
    def left(self) -> float:
        return self.time - self.limit


@dataclass(frozen=True)
class Network:
    """Milliseconds of all launches on one thread, and the part that the limits explain."""

    name: str
    time: float
    limit: float

    @property
    def part(self) -> float:
        return self.limit / self.time


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = report.parser_of(__doc__, "remaining")
    parser.add_argument(
        "--networks",
        default=",".join(f"light:{name}" for name in LIGHT),
        help="light:NAME or models' files",
    )
    parser.add_argument(
        "--most", type=int, default=3, help="networks of which every family is told"
    )
    parser.add_argument("--runs", type=int, default=10, help="of each kernel; the best counts")
    given = parser.parse_args(arguments)
    machine = peaks.measure()
    rates = Rates(machine.flops[1] * 1e9, machine.read[1] * 1e9, cached_rate())
    found: list[Family] = []
    for name in report.words(given.networks):
        with tempfile.TemporaryDirectory(prefix="netloom-") as folder:
            graph, _ = load_model(name, Path(folder))
        costs = launch_costs(compile_graph(graph, Options()), given.runs)
        found += families(name.removeprefix("light:"), costs, rates)
        last = networks(found)[-1]
        print(
            f"{last.name}: {last.time:.2f} ms, of which the limits explain {100 * last.part:.0f} %",
            flush=True,
        )
        write(report.Files.of(given), machine, rates, found, given.most)


def cached_rate() -> float:
    """Bytes a second of a copy between arrays that stay in the cache."""
    copy = peaks.copier(1, 1, CACHED // 2)
    return copy.moved / min(peaks.best_seconds(copy.call) for _ in range(40))


def families(network: str, costs: Sequence[LaunchCost], rates: Rates) -> list[Family]:
    """A network's launches by family, the one with the most to win first."""
    found = [_family(network, name, [cost for cost in costs if cost.family == name], rates)
             for name in dict.fromkeys(cost.family for cost in costs)]  # fmt: skip
    return sorted(found, key=lambda family: -family.left)


def _family(network: str, name: str, costs: Sequence[LaunchCost], rates: Rates) -> Family:
    limits = [rates.milliseconds(cost) for cost in costs]
    time = 1e3 * sum(cost.seconds for cost in costs)
    products, memory = (sum(limit[which] for limit in limits) for which in (0, 1))
    return Family(
        network, name, len(costs), time, products, memory, min(sum(map(max, limits)), time)
    )


def networks(found: Sequence[Family]) -> list[Network]:
    """The networks that the families are of, in their order."""
    names = dict.fromkeys(family.network for family in found)
    own = {name: [family for family in found if family.network == name] for name in names}
    return [
        Network(name, sum(f.time for f in items), sum(f.limit for f in items))
        for name, items in own.items()
    ]


def write(
    files: report.Files, machine: Peaks, rates: Rates, found: Sequence[Family], most: int
) -> None:
    """The results so far, as JSON and as tables."""
    ranked = sorted(networks(found), key=lambda network: network.part)
    lines = [
        "Times of the kernels on one thread, each by itself. A kernel's limit is the larger of its "
        "operations at the multiply-add",
        "peak, and of its weights at the rate of reading memory plus its other bytes at the rate "
        "of a copy inside the cache",
        f"({rates.cached / 1e9:.0f} GB/s over {CACHED >> 20} MiB). A family's limit never counts "
        "for more than its time. Operations are",
        "those of the strategy that was chosen.", "",
        *report.table(["network", "ms", "limit ms", "% of the time", "ms left"],
                      [[n.name, f"{n.time:.2f}", f"{n.limit:.2f}", f"{100 * n.part:.0f}",
                        f"{n.time - n.limit:.2f}"] for n in ranked]),
    ]  # fmt: skip
    for network in ranked[:most]:
        lines += [
            "",
            f"## {network.name}",
            "",
            *_family_table([f for f in found if f.network == network.name], network.time),
        ]
    files.write(machine, {"rates": rates, "networks": ranked, "families": found}, lines)


def _family_table(found: Sequence[Family], total: float) -> list[str]:
    cells = [
        [
            f.family,
            str(f.launches),
            f"{f.time:.3f}",
            f"{100 * f.time / total:.0f}",
            f"{f.products:.3f}",
            f"{f.memory:.3f}",
            f"{f.limit:.3f}",
            f"{f.left:.3f}",
            f"{100 * f.left / total:.0f}",
        ]
        for f in found
    ]
    heads = [
        "kernels",
        "launches",
        "ms",
        "% of all",
        "operations ms",
        "memory ms",
        "limit ms",
        "left ms",
        "left, % of all",
    ]
    return report.table(heads, cells)


if __name__ == "__main__":
    main()
