"""Arithmetic, comparisons and selection on numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .handlers import Array, Handler, dtype_of, plain
from .parse import Instruction

if TYPE_CHECKING:
    from .machine import Machine


def _wide_of(kind: str) -> str:
    return f"{kind[0]}{int(kind[1:]) * 2}"


def _multiply(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    x, y = (m.read(operand, kind, active) for operand in i.operands[1:3])
    m.write(i.operands[0], _times(i, kind, x, y), active)


def _times(i: Instruction, kind: str, x: Array, y: Array) -> Array:
    if "wide" in i.modifiers:
        wide = dtype_of(_wide_of(kind))
        return x.astype(wide) * y.astype(wide)
    if "hi" in i.modifiers:
        bits = int(kind[1:])
        if bits < 64:
            wide = dtype_of(_wide_of(kind))
            return ((x.astype(wide) * y.astype(wide)) >> bits).astype(dtype_of(kind))
        product = [(int(a) * int(b)) >> bits for a, b in zip(x, y, strict=True)]
        return np.array([p % (1 << bits) for p in product], f"u{bits // 8}").view(dtype_of(kind))
    return x * y


def _multiply_add(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    x, y = (m.read(operand, kind, active) for operand in i.operands[1:3])
    product = _times(i, kind, x, y)
    z = m.read(i.operands[3], _wide_of(kind) if "wide" in i.modifiers else kind, active)
    m.write(i.operands[0], product + z, active)


def _fma(x: Array, y: Array, z: Array) -> Array:
    """float32: the product is exact in float64, where the sum is made. float64 rounds twice."""
    return (x.astype(np.float64) * y + z).astype(x.dtype)


def _divide(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return x / y
    if x.dtype.kind == "u":
        return x // np.where(y == 0, 1, y)
    safe = np.where(y == 0, 1, y).astype(x.dtype)
    floor = x // safe
    return (floor + ((x - floor * safe != 0) & ((x < 0) != (safe < 0)))).astype(x.dtype)


def _remainder(x: Array, y: Array) -> Array:
    return np.fmod(x, np.where(y == 0, 1, y).astype(x.dtype))


_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "ne": lambda x, y: np.not_equal(x, y) & (x == x) & (y == y),  # noqa: PLR0124  (ordered)
    "neu": np.not_equal,
    "ltu": lambda x, y: ~(x >= y), "leu": lambda x, y: ~(x > y), "gtu": lambda x, y: ~(x <= y),
    "geu": lambda x, y: ~(x < y),
    "equ": lambda x, y: np.equal(x, y) | (x != x) | (y != y),  # noqa: PLR0124
    "num": lambda x, y: (x == x) & (y == y), "nan": lambda x, y: (x != x) | (y != y),  # noqa: PLR0124
}  # fmt: skip


def _set_predicate(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    x, y = (m.read(operand, kind, active) for operand in i.operands[1:3])
    value = _COMPARE[i.modifiers[0]](x, y)
    if len(i.operands) > 3:
        other = str(i.operands[3])
        last = m.read(other.lstrip("!"), "pred", active) != other.startswith("!")
        value = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[i.modifiers[1]](
            value, last
        )
    m.write(i.operands[0], value, active)


def _select(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    x, y = (m.read(operand, kind, active) for operand in i.operands[1:3])
    m.write(i.operands[0], np.where(m.read(i.operands[3], "pred", active), x, y), active)


def _power_of_two(x: Array) -> Array:
    """ex2.approx.ftz: here to the nearest, denormal results as zero."""
    power = np.exp2(x)
    return np.where(np.abs(power) < np.finfo(np.float32).tiny, np.float32(0), power)


ARITHMETIC: dict[str, Handler] = {
    "add": plain(np.add, 2), "sub": plain(np.subtract, 2), "mul": _multiply, "mad": _multiply_add,
    "fma": plain(_fma, 3), "div": plain(_divide, 2), "rem": plain(_remainder, 2),
    "neg": plain(np.negative, 1), "abs": plain(np.abs, 1), "sqrt": plain(np.sqrt, 1),
    "rcp": plain(np.reciprocal, 1), "ex2": plain(_power_of_two, 1),
    "copysign": plain(lambda sign, size: np.copysign(size, sign), 2),
    "max": plain(np.fmax, 2), "min": plain(np.fmin, 2),
    "setp": _set_predicate, "selp": _select,
}  # fmt: skip
