"""A network's compiled training step, measured by itself: what a step takes, and how far its first
loss is from float64's.

No peer takes part: none of them trains from the model that is compiled here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from netloom.benchmarks import harness, oracle
from netloom.benchmarks.comparison import Row, random_feeds
from netloom.benchmarks.harness import Contender
from netloom.benchmarks.operations import PRODUCTS, operations
from netloom.compiler.driver import Options, compile_entries
from netloom.compiler.graph import Graph
from netloom.compiler.passes.eliminate_dead import eliminate_dead
from netloom.frontends.dsl.network import TracedGraph
from netloom.frontends.dsl.training_step import LOSS, training_graph

NAME = "netloom/train"
RATE = 1e-3


def measure(
    network: str, graph: Graph, loss: Any, optimizer: Any, threads: int, rounds: int, options: Options,
    dims: Mapping[str, int], seed: int = 0,
) -> Row:  # fmt: skip
    """The row of a step of ``optimizer`` on ``loss`` at the rate RATE; operations are those of
    products, as written.
    """
    step = training_graph(graph, loss, optimizer)
    run = graph.inference_form() if isinstance(graph, TracedGraph) else graph
    feeds = random_feeds(step, seed, dims)
    feeds["rate"] = np.array(RATE, np.float32)
    expected = oracle.float64_outputs(step, feeds)[step.output_names.index(LOSS)]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "step.so"
        start = time.perf_counter()
        compile_entries(step, run, options).save(file)
        seconds = time.perf_counter() - start
        contender = Contender(NAME, "netloom_training", file, threads)
        (first,) = harness.run([contender], feeds, Path(name), 0)
        (result,) = harness.run([contender], feeds, Path(name), rounds)
        size = file.stat().st_size
    times = result.percentiles()
    error = harness.relative_error(first.outputs[LOSS], expected)
    return Row(network, NAME, result.version, threads, times, {}, error, seconds, result.ready, size,
               flops(step, dims) / times["p50_ms"] / 1e6)  # fmt: skip


def flops(step: Graph, dims: Mapping[str, int]) -> float:
    """Operations of the step's convolutions, products and their gradients, as far as a result
    needs them.
    """
    return float(operations(eliminate_dead(step).nodes, dims, PRODUCTS))
