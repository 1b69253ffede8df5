"""Pow: powers of floats by logarithms, those of integers by integer exponents by squaring."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from netloom.compiler.dim import product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT64

from .context import Context
from .elementwise import legacy_broadcast
from .handler import HandlerTable
from .node import ModelNode
from .ratios import Ratio

POWERS: Final = HandlerTable()
MOST_FACTORS: Final = 8  # of a power of an extent
MOST_BITS: Final = 64  # of an integer: 2 to this is 0
NEAR: Final = 2.0**-50  # relative; a power in float64 is nearer to the true one


@POWERS.on("Pow")
def power(context: Context, node: ModelNode) -> Value:
    x, y = node.input(0), node.input(1)
    if node.opset < 7:
        y = legacy_broadcast(context, node, x, y)
    return context.learn(_power(context, x, y), np.frompyfunc(_known_power, 2, 1), x, y)


def _power(context: Context, x: Value, y: Value) -> Value:
    count = _factors(context, y) if y.type.rank <= x.type.rank else None
    if count is not None and (count == 2 or x.dtype.is_integer):  # x ** 2 = x * x, rounded the same
        return _multiplied(context, x, count)
    if x.dtype.is_float:
        return context("pow", x, context.cast(y, x.dtype))
    if y.dtype.is_integer:
        return _squared(context, x, y)
    return _cut(context, x, y)


def _factors(context: Context, exponent: Value) -> int | None:
    """An exponent that is one whole number, from 1 to ``MOST_BITS``."""
    array = context.array(exponent)
    if array is None or array.size != 1:
        return None
    number = float(array.reshape(()))
    return int(number) if number.is_integer() and 1 <= number <= MOST_BITS else None


def _multiplied(context: Context, x: Value, count: int) -> Value:
    """x ** count."""
    total: Value | None = None
    while True:
        if count & 1:
            total = x if total is None else context("mul", total, x)
        count >>= 1
        if not count:
            assert total is not None
            return total
        x = context("mul", x, x)


def _squared(context: Context, x: Value, y: Value) -> Value:
    """Integers: exact where the power fits; of others, any number. Exponents below 0 leave powers of 1 and -1 only."""
    is_odd = context("and", y, 1)
    most = context.number(MOST_BITS, y.dtype)
    exponent = context("select", context("less", most, y), context("add", is_odd, most), y)
    is_below = context("less", y, context.number(0, y.dtype)) if y.dtype.is_signed else None
    if is_below is not None:
        exponent = context("select", is_below, is_odd, exponent)
    total = context.number(1, x.dtype)
    square = x
    for bit in range(MOST_BITS.bit_length()):
        if bit:
            square = context("mul", square, square)
        is_unset = context("equal", context("and", exponent, 1 << bit), 0)
        one = context.number(1, x.dtype)
        total = context("mul", total, context("select", is_unset, one, square))
    if is_below is None:
        return total
    is_unit = context("or", context("equal", x, 1), context("equal", x, -1))
    is_fraction = context("and", is_below, context("not", is_unit))
    return context("select", is_fraction, context.number(0, x.dtype), total)


def _cut(context: Context, x: Value, y: Value) -> Value:
    """Integers to float exponents, in float64 and cut off; what is an integer but for a rounding is
    one.
    """
    raised = context("pow", context.cast(x, FLOAT64), context.cast(y, FLOAT64))
    nearest = context("round", raised)
    error = context("abs", context("sub", raised, nearest))
    is_near = context("less_equal", error, context("mul", context("abs", raised), NEAR))
    return context.cast(context("select", is_near, nearest, raised), x.dtype)


def _known_power(x: Any, exponent: Any) -> Any:
    """Of an extent; exporters write h h so, for images whose sides are one free dim."""
    if not isinstance(exponent, int) or not 0 <= exponent <= MOST_FACTORS or isinstance(x, Ratio):
        raise ValueError("no product of extents")
    return product([x] * exponent)
