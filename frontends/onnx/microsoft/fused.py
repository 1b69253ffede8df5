"""Ops that ONNX Runtime's optimizer makes of several: an activation behind a product or a
convolution, a bias before an activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from netloom.compiler.graph import Value

from ..context import Context
from ..convolution import add_bias, convolved
from ..handler import HandlerTable
from ..matmul import gemm
from ..matmul import product as matrix_product
from ..node import ModelNode
from ..pooling import max_pool

FUSED: Final = HandlerTable()


@FUSED.on("Gelu", "BiasGelu", "FastGelu")
def gelu(context: Context, node: ModelNode) -> Value:
    """FastGelu is the approximation by tanh; a second input is a bias."""
    x, bias = node.input(0), node.optional(1)
    x = x if bias is None else context("add", x, bias)
    return context("gelu", x, approximate=node.op_type == "FastGelu")


@FUSED.on("QuickGelu")
def quick_gelu(context: Context, node: ModelNode) -> Value:
    """x * sigmoid(alpha * x)."""
    x = node.input(0)
    return context("mul", x, context("sigmoid", context("mul", x, node.number("alpha", 1.702))))


@FUSED.on("BiasSplitGelu")
def gated_gelu(context: Context, node: ModelNode) -> Value:
    """u * gelu(v) for the halves u, v of x + bias along the last axis."""
    x = context("add", node.input(0), node.input(1))
    width = x.shape[-1] if x.type.rank else 0
    if not isinstance(width, int) or width % 2:
        raise node.misshapen(f"its input is {x.type}; it needs two halves.", "Export it again.")
    axis, half = x.type.rank - 1, width // 2
    value, gate = (context.slice_axis(x, axis, start, half) for start in (0, half))
    return context("mul", value, context("gelu", gate))


@FUSED.on("BiasAdd")
def bias_add(context: Context, node: ModelNode) -> Value:
    """x + bias + skip."""
    return context("add", context("add", node.input(0), node.input(1)), node.input(2))


@FUSED.on("FusedMatMul", "TransposeMatMul")
def fused_matmul(context: Context, node: ModelNode) -> Value:
    """alpha * op(a) @ op(b)."""
    factors = []
    for position, side in enumerate("AB"):
        x = node.input(position)
        order = list(range(x.type.rank))
        if node.flag(f"transBatch{side}", False) and x.type.rank > 2:
            order = [*order[1:-1], 0, order[-1]]  # rows stand before the batch axes
        if node.flag(f"trans{side}", False) and x.type.rank > 1:
            order[-2:] = order[:-3:-1]
        factors.append(context.transpose(x, order))
    alpha = node.number("alpha", 1.0)
    value = matrix_product(context, node, *factors)
    return value if alpha == 1 else context("mul", value, alpha)


@FUSED.on("GemmFastGelu")
def product_and_gelu(context: Context, node: ModelNode) -> Value:
    """gelu(x @ w + bias), approximated by tanh."""
    value, bias = matrix_product(context, node, node.input(0), node.input(1)), node.optional(2)
    value = value if bias is None else context("add", value, bias)
    return context("gelu", value, approximate=True)


@FUSED.on("FusedConv")
def fused_conv(context: Context, node: ModelNode) -> Value:
    """activation(conv + bias + z)."""
    return _convolved(context, node, node.input(0), node.input(1), node.optional(3))


@FUSED.on("NhwcConv", "NhwcFusedConv")
def conv_of_rows(context: Context, node: ModelNode) -> Value:
    """FusedConv whose channels come last, in the weights too: [o, kernel.., c / group]."""
    x, w, z = node.input(0), node.input(1), node.optional(3)
    if x.type.rank != w.type.rank:
        raise node.misshapen(f"its input is {x.type} and its weights are {w.type}.")
    z = None if z is None else channels_first(context, z)
    image, weights = (channels_first(context, value) for value in (x, w))
    return channels_last(context, _convolved(context, node, image, weights, z))


def _convolved(context: Context, node: ModelNode, x: Value, w: Value, z: Value | None) -> Value:
    value = convolved(context, node, x, w)
    value = add_bias(context, node, value, value.shape[1])
    value = value if z is None else context("add", value, z)
    return _activated(context, node, value, node.numbers("activation_params") or ())


@FUSED.on("FusedGemm")
def fused_gemm(context: Context, node: ModelNode) -> Value:
    """activation(Gemm)."""
    given = [f"activation_{name}" for name in ("alpha", "beta", "gamma")]
    parameters = [node.number(name, 0.0) for name in given if name in node.attributes]
    return _activated(context, node, gemm(context, node), parameters)


# ONNX name -> op and its attributes, in the order of the parameters
ACTIVATIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "": ("", ()), "Relu": ("relu", ()), "Tanh": ("tanh", ()), "Sigmoid": ("sigmoid", ()),
    "Softplus": ("softplus", ()), "LeakyRelu": ("leaky_relu", ("slope",)),
    "Elu": ("elu", ("alpha",)),
    "Clip": ("clip", ("lo", "hi")), "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
}  # fmt: skip


def _activated(context: Context, node: ModelNode, x: Value, parameters: Sequence[float]) -> Value:
    """The activation that an attribute names."""
    op, fields = ACTIVATIONS[node.text("activation", "", tuple(ACTIVATIONS))]
    if len(parameters) < len(fields):
        raise node.fault(
            f"its activation has {len(parameters)} numbers; {len(fields)} are needed.",
            "Export it again.",
        )
    return context(op, x, **dict(zip(fields, parameters, strict=False))) if op else x


@FUSED.on("NhwcMaxPool")
def max_pool_of_rows(context: Context, node: ModelNode) -> Value:
    """MaxPool whose channels come last."""
    rank = node.input(0).type.rank
    inside = replace(node, inputs=(channels_first(context, node.input(0)),), outputs=("y",))
    if rank < 3:
        raise node.misshapen(f"its input is {node.input(0).type}; channels must follow an image.")
    pooled, *_ = max_pool(context, inside)
    assert pooled is not None
    return channels_last(context, pooled)


def channels_first(context: Context, x: Value) -> Value:
    """[n, spatial.., c] -> [n, c, spatial..]."""
    rank = x.type.rank
    return context.transpose(x, (0, rank - 1, *range(1, rank - 1)) if rank > 2 else range(rank))


def channels_last(context: Context, x: Value) -> Value:
    """[n, c, spatial..] -> [n, spatial.., c]."""
    rank = x.type.rank
    return context.transpose(x, (0, *range(2, rank), 1) if rank > 2 else range(rank))
