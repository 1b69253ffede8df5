"""Counting along lines, and finding what was counted: how positions of elements are computed that
are as many as data say.

``running_sum`` of truth values as numbers tells how many hold up to each place; ``search_sorted``
of 0, 1, 2, .. in it gives the place of each that holds, in order: linear time and log n steps for
each result, where a scatter would look at all pairs. Both have loops of their own
(``loops/scans.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..op import Array, NoAttrs, NotDifferentiable, Op, define
from ..tensor_type import INT64, TensorType

_COUNT = NotDifferentiable("a count does not change smoothly")


def _sum_infer(_attrs: NoAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.dtype is not INT64 or not x.rank:
        raise ValueError(f"running sums are of int64 lines, not of {x}")
    return [x]


define(
    Op(
        "running_sum",
        "y[.., i] = the sum of x[.., 0] to x[.., i]; integers only, whose sums have no order",
        _sum_infer,
        lambda _a, i, _o: [np.cumsum(i[0], axis=-1, dtype=np.int64)],
        _COUNT,
        family="scan",
    )
)


def _search_infer(_attrs: NoAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    line, values = inputs
    if not line.rank or line.rank != values.rank or line.shape[:-1] != values.shape[:-1]:
        raise ValueError(f"{values} cannot be looked for in lines of {line}")
    if line.dtype is not values.dtype:
        raise ValueError(f"{values} and {line} differ in dtype")
    return [TensorType(INT64, values.shape)]


def _search_reference(
    _attrs: NoAttrs, inputs: Sequence[Array], o: Sequence[TensorType]
) -> Sequence[Array]:
    lines, values = inputs
    found = np.empty(o[0].static_shape, np.int64)
    for at in np.ndindex(values.shape[:-1]):
        found[at] = np.searchsorted(lines[at], values[at], side="right")
    return [found]


define(
    Op(
        "search_sorted",
        "how many elements of a line, which ascends, are at most each value of that line's",
        _search_infer,
        _search_reference,
        _COUNT,
        family="scan",
    )
)
