"""Pixel shuffles between convolutions stay in blocks of channels where they move whole blocks; where
they take blocks apart, or end as a matrix, they are row-major. Results are the same either way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.layout import channel_blocked
from netloom.compiler.passes.choose_layout import choose_layout
from netloom.compiler.passes.select_strategies import select_strategies
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

SIZE = 5
View = Callable[[Builder, Value], Value]


def shuffled(b: Builder, x: Value) -> Value:
    """Quarters of the channels become 2 x 2 blocks of space."""
    n, c, h, w = x.shape
    split = b("reshape", x, shape=(n, 2, 2, c // 4, h, w))
    turned = b("transpose", split, permutation=(0, 3, 4, 1, 5, 2))
    return b("reshape", turned, shape=(n, c // 4, 2 * h, 2 * w))


def inner_shuffled(b: Builder, x: Value) -> Value:
    """Channels that lie next to each other become blocks of space."""
    n, c, h, w = x.shape
    split = b("reshape", x, shape=(n, c // 4, 2, 2, h, w))
    turned = b("transpose", split, permutation=(0, 1, 4, 2, 5, 3))
    return b("reshape", turned, shape=(n, c // 4, 2 * h, 2 * w))


def gathered(b: Builder, x: Value) -> Value:
    """The way back: blocks of space become quarters of the channels."""
    n, c, h, w = x.shape
    whole = b("slice", x, start=(0, 0, 1, 0), size=(n, c, h - 1, w - 1), step=(1,) * 4)
    split = b("reshape", whole, shape=(n, c, h // 2, 2, w // 2, 2))
    turned = b("transpose", split, permutation=(0, 3, 5, 1, 2, 4))
    return b("reshape", turned, shape=(n, c * 4, h // 2, w // 2))


def flipped(b: Builder, x: Value) -> Value:
    """Channels in reverse order."""
    start = (0, x.shape[1] - 1, 0, 0)
    return b("slice", x, start=start, size=x.shape, step=(1, -1, 1, 1))


def as_matrix(b: Builder, x: Value) -> Value:
    n, c, h, w = x.shape
    return b("reshape", x, shape=(n, c * h * w))


def graph_of(channels: int, view: View) -> Graph:
    """A view between a convolution of stride 1 and a ReLU."""
    b = Builder("view")
    x = b.input(TensorType(FLOAT32, (2, 16, SIZE, SIZE)), "x")
    rng = np.random.default_rng(3)
    w = b.constant(rng.integers(-3, 4, (channels, 16, 3, 3)).astype(np.float32))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    return b.build([b("relu", view(b, b("conv", x, w, **attrs)))])


@pytest.mark.parametrize(("channels", "view", "stays"), [
    (64, shuffled, True),
    (128, shuffled, True),
    (32, shuffled, False),  # 8 channels of each place
    (64, inner_shuffled, False),  # blocks are taken apart
    (16, gathered, True),
    (24, gathered, False),
    (32, flipped, False),
    (32, as_matrix, False),
])  # fmt: skip
def test_whole_blocks_stay_blocks(channels: int, view: View, stays: bool) -> None:
    graph = graph_of(channels, view)
    (relu,) = (
        node
        for node in choose_layout(select_strategies(graph, override="direct")).nodes
        if node.op.name == "relu"
    )
    assert relu.inputs[0].layout == (channel_blocked(4) if stays else None)
    x = np.random.default_rng(5).integers(-3, 4, (2, 16, SIZE, SIZE)).astype(np.float32)
    compiled = compile_graph(graph)
    (made,) = Session.in_process(compiled.image).run(None, {"x": x})
    np.testing.assert_array_equal(made, interpret(graph, {"x": x})[0])
