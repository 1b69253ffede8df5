"""dtypes and lanes -> LLVM's types and constants.

A value is a scalar or a vector of 16 lanes; bfloat16 is kept as its bits; bool is one bit, and a
byte in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

import numpy as np
from llvmlite import ir

from ....loops.ir import LANES
from ....tensor_type import BFLOAT16, BOOL, DType

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
PTR = ir.PointerType()
Operand: TypeAlias = "ir.Value"


class Lanes(ir.Constant):  # type: ignore[misc]
    """One constant in all lanes. It is written as such: texts with 16 copies of each number take
    LLVM's parser longer.
    """

    def __init__(self, one: ir.Constant) -> None:
        self.type, self.constant = vector_of(one.type), (one,) * LANES

    def _get_reference(self) -> str:
        return f"splat ({self.constant[0]})"


class Undefined(ir.Constant):  # type: ignore[misc]
    """Lanes of any value."""

    def __init__(self, kind: ir.Type) -> None:
        self.type, self.constant = kind, None

    def _get_reference(self) -> str:
        return "undef"


class Mask(ir.Constant):  # type: ignore[misc]
    """A known bit in each lane, written as the bits of one number."""

    def __init__(self, bits: Sequence[int]) -> None:
        super().__init__(vector_of(I1), list(bits))

    def _get_reference(self) -> str:
        number = sum(bool(one.constant) << lane for lane, one in enumerate(self.constant))
        return f"bitcast (i{LANES} {number} to {self.type})"


def numbers_by_lane(numbers: Sequence[int]) -> ir.Constant:
    """Known integers, one a lane."""
    return ir.Constant(vector_of(I64), list(numbers))


def known_lanes(value: Operand) -> tuple[int, ...] | None:
    """The integers in the lanes of a vector, if they are known."""
    if not (isinstance(value, ir.Constant) and is_vector(value)) or value.constant is None:
        return None
    return tuple(int(one.constant) for one in value.constant)


@cache
def vector_of(element: ir.Type) -> ir.Type:
    """The LLVM type of an element in all lanes."""
    return ir.VectorType(element, LANES)


def value_type(dtype: DType) -> ir.Type:
    """The LLVM type of a value in one lane."""
    match dtype:
        case DType.FLOAT16:
            return ir.HalfType()
        case DType.FLOAT32:
            return ir.FloatType()
        case DType.FLOAT64:
            return ir.DoubleType()
        case DType.BOOL:
            return I1
        case _:
            return ir.IntType(dtype.bytes * 8)


def memory_type(dtype: DType) -> ir.Type:
    """The LLVM type of an element in memory."""
    return I8 if dtype is BOOL else value_type(dtype)


def is_vector(value: Operand) -> bool:
    """Whether a value has lanes."""
    return isinstance(value.type, ir.VectorType)


def lane_type(value: Operand) -> ir.Type:
    """The type of a value in one lane."""
    return value.type.element if is_vector(value) else value.type


def like(value: Operand, element: ir.Type) -> ir.Type:
    """The type of as many lanes as a value has."""
    return vector_of(element) if is_vector(value) else element


def constant(value: Operand, element: ir.Type, number: int | float) -> ir.Constant:
    """A number in as many lanes as a value has."""
    one = ir.Constant(element, number)
    return Lanes(one) if is_vector(value) else one


def zero_of(value: Operand) -> ir.Constant:
    """Zero of a value's type."""
    return zero_of_type(value.type)


@cache
def zero_of_type(kind: ir.Type) -> ir.Constant:
    """Zero, in all lanes if it has lanes."""
    one = ir.Constant(kind.element if isinstance(kind, ir.VectorType) else kind, None)
    return (
        Lanes(one)
        if isinstance(kind, ir.VectorType) and kind.count == LANES
        else ir.Constant(kind, None)
    )


def literal(value: float | int | bool, dtype: DType) -> ir.Constant:
    """A number of a dtype."""
    if dtype is BFLOAT16:
        return ir.Constant(I16, int(np.asarray(value, dtype.numpy).view(np.uint16)))
    return ir.Constant(value_type(dtype), float(value) if dtype.is_float else int(value))


def suffix(kind: ir.Type) -> str:
    """How intrinsics name a type."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    if isinstance(kind, ir.IntType):
        return f"i{kind.width}"
    return {"half": "f16", "float": "f32", "double": "f64"}[str(kind)]


__all__ = [
    "I1", "I8", "I16", "I32", "I64", "PTR", "Lanes", "Mask", "Operand", "Undefined", "constant",
    "is_vector", "known_lanes", "lane_type", "like",
    "literal", "memory_type", "numbers_by_lane", "suffix", "value_type", "vector_of", "zero_of", "zero_of_type",
]  # fmt: skip
