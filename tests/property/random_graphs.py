"""Random graphs for property tests: elementwise, shape, reduction, matmul, convolution and pooling
ops on float64.

Float64 keeps roundings far below any tolerance. The ops are continuous, so that a rounding never
becomes a jump, and bounded, so that nothing overflows. A batch extent is sometimes the free dim N.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from netloom.compiler.constant import Constant
from netloom.compiler.dim import Extent, symbol
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.op import Array
from netloom.compiler.passes.differentiate import differentiate
from netloom.compiler.tensor_type import FLOAT64, TensorType

BATCH = 3  # the number that N stands for
Step = Callable[["_Draw", Builder, Value], Value]
_Draw = st.DrawFn


@st.composite
def graphs(draw: _Draw, max_steps: int = 8) -> Graph:
    """A graph with the input ``x`` [n, 2, 4, 4], the states ``scale`` and ``unused``, and 1 to 3
    outputs.
    """
    b = Builder("random")
    extents: list[Extent] = [symbol("N", 1, 8), BATCH]
    n = draw(st.sampled_from(extents))
    x = b.input(TensorType(FLOAT64, (n, 2, 4, 4)), "x")
    scale = b.state("scale", Constant(np.array([[[0.5]], [[-1.5]]])))
    b.state("unused", Constant(np.zeros(2)))
    values = [b("mul", x, scale, label="scaled")]
    for _ in range(draw(st.integers(1, max_steps))):
        value = draw(st.sampled_from(values))
        values.append(draw(st.sampled_from(STEPS))(draw, b, value))
    outputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique_by=id))
    return b.build(outputs)


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Normal data for every input, with N = BATCH."""
    random = np.random.default_rng(seed)
    return {v.label: random.standard_normal(v.type.evaluate({"N": BATCH})) for v in graph.inputs}


def with_gradient(graph: Graph) -> Graph:
    """loss = sum of sin(output) over all outputs, and its gradient by every float input."""
    b = Builder(graph.name)
    b.inputs, b.nodes, b.states = list(graph.inputs), list(graph.nodes), list(graph.states)
    sums = [
        b("reduce_sum", b("sin", v), axes=tuple(range(v.type.rank)), keep=False)
        for v in graph.outputs
    ]
    loss = sums[0]
    for other in sums[1:]:
        loss = b("add", loss, other)
    inputs = [value for value in graph.inputs if value.dtype.is_float]
    names = ["loss", *(f"gradient of {value.label}" for value in inputs)]
    return b.build([loss, *differentiate(b, loss, inputs)], names)


# -- steps: each adds one or two nodes -------------------------------------------------------------


def _unary(draw: _Draw, b: Builder, x: Value) -> Value:
    return b(
        draw(st.sampled_from(["neg", "abs", "tanh", "relu", "sigmoid", "sin", "cos"])),
        x,
        label="unary",
    )


def _number(draw: _Draw, b: Builder, x: Value) -> Value:
    number = draw(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0]))
    if number and draw(st.booleans()):
        return b("div", x, number)
    op = draw(st.sampled_from(["add", "sub", "mul", "max", "min"]))
    return b(op, number, x) if draw(st.booleans()) else b(op, x, number)


def _power(draw: _Draw, b: Builder, x: Value) -> Value:
    return b("pow", b("sin", x), draw(st.sampled_from([0.0, 1.0, 2.0])))


def _twice(draw: _Draw, b: Builder, x: Value) -> Value:
    """Both inputs come from one value, so that gradients meet."""
    other = b(draw(st.sampled_from(["neg", "tanh", "relu"])), x)
    return b(draw(st.sampled_from(["add", "sub", "max", "min"])), x, other)


def _vector(draw: _Draw, b: Builder, x: Value) -> Value:
    """A constant along the last axis, or a splat."""
    last = x.shape[-1] if x.type.rank else 1
    if not isinstance(last, int):
        return b("mul", x, 0.75)
    data = (
        np.linspace(-1, 1, last)
        if draw(st.booleans())
        else np.broadcast_to(np.float64(0.5), (last,))
    )
    return b(draw(st.sampled_from(["add", "mul"])), x, b.constant(data))


def _flatten(draw: _Draw, b: Builder, x: Value) -> Value:
    if x.type.rank < 2:
        return b("reshape", x, shape=(*x.shape, 1))
    rest: Extent = 1
    for extent in x.shape[1:]:
        rest = rest * extent
    return b("reshape", x, shape=(x.shape[0], rest))


