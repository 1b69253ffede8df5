"""Counting along lines, and finding what was counted: how positions of elements are computed that
are as many as data say.

``running_sum`` of truth values as numbers tells how many hold up to each place; ``search_sorted``
of 0, 1, 2, .. in it gives the place of each that holds, in order: linear time and log n steps for
each result, where a scatter would look at all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import scalar
from ..dim import bounds, inside, maximum
from ..op import Array, Compute, NoAttrs, NotDifferentiable, Op, Read, define
from ..scalar import Checked, Expr
from ..tensor_type import INT64, MAX_ELEMENTS, TensorType

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


def _search_compute(
    _attrs: NoAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    """Powers of two, the largest first, are added to the place while what stands before it is not
    larger than the value.
    """
    extent = inputs[0].shape[-1]
    most = bounds(extent)[1]
    steps = (MAX_ELEMENTS if most is None else most).bit_length()

    def term(i: tuple[int, ...], _r: tuple[int, ...], read: Read) -> Expr:
        value = read(1, i)
        found: Expr = scalar.literal(0, INT64)
        last = scalar.Index(maximum(extent - 1, 0))
        for step in reversed(range(steps)):
            probed = found + (1 << step)
            place = scalar.call("min", probed - 1, last)
            before = read(0, [*i[:-1], Checked(place, extent)])
            is_inside = scalar.call("less_equal", probed, scalar.Index(extent))
            is_before = scalar.call("less_equal", before, value)
            found = scalar.select(scalar.call("and", is_inside, is_before), probed, found)
        return scalar.guarded(inside([0], [extent]), found)

    return Compute(term)  # type: ignore[arg-type]


define(
    Op(
        "search_sorted",
        "how many elements of a line, which ascends, are at most each value of that line's",
        _search_infer,
        _search_reference,
        _COUNT,
        family="indexing",
        compute=_search_compute,
    )
)
