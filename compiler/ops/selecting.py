"""The first few of a line in order, without the order of the rest.

``first_places`` is what an order's first entries are (``ops/sorting.py``). It has loops of its own: of
few that are ranked (``loops/selecting.py``), and of many that are not (``loops/digits.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import dim
from ..op import Array, NotDifferentiable, Op, define
from ..tensor_type import BOOL, INT64, TensorType
from .sorting import stable_order


@dataclass(frozen=True)
class FirstAttrs:
    """``size``: how many are wanted; ``descending``: the largest, not the smallest;
    ``is_ranked``: the first one first, else in the order of the line.
    """

    size: int
    descending: bool = False
    is_ranked: bool = True


def _infer(attrs: FirstAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.dtype is BOOL or not x.rank:
        raise ValueError(f"first places are those of lines of numbers, not of {x}")
    if attrs.size < 1:
        raise ValueError(f"the first {attrs.size} are none")
    if not dim.is_nonnegative(x.shape[-1] - attrs.size):
        raise ValueError(f"{x} has no {attrs.size} elements in a line")
    return [TensorType(INT64, (*x.shape[:-1], attrs.size))]


def _reference(
    attrs: FirstAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    order = stable_order(inputs[0], -1, attrs.descending)[..., : attrs.size].astype(np.int64)
    return [order if attrs.is_ranked else np.sort(order)]


define(
    Op(
        "first_places",
        "the places of the first so many elements of each line if that were sorted, ties in order; "
        "by rank, or in the order of the line",
        _infer,
        _reference,
        NotDifferentiable("a place does not change smoothly"),
        FirstAttrs,
        family="scan",
    )
)
