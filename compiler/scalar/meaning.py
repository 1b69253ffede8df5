"""Scalar expression over NumPy arrays -> its value: the meaning that generated code must match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..tensor_type import BOOL, DType
from .expression import SCALAR_FUNCTIONS, Argument, Bitcast, Call, Cast, Expr, Literal
from .walk import post_order


def evaluate(
    root: Expr, arguments: Sequence[npt.NDArray[Any]], leaf: Callable[[Expr], Any] | None = None
) -> npt.NDArray[Any]:
    """The NumPy value of a formula over arrays (broadcast together); ``leaf`` values other
    leaves.
    """
    values: dict[int, Any] = {}
    with np.errstate(all="ignore"):
        for node in post_order([root]):
            match node:
                case Literal(value, dtype):
                    result: Any = dtype.numpy.type(value)
                case Argument(position, _):
                    result = arguments[position]
                case Call(function, inner, dtype):
                    result = SCALAR_FUNCTIONS[function].numpy(*(values[id(a)] for a in inner))
                    result = np.asarray(result).astype(dtype.numpy, copy=False)
                case Cast(argument, dtype):
                    result = cast_array(np.asarray(values[id(argument)]), dtype)
                case Bitcast(argument, dtype):
                    result = np.asarray(values[id(argument)]).view(dtype.numpy)
                case _ if leaf is not None:
                    result = leaf(node)
                case _:
                    raise TypeError(f"{type(node).__name__} has no value outside loops")
            values[id(node)] = result
    return np.asarray(values[id(root)])


def cast_array(array: npt.NDArray[Any], dtype: DType) -> npt.NDArray[Any]:
    """``Cast`` on arrays: float to integer truncates and saturates, NaN gives 0; integers wrap."""
    if dtype is BOOL:
        truth: npt.NDArray[Any] = np.not_equal(array, 0)
        return truth
    if dtype.is_integer and DType.of(array.dtype).is_float:
        info = np.iinfo(dtype.numpy)
        wide = np.trunc(
            np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        )
        result = np.zeros(wide.shape, dtype.numpy)
        inside = (wide > float(info.min)) & (wide < float(info.max))
        result[inside] = wide[inside].astype(dtype.numpy)
        result[wide >= float(info.max)] = info.max
        result[wide <= float(info.min)] = info.min
        return result
    with np.errstate(all="ignore"):
        converted: npt.NDArray[Any] = array.astype(dtype.numpy)
        return converted
