"""DynamicQuantizeLSTM -> an LSTM whose products are of integers: weights of 8 bits, and what they are
multiplied by, rounded anew to 256 steps (all inputs at once, the state in each step).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, INT32

from ..context import Context
from ..handler import HandlerTable
from ..matmul import product as matrix_product
from ..node import ModelNode
from ..recurrent import direction_part, recurrent_layer
from ..recurrent_cells import Times
from .quantized import dynamically_quantized

QUANTIZED_LSTM: Final = HandlerTable()
SCALES: Final = {1: 8, 2: 10}  # position of weights -> of their scale; the zero point follows it
LSTM_OPSET: Final = 7  # whose LSTM has these attributes


@QUANTIZED_LSTM.on("DynamicQuantizeLSTM")
def quantized_lstm(context: Context, node: ModelNode) -> list[Value | None]:
    """Weights are [directions, k, 4 h], with a scale for each direction, or for each column."""

    def times_of(position: int, direction: int) -> Times:
        weights = direction_part(context, node.input(position), direction)
        scale, zero = (
            None if value is None else _of_columns(context, node, value, weights, direction)
            for value in (node.input(SCALES[position]), node.optional(SCALES[position] + 1))
        )
        assert scale is not None
        return _times(node, weights, scale, zero)

    layer = replace(node, op_type="LSTM", domain="", opset=LSTM_OPSET)
    return recurrent_layer(context, layer, times_of, is_transposed=True)


def _of_columns(
    context: Context, node: ModelNode, value: Value, weights: Value, direction: int
) -> Value:
    """A number for all columns of a direction's weights, or one for each."""
    part = value if not value.type.rank else direction_part(context, value, direction)
    if part.shape not in ((), (1,), weights.shape[1:]):
        raise node.misshapen(
            f"a scale or zero point is {value.type} for weights {weights.type} of a direction.",
            "Quantize it again.",
        )
    return part


def _times(node: ModelNode, weights: Value, scale: Value, zero: Value | None) -> Times:
    """The products by all columns: (a - za) (w - zw) * sa * sw."""

    def times(context: Context, x: Value, _first: int, _count: int) -> Value:
        a, a_scale, a_zero = dynamically_quantized(context, x)
        b = context.cast(weights, INT32)
        b = b if zero is None else context("sub", b, context.cast(zero, INT32))
        total = matrix_product(context, node, context("sub", a, a_zero), b)
        return context("mul", context.cast(total, FLOAT32), context("mul", a_scale, scale))

    return times
