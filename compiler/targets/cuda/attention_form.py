"""A kernel around attention -> the form ``FusedAttention``: what is read where, and the tile.

Views of queries, keys and values are part of the reads; the mask is a formula of the score.
"""

from __future__ import annotations

from ... import scalar
from ...dim import Extent, product
from ...graph import Node, Value
from ...loops.elements import Axis, Elements
from ...loops.ir import Load
from ...ops.attention import attention_type
from ...scalar import Argument, Expr, Guarded
from ...tensor_type import BOOL, FLOAT32, TensorType
from .attention_tiles import AttentionTile, attention_tile
from .attention_warps import WarpTile, warp_tile
from .elements import SUM
from .forms import Engine, FusedAttention, nominal


def attention_form(elements: Elements, node: Node, engine: Engine) -> FusedAttention:
    """The form of a kernel around ``attention_fused`` or ``attention_parts``."""
    q, k, v, *masks = node.inputs
    *batch, queries, _ = node.output.shape
    width = v.shape[-1]
    assert isinstance(width, int)
    is_part = node.op.name == "attention_parts"
    heads = tuple(Axis.of(f"p{place}", extent) for place, extent in enumerate(batch))
    row, column = Axis.of(f"p{len(batch)}", queries), Axis.of(f"p{len(batch) + 1}", width)
    key, depth = Axis.of("r0", k.shape[-2]), Axis.of("r1", q.shape[-1])
    at_heads = tuple(axis.position for axis in heads[is_part:])

    def read(value: Value, *index: Extent) -> Expr:
        places = (*at_heads, *index)[len(at_heads) + len(index) - value.type.rank :]
        own = [0 if e == 1 else i for e, i in zip(value.shape, places, strict=True)]
        return elements.element(value, own, None)

    def load(value: Value, *index: Extent) -> Load:
        found = read(value, *index)
        assert isinstance(found, Load), "what is copied has no formula"
        return found

    position = (*(axis.position for axis in heads), row.position, column.position)
    value = elements.element(elements.output, position, Argument(SUM, FLOAT32))
    mask = None
    if masks:
        element = read(masks[0], *(row.position, key.position))
        mask = masked(node, masks[0], element, row, key)
    return FusedAttention(
        heads, row, column, key, depth,
        load(q, row.position, depth.position), load(k, key.position, depth.position),
        load(v, key.position, column.position), mask, node.attrs, position, value,
        block_tile(node, engine), heads[0] if is_part else None, engine,
    )  # fmt: skip


def block_tile(node: Node, engine: Engine) -> AttentionTile | WarpTile:
    """The tile of attention as one kernel or in parts; on tensor cores there is none for
    the deepest heads, which selection rejects."""
    q, _, v, *mask = node.inputs
    *heads, queries, _ = whole_type(node).shape
    number = nominal(product(heads))
    depth, width = q.shape[-1], v.shape[-1]
    assert isinstance(depth, int) and isinstance(width, int)
    if engine is Engine.FFMA:
        return attention_tile(queries, number, width)
    tile = warp_tile(queries, number, depth, width, numbers_of_a_word(engine), bool(mask))
    assert tile is not None, "selection has asked whether there is one"
    return tile


def whole_type(node: Node) -> TensorType:
    """Of the outputs of an attention, whatever a node makes of it."""
    q, k, v, *mask = (value.type for value in node.inputs)
    return attention_type(q, k, v, mask)


def numbers_of_a_word(engine: Engine) -> int:
    """Of shared memory, as an engine reads operands there."""
    return 2 if engine is Engine.BF16 else 1


def masked(
    node: Node, mask: Value, value: Expr, row: Axis, key: Axis, fill: float | None = None
) -> Expr:
    """The score, ``Argument(SUM)``, behind the mask; rows and keys that are none read nothing.
    ``fill``: what is put where a bool is false, if not the node's own."""
    axes = (row, key)[2 - min(mask.type.rank, 2) :]
    # not by scalar.guarded, which takes for proved what holds in an axis
    conditions = tuple(
        extent - 1 - axis.position
        for extent, axis in zip(mask.shape[-2:], axes, strict=True)
        if extent != 1
    )
    zero = scalar.literal(0, mask.dtype)
    given = Guarded(conditions, value, zero) if conditions else value
    score = Argument(SUM, FLOAT32)
    if mask.dtype is BOOL:
        return scalar.select(
            given, score, scalar.literal(node.attrs.fill if fill is None else fill, FLOAT32)
        )
    return score + given


__all__ = ["attention_form", "block_tile", "masked", "numbers_of_a_word", "whole_type"]
