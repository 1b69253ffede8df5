"""Sequences of tensors -> nothing: their lengths are known at import, and positions mostly, so each
tensor keeps its own value.

An optional is what it holds; an empty one cannot be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, INT64

from .context import Context
from .handler import HandlerTable
from .node import Item, ModelNode, ValueSequence
from .sizes import numbers

SEQUENCES: Final = HandlerTable()
MOST_PARTS: Final = 1 << 12


@SEQUENCES.on("SequenceConstruct", first=11)
def construct(context: Context, node: ModelNode) -> ValueSequence:
    return ValueSequence(tuple(node.present))


@SEQUENCES.on("SequenceEmpty", first=11)
def empty(context: Context, node: ModelNode) -> ValueSequence:
    return ValueSequence(())


@SEQUENCES.on("SequenceLength", first=11)
def length(context: Context, node: ModelNode) -> Value:
    return context.number(len(node.sequence(0)), INT64)


def _position(context: Context, node: ModelNode, given: Value, count: int) -> int:
    """A position in [-count, count), counted from 0."""
    (position,) = context.integers(given, node, "the position")
    if not -count <= position < count:
        raise node.fault(
            f"position {position} lies outside a sequence of {count}.", "Export the model again."
        )
    return position % count


@SEQUENCES.on("SequenceAt", first=11)
def at(context: Context, node: ModelNode) -> Value:
    """One tensor; if data decide which, they are stacked, so they must have one type."""
    parts, given = node.sequence(0), node.input(1)
    known = context.contents(given)
    if not parts or (known is not None and numbers(known.ravel().tolist()) is not None):
        return parts[_position(context, node, given, len(parts))]
    if len({part.type for part in parts}) != 1:
        raise node.unsupported(
            "its position is computed from data, and the tensors differ in shape.",
            "Pad them to one shape, or fix the position.",
        )
    rows = [context.reshape(part, (1, *part.shape)) for part in parts]
    return context("gather", _joined(context, rows, 0), context.reshape(given, ()), axis=0)


def _joined(context: Context, parts: Sequence[Value], axis: int) -> Value:
    return context("concat", *parts, axis=axis) if len(parts) > 1 else parts[0]


@SEQUENCES.on("SequenceInsert", first=11)
def insert(context: Context, node: ModelNode) -> ValueSequence:
    """Before a position; at the end if there is none."""
    parts, tensor, given = node.sequence(0), node.input(1), node.optional(2)
    place = len(parts)
    if given is not None:
        (place,) = context.integers(given, node, "the position")
        if not -len(parts) <= place <= len(parts):
            raise node.fault(
                f"position {place} lies outside a sequence of {len(parts)}.",
                "Export the model again.",
            )
        place += len(parts) if place < 0 else 0
    return ValueSequence((*parts[:place], tensor, *parts[place:]))


@SEQUENCES.on("SequenceErase", first=11)
def erase(context: Context, node: ModelNode) -> ValueSequence:
    """Without one tensor, the last if none is named."""
    parts, given = node.sequence(0), node.optional(1)
    if not parts:
        raise node.fault("the sequence is empty.", "Export the model again.")
    place = len(parts) - 1 if given is None else _position(context, node, given, len(parts))
    return ValueSequence((*parts[:place], *parts[place + 1 :]))


@SEQUENCES.on("SplitToSequence", first=11)
def split(context: Context, node: ModelNode) -> ValueSequence:
    """Parts of given sizes, of one size (the last may be smaller), or single entries, whose axis
    may be dropped.
    """
    x, given = node.input(0), node.optional(1)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    sizes = _sizes(context, node, x.shape[axis], given)
    parts, start = [], 0
    for size in sizes:
        part = context.slice_axis(x, axis, start, size)
        if given is None and not node.flag("keepdims", True):
            part = context.reshape(part, (*x.shape[:axis], *x.shape[axis + 1 :]))
        parts.append(part)
        start += size
    return ValueSequence(tuple(parts))


def _sizes(context: Context, node: ModelNode, extent: Extent, given: Value | None) -> Sequence[int]:
    if not isinstance(extent, int):
        raise node.unsupported(
            f"it splits the free dim {extent}.",
            "Fix the free dims (dims=, shapes=; --dim, --shape).",
        )
    sizes: Sequence[int] = (1,)
    if given is not None:
        sizes = context.integers(given, node, "the sizes of the parts")
    if given is None or not given.type.rank:
        each = sizes[0]
        if each < 1 or -(-extent // each) > MOST_PARTS:
            raise node.unsupported(
                f"it makes parts of {each} of {extent} entries.", f"Make at most {MOST_PARTS}."
            )
        sizes = [min(each, extent - start) for start in range(0, extent, each)]
    if any(size < 0 for size in sizes) or sum(sizes) != extent:
        raise node.misshapen(
            f"parts of {list(sizes)} do not make {extent} entries.", "Export it again."
        )
    return sizes


@SEQUENCES.on("ConcatFromSequence", first=11)
def concat(context: Context, node: ModelNode) -> Value:
    """Joined along an axis, or along a new one."""
    parts = node.sequence(0)
    if not parts:
        raise node.unsupported("the sequence is empty, so the result has no shape.", "Remove it.")
    is_new = node.flag("new_axis", False)
    axis = node.axis(node.integer("axis", 0), parts[0].type.rank + is_new)
    if is_new:
        parts = tuple(context.reshape(p, (*p.shape[:axis], 1, *p.shape[axis:])) for p in parts)
    return _joined(context, parts, axis)


# -- optionals -------------------------------------------------------------------------------------


@SEQUENCES.on("Optional", first=15)
def optional(context: Context, node: ModelNode) -> Item:
    if not node.inputs or node.inputs[0] is None:
        raise node.unsupported(
            "an empty optional is not supported.", "Export the model without it."
        )
    return node.item(0)


@SEQUENCES.on("OptionalHasElement", first=15)
def has_element(context: Context, node: ModelNode) -> Value:
    return context.number(bool(node.inputs) and node.inputs[0] is not None, BOOL)


@SEQUENCES.on("OptionalGetElement", first=15)
def get_element(context: Context, node: ModelNode) -> Item:
    return node.item(0)
