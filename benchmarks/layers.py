"""Single layers over all strategies: ``python -m netloom.benchmarks.layers [-o FOLDER] [--batches
1,2] [--threads 1] …``.

Matrix products and convolutions of VGG-19 (network E) and ResNet-50 as programs of one layer,
packing and reorders inside the timing: effective GFLOP/s (operations of the layer as written, over
the median time); as a part of the multiply-add peak, which takes turns with the layer, since a
clock may change from second to second (turns.py also says which rounds a neighbour on the same core
disturbed: these do not count); the relative L2 error of a sample of the results against float64;
the workspace. Then sums over the networks' layers and the goals. Layers of the same shape
are measured once. Writes FOLDER/layers.json and .md.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.benchmarks import exact, peaks, report
from netloom.benchmarks.goals import goal_lines
from netloom.benchmarks.peaks import Peaks
from netloom.compiler import dim
from netloom.compiler.driver import Compiled, Options, plan_graph
from netloom.compiler.graph import Builder
from netloom.compiler.passes.select_strategies import Decision
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

from .layer_cases import LAYERS, Layer
from .layer_sums import NAMES, Row, goals, sums
from .turns import QUIET, beside_the_peak, core_of

Array: TypeAlias = npt.NDArray[Any]
PRODUCTS = (512, 1024, 2048, 4096)  # of square matrices
NETWORKS = ("vgg19", "resnet50")
BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Limits:
    """What a cell of the table may cost: seconds of timing, and bytes of workspace (a larger one
    is left out).
    """

    seconds: float
    workspace: float


def _parser() -> ArgumentParser:
    parser = report.parser_of(__doc__, "layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument(
        "--networks",
        default=",".join(NETWORKS),
        help="with commas between, or empty: products only",
    )
    parser.add_argument(
        "--layers",
        default="",
        help="only layers in whose names one of these occurs, such as '3x3/1;7x7/2'",
    )
    parser.add_argument("--strategies", default="", help="with commas between (default: all)")
    parser.add_argument(
        "--products",
        default=",".join(map(str, PRODUCTS)),
        help="extents of square matrices, or empty",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.5,
        help="for timing one cell; two calls are timed at least",
    )
    parser.add_argument(
        "--workspace",
        type=float,
        default=4.0,
        help="GB of workspace, above which a cell is left out",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the tables."""
    given = _parser().parse_args(arguments)
    machine = peaks.measure([given.threads])
    limits = Limits(given.seconds, given.workspace * 1e9)
    chosen = _chosen(
        report.words(given.networks), [part for part in given.layers.split(";") if part]
    )
    rows: list[Row] = []
    left_out: list[str] = []
    for row in _rows(
        given.threads,
        limits,
        report.numbers(given.products),
        chosen,
        report.numbers(given.batches),
        report.words(given.strategies) or list(NAMES),
        left_out,
    ):
        rows.append(row)
        print(
            f"{row.layer:36} batch {row.batch:2} {row.strategy:12} {row.milliseconds:9.3f} ms "
            f"{row.gflops:7.1f} GFLOP/s "
            f"{row.percent:5.1f} % of the peak ({row.quiet:.0f} % of the rounds), "
            f"error {row.error:.1e}, {row.workspace:.1f} MB",
            flush=True,
        )
        write(report.Files.of(given), machine, rows, left_out)


def _chosen(networks: Sequence[str], parts: Sequence[str]) -> list[Layer]:
    """The networks' layers, each once, as far as one of the parts (or there is none) occurs in
    the name.
    """
    layers = dict.fromkeys(layer for name in networks for layer in LAYERS[name])
    return [layer for layer in layers if not parts or any(part in layer.name for part in parts)]


def _rows(
    threads: int, limits: Limits, products: Sequence[int], layers: Sequence[Layer],
    batches: Sequence[int],
    strategies: Sequence[str], left_out: list[str],
) -> Iterator[Row]:  # fmt: skip
    for size in products:
        yield _product(size, threads, limits)
    for batch in batches:
        for layer in layers:
            for strategy in strategies:
                found = _layer(layer, strategy, batch, threads, limits)
                match found:
                    case Row():
                        yield found
                    case str():
                        left_out.append(found)


def _product(size: int, threads: int, limits: Limits) -> Row:
    """A product of two matrices, both given at run time."""
    b = Builder("product")
    left, right = (b.input(TensorType(FLOAT32, (size, size)), name) for name in "ab")
    compiled = plan_graph(b.build([b("matmul", left, right)], ["y"]), Options(threads=threads))
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((size, size), np.float32) for name in "ab"}

    def exactly(place: Sequence[int]) -> float:
        return exact.product(feeds["a"], feeds["b"], place)

    return _row(f"matmul {size}x{size}x{size}", "matmul", 1, compiled, feeds, 2.0 * size**3,
                12.0 * size**2, threads, exactly, limits)  # fmt: skip


