"""The pipeline checks its order, verifies, times and dumps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.bind_dims import bind_dims
from netloom.compiler.passes.eliminate_dead import eliminate_dead
from netloom.compiler.passes.simplify import simplify
from netloom.compiler.pipeline import GRAPH_PASSES, Pass, Pipeline
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.compiler.text import parse_graph, print_graph
from netloom.errors import VerificationError


def small() -> Graph:
    b = Builder("small")
    x = b.input(TensorType(FLOAT32, (2,)), "x")
    w = b.state("w", Constant(np.ones(2, np.float32)))
    return b.build([b("tanh", b("mul", b("neg", b("neg", x)), w, label="scaled"), label="act")])


def test_the_list_of_passes_keeps_its_own_order() -> None:
    Pipeline(GRAPH_PASSES)
    assert all(item.why for item in GRAPH_PASSES)
    names = {item.name for item in GRAPH_PASSES}
    assert all(set(item.after) <= names for item in GRAPH_PASSES)


def test_a_wrong_order_is_refused_with_its_reason() -> None:
    late = Pass("late", simplify, after=("early",), why="early makes what late needs")
    with pytest.raises(ValueError, match="late must come after early: early makes what late needs"):
        Pipeline([late, Pass("early", eliminate_dead)])
    Pipeline([late])  # a pass that is not there is no constraint


def test_a_pass_stands_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        Pipeline([Pass("a", simplify), Pass("a", simplify)])


def test_report_and_dumps(tmp_path: Path) -> None:
    passes = [Pass("simplify", simplify), Pass("eliminate_dead", eliminate_dead)]
    graph, report = Pipeline(passes).run(small(), dump=tmp_path / "dump")
    assert [step.name for step in report.steps] == ["simplify", "eliminate_dead"]
    assert [(step.nodes_before, step.nodes_after) for step in report.steps] == [(4, 2), (2, 2)]
    assert report.seconds >= 0
    assert "simplify" in str(report)
    files = {file.name: file.read_text() for file in (tmp_path / "dump").iterdir()}
    assert set(files) == {"00_input.txt", "01_simplify.txt", "02_eliminate_dead.txt"}
    assert files["00_input.txt"] == print_graph(small())
    assert files["02_eliminate_dead.txt"] == "(unchanged)\n"
    assert print_graph(parse_graph(files["01_simplify.txt"])) == print_graph(graph)


def test_options_reach_the_passes_that_name_them() -> None:
    text = 'graph "g" {\ndim N = 1..8\ninput %0: float32[N] "x"\noutput "y" = %0\n}'
    options = SimpleNamespace(bindings={"N": 4}, other=None)
    pipeline = Pipeline(
        [Pass("bind_dims", bind_dims, options=("bindings",)), Pass("simplify", simplify)]
    )
    graph, _ = pipeline.run(parse_graph(text), options)
    assert graph.inputs[0].shape == (4,)


def test_the_pass_that_breaks_a_graph_is_named() -> None:
    def lose_a_node(graph: Graph) -> Graph:
        return dataclasses.replace(graph, nodes=graph.nodes[1:])

    with pytest.raises(
        VerificationError, match="after lose_a_node: neg uses a value before it is defined"
    ):
        Pipeline([Pass("lose_a_node", lose_a_node)]).run(small())


def test_a_batch_normalization_disappears() -> None:
    """conv -> batch_norm -> relu with fixed parameters is conv -> add -> relu."""
    random = np.random.default_rng(0)
    b = Builder("block")
    x = b.input(TensorType(FLOAT32, (symbol("N", 1, 8), 2, 5, 5)), "x")
    w = b.state("w", Constant(random.standard_normal((3, 2, 3, 3)), FLOAT32))
    statistics = [
        b.state(name, Constant(random.uniform(0.5, 2, 3), FLOAT32)) for name in ("s", "b", "m", "v")
    ]
    y = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=1)
    graph = b.build([b("relu", b("batch_norm", y, *statistics, epsilon=1e-5))])
    result, _ = Pipeline(GRAPH_PASSES).run(graph)
    assert [node.op.name for node in result.nodes if node.op.name != "constant"] == [
        "conv",
        "add",
        "relu",
    ]
    inputs = {"x": random.standard_normal((2, 2, 5, 5)).astype(np.float32)}
    (before,), (after,) = interpret(graph, inputs), interpret(result, inputs)
    # Sums of 18 products, each rounded once more: k + 3 roundings of float32 on values below
    # max|y|.
    assert np.max(np.abs(before - after)) <= (18 + 3) * 2.0**-24 * 4 * np.max(np.abs(before))
