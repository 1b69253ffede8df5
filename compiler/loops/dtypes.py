"""The rules of loops/ir.py about dtypes of expressions, node by node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..scalar import (
    SCALAR_FUNCTIONS,
    Argument,
    Bitcast,
    Call,
    Cast,
    Checked,
    Expr,
    Guarded,
    Index,
    Literal,
)
from ..tensor_type import BOOL, INT64, DType
from .ir import LaneFold, Load


def dtype_fault(node: Expr) -> str | None:
    """Why a node does not fit the dtypes of its arguments, or has no meaning in loops; None if all
    is right."""
    match node:
        case Argument():
            return "a formula's argument is left"
        case Call(function, arguments, dtype):
            dtypes = [argument.dtype for argument in arguments]
            if function not in SCALAR_FUNCTIONS:
                return f"there is no function {function}"
            if not _fits(function, dtypes, dtype):
                return f"{function} of {_names(dtypes)} is not {dtype.value}"
        case Guarded(_, value, otherwise):
            if value.dtype is not otherwise.dtype:
                return f"a guard of {_names([value.dtype, otherwise.dtype])}"
        case Bitcast(argument, dtype):
            if argument.dtype.bytes != dtype.bytes:
                return f"bits of {argument.dtype.value} as {dtype.value}"
        case Checked(index, _):
            if index.dtype is not INT64:
                return f"an index is {index.dtype.value}"
        case LaneFold(combine=combine, buffer=buffer):
            if not _fits(combine, [buffer.dtype] * 2, buffer.dtype):
                return f"lanes cannot be combined by {combine}"
            if buffer.dtype.is_float and buffer.dtype.bytes < 4:
                return f"lanes of {buffer.dtype.value} are combined in float32"
        case Literal() | Cast() | Index() | Load():
            pass
        case _:
            return f"{type(node).__name__} has no meaning in loops"
    return None


def _fits(function: str, dtypes: Sequence[DType], result: DType) -> bool:
    """Whether a scalar function takes these dtypes and gives that one."""
    entry = SCALAR_FUNCTIONS.get(function)
    if entry is None or len(dtypes) != entry.arity:
        return False
    operands = dtypes[1:] if function == "select" else dtypes
    if function == "select" and dtypes[0] is not BOOL:
        return False
    letter = "f" if operands[0].is_float else "b" if operands[0] is BOOL else "i"
    return (
        len(set(operands)) == 1 and letter in entry.kinds and entry.result(list(dtypes)) is result
    )


def _names(dtypes: Iterable[DType]) -> str:
    return ", ".join(dtype.value for dtype in dtypes)


__all__ = ["dtype_fault"]
