"""ONNX's random ops -> random numbers by counter: the same ones in every run of a program.

Each draw has a key of its own, uint32[4]: 0, the number of the turn that a loop is in, the seed, and
the number of the draw. A node with a seed draws what any other of this seed and shape draws, as in
ONNX; if it is copied (a loop that is unrolled), its copies draw on. Nodes without a seed are counted
in the model's order. ONNX Runtime's numbers have the same distribution and other bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from netloom.compiler.dim import Dim, Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    UINT32,
    DType,
    TensorType,
)

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .sizes import check_size
from .tensors import check_shape, dtype_of

RANDOM_NUMBERS: Final = HandlerTable()
NO_SEED: Final = 0xFFFFFFFF  # as bits of a float32, no number
STRIDE: Final = 1_000_003  # between the turns of a loop around another


def _key(context: Context, node: ModelNode) -> Value:
    """The key of the next draw of a node."""
    seed, owner = NO_SEED, ""
    if "seed" in node.attributes:
        seed, owner = _seed(node), node.label
    draw = context.draws[seed, owner]
    context.draws[seed, owner] += 1
    if not context.turns:
        return context.constant(np.array([0, 0, seed, draw], np.uint32))
    turn = context.reshape(context.cast(_turn(context, context.turns), UINT32), (1,))
    words = [np.array([0], np.uint32), np.array([seed, draw], np.uint32)]
    first, rest = map(context.constant, words)
    return context("concat", first, turn, rest, axis=0)


def _seed(node: ModelNode) -> int:
    """Dropout's seed is an integer; that of others a float32, whose bits are taken."""
    if node.op_type == "Dropout":
        return node.integer("seed", 0) & 0xFFFFFFFF
    return int(np.array(node.number("seed", 0.0), np.float32).view(np.uint32))


def _turn(context: Context, turns: tuple[Dim, ...]) -> Value:
    """The turns of all loops around a node as one number below 2^32."""
    number = context.extent_value(turns[0])
    for turn in turns[1:]:
        inner = context.extent_value(turn)
        number = context("add", context("mul", number, STRIDE), inner)
        number = context("and", number, 0xFFFFFFFF)
    return context("and", number, 0xFFFFFFFF)


def _drawn(
    context: Context, node: ModelNode, op: str, shape: tuple[Extent, ...], dtype: DType = FLOAT32
) -> Value:
    """Numbers in float32, or in float64 for that dtype. They are not computed at import: training
    draws others in each step.
    """
    chosen = FLOAT64 if dtype is FLOAT64 else FLOAT32
    check_size(TensorType(chosen, shape))
    return context.builder(op, _key(context, node), shape=shape, dtype=chosen)


def _dtype(node: ModelNode, default: DType) -> DType:
    return dtype_of(node.integer("dtype", 0), node.title) if "dtype" in node.attributes else default


@RANDOM_NUMBERS.on("RandomNormal", "RandomUniform")
def random(context: Context, node: ModelNode) -> Value:
    shape = check_shape(node.integers("shape") or (), node.title)
    return _random(context, node, shape, _dtype(node, FLOAT32))


@RANDOM_NUMBERS.on("RandomNormalLike", "RandomUniformLike")
def random_like(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    return _random(context, node, x.shape, _dtype(node, x.dtype))


def _random(context: Context, node: ModelNode, shape: tuple[Extent, ...], dtype: DType) -> Value:
    """offset + scale * noise, rounded once to the dtype."""
    if not dtype.is_float:
        raise node.fault(f"it draws {dtype.value}; random numbers are floats.", "Give it a dtype.")
    if node.op_type.startswith("RandomNormal"):
        op, offset, scale = "random_normal", node.number("mean", 0.0), node.number("scale", 1.0)
    else:
        op, offset = "random_uniform", node.number("low", 0.0)
        scale = node.number("high", 1.0) - offset
    value = _drawn(context, node, op, shape, dtype)
    if scale != 1:
        value = context("mul", value, scale)
    if offset != 0:
        value = context("add", value, offset)
    return context.cast(value, dtype)


@RANDOM_NUMBERS.on("Bernoulli", first=15)
def bernoulli(context: Context, node: ModelNode) -> Value:
    """1 with the probability that each element is."""
    x = node.input(0)
    noise = _drawn(context, node, "random_uniform", x.shape, x.dtype)
    return context.cast(context("less", noise, context.cast(x, noise.dtype)), _dtype(node, x.dtype))


@RANDOM_NUMBERS.on("Multinomial", first=7)
def multinomial(context: Context, node: ModelNode) -> Value:
    """[n, classes], logarithms of probabilities less any number -> [n, samples] classes: as many as
    have a running sum of probabilities of u times the whole or less.
    """
    x = node.input(0)
    if x.type.rank != 2:
        raise node.misshapen(f"its input is {x.type}; [batch, classes] is needed.")
    dtype, samples = _dtype(node, INT32), node.integer("sample_size", 1)
    if samples < 1 or dtype not in (INT32, INT64):
        raise node.fault(f"it draws {samples} samples as {dtype.value}; 1 or more as int32 or int64 "
                         "are needed.", "Export it again.")  # fmt: skip
    n, classes = x.shape
    logarithms = context.cast(x, FLOAT64 if x.dtype is FLOAT64 else FLOAT32)
    largest = context("reduce_max", logarithms, axes=(1,), keep=True)
    sums = context("running_sum", context("exp", context("sub", logarithms, largest)))
    noise = _drawn(context, node, "random_uniform", (n, samples), sums.dtype)
    limit = context("mul", noise, context.slice_axis(sums, 1, classes - 1, 1))
    is_below = context("less_equal", context.reshape(sums, (n, 1, classes)),
                       context.reshape(limit, (n, samples, 1)))  # fmt: skip
    count = context("reduce_sum", context.cast(is_below, INT64), axes=(2,))
    return context.cast(context("min", count, context.extent_value(classes - 1)), dtype)


@RANDOM_NUMBERS.on("Dropout")
def dropout(context: Context, node: ModelNode) -> list[Value | None]:
    """The identity in inference, where the mask is all ones. In training mode, elements are zero
    with the probability ``ratio``, and the others divided by 1 - ratio.
    """
    x, training = node.input(0), node.optional(2)
    ratio = context.number(0.5, FLOAT32) if node.optional(1) is None else node.input(1)
    known_ratio = context.array(ratio)
    known = np.zeros(()) if training is None else context.array(training)
    if (known is not None and not known.any()) or (
        known_ratio is not None and not known_ratio.any()
    ):
        mask_dtype = BOOL if node.opset >= 10 else x.dtype
        return [x, context.splat(1, mask_dtype, x.shape) if node.is_used(1) else None]
    noise = _drawn(context, node, "random_uniform", x.shape)
    mask = context("less_equal", context.reshape(context.cast(ratio, FLOAT32), ()), noise)
    kept = context("sub", 1.0, context.reshape(context.cast(ratio, x.dtype), ()))
    y = context("select", mask, context("div", x, kept), 0.0)
    if known is None:
        is_training = context.reshape(node.input(2), ())
        y = context("select", is_training, y, x)
        mask = context("or", mask, context("not", is_training))
    return [y, mask]
