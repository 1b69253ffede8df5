"""ONNX's constants, gathers, ranges and masks -> constant, gather, iota, one_hot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from netloom.compiler import dim
from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, FLOAT32, INT64

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .restriction import TooSmall, is_negative_somewhere
from .tensors import dtype_of

INDEXING: Final = HandlerTable()
FIX_OR_NAME: Final = (
    "Fix the free dims, or give equal ones one name (dims=, shapes=; --dim, --shape)."
)


@INDEXING.on("Constant")
def constant(context: Context, node: ModelNode) -> Value:
    """Exactly one attribute holds the value."""
    if len(node.attributes) != 1:
        raise node.fault(
            f"it has {len(node.attributes)} values; exactly one is needed.", "Export it again."
        )
    (name,) = node.attributes
    match name:
        case "value":
            tensor = node.tensor("value")
            assert tensor is not None
            return context.tensor(tensor, f"the value of {node.title}")
        case "sparse_value":
            sparse = node.attributes[name].sparse_tensor
            return context.sparse_tensor(sparse, f"the value of {node.title}")
        case "value_float":
            return context.constant(node.number(name, 0.0), FLOAT32)
        case "value_int":
            return context.constant(node.integer(name, 0), INT64)
        case "value_floats":
            return context.constant(np.array(node.numbers(name) or (), np.float32))
        case "value_ints":
            return context.constant(np.array(node.integers(name) or (), np.int64))
    raise node.unsupported(
        f"it holds a {name}; strings are no tensors of numbers.", "Use a tensor of numbers."
    )


@INDEXING.on("Gather")
def gather(context: Context, node: ModelNode) -> Value:
    x, indices = node.input(0), node.input(1)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    check_indices(context, node, indices, x.shape[axis])
    value = context("gather", x, indices, axis=axis)
    return context.learn(value, lambda a, i: np.take(a, i.astype(np.int64), axis), x, indices)


def check_indices(context: Context, node: ModelNode, indices: Value, extent: Extent) -> None:
    """Constant indices are checked now, the others when the program runs."""
    known = context.array(indices)
    if known is None or not known.size or not isinstance(extent, int):
        return
    low, high = int(known.min()), int(known.max())
    if low < -extent or high >= extent:
        raise node.fault(
            f"index {low if low < -extent else high} lies outside an axis of {extent}.",
            "Export it again.",
        )


@INDEXING.on("GatherElements", first=11)
def gather_elements(context: Context, node: ModelNode) -> Value:
    """The other axes of the indices may be shorter than x's: the rest of x is not read."""
    x, indices = node.input(0), node.input(1)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    if indices.type.rank != x.type.rank:
        raise node.misshapen(f"indices are {indices.type} for {x.type}.", "Export it again.")
    check_indices(context, node, indices, x.shape[axis])
    return context(
        "gather_elements", as_far_as(context, node, x, indices, axis), indices, axis=axis
    )


def as_far_as(context: Context, node: ModelNode, x: Value, indices: Value, axis: int) -> Value:
    """x up to where the indices reach along the other axes, which is nowhere further than x."""
    reach = (*indices.shape[:axis], x.shape[axis], *indices.shape[axis + 1 :])
    for place, (extent, wanted) in enumerate(zip(x.shape, reach, strict=True)):
        rest = extent - wanted
        is_open = len(dim.symbols_of([rest])) > 1 and not dim.is_nonnegative(rest)
        if wanted != 0 and (is_open or is_negative_somewhere(context, rest)):
            message = f"indices are {indices.type} for {x.type}: along axis {place} they must not be longer."
            hint = "Export it again." if isinstance(rest, int) else FIX_OR_NAME
            raise TooSmall(message, hint=hint, extent=rest)
    return context.slice(x, (0,) * x.type.rank, reach)


def wrapped_index(context: Context, index: Value, extent: Extent) -> Value:
    """Negative indices count from the end."""
    size = context.extent_value(extent)
    return context(
        "select",
        context("less", index, context.number(0, INT64)),
        context("add", index, size),
        index,
    )


@INDEXING.on("GatherND", first=11)
def gather_nd(context: Context, node: ModelNode) -> Value:
    """The last axis of indices holds coordinates of the axes after the batch axes; a gather from
    the flat tensor.
    """
    x, indices = node.input(0), node.input(1)
    batch = node.integer("batch_dims", 0)
    if not indices.type.rank or not 0 <= batch < min(x.type.rank, indices.type.rank):
        raise node.misshapen(
            f"indices are {indices.type} for {x.type} with batch_dims = {batch}.",
            "Export it again.",
        )
    depth = indices.shape[-1]
    if not isinstance(depth, int) or not 1 <= depth <= x.type.rank - batch:
        raise node.misshapen(
            f"indices are {indices.type} for {x.type} with batch_dims = {batch}.",
            "Export it again.",
        )
    flat = flat_index(context, node, indices, x.shape[: batch + depth], batch)
    rest = x.shape[batch + depth :]
    leading = product(x.shape[: batch + depth])
    return context("gather", context.reshape(x, (leading, *rest)), flat, axis=0)


