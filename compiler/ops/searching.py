"""Counting along lines, and finding what was counted: how positions of elements are computed that
are as many as data say.

``true_positions`` lists the places of the truth values that hold, in order, in linear time, where a
scatter would look at all pairs. ``running_sum`` of counts tells how many there are up to each place,
and ``search_sorted`` in it the place where a number is reached. All have loops of their own
(``loops/scans.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..dim import Extent
from ..op import Array, NoAttrs, NotDifferentiable, Op, define
from ..tensor_type import BOOL, FLOAT64, INT64, DType, TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value

_COUNT = NotDifferentiable("a count does not change smoothly")


@dataclass(frozen=True)
class SumAttrs:
    """``exclusive``: an element is not in its own sum; ``reverse``: sums begin at the last one."""

    axis: int = -1
    exclusive: bool = False
    reverse: bool = False


def _sum_infer(attrs: SumAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.dtype is BOOL or not -x.rank <= attrs.axis < x.rank:
        raise ValueError(f"there are no running sums of {x} along axis {attrs.axis}")
    return [x]


def summed_in(dtype: DType) -> DType:
    """What a running sum is held in: floats are rounded once, from float64."""
    return FLOAT64 if dtype.is_float else dtype


def _sum_reference(
    attrs: SumAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    (x,), axis = inputs, attrs.axis
    wide = summed_in(DType.of(x.dtype)).numpy
    line = np.moveaxis(x, axis, -1)[..., :: -1 if attrs.reverse else 1]
    with np.errstate(all="ignore"):
        total = np.cumsum(line.astype(wide), axis=-1, dtype=wide)
    if attrs.exclusive:
        total = np.concatenate([np.zeros_like(total[..., :1]), total[..., :-1]], -1)
    with np.errstate(all="ignore"):
        narrow = total.astype(x.dtype)[..., :: -1 if attrs.reverse else 1]
    return [np.moveaxis(narrow, -1, axis)]


def _sum_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """An element is in the sums from its own on: what they are to it, it is to them."""
    return [b("running_sum", cotangents[0], axis=node.attrs.axis,
              exclusive=node.attrs.exclusive, reverse=not node.attrs.reverse)]  # fmt: skip


define(
    Op(
        "running_sum",
        "y[.., i] = the sum of x[.., 0] to x[.., i] along an axis, of floats in float64",
        _sum_infer,
        _sum_reference,
        _sum_vjp,
        SumAttrs,
        family="scan",
    )
)


@dataclass(frozen=True)
class PositionsAttrs:
    """``size``: how many places of a line are wanted."""

    size: Extent


def _positions_infer(attrs: PositionsAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.dtype is not BOOL or not x.rank:
        raise ValueError(f"positions are those of lines of truth values, not of {x}")
    return [TensorType(INT64, (*x.shape[:-1], attrs.size + 1))]


def _positions_reference(
    _attrs: PositionsAttrs, inputs: Sequence[Array], o: Sequence[TensorType]
) -> Sequence[Array]:
    (x,) = inputs
    found = np.full(o[0].static_shape, x.shape[-1], np.int64)
    size = found.shape[-1] - 1
    for at in np.ndindex(x.shape[:-1]):
        places = np.flatnonzero(x[at])[:size]
        found[at][: len(places)] = places
    return [found]


define(
    Op(
        "true_positions",
        "the places of the first elements of a line that hold, in order; then, at least once, the "
        "line's length",
        _positions_infer,
        _positions_reference,
        _COUNT,
        PositionsAttrs,
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
