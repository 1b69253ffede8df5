"""ONNX's elementwise ops -> elementwise ops of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import numpy as np
from onnx import TensorProto

from netloom.compiler.dim import is_nonnegative, maximum, minimum
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, FLOAT64, DType

from .bounds import truncated_quotient
from .context import Context
from .handler import HandlerTable
from .node import Item, ModelNode
from .ratios import Ratio
from .short_floats import widened
from .tensors import dtype_of

ELEMENTWISE: Final = HandlerTable()
LARGEST: Final = 3.4028234663852886e38  # of float32

# -- one ONNX op, one op of ours -------------------------------------------------------------------

UNARY: Final = {
    "Abs": "abs", "Ceil": "ceil", "Cos": "cos", "Erf": "erf", "Exp": "exp", "Floor": "floor", "IsNaN": "is_nan",
    "Log": "log", "Neg": "neg", "Not": "not", "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round",
    "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Softplus": "softplus", "Softsign": "softsign",
    "Sqrt": "sqrt", "Tanh": "tanh", "BitwiseNot": "not", "Acos": "acos", "Asin": "asin", "Atan": "atan", "Sinh": "sinh",
    "Acosh": "acosh", "Asinh": "asinh", "Atanh": "atanh",
}  # fmt: skip

FOLDED_UNARY: Final[dict[str, Callable[[Any], Any]]] = {
    "Neg": lambda x: -x,
    "Not": lambda x: 1 - x,
    "Floor": np.frompyfunc(Ratio.floor, 1, 1),
    "Ceil": np.frompyfunc(Ratio.ceil, 1, 1),
}


@ELEMENTWISE.on(*UNARY)
def unary(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    if node.op_type == "Abs" and not x.dtype.is_signed:
        return x
    value = context(UNARY[node.op_type], x)
    folded = FOLDED_UNARY.get(node.op_type)
    return value if folded is None else context.learn(value, folded, x)


BINARY: Final = {
    "Add": "add", "And": "and", "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor", "Div": "div",
    "Equal": "equal", "Less": "less", "LessOrEqual": "less_equal", "Mul": "mul", "Or": "or", "Sub": "sub", "Xor": "xor",
}  # fmt: skip
SWAPPED: Final = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}


def _certainly_equal(x: Any, y: Any) -> bool:
    """Equality of extents where it is decided; ValueError where it depends on the free dims."""
    difference = x - y
    if isinstance(difference, int):
        return difference == 0
    if is_nonnegative(difference - 1) or is_nonnegative(-difference - 1):
        return False
    raise ValueError("undecided")


def _certainly_less(x: Any, y: Any) -> bool:
    """Likewise."""
    difference = y - x
    if isinstance(difference, int):
        return difference > 0
    if is_nonnegative(difference - 1) or is_nonnegative(-difference):
        return bool(is_nonnegative(difference - 1))
    raise ValueError("undecided")


FOLDED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "Add": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
    "Mul": lambda x, y: x * y,
    "Div": np.frompyfunc(truncated_quotient, 2, 1),
    "Equal": np.frompyfunc(_certainly_equal, 2, 1),
    "Less": np.frompyfunc(_certainly_less, 2, 1),
    "LessOrEqual": np.frompyfunc(lambda x, y: not _certainly_less(y, x), 2, 1),
    "And": np.minimum,
    "Or": np.maximum,
}


@ELEMENTWISE.on(*BINARY, *SWAPPED)
def binary(context: Context, node: ModelNode) -> Value:
    x, y = node.input(0), node.input(1)
    if node.opset < 7:
        y = legacy_broadcast(context, node, x, y)
    op_type = SWAPPED.get(node.op_type, node.op_type)
    x, y = (y, x) if node.op_type in SWAPPED else (x, y)
    value = context(BINARY[op_type], x, y)
    folded = FOLDED.get(op_type)
    return value if folded is None else context.learn(value, folded, x, y)


def legacy_broadcast(context: Context, node: ModelNode, x: Value, y: Value) -> Value:
    """Before opset 7, y broadcast only if asked to, its axes placed at ``axis``."""
    if not node.flag("broadcast", False):
        if x.shape != y.shape:
            raise node.misshapen(f"{x.type} and {y.type} differ, and broadcast is not set.")
        return y
    if "axis" not in node.attributes:
        return y
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    missing = x.type.rank - axis - y.type.rank
    if missing < 0:
        raise node.misshapen(f"{y.type} does not fit into {x.type} at axis {axis}.")
    return context.reshape(y, (*y.shape, *(1,) * missing))


@ELEMENTWISE.on("Sum", "Mean", "Max", "Min")
def variadic(context: Context, node: ModelNode) -> Value:
    op = {"Sum": "add", "Mean": "add", "Max": "max", "Min": "min"}[node.op_type]
    folded = {"max": np.frompyfunc(maximum, 2, 1), "min": np.frompyfunc(minimum, 2, 1)}.get(op)

    def combine(x: Value, y: Value) -> Value:
        value = context(op, x, y)
        if folded is None or x.dtype.is_float:
            return value
        return context.learn(value, folded, x, y)

    total = reduce(combine, node.present)
    return context("div", total, len(node.inputs)) if node.op_type == "Mean" else total


@ELEMENTWISE.on("Mod")
def modulo(context: Context, node: ModelNode) -> Value:
    """fmod: the sign of the dividend. Otherwise the sign of the divisor: r + y where r and y
    differ in sign.
    """
    x, y = node.input(0), node.input(1)
    remainder = context("rem", x, y)
    if node.flag("fmod", False):
        return remainder
    zero = context.number(0, x.dtype)
    if not x.dtype.is_signed:
        return context.learn(remainder, np.frompyfunc(_known_remainder, 2, 1), x, y)
    differs = context("xor", context("less", remainder, zero), context("less", y, zero))
    wrong = context("and", differs, context("not_equal", remainder, zero))
    value = context("select", wrong, context("add", remainder, y), remainder)
    return context.learn(value, np.frompyfunc(_known_remainder, 2, 1), x, y)


def _known_remainder(x: Any, y: Any) -> Any:
    if isinstance(y, int) and y > 0:
        return x % y
    raise ValueError("undecided")


@ELEMENTWISE.on("BitShift")
def bit_shift(context: Context, node: ModelNode) -> Value:
    """Shifts by the width or more leave 0, or -1 of a negative number shifted right."""
    x, distance = node.input(0), node.input(1)
    if node.text("direction", "", ("LEFT", "RIGHT")) == "LEFT":
        return context("shift_left", x, distance)
    if x.dtype.is_signed:
        last = context.number(8 * x.dtype.bytes - 1, x.dtype)
        is_inside = context("less_equal", context.number(0, x.dtype), distance)
        distance = context("select", is_inside, context("min", distance, last), last)
    return context("shift_right", x, distance)


@ELEMENTWISE.on("Where")
def where(context: Context, node: ModelNode) -> Value:
    condition, x, y = node.input(0), node.input(1), node.input(2)
    value = context("select", condition, x, y)
    return context.learn(value, lambda c, a, b: np.where(c.astype(bool), a, b), condition, x, y)


@ELEMENTWISE.on("IsInf")
def is_inf(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    found = context.number(False, BOOL)
    for attribute, infinity in (("detect_positive", math.inf), ("detect_negative", -math.inf)):
        if node.flag(attribute, True):
            found = context("or", found, context("equal", x, infinity))
    return found if found.shape == x.shape else context("broadcast", found, shape=x.shape)


# -- activations with attributes -------------------------------------------------------------------


@ELEMENTWISE.on("LeakyRelu")
def leaky_relu(context: Context, node: ModelNode) -> Value:
    return context("leaky_relu", node.input(0), slope=node.number("alpha", 0.01))


@ELEMENTWISE.on("Elu")
def elu(context: Context, node: ModelNode) -> Value:
    return context("elu", node.input(0), alpha=node.number("alpha", 1.0))


@ELEMENTWISE.on("Celu")
def celu(context: Context, node: ModelNode) -> Value:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1)) = alpha * elu(x / alpha)."""
    alpha = node.number("alpha", 1.0)
    if alpha == 0:
        raise node.fault("attribute alpha is 0; it must not be.", "Export the model again.")
    x = widened(context, node.input(0))
    y = context("mul", context("elu", context("div", x, alpha), alpha=1.0), alpha)
    return context.cast(y, node.input(0).dtype)


