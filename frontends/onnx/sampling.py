"""GridSample and RoiAlign -> gathers of rows at computed indices, weighted and summed.

Channels stand last while sampling ([locations, c]), so one index fetches all channels of a
location.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as combinations
from typing import Final

from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, INT64

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .resampling import cut
from .short_floats import widened

SAMPLING: Final = HandlerTable()

MOST_SAMPLES: Final = 1 << 20  # of all elements that RoiAlign makes of one region
CUBIC: Final = -0.75  # of bicubic sampling (Keys 1981)
MODES: Final = {
    "bilinear": "linear",
    "bicubic": "cubic",
    "linear": "linear",
    "cubic": "cubic",
    "nearest": "nearest",
}
PADDINGS: Final = ("zeros", "border", "reflection")


@dataclass(frozen=True)
class Tap:
    """A neighbour along one axis: its index [..], its weight (None: 1), and whether it lies
    inside (None: it does).
    """

    index: Value
    weight: Value | None
    is_inside: Value | None


def _rows(context: Context, x: Value) -> Value:
    """[n, c, spatial..] -> [n * locations, c]."""
    order = (0, *range(2, x.type.rank), 1)
    moved = context.transpose(x, order)
    return context.reshape(moved, (product(moved.shape[:-1]), moved.shape[-1]))


def weighted(
    context: Context,
    rows: Value,
    base: Value,
    spatial: Sequence[Extent],
    axes: Sequence[Sequence[Tap]],
    op: str = "add",
) -> Value:
    """Sum (or maximum) over all combinations of taps: rows [locations, c] at ``base`` [..] times
    locations, plus the taps
    -> [.., c]."""
    total: Value | None = None
    for taps in combinations(*axes):
        index = base
        weight: Value | None = None
        is_inside: Value | None = None
        for extent, tap in zip(spatial, taps, strict=True):
            index = context("add", context("mul", index, context.extent_value(extent)), tap.index)
            weight = _joined(context, "mul", weight, tap.weight)
            is_inside = _joined(context, "and", is_inside, tap.is_inside)
        value = context("gather", rows, index, axis=0)
        if is_inside is not None:
            value = context("select", context.reshape(is_inside, (*is_inside.shape, 1)), value, 0.0)
        if weight is not None:
            value = context("mul", value, context.reshape(weight, (*weight.shape, 1)))
        total = value if total is None else context(op, total, value)
    assert total is not None
    return total


def _joined(context: Context, op: str, a: Value | None, b: Value | None) -> Value | None:
    if a is None or b is None:
        return a if b is None else b
    return context(op, a, b)


# -- GridSample ------------------------------------------------------------------------------------


@SAMPLING.on("GridSample", first=16)
def grid_sample(context: Context, node: ModelNode) -> Value:
    """x [n, c, spatial..] at grid [n, out.., k]; the grid's coordinates run from the last axis
    to the first.
    """
    x, grid = node.input(0), node.input(1)
    rank = x.type.rank - 2
    if (
        rank < 1
        or grid.type.rank != x.type.rank
        or grid.shape[-1] != rank
        or grid.shape[0] != x.shape[0]
    ):
        raise node.misshapen(f"the grid is {grid.type} for {x.type}.", "Export it again.")
    mode = MODES[node.text("mode", "bilinear" if node.opset < 20 else "linear", tuple(MODES))]
    padding = node.text("padding_mode", "zeros", PADDINGS)
    if rank > 2 and mode == "cubic":
        raise node.unsupported("cubic sampling of volumes is not supported.", "Use linear.")
    aligned = node.flag("align_corners", False)
    # short floats are no places, and float32 does not hold every integer
    is_wide = FLOAT64 in (x.dtype, grid.dtype) or (mode != "nearest" and x.dtype.is_integer)
    dtype = FLOAT64 if is_wide else FLOAT32
    places = context.cast(grid, dtype)
    image = x if mode == "nearest" else context.cast(x, dtype)
    axes = [
        _taps(
            context,
            _coordinate(context, places, rank - 1 - axis, extent, aligned),
            extent,
            mode,
            padding,
            aligned,
        )
        for axis, extent in enumerate(x.shape[2:])
    ]
    sample = context("iota", shape=grid.shape[:-1], axis=0, dtype=INT64)
    value = weighted(context, _rows(context, image), sample, x.shape[2:], axes)  # [n, out.., c]
    order = (0, rank + 1, *range(1, rank + 1))
    return cut(context, context.transpose(value, order), x.dtype)


def _coordinate(context: Context, grid: Value, column: int, extent: Extent, aligned: bool) -> Value:
    """-1 .. 1 -> the axis's elements: their centres lie at the ends (aligned), or half an
    element inside.
    """
    part = context.slice_axis(grid, grid.type.rank - 1, column, 1)
    v = context("add", context.reshape(part, grid.shape[:-1]), 1.0)
    size = context.cast(context.extent_value(extent), grid.dtype)
    if aligned:
        return context("mul", v, context("mul", context("sub", size, 1.0), 0.5))
    return context("mul", context("sub", context("mul", v, size), 1.0), 0.5)


def _taps(
    context: Context, at: Value, extent: Extent, mode: str, padding: str, aligned: bool
) -> list[Tap]:
    if mode != "cubic":  # cubic sampling moves each neighbour instead
        at = _moved_inside(context, at, extent, padding, aligned)
    if mode == "nearest":
        return [_tap(context, context("round", at), None, extent, padding, aligned)]
    first = context("floor", at)
    part = context("sub", at, first)
    if mode == "linear":
        weights = [context("sub", context.number(1.0, at.dtype), part), part]
        offsets: tuple[float, ...] = (0.0, 1.0)
    else:
        offsets = (-1.0, 0.0, 1.0, 2.0)
        weights = [_cubic_weight(context, part, offset) for offset in offsets]
    return [
        _tap(context, context("add", first, offset), weight, extent, padding, aligned)
        for offset, weight in zip(offsets, weights, strict=True)
    ]


def neighbours(context: Context, at: Value, extent: Extent) -> list[Tap]:
    """The two elements next to each coordinate, weighted linearly; those beyond the border count
    as zero.
    """
    return _taps(context, at, extent, "linear", "zeros", False)


def _tap(
    context: Context,
    place: Value,
    weight: Value | None,
    extent: Extent,
    padding: str,
    aligned: bool,
) -> Tap:
    """A neighbour at a whole number; beyond the border it counts as zero, or is moved inside."""
    place = _moved_inside(context, place, extent, padding, aligned)
    last = context("sub", context.cast(context.extent_value(extent), place.dtype), 1.0)
    zero = context.number(0.0, place.dtype)
    clipped = context("min", context("max", place, zero), last)
    is_inside = context("equal", place, clipped) if padding == "zeros" else None
    is_number = context("equal", clipped, clipped)
    return Tap(context.cast(context("select", is_number, clipped, zero), INT64), weight, is_inside)


def _moved_inside(
    context: Context, at: Value, extent: Extent, padding: str, aligned: bool
) -> Value:
    if padding == "zeros":
        return at
    size = context.cast(context.extent_value(extent), at.dtype)
    last = context("sub", size, 1.0)
    if padding == "reflection":
        at = _reflected(context, at, size, last, aligned)
    return context("min", context("max", at, 0.0), last)


def _reflected(context: Context, at: Value, size: Value, last: Value, aligned: bool) -> Value:
    """Mirrored at the first and last centre (aligned), or half an element beyond."""
    lowest = 0.0 if aligned else -0.5
    span = last if aligned else size
    away = context("abs", context("sub", at, lowest))
    turns = context("floor", context("div", away, span))
    rest = context("sub", away, context("mul", turns, span))
    half = context("mul", turns, 0.5)
    is_even = context("equal", half, context("floor", half))
    folded = context("add", context("select", is_even, rest, context("sub", span, rest)), lowest)
    return context("select", context("less", context.number(0.0, at.dtype), span), folded, 0.0)


def _cubic_weight(context: Context, part: Value, offset: float) -> Value:
    """Keys' kernel at the distance |part - offset|."""
    x = context("abs", context("sub", part, offset))
    if offset in (0.0, 1.0):
        factors = (CUBIC + 2, -(CUBIC + 3), 0.0, 1.0)
    else:
        factors = (CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC)
    value = context("mul", x, factors[0])
    for factor in factors[1:-1]:
        value = context("mul", context("add", value, factor), x)
    return context("add", value, factors[-1])


