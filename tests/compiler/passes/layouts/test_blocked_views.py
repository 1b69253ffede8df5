"""Pixel shuffles, repeated elements, parts of channels and resized images between convolutions stay
in blocks of channels where they move whole blocks; where they take blocks apart, or end as a matrix,
they are row-major. Results are the same either way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
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


def as_tokens(b: Builder, x: Value) -> Value:
    """Channels last: what norms and products take."""
    return b("transpose", x, permutation=(0, 2, 3, 1))


def repeated(b: Builder, x: Value) -> Value:
    """Each row twice, then each column three times."""
    n, c, h, w = x.shape
    rows = b("broadcast", b("reshape", x, shape=(n, c, h, 1, w)), shape=(n, c, h, 2, w))
    columns = b("reshape", rows, shape=(n, c, 2 * h, w, 1))
    wide = b("broadcast", columns, shape=(n, c, 2 * h, w, 3))
    return b("reshape", wide, shape=(n, c, 2 * h, 3 * w))


def part(start: int, size: int) -> View:
    """Some channels."""

    def view(b: Builder, x: Value) -> Value:
        n, _, h, w = x.shape
        return b("slice", x, start=(0, start, 0, 0), size=(n, size, h, w), step=(1,) * 4)

    return view


def picked(b: Builder, x: Value) -> Value:
    """Some rows, then some columns, in any order."""
    rows = b("gather", x, b.constant(np.array([4, 0, 0, 2, -1, 3])), axis=2)
    return b("gather", rows, b.constant(np.array([1, 1, 4])), axis=3)


def of_other_channels(b: Builder, x: Value) -> Value:
    return b("gather", x, b.constant(np.arange(x.shape[1])[::-1].copy()), axis=1)


def graph_of(channels: int, view: View, is_convolved: bool = False) -> Graph:
    """A view between a convolution of stride 1 and a ReLU, which another convolution may read."""
    b = Builder("view")
    x = b.input(TensorType(FLOAT32, (2, 16, SIZE, SIZE)), "x")
    rng = np.random.default_rng(3)
    w = b.constant(rng.integers(-3, 4, (channels, 16, 3, 3)).astype(np.float32))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    y = b("relu", view(b, b("conv", x, w, **attrs)))
    if not is_convolved:
        return b.build([y])
    ones = b.constant(np.ones((16, y.shape[1], 1, 1), np.float32))
    return b.build([y, b("conv", y, ones, **{**attrs, "lo": (0, 0), "hi": (0, 0)})])


@pytest.mark.parametrize(("channels", "view", "stays"), [
    (64, shuffled, True),
    (128, shuffled, True),
    (32, shuffled, False),  # 8 channels of each place
    (64, inner_shuffled, False),  # blocks are taken apart
    (16, gathered, True),
    (24, gathered, False),
    (32, flipped, False),
    (32, as_matrix, False),
    (32, as_tokens, False),
    (32, repeated, True),
    (24, repeated, True),
    (48, part(16, 16), True),
    (48, part(16, 32), True),
    (48, part(8, 16), False),
    (48, part(32, 8), False),
    (32, picked, False),  # for nobody who reads blocks
    (32, of_other_channels, False),
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


@pytest.mark.parametrize("channels", [24, 32])
def test_images_are_resized_in_blocks_for_convolutions(channels: int) -> None:
    graph = graph_of(channels, picked, is_convolved=True)
    placed = choose_layout(select_strategies(graph, override="direct"))
    (relu,) = (node for node in placed.nodes if node.op.name == "relu")
    assert relu.inputs[0].layout == channel_blocked(4)
    x = np.random.default_rng(5).integers(-3, 4, (2, 16, SIZE, SIZE)).astype(np.float32)
    resized, summed = Session.in_process(compile_graph(graph).image).run(None, {"x": x})
    np.testing.assert_array_equal(resized, interpret(graph, {"x": x})[0])
    np.testing.assert_array_equal(summed[:, 0], resized.sum(axis=1))


@pytest.mark.parametrize(("view", "as_array"), [
    (repeated, lambda a: a.repeat(2, axis=2).repeat(3, axis=3)),
    (part(16, 32), lambda a: a[:, 16:48]),
    (picked, lambda a: a[:, :, [4, 0, 0, 2, -1, 3]][:, :, :, [1, 1, 4]]),
])  # fmt: skip
def test_views_are_those_of_arrays(
    view: View, as_array: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
) -> None:
    x = np.random.default_rng(6).integers(-3, 4, (2, 16, SIZE, SIZE)).astype(np.float32)
    whole, viewed = (
        Session.in_process(compile_graph(graph_of(48, taken, True)).image).run(None, {"x": x})[0]
        for taken in (lambda _, value: value, view)
    )
    np.testing.assert_array_equal(viewed, as_array(whole))


@pytest.mark.parametrize(("op", "reduced"), [("reduce_max", np.max), ("reduce_sum", np.sum)])
@pytest.mark.parametrize("channels", [24, 48])
def test_images_in_blocks_are_reduced_where_they_lie(
    op: str, reduced: Callable[..., npt.NDArray[np.float32]], channels: int
) -> None:
    """24 channels fill half of their last block, whose padding is no term."""
    graph = graph_of(channels, lambda b, x: b(op, b("exp", x), axes=(2, 3)))
    placed = choose_layout(select_strategies(graph, override="direct"))
    (reduction,) = (node for node in placed.nodes if node.op.name == op)
    assert reduction.inputs[0].layout == channel_blocked(4)
    x = np.random.default_rng(7).uniform(-0.1, 0.1, (2, 16, SIZE, SIZE)).astype(np.float32)
    (made,) = Session.in_process(compile_graph(graph).image).run(None, {"x": x})
    (whole,) = interpret(graph_of(channels, lambda b, x: b("exp", x)), {"x": x})
    np.testing.assert_allclose(made, reduced(whole, axis=(2, 3)), rtol=1e-5)
