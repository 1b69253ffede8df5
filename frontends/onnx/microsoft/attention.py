"""Attention and MultiHeadAttention -> attention, with the keys and values of earlier steps before
the new ones.
"""

from __future__ import annotations

from typing import Final

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value

from ..context import Context
from ..handler import HandlerTable
from ..matmul import product
from ..node import ModelNode
from .heads import (
    attended,
    heads_of,
    join_heads,
    mask_bias,
    refuse_flags,
    refuse_inputs,
    scale_of,
    split_heads,
)

ATTENTION: Final = HandlerTable()

APPENDED: Final = (
    "Export the model with keys and values of the past in tensors of their own length."
)


@ATTENTION.on("Attention")
def attention(context: Context, node: ModelNode) -> list[Value | None]:
    """x [b, s, c], weights [c, q + k + v], bias [q + k + v], mask, past [2, b, heads, p, d],
    numbers added to the scores.
    """
    refuse_flags(node, ("do_rotary", "past_present_share_buffer"), APPENDED)
    rows, bias = product(context, node, node.input(0), node.input(1)), node.optional(2)
    rows = rows if bias is None else context("add", rows, bias)
    return self_attention(context, node, rows, (3, 4, 5))


def self_attention(
    context: Context, node: ModelNode, rows: Value, positions: tuple[int, int, int]
) -> list[Value | None]:
    """Attention among rows [b, s, q + k + v]: the result [b, s, v], and the keys and values of
    past and present [2, b, heads, p + s, d]. ``positions``: of mask, past and added numbers.
    """
    heads = heads_of(node)
    mask, past, added = (node.optional(position) for position in positions)
    if rows.type.rank != 3:
        raise node.misshapen(f"its input is {node.input(0).type}; three axes are needed.")
    q, k, v = (split_heads(context, node, part, heads) for part in _thirds(context, node, rows))
    before: Extent = 0
    if past is not None:
        _check_past(node, past, k)
        before = past.shape[3]
        old = [context.slice_axis(past, 0, which, 1) for which in (0, 1)]
        k, v = (
            context("concat", context.reshape(o, past.shape[1:]), new, axis=2)
            for o, new in zip(old, (k, v), strict=True)
        )
    bias = [] if mask is None else [mask_bias(context, node, mask, k.shape[2], q.dtype)]
    bias += [] if added is None else [added]
    y = attended(
        context, q, k, v, bias, scale_of(node, q), before, node.flag("unidirectional", False)
    )
    present = None
    if node.is_used(1):
        pair = [context.reshape(part, (1, *part.shape)) for part in (k, v)]
        present = context("concat", *pair, axis=0)
    return [join_heads(context, y), present]


def _thirds(context: Context, node: ModelNode, rows: Value) -> list[Value]:
    """Queries, keys and values side by side: equal parts, or qkv_hidden_sizes."""
    width = rows.shape[-1]
    given = node.integers("qkv_hidden_sizes")
    if not isinstance(width, int) or (given is None and width % 3):
        raise node.misshapen(f"its queries, keys and values are {rows.type}.", "Export it again.")
    sizes = (width // 3,) * 3 if given is None else given
    if len(sizes) != 3 or sum(sizes) != width or min(sizes) < 1:
        raise node.misshapen(
            f"qkv_hidden_sizes is {list(sizes)} for {width} columns.", "Export it again."
        )
    starts = (0, sizes[0], sizes[0] + sizes[1])
    return [
        context.slice_axis(rows, 2, start, size) for start, size in zip(starts, sizes, strict=True)
    ]


def _check_past(node: ModelNode, past: Value, k: Value) -> None:
    b, heads, _, depth = k.shape
    fits = past.type.rank == 5 and past.shape[:3] == (2, b, heads) and past.shape[4] == depth
    if not fits:
        raise node.misshapen(f"its past is {past.type} for keys {k.type}.", "Export it again.")


@ATTENTION.on("MultiHeadAttention")
def multi_head_attention(context: Context, node: ModelNode) -> list[Value | None]:
    """query, key, value, bias, mask of keys, numbers added to the scores, past keys and values
    [b, heads, p, d].
    """
    refuse_inputs(node, {8: "past_sequence_length", 9: "cache_indirection"}, APPENDED)
    heads, added, mask = heads_of(node), node.optional(5), node.optional(4)
    q, k, v = _operands(context, node, heads)
    before: Extent = 0
    past = (node.optional(6), node.optional(7))
    if past[0] is not None and past[1] is not None:
        before = past[0].shape[2]
        k, v = context("concat", past[0], k, axis=2), context("concat", past[1], v, axis=2)
    bias = [] if mask is None else [mask_bias(context, node, mask, k.shape[2], q.dtype)]
    bias += [] if added is None else [added]
    y = attended(
        context, q, k, v, bias, scale_of(node, q), before, node.flag("unidirectional", False)
    )
    return [join_heads(context, y), k, v]


def _operands(context: Context, node: ModelNode, heads: int) -> tuple[Value, Value, Value]:
    """Queries, keys and values as [b, heads, s, d], with their biases.

    Queries are [b, s, w]; keys and values too, or both [b, heads, l, d] (complete, without bias).
    All may be one tensor [b, s, heads, 3, d], or keys and values [b, l, heads, 2, d].
    """
    q, k, v = node.input(0), node.optional(1), node.optional(2)
    if q.type.rank == 5:
        rows = _unpacked(context, node, q, heads, 3)
    elif k is not None and k.type.rank == 5:
        rows = [q, *_unpacked(context, node, k, heads, 2)]
    elif k is None or v is None:
        raise node.misshapen(f"its queries are {q.type}, without keys or values.", "Export again.")
    elif k.type.rank == 4:
        (query,) = _with_bias(context, node, [q])
        return split_heads(context, node, query, heads), k, v
    else:
        rows = [q, k, v]
    query, key, value = (
        split_heads(context, node, x, heads) for x in _with_bias(context, node, rows)
    )
    return query, key, value


def _unpacked(context: Context, node: ModelNode, x: Value, heads: int, count: int) -> list[Value]:
    """[b, s, heads, count, d] -> ``count`` times [b, s, heads * d]."""
    b, s, own, parts, depth = x.shape
    if (own, parts) != (heads, count):
        raise node.misshapen(
            f"its packed input is {x.type} for {heads} heads of {count} parts.", "Export it again."
        )
    return [
        context.reshape(context.slice_axis(x, 3, part, 1), (b, s, heads * depth))
        for part in range(count)
    ]


def _with_bias(context: Context, node: ModelNode, rows: list[Value]) -> list[Value]:
    """Rows plus their parts of the bias, which lie behind each other."""
    bias = node.optional(3)
    if bias is None:
        return rows
    widths = [x.shape[-1] for x in rows]
    start: Extent = 0
    result = []
    for x, width in zip(rows, widths, strict=True):
        result.append(context("add", x, context.slice_axis(bias, 0, start, width)))
        start = start + width
    return result