# -- RoiAlign --------------------------------------------------------------------------------------


@SAMPLING.on("RoiAlign", first=10)
def roi_align(context: Context, node: ModelNode) -> Value:
    """x [n, c, h, w], rois [r, 4] as x1 y1 x2 y2, samples [r] -> [r, c, output_height,
    output_width].
    """
    x, rois, samples = node.input(0), node.input(1), node.input(2)
    if x.type.rank != 4 or rois.shape[1:] != (4,) or samples.shape != rois.shape[:1]:
        raise node.misshapen(
            f"rois are {rois.type} and samples {samples.type} for {x.type}.", "Export it again."
        )
    mode = node.text("mode", "avg", ("avg", "max"))
    sizes, ratio = _roi_grid(node)
    is_half = node.opset >= 16 and _is_half_pixel(node)
    scaled = context("mul", widened(context, rois), node.number("spatial_scale", 1.0))
    scaled = context("sub", scaled, 0.5) if is_half else scaled
    count = rois.shape[0]
    axes = []
    for axis, size in enumerate(sizes):
        places = _roi_places(context, scaled, 1 - axis, size, ratio, is_half)  # [r, size * ratio]
        shape = (count, size * ratio, 1) if axis == 0 else (count, 1, size * ratio)
        axes.append(_roi_taps(context, context.reshape(places, shape), x.shape[2 + axis]))
    base = context.reshape(context.cast(samples, INT64), (count, 1, 1))
    combine = "max" if mode == "max" else "add"
    # [r, h * ratio, w * ratio, c]
    image = widened(context, x)
    value = weighted(context, _rows(context, image), base, x.shape[2:], axes, combine)
    parts = context.reshape(value, (count, sizes[0], ratio, sizes[1], ratio, x.shape[1]))
    op = "reduce_max" if mode == "max" else "reduce_mean"
    pooled = context.transpose(context(op, parts, axes=(2, 4), keep=False), (0, 3, 1, 2))
    return context.cast(pooled, x.dtype)


