"""ONNX Runtime's normalizations -> layer_norm, rms_norm and group_norm, with the sums before them
and the embeddings that they normalize.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT32

from ..context import Context
from ..handler import HandlerTable
from ..indexing import check_indices
from ..node import ModelNode
from ..normalization import layer_normalization, rms_normalization
from ..short_floats import widened
from .fused import channels_first, channels_last
from .quantized import dequantized_input

NORMALIZATION: Final = HandlerTable()
ADDED_NORMALIZATION: Final = HandlerTable()


@NORMALIZATION.on("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip_layer_norm(context: Context, node: ModelNode) -> list[Value | None]:
    """layer_norm (rms_norm: simplified) of input + skip + bias along the last axis; the sum is
    the fourth output.
    """
    is_simplified = node.op_type == "SkipSimplifiedLayerNormalization"
    x, skip, scale = node.input(0), node.input(1), node.input(2)
    beta, bias = (None, node.optional(3)) if is_simplified else (node.optional(3), node.optional(4))
    total = context("add", x, skip)
    total = total if bias is None else context("add", total, bias)
    size = total.shape[-1:]
    if total.shape != x.shape or scale.shape != size or (beta is not None and beta.shape != size):
        raise node.misshapen(
            f"skip is {skip.type} and its scale {scale.type} for {x.type}.", "Export it again."
        )
    attrs = {"axis": total.type.rank - 1, "epsilon": node.number("epsilon", 1e-12)}
    if is_simplified:
        return [context("rms_norm", total, scale, **attrs), None, None, total]
    plain = context.splat(0, x.dtype, size) if beta is None else beta
    return [context("layer_norm", total, scale, plain, **attrs), None, None, total]


def _normalized(
    context: Context, node: ModelNode, x: Value, scale: Value, beta: Value | None
) -> Value:
    """layer_norm along the last axis."""
    size = x.shape[-1:]
    if scale.shape != size or (beta is not None and beta.shape != size):
        raise node.misshapen(f"its scale is {scale.type} for {x.type}.", "Export it again.")
    plain = context.splat(0, x.dtype, size) if beta is None else beta
    epsilon = node.number("epsilon", 1e-12)
    return context("layer_norm", x, scale, plain, axis=x.type.rank - 1, epsilon=epsilon)


@NORMALIZATION.on("EmbedLayerNormalization")
def embed_layer_norm(context: Context, node: ModelNode) -> list[Value | None]:
    """ids, segments, their three tables, scale and shift, mask, positions."""
    tables = [node.optional(position) for position in (2, 3, 4)]
    return embedded(context, node, tables, (node.input(5), node.input(6)), node.optional(8))


@NORMALIZATION.on("QEmbedLayerNormalization")
def quantized_embed_layer_norm(context: Context, node: ModelNode) -> list[Value | None]:
    """EmbedLayerNormalization of five quantized tensors; behind the mask their scales, then their
    zero points.
    """
    real = [
        None
        if node.optional(position) is None
        else dequantized_input(context, node, position, position + 6, position + 11)
        for position in range(2, 7)
    ]
    *tables, scale, shift = real
    assert scale is not None and shift is not None
    return embedded(context, node, tables, (scale, shift), None)


def embedded(
    context: Context,
    node: ModelNode,
    tables: Sequence[Value | None],
    affine: tuple[Value, Value],
    positions: Value | None,
) -> list[Value | None]:
    """layer_norm(words[ids] + positions + segments[..]); the length of each row of the mask; the
    sum itself.
    """
    ids, segments, mask = node.input(0), node.optional(1), node.optional(7)
    words, places, kinds = tables
    if words is None or places is None or ids.type.rank != 2:
        raise node.misshapen(f"its ids are {ids.type}, or a table is missing.", "Export it again.")
    if positions is None:
        size = ids.shape[1]
        limit = places.shape[0]
        if isinstance(size, int) and isinstance(limit, int) and size > limit:
            raise node.misshapen(f"{size} ids for {limit} positions.", "Use shorter sequences.")
        taken = context.slice_axis(places, 0, 0, size)
    else:
        taken = _rows(context, node, places, positions)
    total = context("add", _rows(context, node, words, ids), taken)
    if segments is not None and kinds is not None:
        total = context("add", total, _rows(context, node, kinds, segments))
    lengths = (
        context.splat(0, INT32, ids.shape[:1])
        if mask is None
        else context("reduce_sum", context.cast(mask, INT32), axes=(1,), keep=False)
    )
    return [_normalized(context, node, total, *affine), lengths, total]


def _rows(context: Context, node: ModelNode, table: Value, ids: Value) -> Value:
    check_indices(context, node, ids, table.shape[0])
    return context("gather", table, ids, axis=0)


@NORMALIZATION.on("GroupNorm", "SkipGroupNorm")
def group_norm(context: Context, node: ModelNode) -> list[Value | None]:
    """group_norm of x (with a skip and a bias added: the second result), SiLU behind it where
    activation is 1; channels come last unless channels_last is 0.
    """
    x, scale, shift = (node.input(position) for position in range(3))
    for position in range(3, len(node.inputs)):
        given = node.optional(position)
        if given is not None:
            n, c = x.shape[0], x.shape[-1]
            spread = (
                context.reshape(given, (n, *(1,) * (x.type.rank - 2), c))
                if (given.type.rank == 2)
                else given
            )
            x = context("add", x, spread)
    is_last = node.flag("channels_last", True)
    inside = channels_first(context, x) if is_last else x
    groups, channels = node.integer("groups", 1), inside.shape[1]
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        raise node.misshapen(f"groups = {groups} does not divide {channels} channels.")
    if scale.shape != (channels,) or shift.shape != (channels,):
        raise node.misshapen(f"its scale is {scale.type} for {channels} channels.")
    affine = (context.cast(value, x.dtype) for value in (scale, shift))
    epsilon = node.number("epsilon", 1e-5)
    y = context("group_norm", inside, *affine, groups=groups, epsilon=epsilon)
    y = context("silu", y) if node.flag("activation", False) else y
    return [channels_last(context, y) if is_last else y, x]


# -- ops that ONNX Runtime adds to the standard's domain ---------------------------------------------


@ADDED_NORMALIZATION.on("SimplifiedLayerNormalization")
def simplified_layer_norm(context: Context, node: ModelNode) -> list[Value | None]:
    """x / sqrt(mean(x^2) + epsilon) * scale; the divisor's reciprocal is the second result."""
    x = node.input(0)
    y = rms_normalization(context, node)
    if not node.is_used(1):
        return [y]
    axis = node.axis(node.integer("axis", -1), x.type.rank)
    wide = widened(context, x)
    axes = tuple(range(axis, x.type.rank))
    square = context("reduce_mean", context("mul", wide, wide), axes=axes, keep=True)
    root = context("sqrt", context("add", square, node.number("epsilon", 1e-5)))
    return [y, context("reciprocal", root)]


@ADDED_NORMALIZATION.on("LayerNormalization", last=16)
def layer_norm_before_standard(context: Context, node: ModelNode) -> list[Value | None]:
    """The standard has it since opset 17."""
    return layer_normalization(context, node)
