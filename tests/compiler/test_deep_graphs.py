"""A chain of 20,000 nodes, a value with 5,000 users and 200 nested graphs: no recursion, nothing
quadratic.
"""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.op import OPS
from netloom.compiler.passes.bind_dims import bind_dims
from netloom.compiler.passes.differentiate import differentiate
from netloom.compiler.passes.simplify import simplify
from netloom.compiler.pipeline import GRAPH_PASSES, Pipeline
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.compiler.text import constants_of, parse_graph, print_graph
from netloom.compiler.verify import verify

from .nested import NESTED, nested

LENGTH = 10_000


def chain() -> Graph:
    """tanh, neg, + 0.5, neg, neg, tanh ... of x [N, 2]."""
    b = Builder("chain")
    value = b.input(TensorType(FLOAT32, (symbol("N", 1, 9), 2)), "x")
    for i in range(LENGTH // 5):
        value = b("neg", b("neg", b("add", b("neg", b("tanh", value)), 0.5), label=f"node {i}"))
    return b.build([value])


def star() -> Graph:
    """The sum of 5,000 products of x: all read x, and many are equal."""
    b = Builder("star")
    x = b.input(TensorType(FLOAT32, (2,)), "x")
    total = x
    for i in range(LENGTH // 4):
        total = b("add", total, b("mul", x, float(i % 7)))
    return b.build([total])


@pytest.fixture(scope="module", params=[chain, star], ids=["chain", "star"])
def graph(request: pytest.FixtureRequest) -> Graph:
    made: Graph = request.param()
    return made


def inputs_of(graph: Graph) -> dict[str, np.ndarray]:
    return {"x": np.ones((3, 2) if graph.symbols else (2,), np.float32)}


def test_text(graph: Graph) -> None:
    text = print_graph(graph)
    parsed = parse_graph(text, constants_of(graph))
    verify(parsed)
    assert print_graph(parsed) == text


def test_passes(graph: Graph) -> None:
    result, report = Pipeline(GRAPH_PASSES).run(graph)
    assert len(report.steps) == len(GRAPH_PASSES)
    assert 0 < len(result.nodes) < len(graph.nodes)
    assert np.array_equal(
        interpret(result, inputs_of(graph))[0], interpret(graph, inputs_of(graph))[0]
    )


def test_gradient(graph: Graph) -> None:
    b = Builder(graph.name)
    b.inputs, b.nodes = list(graph.inputs), list(graph.nodes)
    (y,) = graph.outputs
    loss = b("reduce_sum", y, axes=tuple(range(y.type.rank)), keep=False)
    gradient = b.build(differentiate(b, loss, graph.inputs))
    verify(gradient)
    assert len(simplify(gradient).nodes) < len(gradient.nodes)


def test_bind_dims() -> None:
    assert not bind_dims(chain(), {"N": 3}).symbols


def test_nested_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, NESTED.name, NESTED)
    graph = nested(200, TensorType(FLOAT32, (symbol("N", 1, 9),)))
    verify(graph)
    text = print_graph(graph)
    assert print_graph(parse_graph(text)) == text
    bound = bind_dims(graph, {"N": 3})
    verify(bound)
    assert "N" not in print_graph(bound)
