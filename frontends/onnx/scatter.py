"""ScatterElements, ScatterND, TensorScatter -> scatter, or scatter_last where updates replace elements;
TopK -> sorting.

Without a reduction the last of equal indices wins. Indices that are constants are resolved at
import.
"""

from __future__ import annotations

from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Minimum, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT64

from .context import Context
from .handler import HandlerTable
from .indexing import as_far_as, check_indices, flat_index
from .node import ModelNode
from .restriction import TooSmall

SCATTER: Final = HandlerTable()
REDUCTIONS: Final = ("none", "add", "mul", "max", "min")


def _reduction(node: ModelNode) -> str:
    return node.text("reduction", "none", REDUCTIONS if node.opset >= 18 else REDUCTIONS[:3])


@SCATTER.on("ScatterElements", "Scatter")
def scatter_elements(context: Context, node: ModelNode) -> Value:
    """Where the indices are shorter than x along other axes, the rest of x stays as it is."""
    x, indices, updates = node.input(0), node.input(1), node.input(2)
    if not x.type.rank:
        raise node.misshapen("its input is a scalar; an axis is needed.", "Export it again.")
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    if indices.type.rank != x.type.rank or updates.shape != indices.shape:
        raise node.misshapen(
            f"indices are {indices.type} and updates {updates.type} for {x.type}.",
            "Export it again.",
        )
    check_indices(context, node, indices, x.shape[axis])
    part = as_far_as(context, node, x, indices, axis)
    result = _scattered(context, part, indices, updates, axis, _reduction(node))
    for other in reversed(range(x.type.rank)):  # around the part changed, the rest of x
        if result.shape[other] == x.shape[other]:
            continue
        changed = result.shape[other]
        shape = (*result.shape[:other], x.shape[other] - changed, *result.shape[other + 1 :])
        start = tuple(changed if position == other else 0 for position in range(x.type.rank))
        result = context("concat", result, context.slice(x, start, shape), axis=other)
    return result


def _scattered(
    context: Context, x: Value, indices: Value, updates: Value, axis: int, reduction: str
) -> Value:
    """All axes but ``axis`` agree."""
    if reduction != "none":
        return context("scatter", x, indices, updates, axis=axis, reduction=reduction)
    return context("scatter_last", x, indices, updates, axis=axis)


@SCATTER.on("ScatterND", first=11)
def scatter_nd(context: Context, node: ModelNode) -> Value:
    """Rows of the flattened tensor [locations, row]; row is 1 where every axis is indexed."""
    x, indices, updates = node.input(0), node.input(1), node.input(2)
    depth = indices.shape[-1] if indices.type.rank else 0
    if not isinstance(depth, int) or not 1 <= depth <= x.type.rank:
        raise node.misshapen(f"indices are {indices.type} for {x.type}.", "Export it again.")
    if updates.shape != (*indices.shape[:-1], *x.shape[depth:]):
        raise node.misshapen(
            f"updates are {updates.type} for {x.type} at indices {indices.type}.",
            "Export it again.",
        )
    flat = flat_index(context, node, indices, x.shape[:depth])
    count, row = product(indices.shape[:-1]), product(x.shape[depth:])
    inside = () if row == 1 else (row,)
    rows = context.reshape(x, (product(x.shape[:depth]), *inside))
    fresh = context.reshape(updates, (count, *inside))
    at = context.reshape(flat, (count, *(1 for _ in inside)))
    if inside:
        at = context("broadcast", at, shape=fresh.shape)
    return context.reshape(_scattered(context, rows, at, fresh, 0, _reduction(node)), x.shape)


@SCATTER.on("TensorScatter", first=24)
def tensor_scatter(context: Context, node: ModelNode) -> Value:
    """A cache [batch, .., length, ..] with an update written at each sample's position (0 if
    there is none).
    """
    cache, update, position = node.input(0), node.input(1), node.optional(2)
    rank = cache.type.rank
    axis = node.axis(node.integer("axis", -2), rank)
    is_circular = node.text("mode", "linear", ("linear", "circular")) == "circular"
    if (
        axis == 0
        or update.type.rank != rank
        or any(
            a != b
            for k, (a, b) in enumerate(zip(cache.shape, update.shape, strict=True))
            if k != axis
        )
    ):
        raise node.misshapen(
            f"the update is {update.type} for {cache.type}, axis {axis}.", "Export it again."
        )
    line = tuple(extent if place == axis else 1 for place, extent in enumerate(update.shape))
    index = context("iota", shape=line, axis=axis, dtype=INT64)
    if position is not None:
        if position.shape != (cache.shape[0],):
            raise node.misshapen(
                f"positions are {position.type}; one for each sample is needed.", "Export it again."
            )
        index = context(
            "add",
            index,
            context.reshape(context.cast(position, INT64), (*position.shape, *(1,) * (rank - 1))),
        )
    if is_circular:
        size = context.extent_value(cache.shape[axis])
        index = context("sub", index, context("mul", context("div", index, size), size))
    index = context("broadcast", index, shape=update.shape)
    return _scattered(context, cache, index, update, axis, "none")


# -- order -----------------------------------------------------------------------------------------


def _single(context: Context, node: ModelNode, position: int) -> Value:
    """An int64 input of one element, as a scalar."""
    value = node.input(position)
    if value.dtype is not INT64 or value.type.elements != 1:
        raise node.misshapen(f"its k is {value.type}; one number is needed.", "Export it again.")
    return context.reshape(value, ())


def _fits(context: Context, size: Extent, extent: Extent) -> bool:
    """Whether 0 <= size <= extent is proved, or checked when the program runs."""
    if size in context.data_bounds:
        return context.data_bounds[size] == extent
    match size:
        case Dim(terms=(((Minimum(left, right),), 1),)) if extent in (left, right):
            return dim.is_nonnegative(size)
    return dim.is_nonnegative(extent - size) and dim.is_nonnegative(size)


@SCATTER.on("TopK")
def top_k(context: Context, node: ModelNode) -> list[Value | None]:
    """The k largest (smallest) elements along an axis and where they stood; always sorted, the
    first of equals first.
    """
    x = node.input(0)
    if not x.type.rank:
        raise node.misshapen("its input is a scalar; an axis is needed.", "Export it again.")
    axis = node.axis(node.integer("axis", -1), x.type.rank)
    extent = x.shape[axis]
    if node.opset < 10:
        size: Extent = node.integer("k", 0)
    else:
        size = context.data_dim(_single(context, node, 1), extent, "k")
    if not _fits(context, size, extent):
        message = f"k is {size} for an axis of {extent}."
        hint = "Give the free dims a range where it fits."
        raise TooSmall(message, hint=hint, extent=dim.minimum(size, extent - size))
    descending = node.opset < 11 or node.flag("largest", True)
    if size == 1 and (descending or not x.dtype.is_float):  # NaN is the largest, for both ops
        best = context("argmax" if descending else "argmin", x, axis=axis, keep=True, last=False)
        return [context("gather_elements", x, best, axis=axis), best]
    places = context("sort_positions", x, axis=axis, descending=descending)
    indices = context("inverse_positions", places, axis=axis, size=size)
    return [context("gather_elements", x, indices, axis=axis), indices]
