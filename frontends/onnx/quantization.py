"""QuantizeLinear and its kin -> elementwise ops, and products and convolutions of int32, which
are exact.
"""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np

from netloom.compiler import dim
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, INT32, UINT8, DType

from .context import Context
from .convolution import convolved
from .dequantized import Dequantized
from .handler import HandlerTable
from .matmul import product
from .node import ModelNode
from .short_floats import widened
from .tensors import NARROW, Narrow, dtype_of

QUANTIZATION: Final = HandlerTable()


def _aligned(context: Context, node: ModelNode, x: Value, parameter: Value) -> Value:
    """A scale or zero point shaped to broadcast: one number, or one for each element of
    ``axis``.
    """
    if block := node.integer("block_size", 0):
        return _blocked(context, node, x, parameter, block)
    if parameter.type.rank == 0 or parameter.shape == (1,):
        return context.reshape(parameter, ())
    axis = node.axis(node.integer("axis", 1), x.type.rank)
    if parameter.shape != (x.shape[axis],):
        raise node.misshapen(
            f"a parameter is {parameter.type} for axis {axis} of {x.type}.", "Export it again."
        )
    return context.per_channel(parameter, x.type.rank, axis)


def _blocked(context: Context, node: ModelNode, x: Value, parameter: Value, block: int) -> Value:
    """Each entry repeated ``block`` times along the axis; the last block may be shorter."""
    axis = node.axis(node.integer("axis", 1), x.type.rank)
    expected = (
        tuple(dim.ceil_div(e, block) if k == axis else e for k, e in enumerate(x.shape))
        if block > 0
        else ()
    )
    if parameter.shape != expected:
        raise node.misshapen(f"a parameter is {parameter.type} for blocks of {block} along axis {axis} of {x.type}.",
                             "Export it again.")  # fmt: skip
    lead, count, rest = expected[:axis], expected[axis], expected[axis + 1 :]
    column = context.reshape(parameter, (*lead, count, 1, *rest))
    spread = context("broadcast", column, shape=(*lead, count, block, *rest))
    whole = context.reshape(spread, (*lead, count * block, *rest))
    return context.slice_axis(whole, axis, 0, x.shape[axis])


@QUANTIZATION.on("DequantizeLinear", first=10)
def dequantize(context: Context, node: ModelNode) -> Value:
    """(x - zero_point) * scale, of short scales rounded once: float16 holds no integers of 16 bits."""
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    working = x.dtype if x.dtype.is_float else INT32
    wide = context.cast(x, working)
    if zero is not None:
        wide = context("sub", wide, context.cast(_aligned(context, node, x, zero), working))
    factor = widened(context, _aligned(context, node, x, scale))
    exact = context("mul", context.cast(wide, factor.dtype), factor)
    number = node.integer("output_dtype", 0)
    dtype = dtype_of(number, f"{node.title}: the result") if number else scale.dtype
    result = context.cast(exact, dtype)
    is_blocked = scale.type.rank > 1
    if working is INT32 and scale.dtype is dtype is FLOAT32 and not is_blocked:
        has_several = any(p is not None and p.type.elements != 1 for p in (scale, zero))
        axis = node.axis(node.integer("axis", 1), x.type.rank) if has_several else 0
        context.dequantized[result] = Dequantized(x, wide, zero, scale, axis)
    return result


@QUANTIZATION.on("QuantizeLinear", first=10)
def quantize(context: Context, node: ModelNode) -> Value:
    """saturate(round(x / scale) + zero_point), halves to even."""
    x, zero = node.input(0), node.optional(2)
    target, narrow = _target(context, node, zero)
    if not target.is_integer or target.bytes > 2:
        raise node.unsupported(
            f"it quantizes to {narrow.name if narrow else target.value}.",
            "Quantize to integers of 16 bits or less.",
        )
    shifted = context.cast(context("round", _quotient(context, node, x)), FLOAT32)
    if zero is not None:
        shifted = context("add", shifted, context.cast(_aligned(context, node, x, zero), FLOAT32))
    if narrow is None:
        return context.cast(_saturated(context, shifted, target), target)
    info = ml_dtypes.iinfo(narrow.numpy)
    result = context.cast(context("clip", shifted, lo=float(info.min), hi=float(info.max)), target)
    context.narrow[result] = narrow
    return result


def _target(context: Context, node: ModelNode, zero: Value | None) -> tuple[DType, Narrow | None]:
    """The dtype of the result, and what it carries if that is narrower."""
    if zero is not None:
        return zero.dtype, context.narrow.get(zero)
    number = node.integer("output_dtype", 0)
    if (narrow := NARROW.get(number)) is not None:
        return narrow.carrier, narrow
    return (dtype_of(number, f"{node.title}: the result") if number else UINT8), None


def _quotient(context: Context, node: ModelNode, x: Value) -> Value:
    """x / scale in the dtype that the attribute precision names, else in the scale's. Integers are
    divided in float32.
    """
    scale = _aligned(context, node, x, node.input(1))
    number = node.integer("precision", 0)
    dtype = dtype_of(number, f"{node.title}: its precision") if number else scale.dtype
    if not dtype.is_float or (x.dtype.is_integer and dtype.bytes < FLOAT32.bytes):
        dtype = FLOAT32
    return context("div", context.cast(x, dtype), context.cast(scale, dtype))


