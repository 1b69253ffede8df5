"""ONNX's pools -> max_pool and average_pool; global pools -> reductions."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT64

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .same_padding import with_same_padding
from .short_floats import widened
from .window import FIX_DIMS, Window, read_window, spatial_rank

POOLING: Final = HandlerTable()


def _window(node: ModelNode, x: Value) -> Window:
    spatial_rank(node, x.type.rank)
    kernel = node.integers("kernel_shape")
    if kernel is None:
        raise node.fault("attribute kernel_shape is missing.", "Export it again.")
    return read_window(node, kernel, x.shape[2:])


def _refuse_empty_windows(node: ModelNode, window: Window, spatial: tuple[Extent, ...]) -> None:
    """A window wholly in the padding has no largest element (and no mean of real ones)."""
    for axis, extent in enumerate(spatial):
        steps = (extent + window.lo[axis] + window.hi[axis] - window.reach[axis]) // window.stride[
            axis
        ]
        first, last = window.lo[axis], steps * window.stride[axis] - window.lo[axis] - extent
        offsets = range(0, window.reach[axis], window.dilation[axis])
        before = all(offset < first for offset in offsets)
        after = isinstance(last, int) and last >= 0
        if before or after:
            raise node.fault(
                f"along spatial axis {axis}, a whole window lies in the padding.",
                "Use less padding.",
            )


@POOLING.on("MaxPool")
def max_pool(context: Context, node: ModelNode) -> list[Value | None]:
    x = node.input(0)
    if (kernel := node.integers("kernel_shape")) is not None and not node.is_used(1):
        least = float("-inf") if x.dtype.is_float else int(np.iinfo(x.dtype.numpy).min)
        x, node = with_same_padding(context, node, x, kernel, least)
    window = _window(node, x)
    _refuse_empty_windows(node, window, x.shape[2:])
    attrs = {
        field: getattr(window, field) for field in ("kernel", "stride", "dilation", "lo", "hi")
    }
    y = context("max_pool", x, **attrs)
    if not node.is_used(1):
        return [y]
    return [y, _flat_index(context, node, x, context("max_pool_index", x, y, **attrs), window)]


def _flat_index(
    context: Context, node: ModelNode, x: Value, position: Value, window: Window
) -> Value:
    """Kernel position -> index into the whole tensor x, as ONNX counts it (row-major, or
    column-major).
    """
    if not x.type.is_static:
        raise node.unsupported("indices of a pool with free dims.", FIX_DIMS)
    shape, rank = x.type.static_shape, x.type.rank
    rest = context.cast(position, INT64)
    order = (
        list(range(2, rank))
        if not node.flag("storage_order", False)
        else list(range(rank - 1, 1, -1))
    )
    place = {axis: math.prod(shape[a] for a in order[order.index(axis) + 1 :]) for axis in order}
    total = context("mul", _iota(context, position, 0), math.prod(shape[1:]))
    total = context("add", total, context("mul", _iota(context, position, 1), math.prod(shape[2:])))
    for axis in range(rank - 1, 1, -1):
        i = axis - 2
        own = context("rem", rest, window.kernel[i])
        rest = context("div", rest, window.kernel[i])
        start = context(
            "sub", context("mul", _iota(context, position, axis), window.stride[i]), window.lo[i]
        )
        index = context("add", start, context("mul", own, window.dilation[i]))
        total = context("add", total, context("mul", index, place[axis]))
    return total


def _iota(context: Context, like: Value, axis: int) -> Value:
    return context("iota", shape=like.shape, axis=axis, dtype=INT64)


@POOLING.on("AveragePool")
def average_pool(context: Context, node: ModelNode) -> Value:
    return average_pool_of(context, node, node.input(0))


def average_pool_of(context: Context, node: ModelNode, x: Value) -> Value:
    """The average pool of a node's attributes."""
    kernel = node.integers("kernel_shape") or ()
    padded, plain = with_same_padding(context, node, x, kernel, 0)
    if plain is not node:
        return _average_of_padded(context, node, plain, x, padded)
    window = _window(node, x)
    count_padding = _counts_padding(node)
    if not count_padding:
        _refuse_empty_windows(node, window, x.shape[2:])
    return context(
        "average_pool", x, kernel=window.kernel, stride=window.stride, dilation=window.dilation, lo=window.lo,
        hi=window.hi, count_padding=count_padding, extra=window.extra,
    )  # fmt: skip


def _average_of_padded(
    context: Context, node: ModelNode, plain: ModelNode, x: Value, padded: Value
) -> Value:
    """Over windows that lie in the padded image: the mean, or the mean over the share of the image
    in each window.
    """
    mean = average_pool_of(context, plain, widened(context, padded))
    if not _counts_padding(node):
        image = context.splat(1, mean.dtype, (1, 1, *x.shape[2:]))
        kernel = node.integers("kernel_shape") or ()
        ones, _ = with_same_padding(context, node, image, kernel, 0)
        mean = context("div", mean, average_pool_of(context, plain, ones))
    return context.cast(mean, x.dtype)


def _counts_padding(node: ModelNode) -> bool:
    return (node.opset >= 7 or bool(node.domain)) and node.flag("count_include_pad", False)


@POOLING.on("GlobalAveragePool", "GlobalMaxPool")
def global_pool(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    if x.type.rank < 3:
        raise node.misshapen(f"its input is {x.type}; batch, channel and spatial axes are needed.")
    op = "reduce_mean" if node.op_type == "GlobalAveragePool" else "reduce_max"
    return context(op, x, axes=tuple(range(2, x.type.rank)), keep=True)


@POOLING.on("LpPool", first=2)
def lp_pool(context: Context, node: ModelNode) -> Value:
    """(sum |x|^p)^(1/p) over each window: the mean, times the kernel's size."""
    x, p = node.input(0), node.integer("p", 2)
    window = _window(node, x)
    powers = _absolute_power(context, node, widened(context, x), p)
    mean = context(
        "average_pool", powers, kernel=window.kernel, stride=window.stride, dilation=window.dilation, lo=window.lo,
        hi=window.hi, count_padding=True, extra=(0,) * len(window.kernel),
    )  # fmt: skip
    y = _root(context, context("mul", mean, float(math.prod(window.kernel))), p)
    return context.cast(y, x.dtype)


@POOLING.on("GlobalLpPool", first=2)
def global_lp_pool(context: Context, node: ModelNode) -> Value:
    x, p = node.input(0), node.integer("p", 2)
    powers = _absolute_power(context, node, widened(context, x), p)
    total = context("reduce_sum", powers, axes=tuple(range(2, x.type.rank)), keep=True)
    return context.cast(_root(context, total, p), x.dtype)


def _absolute_power(context: Context, node: ModelNode, x: Value, p: int) -> Value:
    if p < 1:
        raise node.fault(f"attribute p is {p}; it must be at least 1.", "Export it again.")
    if p == 2:
        return context("mul", x, x)
    size = context("abs", x)
    return size if p == 1 else context("pow", size, float(p))


def _root(context: Context, x: Value, p: int) -> Value:
    match p:
        case 1:
            return x
        case 2:
            return context("sqrt", x)
        case _:
            return context("pow", x, 1.0 / p)
