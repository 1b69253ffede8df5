"""One network, compiled in several ways and run by peers, measured in one run: times, ratios, and
each one's error.

Errors are relative L2 against a float64 oracle, on the values before a final softmax (behind it
nearly all digits of a classifier's outputs are zeros or ones). Outputs of several tensors are
compared as one vector.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from netloom.benchmarks import harness, operations, oracle
from netloom.benchmarks.harness import Contender, Result
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Graph
from netloom.errors import UsageError
from netloom.frontends.onnx.exporter import to_onnx
from netloom.frontends.onnx.importer import from_onnx

Array = npt.NDArray[Any]
PEERS = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Variant:
    """One way to compile: its name in the table and the compiler's options."""

    name: str
    options: Options


@dataclass(frozen=True)
class Row:
    """One contender's figures. ``ratios``: peer -> how many times faster than the peer (median,
    p10, p90).
    """

    network: str
    contender: str
    version: str
    threads: int
    times: Mapping[str, float]
    ratios: Mapping[str, tuple[float, float, float]]
    error: float
    compile_s: float
    ready_s: float
    bytes: int
    gflops: float  # rate, counting the operations of direct convolution

    @property
    def milliseconds(self) -> float:
        return self.times["p50_ms"]


def variants(strategies: Sequence[str] = ("auto",), accuracy: str = "default") -> list[Variant]:
    """The default choice under the name netloom, and one variant per named strategy."""
    return [
        Variant(
            "netloom" if s == "auto" else f"netloom/{s}", Options(override=s, accuracy=accuracy)
        )
        for s in strategies
    ]


def compare(
    network: str, graph: Graph, ways: Sequence[Variant], peers: Sequence[str] = PEERS,
    threads: int = 1,
    rounds: int = 20, model: Path | None = None, seed: int = 0,
    dims: Mapping[str, int] | None = None,
) -> list[Row]:  # fmt: skip
    """Rows of all variants, then of the peers. Peers read ``model``, or the graph exported to
    ONNX. Free dims are 1.
    """
    feeds = random_feeds(graph, seed, dims or {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = _contenders(folder / "whole", graph, ways, peers, threads, model)
        results = harness.run([c for c, _ in whole], feeds, folder, rounds)
        errors = _errors(folder, graph, results, ways, peers, threads, model, feeds)
        flops = float(operations.operations(graph.nodes, dims or {}, operations.PRODUCTS))
        sizes = [contender.file.stat().st_size for contender, _ in whole]
    by_name = {result.contender.name: result for result in results}
    return [
        _row(
            network,
            result,
            seconds,
            errors[result.contender.name],
            size,
            flops,
            [by_name[p] for p in peers],
        )
        for result, (_, seconds), size in zip(results, whole, sizes, strict=True)
    ]


def _row(
    network: str, result: Result, compile_s: float, error: float, size: int, flops: float,
    peers: Sequence[Result]
) -> Row:  # fmt: skip
    ratios = {peer.contender.name: result.ratio_to(peer) for peer in peers if peer is not result}
    times = result.percentiles()
    return Row(network, result.contender.name, result.version, result.contender.threads, times,
               ratios, error,
               compile_s, result.ready, size, flops / times["p50_ms"] / 1e6)  # fmt: skip


def _contenders(
    folder: Path,
    graph: Graph,
    ways: Sequence[Variant],
    peers: Sequence[str],
    threads: int,
    model: Path | None,
) -> list[tuple[Contender, float]]:
    """Every contender with its file written, and the seconds that compiling it took."""
    folder.mkdir()
    found = []
    for number, way in enumerate(ways):
        start = time.perf_counter()
        file = folder / f"{number}.so"
        compile_graph(graph, way.options).save(file)
        found.append((Contender(way.name, "netloom", file, threads), time.perf_counter() - start))
    if peers:
        file = model or folder / "model.onnx"
        if model is None:
            to_onnx(graph, file)
        found += [(Contender(peer, peer, file, threads), 0.0) for peer in peers]
    return found


def _errors(
    folder: Path, graph: Graph, results: Sequence[Result], ways: Sequence[Variant],
    peers: Sequence[str], threads: int, model: Path | None,
    feeds: Mapping[str, Array],
) -> dict[str, float]:  # fmt: skip
    """Relative error of each contender before a final softmax (where there is none: of the
    results that it gave).
    """
    cut = oracle.before_softmax(graph)
    expected = _joined(oracle.float64_outputs(cut, feeds))
    if cut.outputs != graph.outputs:
        if model is not None:
            model = _cut_model(model, folder / "cut.onnx")
        results = harness.run(
            [c for c, _ in _contenders(folder / "cut", cut, ways, peers, threads, model)],
            feeds,
            folder,
            0,
        )
    return {
        r.contender.name: harness.relative_error(_joined(list(r.outputs.values())), expected)
        for r in results
    }


def _joined(arrays: Sequence[Array]) -> Array:
    return np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in arrays])


def _cut_model(model: Path, target: Path) -> Path:
    """The model whose outputs are what its final Softmax reads."""
    proto = onnx.load(model)
    makers = {name: node for node in proto.graph.node for name in node.output}
    for output in proto.graph.output:
        name = output.name
        while (node := makers.get(name)) is not None and node.op_type in ("Reshape", "Flatten"):
            name = node.input[0]
        node = makers.get(name)
        if node is not None and node.op_type == "Softmax":
            output.CopyFrom(
                onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None)
            )
    onnx.save(proto, target)
    return target


def random_feeds(graph: Graph, seed: int, dims: Mapping[str, int]) -> dict[str, Array]:
    """Standard normal inputs (integers: small ones), the same for all contenders."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        shape = tuple(operations.in_numbers(extent, dims) for extent in value.shape)
        normal = rng.standard_normal(shape)
        feeds[value.label] = (
            normal.astype(value.dtype.numpy)
            if value.dtype.is_float
            else np.zeros(shape, value.dtype.numpy)
        )
    return feeds


def load_model(name: str, folder: Path, seed: int = 0) -> tuple[Graph, Path | None]:
    """A graph, and the ONNX file that peers read: of ``light:NAME`` (random weights),
    ``zoo:NAME`` or a file.
    """
    kind, _, rest = name.partition(":")
    if kind == "light":
        from netloom.benchmarks.models import light_models, with_random_weights

        models = light_models()
        if rest not in models:
            raise UsageError(
                f"there is no light model {rest!r}.", hint=f"Choose {', '.join(models)}."
            )
        path = folder / f"{rest}.onnx"
        onnx.save(with_random_weights(onnx.load(models[rest]), seed), path)
        return from_onnx(path), path
    return from_onnx(name), Path(name)