def quantized_value(
    context: Context, node: ModelNode, y: Value, scale: Value, zero: Value
) -> Value:
    """saturate(round(y / scale) + zero) of float32 numbers, in the zero point's dtype."""
    target = zero.dtype
    if not target.is_integer or target.bytes > 2:
        raise node.unsupported(f"it quantizes to {target.value}.", "Quantize to 8 or 16 bits.")
    rounded = context("round", context("div", y, context.cast(scale, FLOAT32)))
    return context.cast(
        _saturated(context, context("add", rounded, context.cast(zero, FLOAT32)), target), target
    )


def _saturated(context: Context, x: Value, target: DType) -> Value:
    info = np.iinfo(target.numpy)
    return context("clip", x, lo=float(info.min), hi=float(info.max))


@QUANTIZATION.on("MatMulInteger", first=10)
def matmul_integer(context: Context, node: ModelNode) -> Value:
    """The product of (a - zero point of a) and (b - zero point of b) in int32."""
    a = _centred_rows(context, node, node.input(0), node.optional(2))
    return product(context, node, a, _centred(context, node.input(1), node.optional(3)))


def _centred(context: Context, x: Value, zero: Value | None) -> Value:
    """x - zero in int32; zero broadcasts."""
    wide = context.cast(x, INT32)
    return wide if zero is None else context("sub", wide, context.cast(zero, INT32))


def _centred_rows(context: Context, node: ModelNode, x: Value, zero: Value | None) -> Value:
    """Of the left factor: a vector of zero points is one for each row."""
    return _centred(context, x, None if zero is None else _per_row(context, zero))


def _per_row(context: Context, parameter: Value) -> Value:
    is_column = parameter.type.rank == 1 and parameter.shape != (1,)
    return context.reshape(parameter, (*parameter.shape, 1)) if is_column else parameter


@QUANTIZATION.on("QLinearMatMul", first=10)
def quantized_matmul(context: Context, node: ModelNode) -> Value:
    """a, its scale and zero point, b, likewise, then scale and zero point of the result."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (node.input(k) for k in range(8))
    total = product(
        context, node, _centred_rows(context, node, a, a_zero), _centred(context, b, b_zero)
    )
    scale = context("mul", _flat(context, _per_row(context, a_scale)), _flat(context, b_scale))
    return requantized(context, node, total, scale, _flat(context, _per_row(context, y_scale)),
                       _flat(context, _per_row(context, y_zero)))  # fmt: skip


def _flat(context: Context, parameter: Value) -> Value:
    """One number as a scalar, so that it adds no axis."""
    return context.reshape(parameter, ()) if parameter.type.elements == 1 else parameter


def requantized(
    context: Context, node: ModelNode, total: Value, scale: Value, y_scale: Value, y_zero: Value
) -> Value:
    """saturate(round(total * scale / y_scale) + y_zero)."""
    target = y_zero.dtype
    if not target.is_integer or target.bytes > 2:
        raise node.unsupported(f"it quantizes to {target.value}.", "Quantize to 8 or 16 bits.")
    factor = context("div", context.cast(scale, FLOAT32), context.cast(y_scale, FLOAT32))
    rounded = context("round", context("mul", context.cast(total, FLOAT32), factor))
    shifted = context("add", rounded, context.cast(y_zero, FLOAT32))
    return context.cast(_saturated(context, shifted, target), target)


@QUANTIZATION.on("ConvInteger", first=10)
def conv_integer(context: Context, node: ModelNode) -> Value:
    """int32; the border is padded with x's zero point."""
    return _integer_conv(
        context, node, node.input(0), node.input(1), node.optional(2), node.optional(3)
    )


def _integer_conv(
    context: Context,
    node: ModelNode,
    x: Value,
    w: Value,
    x_zero: Value | None,
    w_zero: Value | None,
) -> Value:
    if x_zero is not None and x_zero.type.elements != 1:
        raise node.misshapen(f"the zero point of its input is {x_zero.type}; one number is needed.")
    x = _centred(context, x, None if x_zero is None else context.reshape(x_zero, ()))
    return convolved(context, node, x, _centred(context, w, _per_filter(context, node, w_zero, w)))


def _per_filter(
    context: Context, node: ModelNode, parameter: Value | None, w: Value
) -> Value | None:
    """One number, or one for each filter, shaped to broadcast over the weights."""
    if parameter is None or parameter.type.elements == 1:
        return None if parameter is None else context.reshape(parameter, ())
    if parameter.shape != w.shape[:1]:
        raise node.misshapen(
            f"a parameter of the weights is {parameter.type} for {w.type}.", "Export it again."
        )
    return context.reshape(parameter, (*parameter.shape, *(1,) * (w.type.rank - 1)))


@QUANTIZATION.on("QLinearConv", first=10)
def quantized_conv(context: Context, node: ModelNode) -> Value:
    """x, its scale and zero point, w, likewise (per filter too), those of the result, and an
    int32 bias.
    """
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (node.input(k) for k in range(8))
    total = _integer_conv(context, node, x, w, x_zero, w_zero)
    bias = node.optional(8)
    if bias is not None:
        if bias.shape != (total.shape[1],):
            raise node.misshapen(
                f"its bias is {bias.type} for {total.shape[1]} channels.", "Export it again."
            )
        total = context(
            "add", total, context.per_channel(context.cast(bias, INT32), total.type.rank)
        )
    scale = _per_filter(context, node, w_scale, w)
    assert scale is not None
    if scale.type.rank:  # [o, 1, ..] -> [o, 1, ..] without the batch axis
        scale = context.per_channel(w_scale, total.type.rank)
    scale = context("mul", scale, context.reshape(x_scale, ()))
    return requantized(
        context, node, total, scale, context.reshape(y_scale, ()), context.reshape(y_zero, ())
    )
