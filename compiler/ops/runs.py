"""Sums over runs of equal numbers: how rows that land at the same place are added up in linear
time, once an order brings them together.

``run_sum`` has loops of its own (``loops/runs.py``); ``passes/sum_by_sorting.py`` makes it of the
gradient of a gather, which would look at all rows for each row of the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..op import Array, NoAttrs, NotDifferentiable, Op, define
from ..tensor_type import INT64, TensorType


def _infer(_attrs: NoAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x, numbers = inputs
    if x.rank != 2 or numbers != TensorType(INT64, x.shape[:1]) or not x.dtype.is_float:
        raise ValueError(f"run_sum takes floats [n, c] and int64[n], not {x} and {numbers}")
    return [x]


def _reference(
    _attrs: NoAttrs, inputs: Sequence[Array], o: Sequence[TensorType]
) -> Sequence[Array]:
    x, numbers = inputs
    y = np.empty(x.shape, np.float32 if o[0].dtype.bytes < 4 else x.dtype)
    for row, number in enumerate(numbers):
        is_same = row > 0 and numbers[row - 1] == number
        y[row] = y[row - 1] + x[row] if is_same else x[row]
    return [y.astype(x.dtype)]


define(
    Op(
        "run_sum",
        "y[i] = the sum of x[j], j <= i, of the run of equal numbers that i stands in",
        _infer,
        _reference,
        NotDifferentiable("it is made after differentiation"),
        family="scan",
    )
)
