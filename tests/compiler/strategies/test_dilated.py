"""Winograd over the phases of a dilation: what a dilated convolution becomes is the convolution, for
shapes of every kind; where it is chosen, and where it is not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.join_stages import join_stages
from netloom.compiler.passes.select_strategies import Decision, select_strategies
from netloom.compiler.strategies import BY_NAME
from netloom.runtime.session import Session

from .convolutions import Array, Convolution, add_node, exact

ONES = (1, 1)


def layer(
    channels: int,
    filters: int,
    size: tuple[int, int],
    dilation: tuple[int, int],
    lo: tuple[int, int],
    hi: tuple[int, int],
    kernel: tuple[int, int] = (3, 3),
    batch: int = 1,
) -> Convolution:
    return Convolution(batch, channels, filters, size, kernel, ONES, dilation, lo, hi)


def same(channels: int, size: int, dilation: int) -> Convolution:
    """3 x 3 taps, the result as large as the image."""
    d = (dilation,) * 2
    return layer(channels, channels, (size, size), d, d, d)


CASES = {
    "equal phases": same(5, 8, 2),
    "phases of two lengths": same(3, 7, 2),
    "many phases": same(16, 9, 5),
    "axes that differ": layer(3, 4, (11, 8), (3, 2), (3, 2), (3, 2)),
    "one axis": layer(3, 4, (11, 8), (1, 4), (1, 4), (1, 4)),
    "no padding": layer(3, 4, (9, 10), (2, 3), (0, 0), (0, 0), batch=2),
    "padding that no dilation divides": layer(3, 4, (9, 10), (3, 4), (5, 3), (1, 7)),
    "padding in front only": layer(3, 4, (9, 10), (2, 2), (4, 5), (0, 0)),
    "padding behind only": layer(3, 4, (9, 10), (2, 2), (0, 0), (4, 5)),
    "more phases than elements": layer(3, 4, (4, 4), (7, 7), (7, 9), (7, 8)),
    "one row of taps": layer(3, 4, (9, 12), (4, 3), (0, 3), (0, 3), kernel=(1, 3)),
    "two taps": layer(3, 4, (9, 12), (2, 2), (1, 2), (1, 0), kernel=(2, 2), batch=3),
    "groups": replace(layer(32, 64, (9, 9), (2, 2), (2, 2), (2, 2)), groups=2),
}


def graph_of(case: Convolution, weights: Array | None = None, role: str = "forward") -> Graph:
    b = Builder("layer")
    return b.build([add_node(b, role, case, "x", weights=weights)])


def decided(graph: Graph, name: str = "auto") -> tuple[Graph, Decision]:
    decisions: list[Decision] = []
    expanded = select_strategies(graph, "default", name, decisions)
    return expanded, decisions[0]


@pytest.mark.parametrize("name", ["winograd_f2", "winograd_f4"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_phases_are_the_convolution(case: Convolution, name: str) -> None:
    """Exact on small integers with tiles of 4 inputs, within the budget on normal numbers."""
    rng = np.random.default_rng(2)
    graph = graph_of(case)
    expanded, decision = decided(graph, name)
    assert decision.strategy == name and "winograd_input" in {n.op.name for n in expanded.nodes}
    budget, accuracy = BY_NAME[name].level(graph.nodes[0])
    x, w = (rng.standard_normal(e).astype(np.float32) for e in (case.x, case.w))
    (made,), wanted = interpret(expanded, {"x.0": x, "x.1": w}), exact("forward", case, (x, w))
    assert np.linalg.norm(made - wanted) <= budget * np.linalg.norm(wanted)
    if accuracy == "strict":
        x, w = (rng.integers(-3, 4, e).astype(np.float32) for e in (case.x, case.w))
        (made,) = interpret(expanded, {"x.0": x, "x.1": w})
        np.testing.assert_array_equal(made, exact("forward", case, (x, w)))


@pytest.mark.parametrize("free", [None, 0])
@pytest.mark.parametrize("case", [
    replace(same(17, 9, 2), batch=2),
    layer(16, 20, (9, 11), (3, 2), (2, 5), (4, 1), batch=2),
], ids=str)  # fmt: skip
def test_compiled(case: Convolution, free: int | None) -> None:
    rng = np.random.default_rng(4)
    x, w = (rng.standard_normal(e).astype(np.float32) for e in (case.x, case.w))
    graph, _ = decided(graph_of(replace(case, free=free), w), "winograd_f4")
    compiled = compile_graph(graph)
    (made,) = Session.in_process(compiled.image, threads=1).run(None, {"x.0": x})
    wanted = exact("forward", case, (x, w))
    assert np.linalg.norm(made - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("case", "strategy"), [
    (same(256, 28, 2), "winograd_f4"),  # the last stages of a dilated ResNet-50
    (same(512, 28, 4), "winograd_f4"),
    (same(64, 56, 2), "winograd_f4"),
    # phases of one element: three quarters and more of their tiles are zeros
    (same(64, 14, 12), "direct"),
    (same(3, 56, 2), "direct"),
], ids=str)  # fmt: skip
def test_where_it_is_chosen(case: Convolution, strategy: str) -> None:
    graph = graph_of(case, np.ones(case.w, np.float32))
    assert decided(graph)[1].strategy == strategy


def test_phases_of_few_tiles_are_not_joined_in_bands() -> None:
    """A band ends with its image: one tile would read all weights."""
    for case, is_joined in ((same(128, 66, 11), False), (same(128, 66, 2), True)):
        graph, _ = decided(graph_of(case, np.ones(case.w, np.float32)), "winograd_f4")
        joined = {node.op.name for node in join_stages(graph).nodes}
        assert ("winograd_fused" in joined) is is_joined


@pytest.mark.parametrize("role", ["input_gradient", "weight_gradient"])
def test_gradients_take_no_phases(role: str) -> None:
    rejected = decided(graph_of(same(16, 9, 2), role=role))[1].rejected
    assert rejected["winograd_f4"] == "its stride is (1, 1) and its dilation (2, 2); both must be 1"


def test_strides_and_dilations_together_take_no_phases() -> None:
    case = replace(same(16, 9, 2), stride=(2, 2))
    rejected = decided(graph_of(case))[1].rejected
    assert rejected["winograd_f4"] == "its stride is (2, 2) and its dilation (2, 2); both must be 1"
