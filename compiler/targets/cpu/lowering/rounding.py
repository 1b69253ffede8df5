"""Rounding to whole numbers on CPUs without an instruction for it, where LLVM would call the
library.

|x| + 2^p - 2^p, with p the bits behind a float's first digit, is |x| rounded to the nearest whole
number, halves to even. One more or one less makes the other directions. Numbers of 2^p and more are
whole already; NaN passes, and zeros keep their sign.
"""

from __future__ import annotations

from llvmlite import ir

_FRACTION_BITS = {"float": 23, "double": 52}


def emit_rounding(b: ir.IRBuilder, direction: str, x: ir.Value) -> ir.Value:
    """``direction``: floor, ceil, trunc or roundeven; x: float32, float64, or a vector of them."""
    element = x.type.element if isinstance(x.type, ir.VectorType) else x.type
    fraction = _FRACTION_BITS[str(element)]
    bits = ir.IntType(fraction + (9 if fraction == 23 else 12))
    integers = ir.VectorType(bits, x.type.count) if isinstance(x.type, ir.VectorType) else bits

    sign = b.and_(b.bitcast(x, integers), _splat(integers, -(1 << (bits.width - 1))))
    magnitude = b.bitcast(
        b.and_(b.bitcast(x, integers), _splat(integers, (1 << (bits.width - 1)) - 1)), x.type
    )
    large = _splat(x.type, 2.0**fraction)
    nearest = b.fsub(b.fadd(magnitude, large), large)
    match direction:
        case "trunc":
            nearest = _less_one_where(b, b.fcmp_ordered(">", nearest, magnitude), nearest)
        case "floor" | "ceil":  # of |x|: the other way where x is negative
            is_negative = b.icmp_signed("<", b.bitcast(x, integers), ir.Constant(integers, None))
            upwards = is_negative if direction == "floor" else b.not_(is_negative)
            up = b.select(
                b.fcmp_ordered("<", nearest, magnitude),
                b.fadd(nearest, _splat(x.type, 1.0)),
                nearest,
            )
            down = _less_one_where(b, b.fcmp_ordered(">", nearest, magnitude), nearest)
            nearest = b.select(upwards, up, down)
    chosen = b.select(b.fcmp_ordered("<", magnitude, large), nearest, magnitude)
    return b.bitcast(b.or_(b.bitcast(chosen, integers), sign), x.type)


def _less_one_where(b: ir.IRBuilder, condition: ir.Value, x: ir.Value) -> ir.Value:
    return b.select(condition, b.fsub(x, _splat(x.type, 1.0)), x)


def _splat(kind: ir.Type, number: float | int) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)
