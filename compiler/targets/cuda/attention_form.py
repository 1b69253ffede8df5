"""A kernel around attention -> the form ``FusedAttention``: what is read where, and the tile.

Views of queries, keys and values are part of the reads; the mask is a formula of the score.
"""

from __future__ import annotations

from ... import scalar
from ...dim import Extent
from ...graph import Node, Value
from ...loops.elements import Axis, Elements
from ...loops.ir import Load
from ...scalar import Argument, Expr, Guarded
from ...tensor_type import BOOL, FLOAT32
from .attention_tiles import attention_tile
from .elements import SUM
from .forms import FusedAttention, count, nominal


def attention_form(elements: Elements, node: Node) -> FusedAttention:
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
    masked = None
    if masks:
        masked = _masked(node, masks[0], read(masks[0], *(row.position, key.position)), row, key)
    return FusedAttention(
        heads, row, column, key, depth,
        load(q, row.position, depth.position), load(k, key.position, depth.position),
        load(v, key.position, column.position), masked, node.attrs, position, value,
        attention_tile(queries, nominal(count(heads[is_part:])), width),
        heads[0] if is_part else None,
    )  # fmt: skip


def _masked(node: Node, mask: Value, value: Expr, row: Axis, key: Axis) -> Expr:
    """The score, ``Argument(SUM)``, behind the mask; rows and keys that are none read nothing."""
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
        return scalar.select(given, score, scalar.literal(node.attrs.fill, FLOAT32))
    return score + given


__all__ = ["attention_form"]
