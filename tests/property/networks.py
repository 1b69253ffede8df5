"""Random networks for the compiled code: small DAGs of float32 and int32 values over most ops.

Extents are those that blocks of 16, lanes and tiles do not divide, and those that they do. Values
are shared by several readers, joined with values from elsewhere in the graph, and given out by way
of views, so that kernels, layouts and memory plans meet each other in ways that nobody wrote down.
No step makes much of a small error: products are with weights whose absolute sum is at most 1, and
what is compared with a bound has no jump there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from netloom.compiler.constant import Constant
from netloom.compiler.dim import Extent, evaluate, symbol
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.op import Array
from netloom.compiler.tensor_type import FLOAT32, INT32, TensorType

BATCH = 3  # the number that N stands for
LARGEST = 40_000  # elements that a value may have
Draw = st.DrawFn
Step = Callable[[Draw, Builder, list[Value], Value], Value]

_CHANNELS = (1, 2, 3, 16, 17, 32, 33)
_LENGTHS = (1, 4, 5, 7, 8, 13, 16)


@st.composite
def networks(draw: Draw, max_steps: int = 12, is_smooth: bool = False) -> Graph:
    """A graph with the inputs ``x`` float32[n, c, h, w], ``v`` float32[c, 1, 1] and ``i``
    int32[n, c, h, w], a state and 1 to 4 outputs; if ``is_smooth``, all of them float32.
    """
    b = Builder("network")
    extents: list[Extent] = [symbol("N", 1, 8), 1, 2]
    n, c = draw(st.sampled_from(extents)), draw(st.sampled_from(_CHANNELS))
    shape = (n, c, draw(st.sampled_from(_LENGTHS)), draw(st.sampled_from(_LENGTHS)))
    x, v = b.input(TensorType(FLOAT32, shape), "x"), b.input(TensorType(FLOAT32, (c, 1, 1)), "v")
    i = b.input(TensorType(INT32, shape), "i")
    scale = b.state("scale", Constant(np.linspace(-1, 1, c, dtype=np.float32).reshape(c, 1, 1)))
    values = [x, b("mul", x, v), b("mul", x, scale), *(() if is_smooth else (i,))]
    for _ in range(draw(st.integers(1, max_steps))):
        value = draw(st.sampled_from(values[-4:] if draw(st.booleans()) else values))
        steps = FLOAT_STEPS if value.dtype is FLOAT32 else INTEGER_STEPS
        made = draw(st.sampled_from(steps))(draw, b, values, value)
        if _size(made) <= LARGEST:
            values.append(made)
    return b.build(draw(st.lists(st.sampled_from(values), min_size=1, max_size=4)))


def network_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Normal data for floats and small integers for the rest, with N = BATCH."""
    random = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.type.evaluate({"N": BATCH})
        found[value.label] = (
            random.standard_normal(shape, np.float32)
            if value.dtype is FLOAT32
            else random.integers(-9, 10, shape, np.int32)
        )
    return found


def _size(value: Value) -> int:
    return int(np.prod(value.type.evaluate({"N": BATCH}), dtype=np.int64))


def _weights(*shape: int, terms: int) -> Array:
    """Numbers that differ, with an absolute sum of at most 1 over ``terms`` of them."""
    size = int(np.prod(shape))
    return (
        (np.cos(np.arange(1.0, size + 1) * 1.7) / max(terms, 1)).astype(np.float32).reshape(shape)
    )


def _number(extent: Extent) -> int:
    return evaluate(extent, {"N": BATCH})


def _fixed(x: Value, axis: int) -> int:
    """An axis's extent; 0 if it is free."""
    extent = x.shape[axis]
    return extent if isinstance(extent, int) else 0


# -- elementwise -----------------------------------------------------------------------------------


