"""QuantizeLinear and its kin -> elementwise ops; integers meet as int32."""

from __future__ import annotations

from typing import Final

import numpy as np

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, INT32, UINT8, DType

from .context import Context
from .handler import HandlerTable
from .matmul import product
from .node import ModelNode
from .tensors import dtype_of

QUANTIZATION: Final = HandlerTable()


def _aligned(context: Context, node: ModelNode, x: Value, parameter: Value) -> Value:
    """A scale or zero point shaped to broadcast: one number, or one for each element of ``axis``."""
    if node.opset >= 21 and node.integer("block_size", 0):
        raise node.unsupported("its scales are blocked (block_size).", "Quantize per tensor or per axis.")
    if parameter.type.rank == 0 or parameter.shape == (1,):
        return context.reshape(parameter, ())
    axis = node.axis(node.integer("axis", 1), x.type.rank)
    if parameter.shape != (x.shape[axis],):
        raise node.misshapen(f"a parameter is {parameter.type} for axis {axis} of {x.type}.", "Export it again.")
    return context.per_channel(parameter, x.type.rank, axis)


@QUANTIZATION.on("DequantizeLinear", first=10)
def dequantize(context: Context, node: ModelNode) -> Value:
    """(x - zero_point) * scale."""
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    wide = context.cast(x, INT32)
    if zero is not None:
        wide = context("sub", wide, context.cast(_aligned(context, node, x, zero), INT32))
    return context("mul", context.cast(wide, scale.dtype), _aligned(context, node, x, scale))


@QUANTIZATION.on("QuantizeLinear", first=10)
def quantize(context: Context, node: ModelNode) -> Value:
    """saturate(round(x / scale) + zero_point), halves to even."""
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    target = UINT8 if zero is None else zero.dtype
    if zero is None and node.opset >= 21 and node.integer("output_dtype", 0):
        target = dtype_of(node.integer("output_dtype", 0), f"{node.title}: the result")
    if not target.is_integer or target.bytes > 2:
        raise node.unsupported(f"it quantizes to {target.value}.", "Quantize to 8 or 16 bits.")
    scaled = context("div", context.cast(x, scale.dtype), _aligned(context, node, x, scale))
    shifted = context("round", context.cast(scaled, FLOAT32))
    if zero is not None:
        shifted = context("add", shifted, context.cast(_aligned(context, node, x, zero), FLOAT32))
    return context.cast(_saturated(context, shifted, target), target)


def _saturated(context: Context, x: Value, target: DType) -> Value:
    info = np.iinfo(target.numpy)
    return context("clip", x, lo=float(info.min), hi=float(info.max))


@QUANTIZATION.on("MatMulInteger", first=10)
def matmul_integer(context: Context, node: ModelNode) -> Value:
    """The product of (a - zero point of a) and (b - zero point of b) in int32."""
    operands = []
    for position in range(2):
        value, zero = context.cast(node.input(position), INT32), node.optional(position + 2)
        if zero is not None:
            wide = context.cast(zero, INT32)
            is_column = position == 0 and zero.type.rank == 1 and zero.shape != (1,)
            value = context("sub", value, context.reshape(wide, (*wide.shape, 1)) if is_column else wide)
        operands.append(value)
    return product(context, node, *operands)
