"""ONNX Runtime's ops of 8-bit tensors -> their meaning in float32 or int32, with the rounding at
the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, INT32, UINT8

from ..context import Context
from ..handler import HandlerTable
from ..matmul import product as matrix_product
from ..node import ModelNode
from ..normalization import softmax, softmax_of_matrix
from ..pooling import average_pool_of
from ..quantization import dequantize, quantize, quantized_conv, quantized_value
from .fused import channels_first, channels_last

QUANTIZED: Final = HandlerTable()
QUANTIZED.on("QuantizeLinear")(quantize)
QUANTIZED.on("DequantizeLinear")(dequantize)


def real_value(context: Context, node: ModelNode, position: int) -> Value:
    """The tensor, scale and zero point from a position on, as float32."""
    return dequantized_input(context, node, position, position + 1, position + 2)


def dequantized_input(
    context: Context, node: ModelNode, x_at: int, scale_at: int, zero_at: int
) -> Value:
    """(x - zero) * scale as float32, of the inputs at three positions."""
    x, scale, zero = node.input(x_at), node.input(scale_at), node.optional(zero_at)
    if scale.type.elements != 1 or (zero is not None and zero.type.elements != 1):
        raise node.unsupported(
            "a scale or zero point has several elements.", "Quantize each tensor as a whole."
        )
    return _dequantized(
        context, x, context.reshape(scale, ()), None if zero is None else context.reshape(zero, ())
    )


def _dequantized(context: Context, x: Value, scale: Value, zero: Value | None) -> Value:
    wide = context.cast(x, INT32)
    wide = wide if zero is None else context("sub", wide, context.cast(zero, INT32))
    return context("mul", context.cast(wide, FLOAT32), context.cast(scale, FLOAT32))


def _quantized(context: Context, node: ModelNode, y: Value, position: int) -> Value:
    """saturate(round(y / scale) + zero), scale and zero point from a position on."""
    scale, zero = context.reshape(node.input(position), ()), node.optional(position + 1)
    target = UINT8 if zero is None else zero.dtype
    shift = context.number(0, target) if zero is None else context.reshape(zero, ())
    return quantized_value(context, node, y, scale, shift)


@QUANTIZED.on("QLinearAdd", "QLinearMul")
def quantized_binary(context: Context, node: ModelNode) -> Value:
    op = "add" if node.op_type == "QLinearAdd" else "mul"
    return _quantized(
        context, node, context(op, real_value(context, node, 0), real_value(context, node, 3)), 6
    )


@QUANTIZED.on("QLinearSigmoid")
def quantized_sigmoid(context: Context, node: ModelNode) -> Value:
    return _quantized(context, node, context("sigmoid", real_value(context, node, 0)), 3)


@QUANTIZED.on("QLinearLeakyRelu")
def quantized_leaky_relu(context: Context, node: ModelNode) -> Value:
    return _quantized(
        context,
        node,
        context("leaky_relu", real_value(context, node, 0), slope=node.number("alpha", 0.01)),
        3,
    )


@QUANTIZED.on("QLinearGlobalAveragePool")
def quantized_global_average(context: Context, node: ModelNode) -> Value:
    x = real_value(context, node, 0)
    if x.type.rank < 3:
        raise node.misshapen(f"its input is {x.type}; batch, channel and spatial axes are needed.")
    first = 1 if node.flag("channels_last", False) else 2
    axes = tuple(range(first, x.type.rank - 2 + first))
    return _quantized(context, node, context("reduce_mean", x, axes=axes, keep=True), 3)


@QUANTIZED.on("QLinearAveragePool")
def quantized_average(context: Context, node: ModelNode) -> Value:
    x = real_value(context, node, 0)
    if node.flag("channels_last", False):
        y = channels_last(context, average_pool_of(context, node, channels_first(context, x)))
    else:
        y = average_pool_of(context, node, x)
    return _quantized(context, node, y, 3)


@QUANTIZED.on("QLinearConcat")
def quantized_concat(context: Context, node: ModelNode) -> Value:
    """Scale and zero point of the result, then three inputs for each tensor."""
    if len(node.inputs) % 3 != 2 or len(node.inputs) < 5:
        raise node.fault(f"it has {len(node.inputs)} inputs.", "Export it again.")
    parts = [real_value(context, node, position) for position in range(2, len(node.inputs), 3)]
    axis = node.axis(node.integer("axis", 0), parts[0].type.rank)
    return _quantized(
        context, node, context("concat", *parts, axis=axis) if len(parts) > 1 else parts[0], 0
    )


@QUANTIZED.on("QGemm")
def quantized_gemm(context: Context, node: ModelNode) -> Value:
    """alpha * (a - za) (b - zb) * sa * sb + the int32 c of that scale; float32 where there is no
    scale of the result.
    """
    a, b = (context.cast(node.input(position), INT32) for position in (0, 3))
    if a.type.rank != 2 or b.type.rank != 2:
        raise node.misshapen(
            f"it multiplies {a.type} by {b.type}; matrices are needed.", "Export it again."
        )
    a_zero, b_zero = node.optional(2), node.optional(5)
    transposes = {
        "transpose_a": node.flag("transA", False),
        "transpose_b": node.flag("transB", False),
    }
    a = a if a_zero is None else context("sub", a, context.cast(context.reshape(a_zero, ()), INT32))
    if b_zero is not None:
        zero = context.cast(b_zero, INT32)
        is_column = transposes["transpose_b"] and b_zero.type.elements != 1
        b = context("sub", b, context.reshape(zero, (*zero.shape, 1)) if is_column else zero)
    total, c = context("matmul", a, b, **transposes), node.optional(6)
    total = total if c is None else context("add", total, context.cast(c, INT32))
    scale = context("mul", context.reshape(node.input(1), ()), node.input(4))
    y = context(
        "mul", context.cast(total, FLOAT32), context("mul", scale, node.number("alpha", 1.0))
    )
    return y if node.optional(7) is None else _quantized(context, node, y, 7)


@QUANTIZED.on("MatMulIntegerToFloat")
def matmul_to_float(context: Context, node: ModelNode) -> Value:
    """a, b, their scales, zero points, and a bias: (a - za) (b - zb) * sa * sb + bias."""
    factors = []
    for position in range(2):
        wide, zero = context.cast(node.input(position), INT32), node.optional(4 + position)
        factors.append(wide if zero is None else context("sub", wide, context.cast(zero, INT32)))
    total = context.cast(matrix_product(context, node, *factors), FLOAT32)
    y = context("mul", total, context("mul", node.input(2), node.input(3)))
    bias = node.optional(6)
    return y if bias is None else context("add", y, bias)


@QUANTIZED.on("DynamicQuantizeMatMul")
def dynamic_matmul(context: Context, node: ModelNode) -> Value:
    """a, b, scale and zero point of b, bias: a is rounded to 256 steps between its extremes."""
    a, a_scale, a_zero = dynamically_quantized(context, node.input(0))
    b, b_zero = context.cast(node.input(1), INT32), node.optional(3)
    b = b if b_zero is None else context("sub", b, context.cast(b_zero, INT32))
    total = matrix_product(context, node, context("sub", a, a_zero), b)
    y = context("mul", context.cast(total, FLOAT32), context("mul", a_scale, node.input(2)))
    bias = node.optional(4)
    return y if bias is None else context("add", y, bias)


def dynamically_quantized(context: Context, x: Value) -> tuple[Value, Value, Value]:
    """DynamicQuantizeLinear: x as integers 0 to 255 (int32), the scale, the zero point (int32)."""
    axes, steps = tuple(range(x.type.rank)), 255.0
    high = context("clip", context("reduce_max", x, axes=axes, keep=False), lo=0.0)
    low = context("clip", context("reduce_min", x, axes=axes, keep=False), hi=0.0)
    is_flat = context("equal", high, low)
    step = context("div", context("sub", high, low), steps)
    scale = context("select", is_flat, context.number(1.0, FLOAT32), step)
    zero = context("round", context("neg", context("div", low, scale)))
    zero = context("clip", zero, lo=0.0, hi=steps)
    rounded = context("add", context("round", context("div", x, scale)), zero)
    return (
        context.cast(context("clip", rounded, lo=0.0, hi=steps), INT32),
        scale,
        context.cast(zero, INT32),
    )


@QUANTIZED.on("QLinearSoftmax")
def quantized_softmax(context: Context, node: ModelNode) -> Value:
    """Attribute opset: before 13, the input is a matrix, split at axis."""
    opset = node.integer("opset", 13)
    x = _real_of(node, real_value(context, node, 0))
    kept = {name: a for name, a in node.attributes.items() if name == "axis"}
    inside = replace(x, op_type="Softmax", opset=opset, attributes=kept)
    rule = softmax if opset >= 13 else softmax_of_matrix
    return _quantized(context, node, rule(context, inside), 3)


def _real_of(node: ModelNode, *inputs: Value) -> ModelNode:
    """The node with other inputs."""
    return replace(node, inputs=inputs)


@QUANTIZED.on("QLinearWhere")
def quantized_where(context: Context, node: ModelNode) -> Value:
    """condition ? x : y, each with scale and zero point."""
    picked = context(
        "select", node.input(0), real_value(context, node, 1), real_value(context, node, 4)
    )
    return _quantized(context, node, picked, 7)


@QUANTIZED.on("QLinearConv")
def quantized_conv_of_rows(context: Context, node: ModelNode) -> Value:
    """QLinearConv; with channels_last its input and result are [n, spatial.., c]."""
    if not node.flag("channels_last", False):
        return quantized_conv(context, node)
    x, *others = node.inputs
    assert isinstance(x, Value)
    inside = replace(node, inputs=(channels_first(context, x), *others))
    return channels_last(context, quantized_conv(context, inside))
