"""ONNX Runtime's own ops (domain com.microsoft) that its optimizer and quantizer write into models
-> ops of the graph.

The standard has no schemas of them, so everything is checked here. Their meaning is that of ONNX
Runtime's kernels.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, INT32, UINT8

from .context import Context
from .convolution import add_bias, convolved
from .handler import HandlerTable
from .matmul import product as matrix_product
from .node import ModelNode
from .pooling import average_pool_of
from .quantization import quantized_value

MICROSOFT: Final = HandlerTable()


# -- quantized ops ---------------------------------------------------------------------------------


def _real(context: Context, node: ModelNode, position: int) -> Value:
    """The tensor, scale and zero point from a position on, as float32: (x - zero) * scale."""
    x, scale, zero = node.input(position), node.input(position + 1), node.optional(position + 2)
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


@MICROSOFT.on("QLinearAdd", "QLinearMul")
def quantized_binary(context: Context, node: ModelNode) -> Value:
    op = "add" if node.op_type == "QLinearAdd" else "mul"
    return _quantized(
        context, node, context(op, _real(context, node, 0), _real(context, node, 3)), 6
    )


@MICROSOFT.on("QLinearSigmoid")
def quantized_sigmoid(context: Context, node: ModelNode) -> Value:
    return _quantized(context, node, context("sigmoid", _real(context, node, 0)), 3)


@MICROSOFT.on("QLinearLeakyRelu")
def quantized_leaky_relu(context: Context, node: ModelNode) -> Value:
    return _quantized(
        context,
        node,
        context("leaky_relu", _real(context, node, 0), slope=node.number("alpha", 0.01)),
        3,
    )


@MICROSOFT.on("QLinearGlobalAveragePool")
def quantized_global_average(context: Context, node: ModelNode) -> Value:
    x = _real(context, node, 0)
    if x.type.rank < 3:
        raise node.misshapen(f"its input is {x.type}; batch, channel and spatial axes are needed.")
    first = 1 if node.flag("channels_last", False) else 2
    axes = tuple(range(first, x.type.rank - 2 + first))
    return _quantized(context, node, context("reduce_mean", x, axes=axes, keep=True), 3)


@MICROSOFT.on("QLinearAveragePool")
def quantized_average(context: Context, node: ModelNode) -> Value:
    if node.flag("channels_last", False):
        raise node.unsupported(
            "channels_last is not supported.", "Quantize without layout changes."
        )
    return _quantized(context, node, average_pool_of(context, node, _real(context, node, 0)), 3)


@MICROSOFT.on("QLinearConcat")
def quantized_concat(context: Context, node: ModelNode) -> Value:
    """Scale and zero point of the result, then three inputs for each tensor."""
    if len(node.inputs) % 3 != 2 or len(node.inputs) < 5:
        raise node.fault(f"it has {len(node.inputs)} inputs.", "Export it again.")
    parts = [_real(context, node, position) for position in range(2, len(node.inputs), 3)]
    axis = node.axis(node.integer("axis", 0), parts[0].type.rank)
    return _quantized(
        context, node, context("concat", *parts, axis=axis) if len(parts) > 1 else parts[0], 0
    )


@MICROSOFT.on("QGemm")
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


@MICROSOFT.on("MatMulIntegerToFloat")
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


MOST_BITS: Final = 8


@MICROSOFT.on("MatMulNBits")
def matmul_of_blocks(context: Context, node: ModelNode) -> Value:
    """a [.., k] times the transpose of weights [n, k] of 2, 4 or 8 bits, scaled by block; these
    are unpacked at import.
    """
    a, bias = node.input(0), node.optional(5)
    k, n, block = (node.integer(name, 0) for name in ("K", "N", "block_size"))
    bits = node.integer("bits", 4)
    packed, scales, zeros = (
        context.array(value) for value in (node.input(1), node.input(2), node.optional(3))
    )
    if (
        packed is None
        or scales is None
        or (node.optional(3) is not None and zeros is None)
        or node.optional(4) is not None
    ):
        raise node.unsupported(
            "its weights are computed, or reordered.",
            "Make them initializers, without group indices.",
        )
    if (
        bits not in (2, 4, 8)
        or block < 16
        or block % 16
        or k < 1
        or n < 1
        or packed.dtype != np.uint8
    ):
        raise node.fault(
            f"K = {k}, N = {n}, block_size = {block} and {bits} bits are impossible.",
            "Export it again.",
        )
    blocks = -(-k // block)
    if (
        packed.size != n * blocks * block * bits // 8
        or scales.size != n * blocks
        or a.shape[-1:] != (k,)
    ):
        raise node.misshapen(
            f"its weights are {node.input(1).type} and scales {node.input(2).type}.",
            "Export it again.",
        )
    weights = _unpacked(packed.reshape(n, blocks, -1), bits)[..., :block].astype(np.float32)
    shift = _zero_points(node, zeros, n, blocks, bits)
    real = (weights - shift) * scales.reshape(n, blocks, 1).astype(np.float32)
    matrix = context.constant(real.reshape(n, blocks * block)[:, :k], a.dtype)
    value = matrix_product(context, node, a, context.transpose(matrix, (1, 0)))
    return value if bias is None else context("add", value, bias)


def _unpacked(data: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Bytes [.., m] as numbers [.., m * 8 / bits], the lowest bits first."""
    shifts = np.arange(0, MOST_BITS, bits, dtype=np.uint8)
    numbers = data[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return np.asarray(numbers.reshape(*data.shape[:-1], -1))


def _zero_points(
    node: ModelNode, zeros: npt.NDArray[Any] | None, n: int, blocks: int, bits: int
) -> Any:
    """[n, blocks, 1], or the middle of the range."""
    if zeros is None:
        return np.float32(1 << (bits - 1))
    if zeros.dtype == np.uint8:
        if zeros.size != n * -(-blocks * bits // 8):
            raise node.misshapen(f"its zero points have {zeros.size} bytes.", "Export it again.")
        zeros = _unpacked(zeros.reshape(n, -1), bits)[:, :blocks]
    if zeros.size != n * blocks:
        raise node.misshapen(
            f"it has {zeros.size} zero points for {n} x {blocks} blocks.", "Export it again."
        )
    return zeros.reshape(n, blocks, 1).astype(np.float32)


# -- fused ops -------------------------------------------------------------------------------------


@MICROSOFT.on("Gelu", "BiasGelu", "FastGelu")
def gelu(context: Context, node: ModelNode) -> Value:
    """FastGelu is the approximation by tanh; a second input is a bias."""
    x, bias = node.input(0), node.optional(1)
    x = x if bias is None else context("add", x, bias)
    return context("gelu", x, approximate=node.op_type == "FastGelu")


@MICROSOFT.on("QuickGelu")
def quick_gelu(context: Context, node: ModelNode) -> Value:
    """x * sigmoid(alpha * x)."""
    x = node.input(0)
    return context("mul", x, context("sigmoid", context("mul", x, node.number("alpha", 1.702))))


@MICROSOFT.on("FusedMatMul")
def fused_matmul(context: Context, node: ModelNode) -> Value:
    """alpha * op(a) @ op(b)."""
    if node.flag("transBatchA", False) or node.flag("transBatchB", False):
        raise node.unsupported(
            "transposed batches are not supported.", "Export without ONNX Runtime's optimizations."
        )
    factors = []
    for position, name in enumerate(("transA", "transB")):
        x = node.input(position)
        order = list(range(x.type.rank))
        if node.flag(name, False) and x.type.rank > 1:
            order[-2:] = order[:-3:-1]
        factors.append(context.transpose(x, order))
    alpha = node.number("alpha", 1.0)
    value = matrix_product(context, node, *factors)
    return value if alpha == 1 else context("mul", value, alpha)


@MICROSOFT.on("FusedConv")
def fused_conv(context: Context, node: ModelNode) -> Value:
    """activation(conv + bias + z)."""
    value = convolved(context, node, node.input(0), node.input(1))
    value = add_bias(context, node, value, value.shape[1])
    z = node.optional(3)
    return _activated(context, node, value if z is None else context("add", value, z))


def _activated(context: Context, node: ModelNode, x: Value) -> Value:
    parameters = node.numbers("activation_params") or ()
    names: dict[str, tuple[str, tuple[str, ...]]] = {
        "": ("", ()), "Relu": ("relu", ()), "Tanh": ("tanh", ()), "Sigmoid": ("sigmoid", ()),
        "LeakyRelu": ("leaky_relu", ("slope",)),
        "Clip": ("clip", ("lo", "hi")), "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
    }  # fmt: skip
    op, fields = names[node.text("activation", "", tuple(names))]
    if len(parameters) < len(fields):
        raise node.fault(
            f"activation_params has {len(parameters)} numbers; {len(fields)} are needed.",
            "Export it again.",
        )
    return context(op, x, **dict(zip(fields, parameters, strict=False))) if op else x


@MICROSOFT.on("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
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
