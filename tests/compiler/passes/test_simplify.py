"""The identities hold for special values too: NaN, infinities, zeros of both signs, denormals,
the largest numbers.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.simplify import simplify
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.compiler.text import print_graph

NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3.0, 8.0, np.inf, -np.inf, np.nan)
TINY, HUGE = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)
SPECIAL = np.array([*NUMBERS, TINY, -TINY, 1e-38, HUGE, -HUGE, 1.5, -0.3], np.float32)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "max", "min", "pow", "rem"])
def test_numbers_on_either_side(op: str) -> None:
    b = Builder("numbers")
    x = b.input(TensorType(FLOAT32, SPECIAL.shape), "x")
    outputs = [b(op, x, number) for number in NUMBERS] + [b(op, number, x) for number in NUMBERS]
    outputs += [b(op, x, x), b(op, x, b("neg", x)), b("neg", b(op, x, x)), b(op, b("neg", x), x)]
    assert_same_meaning(b.build(outputs))


@pytest.mark.parametrize("op", ["neg", "abs", "relu", "sign", "floor", "round", "trunc", "ceil"])
def test_repeated_ops(op: str) -> None:
    b = Builder("repeated")
    x = b.input(TensorType(FLOAT32, SPECIAL.shape), "x")
    assert_same_meaning(b.build([b(op, b(op, x)), b(op, b(op, b(op, x))), b("neg", b(op, x))]))


def test_differences() -> None:
    """All pairs of special values: x - y, -(x - y), x + (-y), x - (-y)."""
    pairs = np.array(list(product(SPECIAL, SPECIAL)), np.float32)
    b = Builder("pairs")
    x, y = (b.input(TensorType(FLOAT32, (len(pairs),)), name) for name in "xy")
    outputs = [
        b("neg", b("sub", x, y)),
        b("add", x, b("neg", y)),
        b("add", b("neg", x), y),
        b("sub", x, b("neg", y)),
    ]
    outputs.append(b("select", b("not", b("less", x, y)), x, y))
    assert_same_meaning(b.build(outputs), {"x": pairs[:, 0], "y": pairs[:, 1]})


def assert_same_meaning(graph: Graph, inputs: dict[str, np.ndarray] | None = None) -> None:
    inputs = inputs or {"x": SPECIAL}
    simple = simplify(graph)
    assert _work(simple) <= _work(graph)
    for position, (left, right) in enumerate(
        zip(interpret(graph, inputs), interpret(simple, inputs), strict=True)
    ):
        assert np.array_equal(left, right, equal_nan=True), (position, print_graph(graph))


def _work(graph: Graph) -> int:
    return sum(node.op.name != "constant" for node in graph.nodes)


def test_control_a_rule_that_forgets_nan_is_seen() -> None:
    with np.errstate(invalid="ignore"):
        assert not np.array_equal(SPECIAL * 0, np.zeros_like(SPECIAL), equal_nan=True)


def test_integers_are_simplified_too() -> None:
    b = Builder("integers")
    x = b.input(TensorType(INT64, (3,)), "x")
    graph = b.build([b("add", b("mul", b("div", x, 1), 1), 0)])
    assert simplify(graph).outputs == (x,)


def test_integer_division_is_no_multiplication() -> None:
    b = Builder("integers")
    x = b.input(TensorType(INT64, (3,)), "x")
    graph = b.build([b("div", x, 2)])
    assert simplify(graph) is graph


@pytest.mark.parametrize(
    ("indices", "is_slice"),
    [([0, 2, 4], True), ([5, 4, 3], True), ([-1, -3], True), (3, True), ([[1, 2], [3, 4]], True), ([-1], True),
     ([0, 1, 3], False), ([2, 2], False), ([-1, 0], True)],
)  # fmt: skip
@pytest.mark.parametrize("axis", [0, 1])
def test_gather_of_evenly_spaced_constants(indices: object, is_slice: bool, axis: int) -> None:
    b = Builder("gather")
    x = b.input(TensorType(FLOAT32, (6, 6)), "x")
    graph = b.build([b("gather", x, b.constant(np.asarray(indices, np.int64)), axis=axis)])
    values = np.arange(36, dtype=np.float32).reshape(6, 6)
    simple = simplify(graph)
    np.testing.assert_array_equal(
        interpret(simple, {"x": values})[0], interpret(graph, {"x": values})[0]
    )
    assert any(node.op.name == "gather" for node in simple.nodes) is not is_slice


def test_gather_out_of_range_or_of_free_extent_stays() -> None:
    b = Builder("gather")
    x = b.input(TensorType(FLOAT32, (6, 6)), "x")
    assert "gather" in print_graph(
        simplify(b.build([b("gather", x, b.constant(np.array([5, 6])), axis=0)]))
    )
