"""Winograd's transforms of a tile in registers, ``transform_input4t3x4t3_float32(x00, x01,
...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from llvmlite import ir
from numba import types

from ....ops.winograd import matrices
from ....tensor_type import DType
from .define import Operand, define, numba_type, packed
from .scalars import FLOAT, fma

_MATRICES: dict[str, Callable[..., Any]] = {  # of A', G and B'
    "input": lambda a, g, b: b,
    "output": lambda a, g, b: a,
    "gradient": lambda a, g, b: a.T,
    "filter": lambda a, g, b: g,
    "back": lambda a, g, b: g.T,
}


def transform(rest: str) -> Any:
    """``transform_input4t3x4t3_float32(x00, x01, ...)``: a tile by rows -> down x tile x across' by
    rows, with the matrices of 4 outputs and 3 taps along both axes."""
    name, dtype = rest.split("_")
    which = "".join(takewhile(str.isalpha, name))
    axes = name.removeprefix(which).split("x")
    down, across = (_MATRICES[which](*matrices(*map(int, axis.split("t")))) for axis in axes)
    (rows, size), (columns, width) = down.shape, across.shape
    kind = DType(dtype)
    element = numba_type(kind)

    def emit(b: Any, *x: Operand) -> Operand:
        lines = [[_combination(b, kind, row, x[j::width]) for j in range(width)] for row in down]
        return packed(b, [_combination(b, kind, row, line) for line in lines for row in across])

    return define(types.UniTuple(element, rows * columns), [element] * (size * width), emit)


def _combination(
    b: Any, t: DType, coefficients: Sequence[float], values: Sequence[Operand]
) -> Operand:
    """sum of coefficient * value, without the zeros; what needs no product comes first."""
    pairs = [(float(c), v) for c, v in zip(coefficients, values, strict=True) if c]
    pairs.sort(key=lambda pair: (abs(pair[0]) != 1, pair[0] < 0))
    (first, total), *others = pairs
    if first != 1:
        total = (
            FLOAT["neg"](b, t, total)
            if first == -1
            else FLOAT["mul"](b, t, total, ir.Constant(total.type, first))
        )
    for coefficient, value in others:
        match coefficient:
            case 1.0:
                total = FLOAT["add"](b, t, total, value)
            case -1.0:
                total = FLOAT["sub"](b, t, total, value)
            case _:
                total = fma(b, t, value, ir.Constant(value.type, coefficient), total)
    return total


FAMILIES = {"transform": transform}
