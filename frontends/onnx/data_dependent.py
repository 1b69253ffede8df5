"""NonZero, Compress and Unique, whose results are as long as data say -> positions of what was
counted, as many as a data dim tells; computed at import where the data are known.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, INT64, DType

from .context import Context
from .handler import HandlerTable
from .node import ModelNode

DATA_DEPENDENT: Final = HandlerTable()


def true_positions(context: Context, x: Value, name: str, bound: Extent | None = None) -> Value:
    """[s]: which elements of x, counted row by row, are not zero, in order; s is a data dim of a
    name like this, at most all of them, or ``bound``. The same x gives the same dim.
    """
    if x in context.splats:  # all, or none
        size = x.type.elements if context.splats[x] else 0
        return context("iota", shape=(size,), axis=0, dtype=INT64)
    if x not in context.positions:
        mask = context.reshape(context.cast(x, BOOL), (x.type.elements,))
        count = context("reduce_sum", context.cast(mask, INT64), axes=(0,))
        extent = context.data_dim(count, x.type.elements if bound is None else bound, name)
        found = context("true_positions", mask, size=extent)
        context.positions[x] = context.slice_axis(found, 0, 0, extent)
    return context.positions[x]


@DATA_DEPENDENT.on("NonZero", first=9)
def non_zero(context: Context, node: ModelNode) -> Value:
    """[rank, count]: the indices of each element that is not zero."""
    x = node.input(0)
    known = context.array(x)
    if known is not None:
        count = int(np.count_nonzero(known))
        indices = np.nonzero(np.atleast_1d(known))[: known.ndim]  # a scalar has no indices
        return context.constant(np.array(indices, np.int64).reshape(known.ndim, count))
    place = true_positions(context, x, "nonzero")
    if not x.type.rank:
        return context.splat(0, INT64, (0, *place.shape))
    columns: list[Value] = []
    for extent in reversed(x.shape[1:]):
        width = context.extent_value(extent)
        columns.append(context("rem", place, width))
        place = context("div", place, width)
    rows = [context.reshape(part, (1, *part.shape)) for part in (place, *reversed(columns))]
    return context("concat", *rows, axis=0) if len(rows) > 1 else rows[0]


@DATA_DEPENDENT.on("Compress", first=9)
def compress(context: Context, node: ModelNode) -> Value:
    """The entries of an axis (or of the flat input) where the condition holds."""
    x, condition = node.input(0), node.input(1)
    flat = "axis" not in node.attributes
    axis = 0 if flat else node.axis(node.integer("axis", 0), x.type.rank)
    x = context.reshape(x, (x.type.elements,)) if flat else x
    extent = x.shape[axis]
    sizes = (condition.shape[0] if condition.type.rank == 1 else -1, extent)
    if sizes[0] == -1 or (all(isinstance(e, int) for e in sizes) and sizes[0] > extent):  # type: ignore[operator]
        raise node.misshapen(
            f"its condition has the shape {list(condition.shape)} for an axis of {extent}.",
            "Export it again.",
        )
    known = context.array(condition)
    if known is not None:
        picked = context.constant(np.flatnonzero(known).astype(np.int64))
    else:
        picked = true_positions(context, condition, "compress")
    return context("gather", x, picked, axis=axis)


@DATA_DEPENDENT.on("Unique", first=11)
def unique(context: Context, node: ModelNode) -> list[Value | None]:
    """Different entries, sorted or in order of appearance; where each stood first; which one
    each is; how often each is.
    """
    x = node.input(0)
    known = context.array(x)
    if known is not None:
        return _known_unique(context, node, known)
    if "axis" in node.attributes and x.type.rank != 1:
        raise node.unsupported(
            "it compares slices along an axis, which must be known at import.",
            "Compare numbers: leave the axis out, or cut the model before it.",
        )
    flat = context.reshape(x, (x.type.elements,))
    found = _unique(context, flat)
    return [*found] if node.flag("sorted", True) else _by_appearance(context, found)


def _unique(context: Context, x: Value) -> list[Value]:
    """Of a vector: its different elements in order, where each stood first, which one each is, how
    often each is.
    """
    numbers = context.cast(x, DType.UINT8) if x.dtype is BOOL else x
    places = context("sort_positions", numbers, axis=0)
    order = context("inverse_positions", places, axis=0, size=x.shape[0])
    ordered = context("gather", x, order, axis=0)
    place = context("iota", shape=x.shape, axis=0)
    before = context("gather", ordered, context("max", context("sub", place, 1), 0), axis=0)
    is_first = context("equal", place, 0)
    is_new = context("or", _differs(context, ordered, before), is_first)
    starts = true_positions(context, is_new, "unique")
    number = context("sub", context("running_sum", context.cast(is_new, INT64)), 1)
    ends = context("search_sorted", number, context("iota", shape=starts.shape, axis=0))
    counts = context("sub", ends, starts)
    context.largest[counts] = x.shape[0]
    return [
        context("gather", ordered, starts, axis=0), context("gather", order, starts, axis=0),
        context("gather", number, places, axis=0), counts,
    ]  # fmt: skip


def _differs(context: Context, x: Value, y: Value) -> Value:
    """Whether elements differ; a NaN is like another, as NumPy counts them."""
    differs = context("not_equal", x, y)
    if not x.dtype.is_float:
        return differs
    are_nan = context("and", context("is_nan", x), context("is_nan", y))
    return context("and", differs, context("not", are_nan))


def _by_appearance(context: Context, found: list[Value]) -> list[Value | None]:
    """The same, each where its first element stood."""
    values, first, which, counts = found
    places = context("sort_positions", first, axis=0)
    order = context("inverse_positions", places, axis=0, size=first.shape[0])
    values, first, counts = (context("gather", v, order, axis=0) for v in (values, first, counts))
    return [values, first, context("gather", places, which, axis=0), counts]


def _known_unique(context: Context, node: ModelNode, array: npt.NDArray[Any]) -> list[Value | None]:
    axis = node.axis(node.integer("axis", 0), array.ndim) if "axis" in node.attributes else None
    found = np.unique(
        _sortable(array), return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    first, inverse, counts = (np.asarray(part, np.int64) for part in found[1:])
    order = np.arange(len(first)) if node.flag("sorted", True) else np.argsort(first, kind="stable")
    place = np.argsort(order, kind="stable")
    values = np.take(array, first[order], axis=axis)
    return [
        context.constant(values, DType.of(array.dtype)), context.constant(first[order]),
        context.constant(place[inverse.reshape(-1)]), context.constant(counts[order]),
    ]  # fmt: skip


def _sortable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """NumPy cannot sort bfloat16; float32 holds it exactly."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array