def _unary(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    names = ["neg", "abs", "tanh", "relu", "sigmoid", "sin", "cos", "erf", "gelu"]
    return b(draw(st.sampled_from(names)), x)


def _with_number(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    op = draw(st.sampled_from(["add", "sub", "mul", "max", "min"]))
    number = draw(st.sampled_from([0.0, 1.0, -1.0, 0.5]))
    return b(op, number, x) if draw(st.booleans()) else b(op, x, number)


def _join(draw: Draw, b: Builder, values: list[Value], x: Value) -> Value:
    """A residual, a gate: with any value that broadcasts against this one."""
    fitting = [v for v in values if v.dtype is x.dtype and _broadcasts(v, x)]
    other = draw(st.sampled_from(fitting)) if fitting else x
    op = draw(st.sampled_from(["add", "sub", "mul", "max", "min"]))
    pair = (other, x) if draw(st.booleans()) else (x, other)
    if op == "mul" and x.dtype is FLOAT32:
        pair = (b("tanh", pair[0]), b("sin", pair[1]))
    return b(op, *pair)


def _broadcasts(a: Value, b: Value) -> bool:
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    return all(p == q or p == 1 or q == 1 for p, q in pairs)


def _select(_draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    """Both branches are equal where the condition changes."""
    return b("select", b("less", 0.5, x), b("sub", x, 0.5), b("mul", 0.25, b("sub", x, 0.5)))


def _clip(_draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    return b("clip", x, lo=-0.75, hi=1.25) if x.dtype is FLOAT32 else b("clip", x, lo=-3, hi=5)


def _integer(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    op = draw(st.sampled_from(["neg", "abs", "sign", "not", "relu", "square"]))
    return b(op, x)


# -- views and movement ----------------------------------------------------------------------------


def _flatten(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    """Two neighbouring axes become one."""
    if x.type.rank < 2:
        return b("reshape", x, shape=(*x.shape, 1))
    at = draw(st.integers(0, x.type.rank - 2))
    shape = (*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :])
    return b("reshape", x, shape=shape)


def _unflatten(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    """An axis becomes two."""
    for axis in range(x.type.rank):
        size = _fixed(x, axis)
        factors = [f for f in range(2, size) if size % f == 0]
        if factors and x.type.rank < 6:
            factor = draw(st.sampled_from(factors))
            shape = (*x.shape[:axis], factor, size // factor, *x.shape[axis + 1 :])
            return b("reshape", x, shape=shape)
    return b("reshape", x, shape=(1, *x.shape)) if x.type.rank < 6 else x


def _transpose(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    return b("transpose", x, permutation=tuple(draw(st.permutations(range(x.type.rank)))))


def _slice(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    start: list[int] = []
    size: list[Extent] = []
    step: list[int] = []
    for axis, extent in enumerate(x.shape):
        length = _fixed(x, axis)
        if not length or draw(st.booleans()):
            start.append(0)
            size.append(extent)
            step.append(1)
            continue
        stride = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        first = draw(st.integers(0, length - 1))
        room = (first if stride < 0 else length - 1 - first) // abs(stride) + 1
        start.append(first)
        size.append(draw(st.integers(1, room)))
        step.append(stride)
    return b("slice", x, start=tuple(start), size=tuple(size), step=tuple(step))


def _split(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    """Two parts of an axis, computed with and put together again in the other order."""
    axes = [axis for axis in range(x.type.rank) if _fixed(x, axis) >= 2]
    if not axes:
        return b("neg", x)
    axis = draw(st.sampled_from(axes))
    at = draw(st.integers(1, _fixed(x, axis) - 1))
    parts = []
    for first, last in ((0, at), (at, _fixed(x, axis))):
        start, size = [0] * x.type.rank, list(x.shape)
        start[axis], size[axis] = first, last - first
        parts.append(b("slice", x, start=tuple(start), size=tuple(size), step=(1,) * x.type.rank))
    return b("concat", b("neg", parts[1]), parts[0], axis=axis)


def _pad(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    mode = draw(st.sampled_from(["constant", "edge", "reflect"]))
    lo, hi = [], []
    for axis in range(x.type.rank):
        length = _fixed(x, axis)
        most = 0 if not length else length - 1 if mode == "reflect" else 3
        lo.append(draw(st.integers(0, min(most, 3))))
        hi.append(draw(st.integers(0, min(most, 3))))
    value = draw(st.sampled_from([0, 1])) if mode == "constant" else 0
    return b("pad", x, lo=tuple(lo), hi=tuple(hi), value=value, mode=mode)


def _concat(draw: Draw, b: Builder, values: list[Value], x: Value) -> Value:
    """With other values, and itself, along any axis where the others agree."""
    if not x.type.rank:
        return b("neg", x)
    axis = draw(st.integers(0, x.type.rank - 1))
    fitting = [
        v
        for v in values
        if v.dtype is x.dtype
        and v.type.rank == x.type.rank
        and all(p == q for k, (p, q) in enumerate(zip(v.shape, x.shape, strict=True)) if k != axis)
    ]
    parts = draw(st.lists(st.sampled_from([*fitting, x]), min_size=1, max_size=3))
    parts.insert(draw(st.integers(0, len(parts))), b("neg", x) if draw(st.booleans()) else x)
    return b("concat", *parts, axis=axis)


def _broadcast(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    if x.type.rank >= 5:
        return b("neg", x)
    return b("broadcast", x, shape=(draw(st.integers(1, 3)), *x.shape))


def _gather(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    """At constant positions, evenly spaced or not."""
    axes = [axis for axis in range(x.type.rank) if _fixed(x, axis)]
    if not axes:
        return b("neg", x)
    axis = draw(st.sampled_from(axes))
    index = st.integers(-_fixed(x, axis), _fixed(x, axis) - 1)
    indices = np.array(draw(st.lists(index, min_size=1, max_size=5)), np.int64)
    return b("gather", x, b.constant(indices), axis=axis)


def _blocks(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    if _is_image(x) and _fixed(x, 2) % 2 == 0 and _fixed(x, 3) % 2 == 0:
        return b("space_to_depth", x, block=2)
    if _is_image(x) and _fixed(x, 1) % 4 == 0:
        return b("depth_to_space", x, block=2, mode=draw(st.sampled_from(["DCR", "CRD"])))
    return b("neg", x)


# -- reductions, products, windows -----------------------------------------------------------------


def _reduce(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    axes = tuple(axis for axis in range(x.type.rank) if draw(st.booleans()))
    names = ["reduce_mean", "reduce_max", "reduce_min"]
    op = draw(st.sampled_from(names if x.dtype is FLOAT32 else ["reduce_sum", *names[1:]]))
    return b(op, x, axes=axes, keep=draw(st.booleans()))


def _dense(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    k = _fixed(x, -1) if x.type.rank >= 2 else 0
    if not k:
        return b("neg", x)
    units, is_transposed = draw(st.sampled_from([1, 3, 8, 17, 32])), draw(st.booleans())
    weights = _weights(*((units, k) if is_transposed else (k, units)), terms=k)
    y = b("matmul", x, b.constant(weights), transpose_b=is_transposed)
    return b("add", y, b.constant(_weights(units, terms=1))) if draw(st.booleans()) else y


def _product(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    """With itself, as scores are."""
    if x.type.rank < 2 or _number(x.shape[-2]) > 300:
        return b("neg", x)
    is_transposed = draw(st.booleans())
    k = _number(x.shape[-2] if is_transposed else x.shape[-1])
    left = b("mul", b("tanh", x), 1 / k)
    return b("matmul", left, b("sin", x), transpose_a=is_transposed, transpose_b=not is_transposed)


def _attend(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    if x.type.rank < 2 or _number(x.shape[-2]) > 300:
        return b("neg", x)
    q = b("tanh", x)
    return b("attention", q, b("sin", x), x, scale=0.5, is_causal=draw(st.booleans()))


def _is_image(x: Value) -> bool:
    return x.type.rank == 4 and all(_fixed(x, axis) >= 1 for axis in (1, 2, 3))


def _conv(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    if not _is_image(x):
        return b("neg", x)
    c, kernel = _fixed(x, 1), draw(st.sampled_from([(3, 3), (1, 1), (5, 5), (1, 3), (2, 2)]))
    if min(_number(e) + 2 for e in x.shape[2:]) < max(kernel):
        kernel = (1, 1)
    groups = draw(st.sampled_from([1, 1, c]))
    filters = draw(st.sampled_from([1, 2, 16, 17, 32]))
    filters = filters if groups == 1 else c * draw(st.sampled_from([1, 2]))
    weights = _weights(filters, c // groups, *kernel, terms=c // groups * kernel[0] * kernel[1])
    stride, dilation = draw(st.sampled_from([((1, 1), 1), ((1, 1), 1), ((2, 2), 1), ((2, 1), 1)]))
    y = b("conv", x, b.constant(weights), stride=stride, dilation=(dilation, dilation), groups=groups,
          lo=(draw(st.integers(1, 2)), 1), hi=(1, draw(st.integers(1, 2))))  # fmt: skip
    if draw(st.booleans()):
        y = b("add", y, b.constant(_weights(filters, 1, 1, terms=1)))
    return b(draw(st.sampled_from(["relu", "tanh", "neg"])), y) if draw(st.booleans()) else y


def _pool(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    if not _is_image(x):
        return b("neg", x)
    window: dict[str, Any] = {
        "kernel": draw(st.sampled_from([(2, 2), (3, 3), (1, 2)])),
        "stride": draw(st.sampled_from([(1, 1), (2, 2), (2, 1)])),
        "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1),
    }  # fmt: skip
    if draw(st.booleans()):
        return b("max_pool", x, **{**window, "lo": (0, 0)} if window["kernel"][0] == 1 else window)
    return b("average_pool", x, **window, count_padding=True)


def _softmax(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    axis = draw(st.integers(0, max(0, x.type.rank - 1)))
    return b("softmax", x, axis=axis) if x.type.rank else b("neg", x)


def _normalize(draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    """With an epsilon that keeps small rows small."""
    if not x.type.rank:
        return b("neg", x)
    if x.type.rank >= 3 and _fixed(x, 1) and draw(st.booleans()):
        c = _fixed(x, 1)
        scale, shift = b.constant(_weights(c, terms=1)), b.constant(_weights(c, terms=2))
        groups = draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
        return b("group_norm", x, scale, shift, groups=groups, epsilon=1.0)
    if not (size := _fixed(x, -1)):
        return b("neg", x)
    scale, shift = b.constant(_weights(size, terms=1)), b.constant(_weights(size, terms=2))
    if draw(st.booleans()):
        return b("rms_norm", x, scale, axis=x.type.rank - 1, epsilon=1.0)
    return b("layer_norm", x, scale, shift, axis=x.type.rank - 1, epsilon=1.0)


def _cast(_draw: Draw, b: Builder, _values: list[Value], x: Value) -> Value:
    return b("mul", b("cast", x, dtype=FLOAT32), 0.125)


_MOVES: tuple[Step, ...] = (
    _flatten, _unflatten, _transpose, _slice, _split, _pad, _concat, _concat, _broadcast, _gather,
)  # fmt: skip
FLOAT_STEPS: tuple[Step, ...] = (
    *_MOVES, _blocks, _unary, _unary, _with_number, _join, _join, _join, _select, _clip, _reduce,
    _dense, _product, _attend, _conv, _conv, _conv, _pool, _softmax, _normalize,
)  # fmt: skip
INTEGER_STEPS: tuple[Step, ...] = (*_MOVES, _integer, _join, _clip, _reduce, _cast, _cast)
