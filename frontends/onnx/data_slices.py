"""Slice whose starts or ends are data -> the elements at the places between them, as many as a data
dim tells: it is at most what the axis has.
"""

from __future__ import annotations

from collections.abc import Sequence

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT64, MAX_ELEMENTS

from .context import Context
from .node import ModelNode


def slice_by_data(
    context: Context, node: ModelNode, axes: Sequence[int], steps: Sequence[int]
) -> Value:
    """By Python's rules for slices: negative places count back, and all are clamped."""
    x, starts, ends = node.input(0), node.input(1), node.input(2)
    if not starts.shape == ends.shape == (len(axes),) or len(steps) != len(axes):
        raise node.fault("starts, ends, axes and steps differ in length.", "Export it again.")
    if any(step < 1 for step in steps):
        raise node.unsupported(
            f"its steps are {list(steps)} and its bounds are computed from data.",
            "Use positive steps.",
        )
    node.axes(axes, x.type.rank)
    for place, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        x = _slice_axis(context, x, node.axis(axis, x.type.rank), step, starts, ends, place)
    return x


def _slice_axis(
    context: Context, x: Value, axis: int, step: int, starts: Value, ends: Value, place: int
) -> Value:
    """One axis, from starts[place] to ends[place]."""
    extent, step = x.shape[axis], min(step, MAX_ELEMENTS)  # which no axis is longer than
    first, last = (_placed(context, side, place, extent) for side in (starts, ends))
    distance = context("sub", context("add", last, step - 1), first)
    count = context("max", context("div", distance, step), 0)
    size = context.data_dim(count, dim.ceil_div(extent, step), "sliced")
    positions = context("mul", context("iota", shape=(size,), axis=0), step)
    return context("gather", x, context("add", positions, first), axis=axis)


def _placed(context: Context, places: Value, number: int, extent: Extent) -> Value:
    """One of the places, from 0 to the extent."""
    place = context.cast(context.slice_axis(places, 0, number, 1), INT64)
    known = context.contents(places)
    if known is not None:  # a slice does not follow symbolic contents
        place = context.extent_value(known[number])
    place, size = context.reshape(place, ()), context.extent_value(extent)
    counted = context("select", context("less", place, 0), context("add", place, size), place)
    return context("max", context("min", counted, size), 0)
