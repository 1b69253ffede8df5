"""Single layers over all strategies: ``python -m netloom.benchmarks.layers [-o FOLDER] [--batches
1,2] [--threads 1] …``.

Matrix products and convolutions of VGG-19 (network E) and ResNet-50 as programs of one layer,
packing and reorders inside the timing: effective GFLOP/s (operations of the layer as written, over
the median time), also as a part of the multiply-add peak that is measured in the same run; the
relative L2 error of a sample of the results against float64; the workspace. Then sums
over the networks' layers and the goals. Layers of the same shape are measured once. Writes
FOLDER/layers.json and .md.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.benchmarks import exact, peaks, report
from netloom.benchmarks.goals import Goal, Sense, goal_lines
from netloom.benchmarks.peaks import Peaks
from netloom.compiler import dim
from netloom.compiler.driver import Compiled, Options, plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.passes.select_strategies import Decision
from netloom.compiler.strategies import strategies_for
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

Array: TypeAlias = npt.NDArray[Any]
NAMES = tuple(strategy.name for strategy in strategies_for("conv"))
PRODUCTS = (512, 1024, 2048, 4096)  # of square matrices
NETWORKS = ("vgg19", "resnet50")
BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Layer:
    """A square convolution: channels, filters, extent of the input, kernel, stride."""

    channels: int
    filters: int
    extent: int
    kernel: int = 3
    stride: int = 1

    @property
    def name(self) -> str:
        window = f"{self.kernel}x{self.kernel}/{self.stride}"
        return f"{self.channels}->{self.filters}, {self.extent}x{self.extent}, {window}"

    @property
    def result(self) -> int:
        """The extent of the output."""
        return (self.extent - 1) // self.stride + 1

    def weights(self) -> Array:
        """He-normal, always the same."""
        shape = (self.filters, self.channels, self.kernel, self.kernel)
        scale = (2 / (self.channels * self.kernel**2)) ** 0.5
        return np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(scale)

    def graph(self, batch: int) -> Graph:
        """The layer with constant weights, bias and ReLU left out."""
        b = Builder("layer")
        x = b.input(TensorType(FLOAT32, (batch, self.channels, self.extent, self.extent)), "x")
        pad = (self.kernel // 2,) * 2
        w = b.constant(self.weights())
        y = b(
            "conv", x, w, stride=(self.stride,) * 2, dilation=(1, 1), lo=pad, hi=pad, label="layer"
        )
        return b.build([y], ["y"])

    def flops(self, batch: int) -> float:
        """Two for each multiply-add of the convolution as written."""
        return 2.0 * batch * self.result**2 * self.filters * self.channels * self.kernel**2

    def bytes(self, batch: int) -> float:
        """Of input, weights and output, each moved once."""
        images = self.channels * self.extent**2 + self.filters * self.result**2
        return 4.0 * (batch * images + self.filters * self.channels * self.kernel**2)


VGG19: Mapping[Layer, int] = {
    Layer(c, o, e): n
    for c, o, e,
    n in ((3, 64, 224, 1), (64, 64, 224, 1), (64, 128, 112, 1), (128, 128, 112, 1),
          (128, 256, 56, 1),
                       (256, 256, 56, 3), (256, 512, 28, 1), (512, 512, 28, 3), (512, 512, 14, 4))
}  # fmt: skip
RESNET50: Mapping[Layer, int] = {
    Layer(c, o, e, k, s): n
    for c, o, e, k, s, n in (
        (3, 64, 224, 7, 2, 1), (64, 64, 56, 1, 1, 1), (64, 64, 56, 3, 1, 3), (64, 256, 56, 1, 1, 4),
        (256, 64, 56, 1, 1, 2),
        (256, 128, 56, 1, 1, 1), (128, 128, 56, 3, 2, 1), (128, 128, 28, 3, 1, 3),
        (128, 512, 28, 1, 1, 4), (512, 128, 28, 1, 1, 3),
        (256, 512, 56, 1, 2, 1), (512, 256, 28, 1, 1, 1), (256, 256, 28, 3, 2, 1),
        (256, 256, 14, 3, 1, 5), (256, 1024, 14, 1, 1, 6),
        (1024, 256, 14, 1, 1, 5), (512, 1024, 28, 1, 2, 1), (1024, 512, 14, 1, 1, 1),
        (512, 512, 14, 3, 2, 1), (512, 512, 7, 3, 1, 2),
        (512, 2048, 7, 1, 1, 3), (2048, 512, 7, 1, 1, 2), (1024, 2048, 14, 1, 2, 1),
    )
}  # fmt: skip
# layer -> how often the network has it
LAYERS: Mapping[str, Mapping[Layer, int]] = {"vgg19": VGG19, "resnet50": RESNET50}


@dataclass(frozen=True)
class Row:
    """``percent`` of the multiply-add peak on as many threads; ``bytes``: of operands and
    result, each once; MB of workspace.
    """

    layer: str
    strategy: str
    batch: int
    threads: int
    milliseconds: float
    gflops: float
    percent: float
    error: float
    workspace: float
    flops: float
    bytes: float


@dataclass(frozen=True)
class Limits:
    """What a cell of the table may cost: seconds of timing, and bytes of workspace (a larger one
    is left out).
    """

    seconds: float
    workspace: float


@dataclass(frozen=True)
class Sum:
    """A network's layers (those that ``which`` names) by the best of some strategies: effective
    GFLOP/s, and over the peak.
    """

    network: str
    batch: int
    threads: int
    which: str
    strategy: str
    layers: int
    gflop: float
    milliseconds: float
    gflops: float
    times_peak: float


def _parser() -> ArgumentParser:
    parser = report.parser_of(__doc__)
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
        machine.flops[given.threads],
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
            f"{row.percent:5.1f} % of the peak, error {row.error:.1e}, {row.workspace:.1f} MB",
            flush=True,
        )
        write(given.output, machine, rows, left_out)


def _chosen(networks: Sequence[str], parts: Sequence[str]) -> list[Layer]:
    """The networks' layers, each once, as far as one of the parts (or there is none) occurs in
    the name.
    """
    layers = dict.fromkeys(layer for name in networks for layer in LAYERS[name])
    return [layer for layer in layers if not parts or any(part in layer.name for part in parts)]


def _rows(
    peak: float, threads: int, limits: Limits, products: Sequence[int], layers: Sequence[Layer],
    batches: Sequence[int],
    strategies: Sequence[str], left_out: list[str],
) -> Iterator[Row]:  # fmt: skip
    for size in products:
        yield _product(size, peak, threads, limits)
    for batch in batches:
        for layer in layers:
            for strategy in strategies:
                found = _layer(layer, strategy, batch, peak, threads, limits)
                match found:
                    case Row():
                        yield found
                    case str():
                        left_out.append(found)


def _product(size: int, peak: float, threads: int, limits: Limits) -> Row:
    """A product of two matrices, both given at run time."""
    b = Builder("product")
    left, right = (b.input(TensorType(FLOAT32, (size, size)), name) for name in "ab")
    compiled = plan_graph(b.build([b("matmul", left, right)], ["y"]), Options(threads=threads))
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((size, size), np.float32) for name in "ab"}

    def exactly(place: Sequence[int]) -> float:
        return exact.product(feeds["a"], feeds["b"], place)

    return _row(f"matmul {size}x{size}x{size}", "matmul", 1, compiled, feeds, 2.0 * size**3,
                12.0 * size**2, peak, threads,
                exactly, limits)  # fmt: skip


def _layer(
    layer: Layer, strategy: str, batch: int, peak: float, threads: int, limits: Limits
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
                layer.bytes(batch), peak, threads, exactly,
                limits)  # fmt: skip


def _row(
    name: str, strategy: str, batch: int, compiled: Compiled, feeds: dict[str, Array], flops: float,
    moved: float, peak: float,
    threads: int, exactly: Callable[[Sequence[int]], float], limits: Limits,
) -> Row:  # fmt: skip
    session = Session.in_process(compiled.image, threads=threads)
    call = session.bind(**feeds)
    seconds = median_seconds(call, limits.seconds)
    error = exact.sampled_error(call.outputs["y"], exactly)
    rate = flops / seconds / 1e9
    return Row(
        name,
        strategy,
        batch,
        threads,
        seconds * 1e3,
        rate,
        100 * rate / peak,
        error,
        _workspace(compiled) / 1e6,
        flops,
        moved,
    )


def _workspace(compiled: Compiled) -> int:
    return sum(dim.evaluate(slot, {}) for slot in compiled.program.entries[0].slots)


def median_seconds(call: Callable[[], object], budget: float) -> float:
    """The median of calls timed for ``budget`` seconds, two at least, after one that is not;
    short ones warm up longer.
    """
    start = time.perf_counter()
    call()
    while time.perf_counter() - start < 0.1 * budget:
        call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 2:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


# -- sums and goals --------------------------------------------------------------------------------


def sums(rows: Sequence[Row]) -> list[Sum]:
    """Each network's layers added up, where all were measured: by the best of each family of
    strategies, and of all.
    """
    families = {
        _family(name): [n for n in NAMES if _family(n) == _family(name)] for name in NAMES
    } | {"best": list(NAMES)}
    settings = dict.fromkeys((row.batch, row.threads) for row in rows)
    bests = {(batch, threads, family): _best(rows, names, batch, threads)
             for batch, threads in settings for family, names in families.items()}  # fmt: skip
    found = [
        _sum(network, which, setting, best)
        for network in LAYERS
        for setting, best in bests.items()
        for which in _WHICH
    ]
    return [item for item in found if item is not None]


def _family(strategy: str) -> str:
    """winograd_f4 -> winograd."""
    return strategy.partition("_")[0]


_WHICH: Mapping[str, Callable[[Layer], bool]] = {
    "all": lambda layer: True,
    "3x3 stride 1, >= 64 channels": lambda layer: (
        layer.channels >= 64 and (layer.kernel, layer.stride) == (3, 1)
    ),
}


def _best(
    rows: Sequence[Row], strategies: Sequence[str], batch: int, threads: int
) -> dict[str, Row]:
    """The fastest row of each layer among these strategies."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.strategy in strategies and (row.batch, row.threads) == (batch, threads):
            found[row.layer] = min(found.get(row.layer, row), row, key=lambda r: r.milliseconds)
    return found


