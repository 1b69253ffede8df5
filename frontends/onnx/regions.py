"""DeformConv and MaxRoiPool -> gathers of rows at computed indices, products, and maxima under
masks.
"""

from __future__ import annotations

import math
from typing import Final

from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT64

from .context import Context
from .convolution import add_bias, groups_of, kernel_of
from .handler import HandlerTable
from .node import ModelNode
from .sampling import Tap, neighbours, weighted
from .window import FIX_DIMS, Window, read_window

REGIONS: Final = HandlerTable()


# -- DeformConv ------------------------------------------------------------------------------------


@REGIONS.on("DeformConv", first=19)
def deformable_conv(context: Context, node: ModelNode) -> Value:
    """A convolution whose kernel elements read the input where offsets moved them to (Dai et al.
    2017), and scaled by a mask.

    x [n, c, h, w], w [o, c / group, kh, kw], offsets [n, og * kh * kw * 2, oh, ow] (y before x),
    mask [n, og * kh * kw, oh, ow].
    """
    x, w, mask = node.input(0), node.input(1), node.optional(4)
    if x.type.rank != 4:
        raise node.unsupported(f"its input is {x.type}; images are supported.", "Use rank 4.")
    window = read_window(node, kernel_of(node, w, 4), x.shape[2:])
    groups, parts = groups_of(node, x.shape[1], w.shape[0]), node.integer("offset_group", 1)
    out = tuple(
        (e + window.lo[k] + window.hi[k] - window.reach[k]) // window.stride[k] + 1
        for k, e in enumerate(x.shape[2:])
    )
    channels, filters = _checked_channels(node, parts)
    n, kernel = x.shape[0], math.prod(window.kernel)
    _check_offsets(node, groups, (n, parts * kernel * 2, *out), (n, parts * kernel, *out))
    places = (n, parts, kernel, *out)
    value = _moved_samples(context, x, node.input(2), window, places, channels // parts)
    if mask is not None:
        value = context("mul", value, context.reshape(mask, (*places, 1)))
    columns = context.transpose(value, (0, 1, 5, 2, 3, 4))  # [n, og, c / og, k, oh, ow]
    columns = context.reshape(columns, (n, groups, channels // groups * kernel, product(out)))
    weights = context.reshape(w, (groups, filters // groups, channels // groups * kernel))
    result = context("matmul", weights, columns)
    return add_bias(context, node, context.reshape(result, (n, filters, *out)), filters, position=3)


def _checked_channels(node: ModelNode, parts: int) -> tuple[int, int]:
    """(channels, filters), both numbers; the offset groups divide the channels."""
    channels, filters = node.input(0).shape[1], node.input(1).shape[0]
    if (
        not isinstance(channels, int)
        or not isinstance(filters, int)
        or parts < 1
        or channels % parts
    ):
        raise node.misshapen(
            f"offset_group = {parts} does not divide the {channels} channels.", "Export it again."
        )
    return channels, filters


def _check_offsets(
    node: ModelNode, groups: int, offsets: tuple[Extent, ...], masked: tuple[Extent, ...]
) -> None:
    """Offsets, mask and weights have the shapes that the input and the window ask for."""
    x, w, mask = node.input(0), node.input(1), node.optional(4)
    if (
        node.input(2).shape != offsets
        or (mask is not None and mask.shape != masked)
        or w.shape[1] * groups != x.shape[1]
    ):
        raise node.misshapen(
            f"weights are {w.type} and offsets {node.input(2).type} for {x.type}.",
            "Export it again.",
        )


def _moved_samples(
    context: Context,
    x: Value,
    offsets: Value,
    window: Window,
    places: tuple[Extent, ...],
    depth: int,
) -> Value:
    """The input where the offsets moved each kernel element: places [n, og, k, oh, ow] ->
    [n, og, k, oh, ow, depth], depth = c / og.
    """
    n, parts, kernel, *out = places
    moves = context.reshape(offsets, (n, parts, kernel, 2, *out))
    axes = [
        neighbours(context, _moved(context, moves, window, k), x.shape[2 + k]) for k in range(2)
    ]
    group = context("iota", shape=places, axis=1, dtype=INT64)
    sample = context("iota", shape=places, axis=0, dtype=INT64)
    rows = context.transpose(
        context.reshape(x, (n, parts, depth, *x.shape[2:])), (0, 3, 4, 1, 2)
    )  # [n, h, w, og, depth]
    rows = context.reshape(rows, (product(rows.shape[:4]), depth))
    return weighted(context, rows, sample, (*x.shape[2:], parts), [*axes, [Tap(group, None, None)]])


def _moved(context: Context, moves: Value, window: Window, axis: int) -> Value:
    """Coordinates of the input along one axis: output * stride - padding + kernel * dilation +
    offset; [n, og, k, oh, ow].
    """
    n, parts, kernel, _, *out = moves.shape
    own = context.reshape(context.slice_axis(moves, 3, axis, 1), (n, parts, kernel, *out))
    step = context("iota", shape=(1, 1, 1, *out), axis=3 + axis, dtype=own.dtype)
    inner = math.prod(window.kernel[axis + 1 :])
    position = [
        k // inner % window.kernel[axis] * window.dilation[axis] - window.lo[axis]
        for k in range(math.prod(window.kernel))
    ]
    tap = context.reshape(context.constant(position, own.dtype), (1, 1, kernel, 1, 1))
    return context("add", own, context("add", context("mul", step, window.stride[axis]), tap))


# -- MaxRoiPool ------------------------------------------------------------------------------------


@REGIONS.on("MaxRoiPool")
def max_roi_pool(context: Context, node: ModelNode) -> Value:
    """x [n, c, h, w], rois [r, 5] as sample x1 y1 x2 y2 -> [r, c, ph, pw]: the largest element
    of each bin, 0 of empty ones.
    """
    x, rois = node.input(0), node.input(1)
    sizes = node.integers("pooled_shape") or ()
    if x.type.rank != 4 or rois.shape[1:] != (5,) or len(sizes) != 2 or min(sizes) < 1:
        raise node.misshapen(
            f"rois are {rois.type} and pooled_shape {list(sizes)} for {x.type}.", "Export it again."
        )
    if math.prod(sizes) > 1 << 16:
        raise node.unsupported(f"it has {math.prod(sizes)} bins.", FIX_DIMS)
    count = rois.shape[0]
    sample = context.reshape(context.cast(context.slice_axis(rois, 1, 0, 1), INT64), (count,))
    corners = _rounded(context, context("mul", rois, node.number("spatial_scale", 1.0)))
    value = context("gather", x, sample, axis=0)  # [r, c, h, w]
    lowest = context.number(float("-inf"), x.dtype)
    # rows first, whose maxima take vectors of columns: [r, c, ph, w], then [r, c, ph, pw]
    for axis, size in ((2, sizes[0]), (3, sizes[1])):
        inside = _bins(context, corners, 4 - axis, size, x, axis)  # [r, bins, extent]
        shape = (count, *(1,) * (axis - 1), size, x.shape[axis], *(1,) * (3 - axis))
        wide = context.reshape(value, (*value.shape[:axis], 1, *value.shape[axis:]))
        value = context(
            "reduce_max",
            context("select", context.reshape(inside, shape), wide, lowest),
            axes=(axis + 1,),
            keep=False,
        )
    return context("select", context("equal", value, lowest), 0.0, value)


def _rounded(context: Context, x: Value) -> Value:
    """The nearest whole number, halves away from zero, as C rounds."""
    size = context("abs", x)
    low = context("floor", size)
    is_up = context("less_equal", context.number(0.5, x.dtype), context("sub", size, low))
    whole = context("add", low, context.cast(is_up, x.dtype))
    return context(
        "select", context("less", x, context.number(0.0, x.dtype)), context("neg", whole), whole
    )


def _bins(context: Context, corners: Value, column: int, size: int, x: Value, axis: int) -> Value:
    """Which elements of an axis lie in each bin of each roi: from floor(i * length / size) to
    ceil((i + 1) * length / size).
    """
    start, end = (context.slice_axis(corners, 1, column + 2 * k, 1) for k in range(2))  # [r, 1]
    length = context("max", context("add", context("sub", end, start), 1.0), 1.0)
    step = context("iota", shape=(1, size), axis=1, dtype=x.dtype)
    share = context("div", length, float(size))
    low = context("add", context("floor", context("mul", step, share)), start)
    high = context("add", context("ceil", context("mul", context("add", step, 1.0), share)), start)
    place = context("iota", shape=(1, 1, x.shape[axis]), axis=2, dtype=x.dtype)
    from_low, below_high = (context.reshape(v, (*v.shape, 1)) for v in (low, high))
    return context(
        "and", context("less_equal", from_low, place), context("less", place, below_high)
    )
