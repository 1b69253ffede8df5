"""Single layers over all strategies: ``python -m netloom.benchmarks.layers [-o FOLDER] [--batches 1,2] [--threads 1] …``.

Matrix products and convolutions of VGG-19 and ResNet-50 as programs of one layer, packing and reorders inside the timing:
effective GFLOP/s (operations of the layer as written, over the median time), also as a part of the multiply-add peak that
is measured in the same run; the relative L2 error against float64; the workspace. Writes FOLDER/layers.json and .md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.benchmarks import peaks
from netloom.benchmarks.harness import relative_error
from netloom.benchmarks.networks import describe, machine_record
from netloom.benchmarks.oracle import float64_outputs
from netloom.compiler import dim
from netloom.compiler.driver import Compiled, Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.passes.select_strategies import Decision
from netloom.compiler.strategies import BY_NAME
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

PRODUCTS = (512, 1024, 2048)  # of square matrices
SECONDS = 0.3  # how long one layer is timed at least, after a warm-up


@dataclass(frozen=True)
class Layer:
    """A square convolution: channels, filters, extent of the input, kernel, stride; ``count`` in its network."""

    network: str
    channels: int
    filters: int
    extent: int
    kernel: int = 3
    stride: int = 1
    count: int = 1

    @property
    def name(self) -> str:
        return f"{self.channels}->{self.filters}, {self.extent}x{self.extent}, {self.kernel}x{self.kernel}/{self.stride}"

    def graph(self, batch: int) -> Graph:
        """The layer with random constant weights, bias and ReLU left out."""
        b = Builder("layer")
        x = b.input(TensorType(FLOAT32, (batch, self.channels, self.extent, self.extent)), "x")
        shape = (self.filters, self.channels, self.kernel, self.kernel)
        scale = (2 / (self.channels * self.kernel**2)) ** 0.5
        w = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * np.float32(scale)
        pad = (self.kernel // 2,) * 2
        y = b("conv", x, b.constant(w), stride=(self.stride,) * 2, dilation=(1, 1), lo=pad, hi=pad, label="layer")
        return b.build([y], ["y"])

    def flops(self, batch: int) -> float:
        """Two for each multiply-add of the convolution as written."""
        out = (self.extent - 1) // self.stride + 1
        return 2.0 * batch * out * out * self.filters * self.channels * self.kernel**2


VGG19 = tuple(
    Layer("vgg19", c, o, e, count=n)
    for c, o, e, n in ((3, 64, 224, 1), (64, 64, 224, 1), (64, 128, 112, 1), (128, 128, 112, 1), (128, 256, 56, 1),
                       (256, 256, 56, 3), (256, 512, 28, 1), (512, 512, 28, 3), (512, 512, 14, 4))
)  # fmt: skip
RESNET50 = tuple(
    Layer("resnet50", c, o, e, k, s, n)
    for c, o, e, k, s, n in (
        (3, 64, 224, 7, 2, 1), (64, 64, 56, 1, 1, 1), (64, 64, 56, 3, 1, 3), (64, 256, 56, 1, 1, 4), (256, 64, 56, 1, 1, 2),
        (256, 128, 56, 1, 2, 1), (128, 128, 28, 3, 1, 4), (128, 512, 28, 1, 1, 4), (512, 128, 28, 1, 1, 3), (256, 512, 56, 1, 2, 1),
        (512, 256, 28, 1, 2, 1), (256, 256, 14, 3, 1, 6), (256, 1024, 14, 1, 1, 6), (1024, 256, 14, 1, 1, 5),
        (512, 1024, 28, 1, 2, 1), (1024, 512, 14, 1, 2, 1), (512, 512, 7, 3, 1, 3), (512, 2048, 7, 1, 1, 3),
        (2048, 512, 7, 1, 1, 2), (1024, 2048, 14, 1, 2, 1),
    )
)  # fmt: skip
DIRECT = Layer("direct", 128, 128, 56)  # the layer that the peak is compared with
LAYERS = {"vgg19": VGG19, "resnet50": RESNET50}


@dataclass(frozen=True)
class Row:
    """``percent`` of the multiply-add peak on as many threads; workspace in MB; error NaN where it was not measured."""

    layer: str
    network: str
    count: int
    strategy: str
    batch: int
    threads: int
    milliseconds: float
    gflops: float
    percent: float
    error: float
    workspace: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", default="1")
    parser.add_argument("--networks", default="vgg19,resnet50", help="comma-separated, or empty: products and one direct layer only")
    given = parser.parse_args(arguments)
    machine = peaks.measure((1,) if given.threads == 1 else (1, given.threads))
    rows: list[Row] = []
    for row in _rows(machine.flops[given.threads], given.threads, [int(b) for b in given.batches.split(",")],
                     [name for name in given.networks.split(",") if name]):  # fmt: skip
        rows.append(row)
        print(f"{row.layer:36} batch {row.batch:2} {row.strategy:12} {row.milliseconds:9.3f} ms {row.gflops:7.1f} GFLOP/s "
              f"{row.percent:5.1f} % of the peak, error {row.error:.1e}, {row.workspace:.1f} MB", flush=True)  # fmt: skip
        write(given.output, machine, rows)


def _rows(peak: float, threads: int, batches: Sequence[int], networks: Sequence[str]) -> Iterator[Row]:
    for size in PRODUCTS:
        yield _product(size, peak, threads)
    for strategy, layer in (("direct", DIRECT), ("winograd_f4", DIRECT)):
        found = _layer(layer, strategy, 1, peak, threads)
        assert found is not None
        yield found
    for batch in batches:
        for layer in (layer for name in networks for layer in LAYERS[name]):
            for strategy in BY_NAME:
                found = _layer(layer, strategy, batch, peak, threads)
                if found is not None:
                    yield found


def _product(size: int, peak: float, threads: int) -> Row:
    """A product of two matrices, both given at run time."""
    b = Builder("product")
    left, right = (b.input(TensorType(FLOAT32, (size, size)), name) for name in "ab")
    compiled = compile_graph(b.build([b("matmul", left, right)], ["y"]), Options(threads=threads))
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((size, size)).astype(np.float32) for name in "ab"}
    return _row(f"matmul {size}x{size}x{size}", "products", 1, "matmul", 1, compiled, feeds, 2.0 * size**3, peak, threads,
                feeds["a"].astype(np.float64) @ feeds["b"].astype(np.float64))  # fmt: skip


def _layer(layer: Layer, strategy: str, batch: int, peak: float, threads: int) -> Row | None:
    """None where the strategy does not apply."""
    decisions: list[Decision] = []
    graph = layer.graph(batch)
    compiled = compile_graph(graph, Options(threads=threads, accuracy="fast", override=strategy, decisions=decisions))
    if decisions[0].strategy != strategy:
        return None
    shape = (batch, layer.channels, layer.extent, layer.extent)
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    expected = float64_outputs(graph, feeds)[0] if batch == 1 else None
    return _row(layer.name, layer.network, layer.count, strategy, batch, compiled, feeds, layer.flops(batch), peak, threads,
                expected)  # fmt: skip


def _row(
    name: str, network: str, count: int, strategy: str, batch: int, compiled: Compiled,
    feeds: dict[str, npt.NDArray[Any]], flops: float, peak: float, threads: int, expected: npt.NDArray[Any] | None,
) -> Row:  # fmt: skip
    session = Session.in_process(compiled.image, threads=threads)
    (output,) = session.run(None, feeds)
    seconds = _median_seconds(session.bind(**feeds, y=output))
    error = float("nan") if expected is None else relative_error(output, expected)
    rate = flops / seconds / 1e9
    workspace = sum(dim.evaluate(slot, {}) for slot in compiled.program.entries[0].slots) / 1e6
    return Row(name, network, count, strategy, batch, threads, seconds * 1e3, rate, 100 * rate / peak, error, workspace)


def _median_seconds(call: Any) -> float:
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def write(folder: Path, machine: peaks.Peaks, rows: Sequence[Row]) -> None:
    """The results so far, as JSON and as a table."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine_record(machine), "rows": [asdict(row) for row in rows]}
    (folder / "layers.json").write_text(json.dumps(data, indent=1) + "\n")
    lines = ["# layers", "", *describe(machine), "",
             "GFLOP/s count the operations of the layer as written; the time holds all packing and reorders.", "",
             "| layer | of | batch | threads | strategy | ms | GFLOP/s | % of peak | error | workspace MB |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {r.layer} | {r.network} | {r.batch} | {r.threads} | {r.strategy} | {r.milliseconds:.3f} | {r.gflops:.1f} "
        f"| {r.percent:.0f} | {r.error:.1e} | {r.workspace:.1f} |"
        for r in rows
    ]
    (folder / "layers.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
