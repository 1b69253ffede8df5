"""Random graphs keep their meaning through every pass, their text parses back, and their
gradients are right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.op import Array
from netloom.compiler.passes.bind_dims import bind_dims
from netloom.compiler.pipeline import GRAPH_PASSES, Pipeline
from netloom.compiler.text import constants_of, is_identical, parse_graph, print_graph
from netloom.compiler.verify import verify

from .random_graphs import BATCH, graphs, random_inputs, with_gradient

few = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

# Float64 data below 100, at most 20 roundings moved by rules, each at most 2**-53 of a sum of at
# most 300 terms.
TOLERANCE = 100 * 20 * 300 * 2.0**-53


def assert_close(results: Sequence[Array], expected: Sequence[Array]) -> None:
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        assert np.allclose(result, wanted, rtol=0, atol=TOLERANCE)


def is_close(results: Sequence[Array], expected: Sequence[Array]) -> bool:
    return all(
        np.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in zip(results, expected, strict=True)
    )


@few
@given(graphs())
def test_every_pass_keeps_the_meaning(graph: Graph) -> None:
    verify(graph)
    inputs = random_inputs(graph)
    expected = interpret(graph, inputs)
    for item in GRAPH_PASSES:
        graph = item.function(graph)
        verify(graph)
        assert_close(interpret(graph, inputs), expected)


def test_control_one_ulp_of_float32_is_seen() -> None:
    wanted = [np.ones(3)]
    assert not is_close([np.ones(3) + 2.0**-23], wanted)


@few
@given(graphs())
def test_passes_are_idempotent(graph: Graph) -> None:
    for item in GRAPH_PASSES:
        graph = item.function(graph)
        assert is_identical(item.function(graph), graph), item.name


@few
@given(graphs())
def test_text_parses_back(graph: Graph) -> None:
    text = print_graph(graph)
    parsed = parse_graph(text, constants_of(graph))
    verify(parsed)
    assert print_graph(parsed) == text
    inputs = random_inputs(graph)
    for result, expected in zip(interpret(parsed, inputs), interpret(graph, inputs), strict=True):
        assert np.array_equal(result, expected)


@few
@given(graphs())
def test_binding_dims_keeps_the_meaning(graph: Graph) -> None:
    if graph.symbols:
        inputs = random_inputs(graph)
        expected = interpret(graph, inputs)
        bound = bind_dims(graph, {"N": BATCH})
        assert not bound.symbols
        assert_close(interpret(bound, inputs), expected)


@few
@given(graphs(), st.data())
def test_dead_code_and_identities_change_nothing(graph: Graph, data: st.DataObject) -> None:
    pipeline = Pipeline(GRAPH_PASSES)
    inputs = random_inputs(graph)
    plain, _ = pipeline.run(graph)
    noisy, _ = pipeline.run(_with_noise(graph, data))
    assert len(noisy.nodes) == len(plain.nodes)
    assert_close(interpret(noisy, inputs), interpret(plain, inputs))


def _with_noise(graph: Graph, data: st.DataObject) -> Graph:
    """The graph with nodes that do nothing put after some of its nodes."""
    b = Builder(graph.name)
    b.inputs, b.states = list(graph.inputs), list(graph.states)
    mapping = {value: value for value in graph.sources}
    for node in graph.nodes:
        outputs = b.copy(node, [mapping[value] for value in node.inputs])
        mapping.update(
            zip(node.outputs, (_noise(b, value, data) for value in outputs), strict=True)
        )
    return b.build([mapping[value] for value in graph.outputs], graph.output_names)


def _noise(b: Builder, x: Value, data: st.DataObject) -> Value:
    kind = data.draw(
        st.sampled_from(["none", "dead", "one", "negations", "reshapes", "transpose", "slice"])
    )
    axes = tuple(range(x.type.rank))
    match kind:
        case "dead":
            b("tanh", x)
        case "one":
            return b("mul", 1.0, x)
        case "negations":
            return b("neg", b("neg", x))
        case "reshapes":
            return b("reshape", b("reshape", x, shape=(x.type.elements,)), shape=x.shape)
        case "transpose":
            return b("transpose", b("transpose", x, permutation=axes[::-1]), permutation=axes[::-1])
        case "slice":
            return b("slice", x, start=(0,) * len(axes), size=x.shape, step=(1,) * len(axes))
    return x


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("simplified", [False, True])
@few
@given(graph=graphs(max_steps=5), seed=st.integers(0, 99))
def test_gradients_equal_finite_differences(simplified: bool, graph: Graph, seed: int) -> None:
    graph = with_gradient(graph)
    if simplified:
        graph, _ = Pipeline(GRAPH_PASSES).run(graph)
    inputs = random_inputs(graph, seed)
    direction = np.random.default_rng(seed + 1).standard_normal(inputs["x"].shape)
    _, gradient = interpret(graph, inputs)
    step = 1e-6
    losses = [interpret(graph, {"x": inputs["x"] + sign * step * direction})[0] for sign in (1, -1)]
    slope = (losses[0] - losses[1]) / (2 * step)
    analytic = np.sum(gradient * direction)
    # Second differences are below 1e4, so the quotient's error is below 1e4 * step**2 + 1e3 *
    # 2**-52 / step.
    assert abs(slope - analytic) <= 1e-5 * max(
        1.0, np.sqrt(np.sum(gradient**2) * np.sum(direction**2))
    )
