"""NonMaxSuppression -> candidates by score, suppressed along each class, and positions of those
that are left.

Candidates of a class are the boxes whose score exceeds the threshold: they are as many as data say,
so that what follows costs no more than they need. Sorted by score, the first of equals first, each
is kept unless it overlaps one that was kept before it (``compiler/ops/suppression.py``), until a
class has as many as it may. The result lists them by batch, class and score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.ops.suppression import LONGEST_LIST
from netloom.compiler.tensor_type import INT64

from .context import Context
from .data_dependent import true_positions
from .handler import HandlerTable
from .node import ModelNode

SUPPRESSION: Final = HandlerTable()


@dataclass(frozen=True)
class _Candidates:
    """The candidates of each batch and class, the best first: [batch, class, candidate]."""

    box: Value  # which box of the batch each is
    is_real: Value  # whether there is one: lines have room for those of the longest


@SUPPRESSION.on("NonMaxSuppression", first=10)
def non_max_suppression(context: Context, node: ModelNode) -> Value:
    """int64[selected, 3]: batch, class and box of each."""
    boxes, scores = node.input(0), node.input(1)
    if (
        boxes.type.rank != 3 or scores.type.rank != 3 or boxes.shape[2] != 4
        or boxes.shape[:2] != (scores.shape[0], scores.shape[2]) or boxes.dtype is not scores.dtype
    ):  # fmt: skip
        raise node.misshapen(
            f"its boxes are {boxes.type} and its scores {scores.type}.", "Export it again."
        )
    most = _number(context, node, 2)
    limit = None if most is None else _limit(context, most)
    if most is None or limit == 0:  # by the standard: none unless a number is given
        return context.splat(0, INT64, (0, 3))
    found = _candidates(context, node, scores)
    corners = _corners(context, node, boxes, found.box)
    threshold = _number(context, node, 3)
    overlap = context.number(0.0, boxes.dtype) if threshold is None else threshold
    overlap = context.cast(overlap, boxes.dtype)
    if isinstance(limit, int) and limit <= LONGEST_LIST:
        chosen = context("suppress", corners, found.is_real, overlap, most=limit)
    else:
        kept = context("suppress", corners, found.is_real, overlap)
        count = context("running_sum", context.cast(kept, INT64))
        chosen = context("and", kept, context("less_equal", count, most))
    return _listed(context, chosen, found.box, limit)


def _limit(context: Context, most: Value) -> Extent | None:
    """How many boxes a class may have, if that is known at import."""
    known = context.contents(most)
    return None if known is None else dim.maximum(known.item(), 0)


def _number(context: Context, node: ModelNode, position: int) -> Value | None:
    """An optional number, of one element."""
    value = node.optional(position)
    if value is None:
        return None
    if value.type.elements != 1:
        raise node.misshapen(
            f"its input {position} is {value.type}; one number is needed.", "Export it again."
        )
    return context.reshape(value, ())


def _candidates(context: Context, node: ModelNode, scores: Value) -> _Candidates:
    least = _number(context, node, 4)
    *lines, boxes = scores.shape
    if least is None:
        order = _by_score(context, scores)
        everything = context("less", order, context.extent_value(boxes))
        return _Candidates(order, everything)
    is_candidate = context("less", context.cast(least, scores.dtype), scores)
    counts = context("reduce_sum", context.cast(is_candidate, INT64), axes=(2,))
    flat = context.reshape(counts, (counts.type.elements,))
    longest = context("max", context("reduce_max", flat, axes=(0,)), 0)
    extent = context.data_dim(longest, boxes, "candidates")
    place = context("iota", shape=(*lines, extent), axis=2)
    is_real = context("less", place, context.reshape(counts, (*lines, 1)))
    found = context.slice_axis(context("true_positions", is_candidate, size=extent), 2, 0, extent)
    box = context("select", is_real, found, 0)
    known = context("gather_elements", scores, box, axis=2)
    lowest = context.number(float("-inf"), scores.dtype)
    order = _by_score(context, context("select", is_real, known, lowest))
    return _Candidates(context("gather_elements", box, order, axis=2), is_real)


def _by_score(context: Context, scores: Value) -> Value:
    """Which elements of each line come first, second, ..: the largest first."""
    places = context("sort_positions", scores, axis=2, descending=True)
    return context("inverse_positions", places, axis=2, size=scores.shape[2])


def _corners(context: Context, node: ModelNode, boxes: Value, chosen: Value) -> Value:
    """[batch, class, 4, candidate]: low and high ends, (y0, x0, y1, x1), of the chosen boxes."""
    batch, count = boxes.shape[:2]
    rows = context.reshape(boxes, (batch * count, 4))
    first = context(
        "mul", context("iota", shape=(batch, 1, 1), axis=0), context.extent_value(count)
    )
    found = context("gather", rows, context("add", chosen, first), axis=0)
    ends = context.transpose(found, (0, 1, 3, 2))
    pair = [context.slice_axis(ends, 2, start, 2) for start in (0, 2)]
    if node.flag("center_point_box", False):  # centers (x, y), then widths and heights
        half = context("div", pair[1], 2)
        low, high = context("sub", pair[0], half), context("add", pair[0], half)
    else:
        low, high = context("min", *pair), context("max", *pair)
    return context("concat", low, high, axis=2)


def _listed(context: Context, chosen: Value, boxes: Value, most: Extent | None) -> Value:
    """[selected, 3]: (batch, class, box) of each that is chosen; ``most`` of a class, if known."""
    batch, classes, extent = chosen.shape
    of_a_class = extent if most is None else dim.minimum(extent, most)
    place = true_positions(context, chosen, "selected", batch * classes * of_a_class)
    line = context("div", place, context.extent_value(extent))
    box = context("gather", context.reshape(boxes, (product(boxes.shape),)), place, axis=0)
    columns = [
        context("div", line, context.extent_value(classes)),
        context("rem", line, context.extent_value(classes)),
        box,
    ]
    return context("concat", *(context.reshape(c, (*c.shape, 1)) for c in columns), axis=1)