def _roi_grid(node: ModelNode) -> tuple[tuple[int, int], int]:
    """((output height, width), samples along each axis of one element)."""
    ratio = node.integer("sampling_ratio", 0)
    sizes = (node.integer("output_height", 1), node.integer("output_width", 1))
    if ratio < 1:
        raise node.unsupported(
            "sampling_ratio 0 takes as many samples as data say.",
            "Export with sampling_ratio >= 1.",
        )
    if min(sizes) < 1 or math.prod(sizes) * ratio**2 > MOST_SAMPLES:
        raise node.fault(
            f"its result of {sizes[0]} x {sizes[1]} has {ratio} x {ratio} samples each.",
            "Use less.",
        )
    return sizes, ratio


def _is_half_pixel(node: ModelNode) -> bool:
    known = ("half_pixel", "output_half_pixel")
    return node.text("coordinate_transformation_mode", known[0], known) == known[0]


def _roi_places(
    context: Context, rois: Value, column: int, size: int, ratio: int, is_half: bool
) -> Value:
    """start + (i + 1/2) * length / (size * ratio) for each sample i; without half pixels a roi
    is at least 1 long.
    """
    start, end = (context.slice_axis(rois, 1, column + 2 * k, 1) for k in range(2))
    length = context("sub", end, start)
    length = length if is_half else context("max", length, 1.0)
    steps = context("iota", shape=(1, size * ratio), axis=1, dtype=rois.dtype)
    share = context("mul", context("add", steps, 0.5), 1 / (size * ratio))
    return context("add", start, context("mul", length, share))


def _roi_taps(context: Context, at: Value, extent: Extent) -> list[Tap]:
    """Linear; more than one element beyond the border a sample is zero, up to there the border's
    element.
    """
    size = context.cast(context.extent_value(extent), at.dtype)
    last = context("sub", size, 1.0)
    is_inside = context("and", context("less_equal", context.number(-1.0, at.dtype), at),
                        context("less_equal", at, size))  # fmt: skip
    clipped = context("min", context("max", context("select", is_inside, at, 0.0), 0.0), last)
    first = context("floor", clipped)
    part = context("sub", clipped, first)
    second = context("min", context("add", first, 1.0), last)
    near = context("sub", context.number(1.0, at.dtype), part)
    return [
        Tap(context.cast(first, INT64), near, is_inside),
        Tap(context.cast(second, INT64), part, is_inside),
    ]