def flat_index(
    context: Context, node: ModelNode, indices: Value, extents: Sequence[Extent], batch: int = 0
) -> Value:
    """The coordinates along the last axis of the indices as one index into the flattened axes
    ``extents``.

    The first ``batch`` coordinates are the position in the indices themselves.
    """
    rows = indices.shape[:-1]
    wide = context.cast(indices, INT64)
    flat = context.number(0, INT64)
    for position, extent in enumerate(extents):
        if position < batch:
            coordinate = context("iota", shape=rows, axis=position, dtype=INT64)
        else:
            column = context.slice_axis(wide, indices.type.rank - 1, position - batch, 1)
            check_indices(context, node, column, extent)
            coordinate = wrapped_index(context, context.reshape(column, rows), extent)
        flat = context("add", context("mul", flat, context.extent_value(extent)), coordinate)
    return flat


def _depth(context: Context, node: ModelNode) -> Extent:
    """Of OneHot: a number of any dtype, or an extent."""
    depth = node.input(1)
    if context.array(depth) is not None or depth.dtype.is_float:
        return int(context.scalar(depth, node, "depth"))
    return context.extent(depth, node, "depth")


@INDEXING.on("OneHot", first=9)
def one_hot(context: Context, node: ModelNode) -> Value:
    """Negative indices count from the end; others outside [0, depth) give a row of off values."""
    indices, values = node.input(0), node.input(2)
    depth = _depth(context, node)
    if (isinstance(depth, int) and depth < 1) or values.shape != (2,):
        raise node.fault(
            f"depth is {depth} and values are {values.type}; at least 1 and two are needed."
        )
    axis = node.axis(node.integer("axis", -1), indices.type.rank + 1)
    index = wrapped_index(context, context.cast(indices, INT64), depth)
    if isinstance(depth, int):
        hot = context("one_hot", index, depth=depth, dtype=BOOL)
    else:
        line = context("iota", shape=(depth,), axis=0, dtype=INT64)
        hot = context("equal", context.reshape(index, (*index.shape, 1)), line)
    order = list(range(indices.type.rank))
    order.insert(axis, indices.type.rank)
    off, on = (
        context.reshape(context.slice_axis(values, 0, position, 1), ()) for position in range(2)
    )
    return context("select", context.transpose(hot, order), on, off)


@INDEXING.on("Range", first=11)
def arithmetic_range(context: Context, node: ModelNode) -> Value:
    """start, start + delta, .. up to limit; the number of elements must be an extent."""
    start, limit, delta = (node.input(position) for position in range(3))
    count = _range_size(context, node, start, limit, delta)
    positions = context("iota", shape=(count,), axis=0, dtype=start.dtype)
    value = context(
        "add", context("mul", positions, context.reshape(delta, ())), context.reshape(start, ())
    )
    if isinstance(count, int):
        return context.learn(
            value, lambda a, d: np.arange(count) * d.item() + a.item(), start, delta
        )
    return value


def _range_size(
    context: Context, node: ModelNode, start: Value, limit: Value, delta: Value
) -> Extent:
    if start.dtype.is_float:
        free = _free_float_size(context, start, limit, delta)
        if free is not None:
            return free
        first, last, step = (context.scalar(v, node, "a bound") for v in (start, limit, delta))
        if not step or not all(map(math.isfinite, (first, last, step))):
            raise node.fault(f"its bounds are {first}, {last}, {step}.", "Export it again.")
        return int(max(math.ceil((last - first) / step), 0))
    low, high = (context.extent(v, node, "a bound") for v in (start, limit))
    (stride,) = context.integers(delta, node, "delta")
    if not stride:
        raise node.fault("delta is 0.", "Export it again.")
    distance = high - low if stride > 0 else low - high
    return dim.maximum(dim.ceil_div(distance, abs(stride)), 0)


def _free_float_size(context: Context, *bounds: Value) -> Extent | None:
    """As many elements as start, limit and delta give that are floats of extents; None of others."""
    known = [context.contents(value) for value in bounds]
    if all(value in context.constants for value in bounds) or any(
        contents is None for contents in known
    ):
        return None
    start, limit, delta = (contents.item() for contents in known if contents is not None)
    try:
        return dim.maximum(((limit - start) / delta).ceil().numerator, 0)
    except ValueError:  # it may be another number after rounding
        return None