def _sum(
    network: str, which: str, setting: tuple[int, int, str], best: Mapping[str, Row]
) -> Sum | None:
    """The layers in question, each as often as the network has it; None unless all were
    measured.
    """
    layers = {layer: n for layer, n in LAYERS[network].items() if _WHICH[which](layer)}
    if not layers or any(layer.name not in best for layer in layers):
        return None
    counted = [(n, best[layer.name]) for layer, n in layers.items()]
    flops, milliseconds = (
        sum(n * row.flops for n, row in counted),
        sum(n * row.milliseconds for n, row in counted),
    )
    rate, peak = flops / milliseconds / 1e6, 100 * counted[0][1].gflops / counted[0][1].percent
    batch, threads, family = setting
    return Sum(
        network,
        batch,
        threads,
        which,
        family,
        sum(layers.values()),
        flops / 1e9,
        milliseconds,
        rate,
        rate / peak,
    )


def goals(rows: Sequence[Row]) -> list[Goal]:
    """What the figures are to reach, as parts of the multiply-add peak; only what was measured."""
    found = [Goal(row.layer, row.percent, 85.0 if row.flops < 2e9 else 90.0, "% of peak",
                  Sense.LEAST)
             for row in rows if row.strategy == "matmul"]  # fmt: skip
    sizes = {layer.name: layer for layers in LAYERS.values() for layer in layers}
    for batch, threads in dict.fromkeys(
        (row.batch, row.threads) for row in rows if row.strategy != "matmul"
    ):
        at = f"batch {batch}, {threads} thread(s)"
        direct, winograd = (_best(rows, [n for n in NAMES if _family(n) == family], batch, threads)
                            for family in ("direct", "winograd"))  # fmt: skip
        found += [
            Goal(f"direct {name}, {at}", row.percent, 90.0, "% of peak", Sense.LEAST)
            for name, row in direct.items()
            if sizes[name].kernel == 3 and sizes[name].channels >= 16
        ]
        for name, row in winograd.items():
            layer = sizes[name]
            if layer.channels >= 128 and (layer.extent >= 28 or layer.extent == 14):
                least = 2.5 if layer.extent >= 28 else 1.7
                found.append(
                    Goal(
                        f"{row.strategy} {name}, {at}",
                        row.percent / 100,
                        least,
                        "x peak",
                        Sense.LEAST,
                    )
                )
    found += [
        Goal(
            f"Winograd, VGG-19's layers with 64 channels or more, batch {item.batch}, "
            f"{item.threads} thread(s)",
            item.times_peak,
            2.5,
            "x peak",
            Sense.LEAST,
        )
        for item in sums(rows)
        if (item.network, item.strategy) == ("vgg19", "winograd") and item.which != "all"
    ]
    return found


def write(folder: Path, machine: Peaks, rows: Sequence[Row], left_out: Sequence[str] = ()) -> None:
    """The results so far, as JSON and as tables."""
    totals, wanted = sums(rows), goals(rows)
    lines = [
        "GFLOP/s count the operations of the layer as written; the time holds all packing and "
        "reorders. The error is the relative",
        f"L2 distance from float64 of {exact.SAMPLES} results drawn at random. Weights are "
        "constants, packed and transformed when",
        "compiling; both operands of a matmul are given at run time.",
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
                       "error", "workspace MB"],
                      [[r.layer, _users(r.layer), str(r.batch), str(r.threads), r.strategy,
                        f"{r.milliseconds:.3f}", f"{r.gflops:.1f}",
                        f"{r.percent:.0f}", f"{r.error:.1e}", f"{r.workspace:.1f}"] for r in rows]),
    ]  # fmt: skip
    report.write(
        folder,
        "layers",
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