@ELEMENTWISE.on("Selu")
def selu(context: Context, node: ModelNode) -> Value:
    old = node.opset < 6
    alpha = node.number("alpha", 1.6732 if old else 1.67326319217681884765625)
    gamma = node.number("gamma", 1.0507 if old else 1.05070102214813232421875)
    return context("selu", node.input(0), alpha=alpha, gamma=gamma)


@ELEMENTWISE.on("HardSigmoid")
def hard_sigmoid(context: Context, node: ModelNode) -> Value:
    return context(
        "hard_sigmoid",
        node.input(0),
        alpha=node.number("alpha", 0.2),
        beta=node.number("beta", 0.5),
    )


@ELEMENTWISE.on("HardSwish")
def hard_swish(context: Context, node: ModelNode) -> Value:
    x = widened(context, node.input(0))
    y = context("mul", x, context("hard_sigmoid", x, alpha=1 / 6, beta=0.5))
    return context.cast(y, node.input(0).dtype)


@ELEMENTWISE.on("ThresholdedRelu")
def thresholded_relu(context: Context, node: ModelNode) -> Value:
    return context("thresholded_relu", node.input(0), alpha=node.number("alpha", 1.0))


@ELEMENTWISE.on("Gelu")
def gelu(context: Context, node: ModelNode) -> Value:
    approximate = node.text("approximate", "none", ("none", "tanh"))
    return context("gelu", node.input(0), approximate=approximate == "tanh")


