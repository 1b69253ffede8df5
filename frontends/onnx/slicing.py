"""ONNX's Concat, Split and Slice -> concat and slice; the contents of small values are followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value

from .context import Context
from .data_slices import slice_by_data
from .handler import HandlerTable
from .node import ModelNode
from .sizes import listed, numbers

SLICING: Final = HandlerTable()


@SLICING.on("Concat")
def concat(context: Context, node: ModelNode) -> Value:
    values = node.present
    default = 1 if node.opset < 4 else None
    if default is None and "axis" not in node.attributes:
        raise node.fault("attribute axis is missing.", "Export it again.")
    axis = node.axis(node.integer("axis", 1), values[0].type.rank)
    if any(value.type.rank != values[0].type.rank for value in values):
        shown = ", ".join(str(value.type) for value in values)
        raise node.misshapen(f"its inputs {shown} differ in rank.", "Export it again.")
    whole = [value for value in values if value.shape[axis] != 0] or values[:1]
    if len(whole) == 1:
        return whole[0]
    value = context("concat", *whole, axis=axis)
    value = context.learn(value, lambda *parts: np.concatenate(parts, axis), *whole)
    if value.dtype.is_integer and value.type.rank == 1:
        context.parts[value] = whole
    return value


@SLICING.on("Split")
def split(context: Context, node: ModelNode) -> list[Value | None]:
    x = node.input(0)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    sizes = _split_sizes(context, node, x.shape[axis])
    total = sum(sizes[1:], sizes[0])
    if len(sizes) != len(node.outputs) or total != x.shape[axis]:
        raise node.misshapen(f"{x.type} has no {len(node.outputs)} parts {listed(sizes)} along axis {axis}.",
                             "Export it again.")  # fmt: skip
    parts: list[Value | None] = []
    start: Extent = 0
    for size in sizes:
        parts.append(sliced(context, x, {axis: (start, size, 1)}))
        start = start + size
    return parts


def _split_sizes(context: Context, node: ModelNode, extent: Extent) -> list[Extent]:
    count = len(node.outputs)
    given: Sequence[Extent] | None = node.integers("split")
    sizes = node.optional(1)
    if sizes is not None:
        given = context.extents(sizes, node, "the sizes of the parts")
    if given:
        if any(isinstance(size, int) and size < 0 for size in given):
            raise node.misshapen(
                f"its parts {listed(given)} include a negative size.", "Export it again."
            )
        return list(given)
    if node.opset >= 18:
        if node.integer("num_outputs", count) != count:
            raise node.fault(
                f"num_outputs is {node.integer('num_outputs', count)}, but it has {count} outputs."
            )
        each = dim.ceil_div(extent, count)
        return [each] * (count - 1) + [extent - each * (count - 1)]
    each_exact = dim.exact_quotient(extent, count)
    if each_exact is None:
        raise node.misshapen(
            f"an extent of {extent} has no {count} equal parts.", "Give the sizes of the parts."
        )
    return [each_exact] * count


def sliced(context: Context, x: Value, axes: dict[int, tuple[Extent, Extent, int]]) -> Value:
    """axis -> (start, size, step); the others whole. Contents are sliced too."""
    start: list[Extent] = [0] * x.type.rank
    size, step = list(x.shape), [1] * x.type.rank
    for axis, (first, count, stride) in axes.items():
        start[axis], size[axis], step[axis] = first, count, stride
    value = context.slice(x, start, size, step)
    starts, sizes = numbers(start), numbers(size)
    if value is x or starts is None or sizes is None or context.contents(x) is None:
        return value
    picks = [
        [first + i * stride for i in range(count)]
        for first, count, stride in zip(starts, sizes, step, strict=True)
    ]
    return context.learn(value, lambda a: a[np.ix_(*picks)] if picks else a, x)


@SLICING.on("Slice", last=9)
def slice_by_attributes(context: Context, node: ModelNode) -> Value:
    starts, ends = node.integers("starts"), node.integers("ends")
    if starts is None or ends is None:
        raise node.fault("starts and ends are needed.", "Export it again.")
    axes = node.integers("axes") or tuple(range(len(starts)))
    return _slice(context, node, starts, ends, axes, (1,) * len(starts))


@SLICING.on("Slice", first=10)
def slice_by_inputs(context: Context, node: ModelNode) -> Value:
    starts, ends = node.input(1), node.input(2)
    is_known = context.contents(starts) is not None and context.contents(ends) is not None
    count = starts.shape[0] if starts.type.rank == 1 else None
    if not is_known and isinstance(count, int):
        return slice_by_data(context, node, *_axes_and_steps(context, node, count))
    first = context.extents(starts, node, "starts")
    last = context.extents(ends, node, "ends")
    return _slice(context, node, first, last, *_axes_and_steps(context, node, len(first)))


def _axes_and_steps(
    context: Context, node: ModelNode, count: int
) -> tuple[Sequence[int], Sequence[int]]:
    """By default the first axes, each element."""
    axes, steps = node.optional(3), node.optional(4)
    where = tuple(range(count)) if axes is None else context.integers(axes, node, "axes")
    return where, (1,) * count if steps is None else context.integers(steps, node, "steps")


def _slice(
    context: Context, node: ModelNode, starts: Sequence[Extent], ends: Sequence[Extent], axes: Sequence[int],
    steps: Sequence[int],
) -> Value:  # fmt: skip
    x = node.input(0)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise node.fault("starts, ends, axes and steps differ in length.", "Export it again.")
    node.axes(axes, x.type.rank)
    chosen: dict[int, tuple[Extent, Extent, int]] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        where = node.axis(axis, x.type.rank)
        if step == 0:
            raise node.fault("a step is 0.", "Export it again.")
        chosen[where] = (*_clamped(start, end, x.shape[where], step), step)
    return sliced(context, x, chosen)


def _clamped(start: Extent, end: Extent, extent: Extent, step: int) -> tuple[Extent, Extent]:
    """(start, size): negative places count back, and all are clamped; a start always to a place that
    is there, as the standard says, so that a start before the first element is the first one where
    Python goes backwards from before it and finds nothing.
    """
    low, high = (0, extent) if step > 0 else (-1, extent - 1)
    first = _placed(start, extent, dim.minimum(0, high), high)
    last = _placed(end, extent, low, high)
    distance = last - first if step > 0 else first - last
    size = dim.maximum(dim.ceil_div(distance, abs(step)), 0)
    return (first if size != 0 else 0), size


def _placed(position: Extent, extent: Extent, low: Extent, high: Extent) -> Extent:
    if isinstance(position, int) and position >= (1 << 31) - 1:
        return high
    if isinstance(position, int) and position <= -(1 << 31) + 1:
        return low
    counted = position + extent * _is_negative(position)
    if counted == high:  # such as the last element, of an axis that may have none
        return high
    return dim.maximum(dim.minimum(counted, high), low)


def _is_negative(position: Extent) -> Extent:
    """1 of a place that counts back, else 0: a number where the sign is known, else an extent, for
    n - 5 counts back where n is less than 5.
    """
    if dim.is_nonnegative(position):
        return 0
    return dim.minimum(dim.maximum(-position, 0), 1)