def _transpose(draw: _Draw, b: Builder, x: Value) -> Value:
    return b("transpose", x, permutation=tuple(draw(st.permutations(range(x.type.rank)))))


def _slice(draw: _Draw, b: Builder, x: Value) -> Value:
    start: list[int] = []
    size: list[Extent] = []
    step: list[int] = []
    for extent in x.shape:
        if isinstance(extent, int) and draw(st.booleans()):
            stride = draw(st.sampled_from([1, 2, -1]))
            count = draw(st.integers(1, max(1, extent // abs(stride))))
            start.append(extent - 1 if stride < 0 else 0)
            size.append(count)
            step.append(stride)
        else:
            start.append(0)
            size.append(extent)
            step.append(1)
    return b("slice", x, start=tuple(start), size=tuple(size), step=tuple(step))


def _pad(draw: _Draw, b: Builder, x: Value) -> Value:
    width = st.integers(0, 1)
    lo = tuple(draw(width) for _ in x.shape)
    hi = tuple(draw(width) for _ in x.shape)
    return b("pad", x, lo=lo, hi=hi, value=draw(st.sampled_from([0.0, 1.0])))


def _concat(draw: _Draw, b: Builder, x: Value) -> Value:
    if not x.type.rank:
        return x
    axis = draw(st.integers(0, x.type.rank - 1))
    parts = [x, b("neg", x)][: draw(st.integers(1, 2))]
    return b("concat", *parts, axis=axis)


def _broadcast(draw: _Draw, b: Builder, x: Value) -> Value:
    return b("broadcast", x, shape=(draw(st.integers(1, 2)), *x.shape)) if x.type.rank < 5 else x


def _reduce(draw: _Draw, b: Builder, x: Value) -> Value:
    axes = tuple(axis for axis in range(x.type.rank) if draw(st.booleans()))
    op = draw(st.sampled_from(["reduce_sum", "reduce_mean", "reduce_max", "reduce_min"]))
    return b("tanh", b(op, x, axes=axes, keep=draw(st.booleans())))


def _matmul(draw: _Draw, b: Builder, x: Value) -> Value:
    if x.type.rank < 2 or not isinstance(x.shape[-1], int):
        return b("neg", x)
    k, transposed = x.shape[-1], draw(st.booleans())
    weight = np.sin(np.arange(k * 3.0)).reshape((3, k) if transposed else (k, 3))
    return b("tanh", b("matmul", x, b.constant(weight), transpose_b=transposed))


def _is_image(x: Value) -> bool:
    return x.type.rank == 4 and all(
        isinstance(extent, int) and extent >= 1 for extent in x.shape[1:]
    )


def _conv(draw: _Draw, b: Builder, x: Value) -> Value:
    if not _is_image(x):
        return b("neg", x)
    channels = x.shape[1]
    assert isinstance(channels, int)
    groups = draw(st.sampled_from([1, channels]))
    weight = np.cos(np.arange(2.0 * channels * channels // groups * 9)).reshape(
        2 * channels, channels // groups, 3, 3
    )
    stride, lo, hi = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    y = b(
        "conv",
        x,
        b.constant(weight),
        stride=(stride, 1),
        dilation=(1, 1),
        lo=(lo, 1),
        hi=(hi, 1),
        groups=groups,
    )
    if draw(st.booleans()):  # what a batch normalization leaves
        y = b("mul", y, b.constant(np.linspace(0.5, 1, 2 * channels).reshape(-1, 1, 1)))
        y = b("add", y, b.constant(np.linspace(-1, 1, 2 * channels).reshape(-1, 1, 1)))
    return b("tanh", y)


def _pool(draw: _Draw, b: Builder, x: Value) -> Value:
    if not _is_image(x):
        return b("neg", x)
    window: dict[str, Any] = {
        "kernel": (2, 2),
        "stride": (draw(st.integers(1, 2)), 1),
        "dilation": (1, 1),
    }
    window |= {"lo": (1, 0), "hi": (1, 1)}
    if draw(st.booleans()):
        return b("max_pool", x, **window)
    return b("average_pool", x, **window, count_padding=draw(st.booleans()))


def _softmax(draw: _Draw, b: Builder, x: Value) -> Value:
    return b("softmax", x, axis=x.type.rank - 1) if x.type.rank else x


STEPS: tuple[Step, ...] = (
    _unary, _unary, _number, _number, _power, _twice, _vector, _flatten, _transpose, _slice, _pad, _concat, _broadcast,
    _reduce, _matmul, _conv, _conv, _pool, _softmax,
)  # fmt: skip