@ELEMENTWISE.on("Mish")
def mish(context: Context, node: ModelNode) -> Value:
    x = widened(context, node.input(0))
    y = context("mul", x, context("tanh", context("softplus", x)))
    return context.cast(y, node.input(0).dtype)


@ELEMENTWISE.on("Swish")
def swish(context: Context, node: ModelNode) -> Value:
    x, alpha = widened(context, node.input(0)), node.number("alpha", 1.0)
    inner = x if alpha == 1 else context("mul", x, alpha)
    return context.cast(context("mul", x, context("sigmoid", inner)), node.input(0).dtype)


@ELEMENTWISE.on("PRelu")
def prelu(context: Context, node: ModelNode) -> Value:
    x, slope = node.input(0), node.input(1)
    if node.opset < 7 and slope.type.rank == 1 and x.type.rank > 2 and slope.shape != (1,):
        slope = context.per_channel(slope, x.type.rank)
    if x.dtype.is_integer:
        return context("select", context("less", x, 0), context("mul", slope, x), x)
    return context("prelu", x, slope)


@ELEMENTWISE.on("Shrink")
def shrink(context: Context, node: ModelNode) -> Value:
    """x + bias below -lambd, x - bias above lambd, else 0; of integers cut off."""
    bias, edge = node.number("bias", 0.0), node.number("lambd", 0.5)
    given = node.input(0)
    x = context.cast(given, FLOAT64) if given.dtype.is_integer else given
    low = context("select", context("less", x, -edge), context("add", x, bias), 0.0)
    is_above = context("less", context.number(edge, x.dtype), x)
    return context.cast(context("select", is_above, context("sub", x, bias), low), given.dtype)


@ELEMENTWISE.on("Clip")
def clip(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    if node.opset < 11:
        return context("clip", x, lo=node.number("min", -LARGEST), hi=node.number("max", LARGEST))
    for op, bound in (("max", node.optional(1)), ("min", node.optional(2))):
        if bound is not None:
            if bound.shape not in ((), (1,)):
                raise node.misshapen(f"a bound is {bound.type}; it must be a scalar.")
            x = _bounded(context, op, x, context.reshape(bound, ()))
    return x


def _bounded(context: Context, op: str, x: Value, bound: Value) -> Value:
    """The op clip where the bound is a number, so that passes can fuse it."""
    array = context.array(bound)
    if array is None or not x.dtype.is_float:
        return context(op, x, bound)
    number = float(array)
    return context(
        "clip", x, lo=number if op == "max" else None, hi=number if op == "min" else None
    )


# -- functions composed of others ------------------------------------------------------------------


@ELEMENTWISE.on("Tan")
def tangent(context: Context, node: ModelNode) -> Value:
    x = widened(context, node.input(0))
    return context.cast(context("div", context("sin", x), context("cos", x)), node.input(0).dtype)


@ELEMENTWISE.on("Cosh")
def hyperbolic_cosine(context: Context, node: ModelNode) -> Value:
    """(e e + 1 / (e e)) / 2 with e = exp(|x| / 2), halved so that it overflows no earlier than the result."""
    x = node.input(0)
    root = context("exp", context("mul", context("abs", widened(context, x)), 0.5))
    rising = context("mul", context("mul", root, 0.5), root)
    falling = context("div", context.number(0.25, root.dtype), rising)
    return context.cast(context("add", rising, falling), x.dtype)


# -- dtypes and identities -------------------------------------------------------------------------


@ELEMENTWISE.on("Cast", last=5)
def cast_by_name(context: Context, node: ModelNode) -> Value:
    """The dtype is named by a string."""
    number = dict(TensorProto.DataType.items()).get(node.text("to", ""), -1)
    return context.cast(node.input(0), dtype_of(number, f"{node.title}: the result"))


@ELEMENTWISE.on("Cast", first=6)
def cast(context: Context, node: ModelNode) -> Value:
    return _converted(
        context, node.input(0), dtype_of(node.integer("to", 0), f"{node.title}: the result")
    )


@ELEMENTWISE.on("CastLike", first=15)
def cast_like(context: Context, node: ModelNode) -> Value:
    narrow = context.narrow.get(node.input(1))
    if narrow is not None:
        raise node.unsupported(
            f"it casts to {narrow.name}, which is not supported.",
            "Use 8 bits or more, and no float8.",
        )
    return _converted(context, node.input(0), node.input(1).dtype)


def _converted(context: Context, x: Value, dtype: DType) -> Value:
    """A narrow dtype's carrier becomes a value in its own right."""
    return context("cast", x, dtype=dtype) if x in context.narrow else context.cast(x, dtype)


@ELEMENTWISE.on("BitCast", first=26)
def bit_cast(context: Context, node: ModelNode) -> Value:
    """The same bits as another dtype of the same size."""
    return context(
        "bitcast", node.input(0), dtype=dtype_of(node.integer("to", 0), f"{node.title}: the result")
    )


@ELEMENTWISE.on("Identity")
def identity(context: Context, node: ModelNode) -> Item:
    return node.item(0)
