"""GroupQueryAttention and RotaryEmbedding -> attention whose heads share keys, with keys and values
of earlier steps at places that the data say.

Row b has seqlens_k[b] + 1 keys in all; those of earlier steps come first. Where as many keys as
queries are said to be in all (a prompt), there are none before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT64

from ..context import Context
from ..handler import HandlerTable
from ..node import ModelNode
from .heads import (
    bias_of,
    heads_of,
    join_heads,
    refuse_flags,
    refuse_inputs,
    scale_of,
    split_heads,
    total,
)

GROUPED_ATTENTION: Final = HandlerTable()

PLAIN: Final = "Export the model without quantized keys and values, or further results."


@GROUPED_ATTENTION.on("RotaryEmbedding")
def rotary_embedding(context: Context, node: ModelNode) -> Value:
    """x [b, s, heads * d] or [b, heads, s, d], positions [b, s] or one first position, cosines and
    sines [positions, r / 2]: each pair of the first r numbers of a head is turned.
    """
    refuse_flags(node, ("is_packed_batching",), "Export with batches of equal length.")
    x, positions, tables = node.input(0), node.input(1), (node.input(2), node.input(3))
    if x.type.rank not in (3, 4) or any(table.type.rank != 2 for table in tables):
        raise node.misshapen(f"its input is {x.type}, with a table {tables[0].type}.")
    heads = x if x.type.rank == 4 else split_heads(context, node, x, _heads(node, x, tables[0]))
    places = positions
    if positions.type.rank < 2:
        first = context.reshape(context.cast(positions, INT64), (1, 1))
        line = context("iota", shape=(1, heads.shape[2]), axis=1, dtype=INT64)
        places = context("add", line, first)
    turned = _rotated(context, node, heads, places, tables, node.flag("interleaved", False))
    return turned if x.type.rank == 4 else join_heads(context, turned)


def _heads(node: ModelNode, x: Value, table: Value) -> int:
    """Where the whole of each head is turned, the table says how deep it is."""
    if node.integer("rotary_embedding_dim", 0):
        return heads_of(node)
    width, half = x.shape[-1], table.shape[1]
    if not isinstance(width, int) or not isinstance(half, int) or width % max(2 * half, 1):
        raise node.misshapen(f"its input is {x.type} for a table {table.type}.", "Export it again.")
    return width // (2 * half)


def _rotated(
    context: Context, node: ModelNode, x: Value, places: Value, tables: tuple[Value, Value],
    is_interleaved: bool,
) -> Value:  # fmt: skip
    """x [b, heads, s, d], each pair (u, v) of its first numbers as (u c - v s, u s + v c); pairs
    are neighbours, or half the turned numbers apart.
    """
    half, (b, heads, s, depth) = tables[0].shape[1], x.shape
    if not (isinstance(half, int) and isinstance(depth, int)) or 2 * half > depth:
        raise node.misshapen(f"its table is {tables[0].type} for {x.type}.", "Export it again.")
    pair = (half, 2) if is_interleaved else (2, half)
    axis = 4 if is_interleaved else 3
    cosine, sine = (
        context.reshape(row, (row.shape[0], 1, s, half))
        for row in (context("gather", table, places, axis=0) for table in tables)
    )
    turned = context.reshape(context.slice_axis(x, 3, 0, 2 * half), (b, heads, s, *pair))
    u, v = (
        context.reshape(context.slice_axis(turned, axis, part, 1), (b, heads, s, half))
        for part in (0, 1)
    )
    parts = [
        context("sub", context("mul", u, cosine), context("mul", v, sine)),
        context("add", context("mul", u, sine), context("mul", v, cosine)),
    ]
    shape = (b, heads, s, half, 1) if is_interleaved else (b, heads, s, 1, half)
    joined = context("concat", *(context.reshape(part, shape) for part in parts), axis=axis)
    result = context.reshape(joined, (b, heads, s, 2 * half))
    if 2 * half == depth:
        return result
    rest = context.slice_axis(x, 3, 2 * half, depth - 2 * half)
    return context("concat", result, rest, axis=3)


@GROUPED_ATTENTION.on("GroupQueryAttention")
def group_query_attention(context: Context, node: ModelNode) -> list[Value | None]:
    """query [b, s, heads * d] (or with keys and values behind them), key and value, their past
    [b, groups, p, d], keys of each row less one, keys in all, cosines and sines, positions, numbers
    added to the scores, a score without value for each head.
    """
    refuse_inputs(node, {12: "k_scale", 13: "v_scale"}, PLAIN)
    refuse_flags(node, ("qk_output",), PLAIN)
    heads, groups = heads_of(node), heads_of(node, "kv_num_heads")
    if heads % groups:
        raise node.fault(f"{groups} groups do not divide {heads} heads.", "Export it again.")
    q, k, v = _operands(context, node, heads, groups)
    steps = _Steps.of(context, node, q.shape[2])
    if node.flag("do_rotary", False):
        tables, places = (node.input(7), node.input(8)), node.optional(9)
        places = steps.places(context) if places is None else places
        is_interleaved = node.flag("rotary_interleaved", False)
        q, k = (_rotated(context, node, x, places, tables, is_interleaved) for x in (q, k))
    present = [steps.present(context, node, position, new) for position, new in ((3, k), (4, v))]
    y = _grouped(context, node, q, present, steps, groups)
    return [join_heads(context, y), *present]


def _operands(
    context: Context, node: ModelNode, heads: int, groups: int
) -> tuple[Value, Value, Value]:
    """[b, heads, s, d], twice [b, groups, s, d]."""
    rows, k, v = node.input(0), node.optional(1), node.optional(2)
    if k is None or v is None:
        width = rows.shape[-1] if rows.type.rank == 3 else 0
        if not isinstance(width, int) or not width or width % (heads + 2 * groups):
            raise node.misshapen(f"its packed input is {rows.type}.", "Export it again.")
        depth = width // (heads + 2 * groups)
        sizes = (heads * depth, groups * depth, groups * depth)
        starts = (0, sizes[0], sizes[0] + sizes[1])
        rows, k, v = (
            context.slice_axis(rows, 2, start, size)
            for start, size in zip(starts, sizes, strict=True)
        )
    return (
        split_heads(context, node, rows, heads),
        split_heads(context, node, k, groups),
        split_heads(context, node, v, groups),
    )


@dataclass(frozen=True)
class _Steps:
    """Where the new keys stand: ``keys`` in all, ``past`` [b] of them earlier (None: none)."""

    batch: Extent
    new: Extent
    keys: Extent
    past: Value | None

    @staticmethod
    def of(context: Context, node: ModelNode, new: Extent) -> _Steps:
        (in_all,) = context.extents(node.input(6), node, "total_sequence_length")
        batch = node.input(0).shape[0]
        if in_all == new:
            return _Steps(batch, new, new, None)
        last = context.cast(context.reshape(node.input(5), (batch,)), INT64)
        earlier = context("sub", last, context.extent_value(new - 1))
        return _Steps(batch, new, in_all, earlier)

    def places(self, context: Context) -> Value:
        """[b, s]: the position of each new key."""
        line = context("iota", shape=(1, self.new), axis=1, dtype=INT64)
        if self.past is None:
            return line
        return context("add", line, context.reshape(self.past, (self.batch, 1)))

    def present(self, context: Context, node: ModelNode, position: int, new: Value) -> Value:
        """[b, groups, keys, d]: those of the past, then the new ones."""
        old = node.optional(position)
        if self.past is None:
            if old is not None and old.shape[2] not in (0, self.new):
                self._refuse(node, old)
            return new
        if old is None or old.type.rank != 4:
            raise node.fault(f"input {position} is missing, or of another rank.", "Export again.")
        length = old.shape[2]
        if self.keys not in (length, length + self.new):
            self._refuse(node, old)
        both = context("concat", old, new, axis=2)
        place = context("iota", shape=(1, self.keys), axis=1, dtype=INT64)
        past = context.reshape(self.past, (self.batch, 1))
        behind = context("sub", place, past)
        zero, last = context.number(0, INT64), context.extent_value(self.new - 1)
        inside = context("min", context("max", behind, zero), last)
        source = context("add", inside, context.extent_value(length))
        index = context("select", context("less", behind, zero), place, source)
        shape = (*both.shape[:2], self.keys, both.shape[3])
        spread = context(
            "broadcast", context.reshape(index, (self.batch, 1, self.keys, 1)), shape=shape
        )
        return context("gather_elements", both, spread, axis=2)

    def _refuse(self, node: ModelNode, old: Value) -> None:
        raise node.unsupported(
            f"its past has {old.shape[2]} keys, for {self.new} new ones of {self.keys} in all.",
            "Fix the dims such that past and new keys are all keys (dims=, --dim).",
        )

    def seen(self, context: Context, window: int) -> Value:
        """[b or 1, 1, s, keys]: whether a query sees a key: none behind it, and none ``window`` or
        more before it.
        """
        place = context("iota", shape=(1, 1, 1, self.keys), axis=3, dtype=INT64)
        own = self.places(context)
        own = context.reshape(own, (own.shape[0], 1, self.new, 1))
        seen = context("less_equal", place, own)
        if window <= 0:
            return seen
        near = context("less", context("sub", own, context.number(window, INT64)), place)
        return context("and", seen, near)


def _grouped(
    context: Context, node: ModelNode, q: Value, present: list[Value], steps: _Steps, groups: int
) -> Value:
    """Attention [b, heads, s, d]; heads / groups heads beside each other share keys and values."""
    b, heads, s, depth = q.shape
    share = heads // groups
    k, v = (context.reshape(x, (b, groups, 1, *x.shape[2:])) for x in present)
    rows = context.reshape(q, (b, groups, share, s, depth))
    window, added = node.integer("local_window_size", -1), node.optional(10)
    scale, cap = scale_of(node, q), node.number("softcap", 0.0)
    has_sink = node.integer("smooth_softmax", 0) > 0 or node.optional(11) is not None
    is_plain = not cap and not has_sink and added is None
    if is_plain and window <= 0 and steps.past is None:
        y = context("attention", rows, k, v, scale=scale, is_causal=True)
        return context.reshape(y, q.shape)
    bias = bias_of(context, steps.seen(context, window), -inf, q.dtype)
    bias = context.reshape(bias, (bias.shape[0], 1, *bias.shape[1:]))
    if added is not None:
        bias = total(context, [bias, _by_group(context, added, groups, share)])
    if is_plain or not (cap or has_sink):
        y = context("attention", rows, k, v, bias, scale=scale)
    else:
        y = _capped(context, node, (rows, k, v), bias, scale, cap, groups)
    return context.reshape(y, q.shape)


def _by_group(context: Context, added: Value, groups: int, share: Extent) -> Value:
    """[b or 1, heads or 1, s, keys] with an axis of groups."""
    b, heads, *rest = added.shape
    return context.reshape(added, (b, *((1, 1) if heads == 1 else (groups, share)), *rest))


def _capped(
    context: Context, node: ModelNode, operands: tuple[Value, Value, Value], bias: Value,
    scale: float, cap: float, groups: int,
) -> Value:  # fmt: skip
    """softmax(cap tanh(scale q k' / cap) + bias) v, whose sums hold exp(sink) too."""
    q, k, v = operands
    scores = context("mul", context("matmul", q, k, transpose_b=True), scale)
    if cap:
        scores = context("mul", context("tanh", context("mul", scores, 1 / cap)), cap)
    scores, axes = context("add", scores, bias), (q.type.rank - 1,)
    largest = context("reduce_max", scores, axes=axes, keep=True)
    sink, is_smooth = node.optional(11), node.integer("smooth_softmax", 0) > 0
    if sink is None and not is_smooth:
        weights = context("softmax", scores, axis=axes[0])
        return context("matmul", weights, v)
    zero = context.number(0.0, q.dtype)
    alone = zero if sink is None else context.reshape(sink, (groups, q.shape[2], 1, 1))
    largest = context("max", largest, alone)
    power = context("exp", context("sub", scores, largest))
    total_power = context("reduce_sum", power, axes=axes, keep=True)
    divisor = context("add", total_power, context("exp", context("sub", alone, largest)))
    return context("matmul", context("div", power, divisor), v)