def _layer(
    layer: Layer, strategy: str, batch: int, threads: int, limits: Limits
) -> Row | str | None:
    """None where the strategy does not apply; a sentence where it takes too much memory."""
    decisions: list[Decision] = []
    graph = layer.graph(batch)
    compiled = plan_graph(
        graph, Options(threads=threads, accuracy="fast", override=strategy, decisions=decisions)
    )
    if decisions[0].strategy != strategy:
        return None
    if (workspace := _workspace(compiled)) > limits.workspace:
        return f"{layer.name}, batch {batch}, {strategy}: {workspace / 1e9:.1f} GB of workspace"
    shape = (batch, layer.channels, layer.extent, layer.extent)
    x, w = np.random.default_rng(1).standard_normal(shape, np.float32), layer.weights()

    def exactly(place: Sequence[int]) -> float:
        return exact.convolution(x, w, layer.stride, layer.kernel // 2, place)

    return _row(layer.name, strategy, batch, compiled, {"x": x}, layer.flops(batch),
                layer.bytes(batch), threads, exactly, limits)  # fmt: skip


def _row(
    name: str, strategy: str, batch: int, compiled: Compiled, feeds: dict[str, Array], flops: float,
    moved: float, threads: int, exactly: Callable[[Sequence[int]], float], limits: Limits,
) -> Row:  # fmt: skip
    session = Session.in_process(compiled.image, threads=threads)
    call = session.bind(**feeds)
    timing = beside_the_peak(call, flops, core_of(threads), limits.seconds)
    error = exact.sampled_error(call.outputs["y"], exactly)
    return Row(
        name,
        strategy,
        batch,
        threads,
        timing.seconds * 1e3,
        flops / timing.seconds / 1e9,
        100 * timing.part,
        100 * timing.quiet,
        error,
        _workspace(compiled) / 1e6,
        flops,
        moved,
    )


def _workspace(compiled: Compiled) -> int:
    return sum(dim.evaluate(slot, {}) for slot in compiled.program.entries[0].slots)


def write(
    files: report.Files, machine: Peaks, rows: Sequence[Row], left_out: Sequence[str] = ()
) -> None:
    """The results so far, as JSON and as tables."""
    totals, wanted = sums(rows), goals(rows)
    lines = [
        "GFLOP/s count the operations of the layer as written; the time holds all packing and "
        "reorders; the peak is that of chains",
        "in registers, which take turns with the layer. Rounds count in which nobody else used the "
        "core: where chains that read the",
        f"first cache reached at least {QUIET:.0%} of their usual part of the peak, just before and "
        "just after (quiet: which part of all",
        "rounds). The error is the relative L2 distance from float64 of "
        f"{exact.SAMPLES} results drawn at random. Weights are",
        "constants, packed and transformed when compiling; both operands of a matmul are given at "
        "run time.",
        *(f"\nLeft out: {sentence}." for sentence in left_out),
        "", "## Sums over the networks", "",
        "A layer counts as often as its network has it; of several strategies the fastest is taken "
        "for each layer.", "",
        *report.table(["network", "batch", "threads", "layers", "strategy", "number", "GFLOP", "ms",
                       "GFLOP/s", "x peak"],
                      [[s.network, str(s.batch), str(s.threads), s.which, s.strategy, str(s.layers),
                        f"{s.gflop:.2f}",
                        f"{s.milliseconds:.2f}", f"{s.gflops:.0f}",
                        f"{s.times_peak:.2f}"] for s in totals]),
        "", "## Goals", "", *goal_lines(wanted), "", "## Layers", "",
        *report.table(["layer", "of", "batch", "threads", "strategy", "ms", "GFLOP/s", "% of peak",
                       "quiet %", "error", "workspace MB"],
                      [[r.layer, _users(r.layer), str(r.batch), str(r.threads), r.strategy,
                        f"{r.milliseconds:.3f}", f"{r.gflops:.1f}",
                        f"{r.percent:.0f}", f"{r.quiet:.0f}", f"{r.error:.1e}", f"{r.workspace:.1f}"] for r in rows]),
    ]  # fmt: skip
    files.write(
        machine,
        {"rows": rows, "sums": totals, "goals": wanted, "left_out": left_out},
        lines,
    )


def _users(name: str) -> str:
    """The networks that have a layer, and how often."""
    found = [
        f"{network} x {n}"
        for network, layers in LAYERS.items()
        for layer, n in layers.items()
        if layer.name == name
    ]
    return ", ".join(found) or "products"


if __name__ == "__main__":
    main()
