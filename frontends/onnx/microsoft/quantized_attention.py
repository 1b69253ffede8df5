"""QAttention -> the integer product of 8-bit rows and weights, and attention in float32."""

from __future__ import annotations

from typing import Final

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, INT32

from ..context import Context
from ..handler import HandlerTable
from ..matmul import product
from ..node import ModelNode
from .attention import APPENDED, self_attention
from .heads import refuse_flags

QUANTIZED_ATTENTION: Final = HandlerTable()


@QUANTIZED_ATTENTION.on("QAttention")
def quantized_attention(context: Context, node: ModelNode) -> list[Value | None]:
    """x, weights, bias, scales of both, mask, zero points of both, past; what belongs to the
    weights is one number, or one for each column.
    """
    refuse_flags(node, ("do_rotary", "past_present_share_buffer"), APPENDED)
    wide = []
    for position, zero_at in ((0, 6), (1, 7)):
        x, zero = context.cast(node.input(position), INT32), node.optional(zero_at)
        wide.append(
            x if zero is None else context("sub", x, _flat(context, context.cast(zero, INT32)))
        )
    rows = context.cast(product(context, node, *wide), FLOAT32)
    scale = context("mul", _flat(context, node.input(3)), _flat(context, node.input(4)))
    rows = context("add", context("mul", rows, scale), node.input(2))
    return self_attention(context, node, rows, (5, 8, 9))


def _flat(context: Context, parameter: Value) -> Value:
    """One number as a scalar, so that it adds no axis."""
    return context.reshape(parameter, ()) if parameter.type.elements == 1 else parameter
