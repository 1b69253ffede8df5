"""Ops behind a convolution, whose image is in blocks of channels: which leave it so, and that they
compute the same either way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.layout import channel_blocked
from netloom.compiler.op import OPS
from netloom.compiler.passes.choose_layout import RULES, choose_layout
from netloom.compiler.tensor_type import FLOAT32, TensorType

BLOCKED = channel_blocked(4)
POINTWISE = {"stride": (1, 1), "dilation": (1, 1), "lo": (0, 0), "hi": (0, 0), "groups": 1}
Step = Callable[[Builder, Value], Value]


def convolved(b: Builder, x: Value, filters: int) -> Value:
    """Small integers, whose sums are exact in any order."""
    shape = (filters, x.shape[1], 1, 1)
    weights = np.random.default_rng(filters).integers(-2, 3, shape).astype(np.float32)
    return b("conv", x, b.constant(weights), **POINTWISE)


def pooled(b: Builder, x: Value) -> Value:
    return b("max_pool", x, kernel=(2, 2), stride=(1, 1), dilation=(1, 1), lo=(0, 0), hi=(0, 0))


def padded(b: Builder, x: Value) -> Value:
    return b("pad", x, lo=(0, 0, 1, 0), hi=(0, 0, 2, 1))


def padded_with_channels(b: Builder, x: Value) -> Value:
    return b("pad", x, lo=(0, 1, 0, 0), hi=(0, 0, 0, 0))


def joined(b: Builder, x: Value) -> Value:
    return b("concat", x, b("neg", x), axis=1)


def joined_rows(b: Builder, x: Value) -> Value:
    return b("concat", x, b("neg", x), axis=2)


def picked(b: Builder, x: Value) -> Value:
    """Columns, for a convolution."""
    return b("gather", x, b.constant(np.array([0, 0, 2, 4, 1])), axis=3)


def picked_channels(b: Builder, x: Value) -> Value:
    return b("gather", x, b.constant(np.array([3, 0, 2, 2])), axis=1)


def scaled(b: Builder, x: Value) -> Value:
    return b("mul", x, b("broadcast", b.constant(np.float32(3)), shape=x.shape))


def graph_of(step: Step, channels: int, convolves: bool) -> Graph:
    """The step, whose result another convolution reads, or a transpose, which is row-major."""
    b = Builder("image")
    y = step(b, convolved(b, b.input(TensorType(FLOAT32, (2, 16, 4, 5)), "x"), channels))
    turned = (3, 2, 1, 0)
    result = convolved(b, y, 16) if convolves else b("transpose", y, permutation=turned)
    return b.build([result])


@pytest.mark.parametrize(
    ("step", "channels", "is_blocked"),
    [(pooled, 32, True), (pooled, 24, True), (padded, 24, True), (padded_with_channels, 32, False),
     (joined, 32, True), (joined, 24, False), (joined_rows, 32, False), (picked, 24, True),
     (picked_channels, 32, False), (scaled, 24, True)],
)  # fmt: skip
@pytest.mark.parametrize("convolves", [True, False])
def test_blocks_stay(step: Step, channels: int, is_blocked: bool, convolves: bool) -> None:
    graph = graph_of(step, channels, convolves)
    placed = choose_layout(graph)
    name = graph.nodes[-2 - 1 * convolves].op.name
    (node, *_) = [node for node in placed.nodes if node.op.name == name]
    wanted = is_blocked and (convolves or step is not picked)  # which is for readers of blocks
    assert node.output.layout == (BLOCKED if wanted else None)
    x = np.random.default_rng(0).integers(-3, 4, (2, 16, 4, 5)).astype(np.float32)
    (expected,), (found,) = interpret(graph, {"x": x}), interpret(placed, {"x": x})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("axes", "channels", "reads_blocks"),
    [((2, 3), 24, True), ((1,), 32, True), ((1,), 24, False), ((0, 2), 32, False),
     ((1, 2), 32, False)],
)  # fmt: skip
@pytest.mark.parametrize("op", ["reduce_sum", "reduce_max"])
def test_reductions_read_blocks(
    op: str, axes: tuple[int, ...], channels: int, reads_blocks: bool
) -> None:
    b = Builder("reduced")
    y = convolved(b, b.input(TensorType(FLOAT32, (2, 16, 4, 5)), "x"), channels)
    graph = b.build([b(op, y, axes=axes)])
    placed = choose_layout(graph)
    (node,) = (node for node in placed.nodes if node.op.name == op)
    assert (node.inputs[0].layout == BLOCKED) == reads_blocks and node.output.layout is None
    x = np.random.default_rng(0).integers(-3, 4, (2, 16, 4, 5)).astype(np.float32)
    (expected,), (found,) = interpret(graph, {"x": x}), interpret(placed, {"x": x})
    np.testing.assert_array_equal(found, expected)


def test_a_pool_of_a_row_major_image_takes_blocks_for_large_steps() -> None:
    for stride in (1, 9):
        b = Builder("pool")
        x = b.input(TensorType(FLOAT32, (1, 16, 20, 20)), "x")
        y = b("max_pool", x, kernel=(2, 2), stride=(stride,) * 2, dilation=(1, 1), lo=(0, 0),
              hi=(0, 0))  # fmt: skip
        placed = choose_layout(b.build([y]))
        (pool,) = (node for node in placed.nodes if node.op.name == "max_pool")
        assert (pool.output.layout == BLOCKED) == (stride == 9)
        assert placed.outputs[0].layout is None


def test_the_table_names_ops_that_there_are() -> None:
    assert {*RULES} <= {*OPS}