@INDEXING.on("EyeLike", first=9)
def eye_like(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    if x.type.rank != 2:
        raise node.misshapen(f"its input is {x.type}; a matrix is needed.")
    dtype = (
        dtype_of(node.integer("dtype", 0), node.title) if "dtype" in node.attributes else x.dtype
    )
    rows, columns = _coordinates(context, x.shape)
    return context.cast(
        context("equal", context("add", rows, node.integer("k", 0)), columns), dtype
    )


@INDEXING.on("Trilu", first=14)
def triangle(context: Context, node: ModelNode) -> Value:
    """The upper (or lower) triangle of the last two axes, zero elsewhere."""
    x = node.input(0)
    if x.type.rank < 2:
        raise node.misshapen(f"its input is {x.type}; matrices are needed.")
    shift = node.optional(1)
    if shift is not None and shift.type.elements != 1:
        raise node.misshapen(f"k is {shift.type}; one number is needed.", "Export it again.")
    rows, columns = _coordinates(context, x.shape[-2:])
    shifted = rows if shift is None else context("add", rows, _within(context, shift, x.shape[-2:]))
    upper = node.flag("upper", True)
    keep = (
        context("less_equal", shifted, columns)
        if upper
        else context("less_equal", columns, shifted)
    )
    return context("select", keep, x, context.number(False if x.dtype is BOOL else 0, x.dtype))


def _within(context: Context, shift: Value, shape: tuple[Extent, ...]) -> Value:
    """A diagonal's number; beyond the matrix, that of the one next to it, so that sums with rows
    do not overflow.
    """
    low, high = (context.extent_value(extent) for extent in (-1 * shape[0], shape[1]))
    return context("min", context("max", context.reshape(shift, ()), low), high)


def _coordinates(context: Context, shape: tuple[Extent, ...]) -> tuple[Value, Value]:
    rows = context("iota", shape=(shape[0], 1), axis=0, dtype=INT64)
    return rows, context("iota", shape=(1, shape[1]), axis=1, dtype=INT64)


@INDEXING.on("CumSum", first=11)
def cumulative_sum(context: Context, node: ModelNode) -> Value:
    """Running sums along the axis: of what lies before where they are exclusive, and from the last
    element on where they are in reverse."""
    x = node.input(0)
    axis = node.axis(int(context.scalar(node.input(1), node, "axis")), x.type.rank)
    behind = x.shape[axis + 1 :]
    rows = context.reshape(x, (*x.shape[: axis + 1], product(behind))) if behind[1:] else x
    sums = context("running_sum", rows, axis=axis, exclusive=node.flag("exclusive", False),
                   reverse=node.flag("reverse", False))  # fmt: skip
    return context.reshape(sums, x.shape)


@INDEXING.on("ReverseSequence", first=10)
def reverse_sequence(context: Context, node: ModelNode) -> Value:
    """The first entries of each sequence in reverse, as many as its length; the others stay."""
    x, lengths = node.input(0), node.input(1)
    rank = x.type.rank
    if rank < 2:
        raise node.misshapen(
            f"its input is {x.type}; batch and time axes are needed.", "Export it again."
        )
    time, batch = (
        node.axis(node.integer(name, default), 2)
        for name, default in (("time_axis", 0), ("batch_axis", 1))
    )
    if time == batch or lengths.shape != (x.shape[batch],):
        raise node.misshapen(
            f"its lengths are {lengths.type} for {x.type}, batch axis {batch}.", "Export it again."
        )
    shape, inner = x.shape[:2], x.shape[2:]
    line = tuple(extent if axis == batch else 1 for axis, extent in enumerate(shape))
    length = context.reshape(context.cast(lengths, INT64), line)
    place = context("iota", shape=shape, axis=time, dtype=INT64)
    mirrored = context("sub", context("sub", length, 1), place)
    source = context("select", context("less", place, length), mirrored, place)
    if not inner:
        return context("gather_elements", x, source, axis=time)
    # the number of the row that comes to each place
    number = context("iota", shape=shape, axis=batch, dtype=INT64)
    first, second = (source, number) if time == 0 else (number, source)
    row = context("add", context("mul", first, context.extent_value(shape[1])), second)
    if time == 1:  # a sequence that is too long does not go on in the next one
        is_inside = context("less", source, context.extent_value(shape[1]))
        row = context("select", is_inside, row, context.extent_value(product(shape)))
    rows = context.reshape(x, (product(shape), *inner))
    return context("gather", rows, row, axis=0)
