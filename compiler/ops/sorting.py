"""Order along an axis: where each element belongs, and which element belongs where.

A position counts the elements that come before: n comparisons for each of n elements, all
independent, so they run in vectors and on all cores. Ties keep their order; NaN counts as larger
than every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import scalar
from ..dim import Extent, product
from ..op import Array, Compute, NotDifferentiable, Op, Read, define
from ..scalar import Expr, Index
from ..tensor_type import BOOL, INT64, TensorType

_POSITION = NotDifferentiable("a position does not change smoothly")


@dataclass(frozen=True)
class SortAttrs:
    axis: int
    descending: bool = False


def _check_axis(axis: int, x: TensorType) -> None:
    if not 0 <= axis < x.rank:
        raise ValueError(f"there is no axis {axis} in rank {x.rank}")


def _positions_infer(attrs: SortAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    _check_axis(attrs.axis, x)
    if x.dtype is BOOL:
        raise ValueError("truth values have no order")
    return [TensorType(INT64, x.shape)]


def stable_order(x: Array, axis: int, descending: bool) -> Array:
    """Which element of an axis comes first, second, ..: ties in order, NaN as the largest."""
    # a stable sort; descending is ascending of the reversed axis, reversed
    line = np.flip(x, axis) if descending else x
    line = line.astype(np.float32) if x.dtype.kind == "V" else line  # NumPy cannot sort bfloat16
    order = np.argsort(line, axis=axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(order, axis) if descending else order


def _positions_reference(
    attrs: SortAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    order = stable_order(inputs[0], attrs.axis, attrs.descending)
    return [np.argsort(order, axis=attrs.axis, kind="stable").astype(np.int64)]


def _positions_compute(
    attrs: SortAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    (x,) = inputs

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        own, other = read(0, i), read(0, (*i[: attrs.axis], r[0], *i[attrs.axis + 1 :]))
        precedes, follows = less(other, own), less(own, other)
        if attrs.descending:
            precedes, follows = follows, precedes
        is_earlier = scalar.call("less", Index(r[0]), Index(i[attrs.axis]))
        is_tie = scalar.call("not", scalar.call("or", precedes, follows))
        return scalar.cast(
            scalar.call("or", precedes, scalar.call("and", is_tie, is_earlier)), INT64
        )

    return Compute(term, (x.shape[attrs.axis],))


def less(a: Expr, b: Expr) -> Expr:
    """a < b, where NaN is the largest."""
    below = scalar.call("less", a, b)
    if not a.dtype.is_float:
        return below
    is_number = scalar.call("equal", a, a)
    return scalar.call(
        "or", below, scalar.call("and", is_number, scalar.call("not", scalar.call("equal", b, b)))
    )


def _pairs(attrs: Any, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Extent:
    return product((*outputs[0].shape, inputs[0].shape[attrs.axis]))


define(Op("sort_positions", "the position of each element along an axis if that were sorted, ties "
                            "in order",
          _positions_infer, _positions_reference, _POSITION, SortAttrs, "reduction",
          _positions_compute,
          flops=_pairs))  # fmt: skip


@dataclass(frozen=True)
class InverseAttrs:
    axis: int
    size: Extent


def _inverse_infer(attrs: InverseAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    _check_axis(attrs.axis, x)
    if x.dtype is not INT64:
        raise ValueError("positions must be int64")
    return [TensorType(INT64, (*x.shape[: attrs.axis], attrs.size, *x.shape[attrs.axis + 1 :]))]


def _inverse_reference(
    attrs: InverseAttrs, inputs: Sequence[Array], o: Sequence[TensorType]
) -> Sequence[Array]:
    order = np.argsort(inputs[0], axis=attrs.axis, kind="stable").astype(np.int64)
    return [np.take(order, np.arange(o[0].static_shape[attrs.axis]), axis=attrs.axis)]


def _inverse_compute(
    attrs: InverseAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    """The one j whose position is i, as a sum."""
    (x,) = inputs

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        position = read(0, (*i[: attrs.axis], r[0], *i[attrs.axis + 1 :]))
        return scalar.select(scalar.call("equal", position, Index(i[attrs.axis])), Index(r[0]), 0)

    return Compute(term, (x.shape[attrs.axis],))


define(Op("inverse_positions", "y[p] = j where x[j] = p, for p below size; x holds each of 0, 1, "
                               ".. once along the axis",
          _inverse_infer, _inverse_reference, _POSITION, InverseAttrs, "indexing", _inverse_compute,
          flops=_pairs))  # fmt: skip
