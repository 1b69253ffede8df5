"""Small graphs for the table of cases: functions that make them, most of them for given shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.op import Array
from netloom.compiler.passes.differentiate import gradient_graph
from netloom.compiler.tensor_type import BOOL, FLOAT32, FLOAT64, INT32, INT64, DType, TensorType

N, M = symbol("N", 1), symbol("M", 1)
WINDOW: dict[str, Any] = {
    "kernel": (3, 2),
    "stride": (2, 2),
    "dilation": (1, 1),
    "lo": (1, 0),
    "hi": (1, 1),
}
PLAIN: dict[str, Any] = {
    "stride": (1, 1),
    "dilation": (1, 1),
    "lo": (1, 1),
    "hi": (1, 1),
    "groups": 1,
}
STEP: dict[str, Any] = {
    "kernel": (2, 2),
    "stride": (2, 2),
    "dilation": (1, 1),
    "lo": (0, 0),
    "hi": (1, 0),
}


def one(
    op: str,
    *shapes: tuple[Extent, ...],
    dtype: DType = FLOAT32,
    integers: tuple[int, ...] = (),
    **attrs: Any,
) -> Callable[[], Graph]:
    """A graph of one node; ``integers`` are the places of its int64 inputs."""

    def make() -> Graph:
        b = Builder(op)
        types = [TensorType(INT64 if i in integers else dtype, s) for i, s in enumerate(shapes)]
        return b.build([b(op, *(b.input(t, f"x{i}") for i, t in enumerate(types)), **attrs)], ["y"])

    return make


def scattered_rows(
    op: str, shape: tuple[Extent, Extent], count: int, **attrs: Any
) -> Callable[[], Graph]:
    """Rows of x at one index each."""

    def make() -> Graph:
        b, fresh = Builder(op), (count, shape[1])
        x = b.input(TensorType(FLOAT32, shape), "x0")
        indices = b.input(TensorType(INT64, (count,)), "x1")
        updates = b.input(TensorType(FLOAT32, fresh), "x2")
        column = b("broadcast", b("reshape", indices, shape=(count, 1)), shape=fresh)
        return b.build([b(op, x, column, updates, axis=0, **attrs)], ["y"])

    return make


def suppressed(*shape: Extent) -> Callable[[], Graph]:
    """Boxes of small integers, of which most overlap."""

    def make() -> Graph:
        b = Builder("suppress")
        boxes = b.input(TensorType(FLOAT32, (*shape[:-1], 4, shape[-1])), "boxes")
        candidates = b.input(TensorType(BOOL, shape), "candidates")
        return b.build([b("suppress", boxes, candidates, b.number(0.25, FLOAT32))], ["y"])

    return make


def weights(*shape: int) -> Array:
    """Small integers, three in ten of them not zero."""
    rng = np.random.default_rng(sum(shape))
    return np.asarray(rng.integers(-3, 4, shape) * (rng.random(shape) < 0.3), np.float32)


def convolution(
    x: tuple[Extent, ...], w: tuple[int, ...], stride: int = 1, pad: int = 1, groups: int = 1,
    residual: bool = False,
    dilation: int = 1,
) -> Callable[[], Graph]:  # fmt: skip
    """A convolution with constant weights, bias and ReLU; ``residual``: its input is added."""

    def make() -> Graph:
        b, rank = Builder("convolution"), len(x) - 2
        value = b.input(TensorType(FLOAT32, x), "x")
        attrs: dict[str, Any] = {
            "stride": (stride,) * rank,
            "dilation": (dilation,) * rank,
            "lo": (pad,) * rank,
            "hi": (pad,) * rank,
        }
        y = b("conv", value, b.constant(weights(*w)), groups=groups, **attrs)
        y = b("add", y, b.constant(np.arange(w[0], dtype=np.float32).reshape(w[0], *([1] * rank))))
        y = b("add", y, value) if residual else y
        return b.build([b("relu", y)], ["y"])

    return make


def gradients(op: str, *shapes: tuple[Extent, ...], **attrs: Any) -> Callable[[], Graph]:
    """The gradients of a node by all its inputs."""

    def make() -> Graph:
        graph = one(op, *shapes, **attrs)()
        return gradient_graph(graph, "y", [f"x{i}" for i in range(len(shapes))])

    return make


def product(
    x: tuple[Extent, ...], w: tuple[int, ...], *views: tuple[str, dict[str, Any]]
) -> Callable[[], Graph]:
    """The input under some views, times constant weights, plus a bias."""

    def make() -> Graph:
        b = Builder("product")
        value = b.input(TensorType(FLOAT32, x), "x")
        for op, attrs in views:
            value = b(op, value, **attrs)
        return b.build(
            [b("add", b("matmul", value, b.constant(weights(*w))), b.constant(weights(w[-1])))],
            ["y"],
        )

    return make


def between_blocks(op: str, channels: int, **attrs: Any) -> Callable[[], Graph]:
    """A convolution whose result lies in blocks of channels, and an op that reads it there."""

    def make() -> Graph:
        b = Builder("blocks")
        x = b.input(TensorType(FLOAT32, (2, channels, 3, 4)), "x")
        y = b(
            "conv",
            x,
            b.constant(weights(channels, channels, 1, 1)),
            **{**PLAIN, "lo": (0, 0), "hi": (0, 0)},
        )
        return b.build([b(op, *([y, y] if op == "concat" else [y]), **attrs)], ["y"])

    return make


def of_a_slice() -> Graph:
    """A convolution that reads part of its input in place."""
    b = Builder("slice")
    x = b.input(TensorType(FLOAT32, (1, 8, 7, 6)), "x")
    part = b("slice", x, start=(0, 2, 1, 1), size=(1, 4, 5, 4), step=(1, 1, 1, 1))
    return b.build([b("conv", part, b.constant(weights(6, 4, 3, 3)), **PLAIN)], ["y"])


def weighted(op: str, *shapes: tuple[int, ...], **attrs: Any) -> Callable[[], Graph]:
    """Sums over the first axis of what an op makes of its inputs, times another input."""

    def make() -> Graph:
        b = Builder("weighted")
        parts = [b.input(TensorType(FLOAT32, shape), f"x{n}") for n, shape in enumerate(shapes)]
        whole = b(op, *parts, **attrs)
        weights = b.input(TensorType(FLOAT32, whole.type.static_shape), "w")
        return b.build([b("reduce_sum", b("mul", whole, weights), axes=(0,), keep=False)], ["y"])

    return make


def masked() -> Graph:
    """Softmax of scores of any size, with a mask for each of any number of images."""
    b = Builder("masked")
    scores, mask = (
        b.input(TensorType(FLOAT32, shape), name)
        for shape, name in (((N, 2, M, M), "x"), ((N, 1, 1, M), "m"))
    )
    total = b("add", scores, b("broadcast", mask, shape=scores.shape))
    return b.build([b("softmax", total, axis=3)])


def normalized() -> Graph:
    """Elementwise ops over an image with one number a channel: its rows and columns are one
    axis.
    """
    b = Builder("normalized")
    x, scale = (
        b.input(TensorType(FLOAT32, (2, 5, 6, 7)), "x"),
        b.input(TensorType(FLOAT32, (5, 1, 1)), "s"),
    )
    return b.build([b("relu", b("mul", x, scale))], ["y"])


def quantized(
    op: str, x: tuple[Extent, ...], w: tuple[int, ...], zero: int, dtype: DType, **attrs: Any
) -> Callable[[], Graph]:
    """(x - zero) by constant weights of 8 bits, in int32."""

    def make() -> Graph:
        b = Builder("quantized")
        value = b("cast", b.input(TensorType(dtype, x), "x"), dtype=INT32)
        by = np.random.default_rng(sum(w)).integers(-128, 128, w).astype(np.int32)
        return b.build([b(op, b("sub", value, zero), b.constant(by), **attrs)], ["y"])

    return make


def two_layers() -> Graph:
    """Two convolutions, one strided, a pool and a product: layouts meet, and a batch is free."""
    b = Builder("layers")
    x = b.input(TensorType(FLOAT32, (N, 3, 4, 4)), "x")
    attrs: dict[str, Any] = {"dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    y = b("relu", b("conv", x, b.constant(weights(20, 3, 3, 3)), stride=(1, 1), **attrs))
    y = b("conv", y, b.constant(weights(16, 20, 3, 3)), stride=(2, 2), **attrs)
    y = b("max_pool", y, kernel=(2, 2), stride=(1, 1), dilation=(1, 1), lo=(0, 0), hi=(0, 0))
    return b.build([b("matmul", b("reshape", y, shape=(N, 16)), b.constant(weights(16, 5)))], ["y"])


def log_sum_exp() -> Graph:
    """The number of each row by two reductions."""
    b = Builder("numbers")
    x = b.input(TensorType(FLOAT32, (N, 40)), "x0")
    top = b("reduce_max", x, axes=(1,), keep=True)
    total = b("reduce_sum", b("exp", b("sub", x, top)), axes=(1,), keep=True)
    return b.build([b("add", b("log", total), top)], ["y"])


def chain() -> Graph:
    """Elementwise ops, one used twice in a formula, a number and an index."""
    b = Builder("chain")
    x = b.input(TensorType(FLOAT64, (N, 5)), "x0")
    y = b("mul", b("sigmoid", x), b("iota", shape=(N, 5), axis=1, dtype=FLOAT64))
    return b.build([b("add", b("gelu", y), 0.5)], ["y"])


def repeated(*extents: Extent) -> Callable[[], Graph]:
    """Every element of the last axis twice, as in an image of twice the width."""

    def make() -> Graph:
        b = Builder("repeated")
        x = b.input(TensorType(FLOAT32, extents), "x0")
        *outer, last = extents
        twice = b("broadcast", b("reshape", x, shape=(*extents, 1)), shape=(*extents, 2))
        return b.build([b("reshape", twice, shape=(*outer, last * 2))], ["y"])

    return make


def gathered() -> Graph:
    b = Builder("gather")
    x, i = b.input(TensorType(FLOAT32, (5, 19)), "x0"), b.input(TensorType(INT64, (4,)), "i")
    return b.build(
        [
            b("gather", x, i, axis=0),
            b("gather_gradient", b("gather", x, i, axis=0), i, axis=0, extent=5),
        ]
    )


def selected() -> Graph:
    b = Builder("select")
    c, x, y = (
        b.input(TensorType(t, s), f"x{i}")
        for i, (t, s) in enumerate([(BOOL, (4, 5)), (FLOAT32, (4, 5)), (FLOAT32, (5,))])
    )
    return b.build([b("select", c, x, y)])
