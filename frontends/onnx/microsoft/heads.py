"""What ONNX Runtime's attention ops have in common: heads, and numbers added to their scores.

Rows of queries and keys are [b, s, heads * depth]; attention takes [b, heads, s, depth].
"""

from __future__ import annotations

from math import inf, sqrt

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, INT64, DType

from ..context import Context
from ..node import ModelNode


def heads_of(node: ModelNode, name: str = "num_heads") -> int:
    """The number of heads, at least 1."""
    heads = node.integer(name, 0)
    if heads < 1:
        raise node.fault(f"attribute {name} is {heads}; it must be at least 1.", "Export it again.")
    return heads


def split_heads(context: Context, node: ModelNode, x: Value, heads: int) -> Value:
    """[b, s, heads * d] -> [b, heads, s, d]."""
    width = x.shape[-1] if x.type.rank == 3 else 0
    if not isinstance(width, int) or width < heads or width % heads:
        raise node.misshapen(f"{x.type} has no {heads} heads in its last axis.", "Export it again.")
    rows = context.reshape(x, (*x.shape[:2], heads, width // heads))
    return context.transpose(rows, (0, 2, 1, 3))


def join_heads(context: Context, x: Value) -> Value:
    """[b, heads, s, d] -> [b, s, heads * d]."""
    b, heads, s, d = x.shape
    return context.reshape(context.transpose(x, (0, 2, 1, 3)), (b, s, heads * d))


def scale_of(node: ModelNode, q: Value) -> float:
    """The attribute scale, else 1 / sqrt(depth)."""
    depth = q.shape[-1]
    if not isinstance(depth, int) or depth < 1:
        raise node.unsupported("the depth of its heads is a free dim.", "Fix it (dims=, --dim).")
    return node.number("scale", 0.0) or 1 / sqrt(depth)


def attended(
    context: Context, q: Value, k: Value, v: Value, added: list[Value], scale: float, past: Extent,
    is_causal: bool,
) -> Value:  # fmt: skip
    """softmax(scale q k' + added) v; causal, query i sees the keys up to ``past`` + i."""
    queries, keys = q.shape[-2], k.shape[-2]
    hides = is_causal and not (queries == 1 and keys == past + 1)
    if hides and past != 0:
        seen = causal_condition(context, queries, keys, past)
        added = [*added, bias_of(context, seen, -inf, q.dtype)]
    mask = [total(context, added)] if added else []
    return context("attention", q, k, v, *mask, scale=scale, is_causal=hides and past == 0)


def total(context: Context, parts: list[Value]) -> Value:
    """The sum of broadcast values."""
    result, *others = parts
    for part in others:
        result = context("add", result, part)
    return result


def causal_condition(context: Context, queries: Extent, keys: Extent, past: Extent) -> Value:
    """[queries, keys]: whether key <= past + query."""
    shape = (queries, keys)
    place = context("iota", shape=shape, axis=0, dtype=INT64)
    place = context("add", place, context.extent_value(past)) if past != 0 else place
    return context("less_equal", context("iota", shape=shape, axis=1, dtype=INT64), place)


def bias_of(context: Context, seen: Value, fill: float, dtype: DType) -> Value:
    """0 where a condition holds, else ``fill``."""
    if dtype.bytes < 4 and fill < -6e4:
        fill = -inf if fill == -inf else -6e4
    return context("select", seen, context.number(0.0, dtype), context.number(fill, dtype))


def mask_bias(context: Context, node: ModelNode, mask: Value, keys: Extent, dtype: DType) -> Value:
    """A mask of keys as numbers to add to [b, heads, s, keys]: 0 or mask_filter_value.

    [b]: number of keys; [2 b]: ends, then starts; [b, keys] or [b, s, keys]: 1 to keep, 0 to hide.
    """
    fill = node.number("mask_filter_value", -10000.0)
    match mask.type.rank:
        case 1:
            return bias_of(context, _between(context, node, mask, keys), fill, dtype)
        case 2 | 3 if mask.shape[-1] == keys:
            seen = (
                mask if mask.dtype is BOOL else context("less", context.number(0, mask.dtype), mask)
            )
            shape = (mask.shape[0], 1, *((1,) if mask.type.rank == 2 else ()), *mask.shape[1:])
            return bias_of(context, context.reshape(seen, shape), fill, dtype)
    raise node.unsupported(
        f"its mask is {mask.type} for {keys} keys.",
        "Give lengths [batch], or a mask [batch, keys] or [batch, queries, keys].",
    )


def _between(context: Context, node: ModelNode, mask: Value, keys: Extent) -> Value:
    """[b, 1, 1, keys]: whether a key lies before the row's end, and not before its start."""
    batch = node.input(0).shape[0]
    place = context("iota", shape=(keys,), axis=0, dtype=INT64)
    bounds = context.cast(mask, INT64)
    ends = context.slice_axis(bounds, 0, 0, batch)
    seen = context("less", place, context.reshape(ends, (batch, 1, 1, 1)))
    if mask.shape == (batch,):
        return seen
    if mask.shape != (2 * batch,):
        raise node.unsupported(
            f"its mask is {mask.type} for a batch of {batch}.", "Give lengths [batch]."
        )
    starts = context.reshape(context.slice_axis(bounds, 0, batch, batch), (batch, 1, 1, 1))
    return context("and", seen, context("less_equal", starts, place))


def refuse_inputs(node: ModelNode, names: dict[int, str], hint: str) -> None:
    """UnsupportedOpError for optional inputs that change the meaning."""
    for position, name in names.items():
        if node.optional(position) is not None:
            raise node.unsupported(f"its input {name} is not supported.", hint)


def refuse_flags(node: ModelNode, names: tuple[str, ...], hint: str) -> None:
    """UnsupportedOpError for attributes that are set."""
    for name in names:
        if node.integer(name, 0) > 0:
            raise node.unsupported(f"its attribute {name} is not supported.", hint)
