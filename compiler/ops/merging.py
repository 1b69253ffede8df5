"""Sorting in n log n steps: numbers as keys that hold their place, and lines of keys in order.

``order_keys`` makes int64 keys that differ: the upper half orders as the numbers do, the lower half
is the number's place, so that ties keep their order and a sorted key tells where it stood. Numbers
of 64 bits go in two rounds, by their lower and then by their upper half, for the sort is stable.
``merge_sort`` puts lines of keys in order; it has loops of its own (``loops/merging.py``). They
replace the comparison of all pairs where lines are long (``passes/sort_by_merging.py``).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import scalar
from ..dim import Extent, product
from ..op import Array, Compute, NoAttrs, NotDifferentiable, Op, Read, define
from ..scalar import Bitcast, Expr, Index
from ..tensor_type import BOOL, FLOAT32, INT32, INT64, TensorType

_PLACE = NotDifferentiable("a position does not change smoothly")
LEAST_NUMBER = -(1 << 63)
FIRST_RUN = 16  # keys that are sorted without merging
NO_KEY = (1 << 63) - 1  # behind all others: no number has it


class Half(enum.Enum):
    """What of a number decides: one of 64 bits goes in halves."""

    WHOLE = "whole"
    LOWER = "lower"
    UPPER = "upper"


@dataclass(frozen=True)
class KeyAttrs:
    descending: bool = False
    half: str = Half.WHOLE.value


def _keys_infer(attrs: KeyAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.dtype is BOOL or not x.rank:
        raise ValueError(f"keys are of lines of numbers, not of {x}")
    if (Half(attrs.half) is Half.WHOLE) != (x.dtype.bytes < 8):
        raise ValueError(f"keys of {x.dtype.value} are not of its {attrs.half} bits")
    return [TensorType(INT64, x.shape)]


def _keys_reference(
    attrs: KeyAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    """By the integers that IEEE 754 numbers are as bits: sign and magnitude."""
    (x,) = inputs
    is_long = x.dtype.itemsize == 8
    if x.dtype.kind in "fV":  # bfloat16 is foreign to NumPy
        wide = np.where(x == 0, x.dtype.type(0), x).astype(np.float64 if is_long else np.float32)
        bits = wide.view(np.int64 if is_long else np.int32).astype(np.int64)
        most = (1 << 63) - 1 if is_long else (1 << 31) - 1
        ordered = np.where(bits < 0, bits ^ most, bits)
        whole = np.where(np.isnan(wide), most, ordered)
    elif x.dtype.kind == "u":
        whole = x.view(np.int64) ^ LEAST_NUMBER if is_long else x.astype(np.int64) - (1 << 31)
    else:
        whole = x.astype(np.int64)
    whole = ~whole if attrs.descending else whole
    match Half(attrs.half):
        case Half.LOWER:
            whole = (whole & 0xFFFFFFFF) - (1 << 31)
        case Half.UPPER:
            whole = whole >> 32
    return [(whole << 32) + np.arange(x.shape[-1])]


def _keys_compute(
    attrs: KeyAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        whole = ordered_integer(read(0, i))
        whole = scalar.call("not", whole) if attrs.descending else whole
        match Half(attrs.half):
            case Half.LOWER:
                whole = scalar.call("and", whole, 0xFFFFFFFF) - (1 << 31)
            case Half.UPPER:
                whole = scalar.call("shift_right", whole, 32)
        return scalar.call("shift_left", whole, 32) + Index(i[-1])

    return Compute(term)


def ordered_integer(x: Expr) -> Expr:
    """An int64 that orders as the number does: zeros are equal, and NaN is the largest."""
    if x.dtype.is_float:
        wide = x if x.dtype.bytes == 8 else scalar.cast(x, FLOAT32)
        signed, most = (INT64, (1 << 63) - 1) if x.dtype.bytes == 8 else (INT32, (1 << 31) - 1)
        bits = scalar.select(scalar.call("equal", wide, 0.0), 0, Bitcast(wide, signed))
        ordered = scalar.select(bits < 0, scalar.call("xor", bits, most), bits)
        is_number = scalar.call("equal", wide, wide)
        return scalar.cast(scalar.select(is_number, ordered, most), INT64)
    if x.dtype.is_signed:
        return scalar.cast(x, INT64)
    if x.dtype.bytes == 8:
        return scalar.call("xor", Bitcast(x, INT64), LEAST_NUMBER)
    return scalar.cast(x, INT64) - (1 << 31)


define(
    Op(
        "order_keys",
        "int64 keys that differ and order as the numbers of a line do, ties in order, NaN last; "
        "the lower 32 bits are each number's place",
        _keys_infer,
        _keys_reference,
        _PLACE,
        KeyAttrs,
        "elementwise",
        _keys_compute,
    )
)


def _sort_infer(_attrs: NoAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.dtype is not INT64 or not x.rank:
        raise ValueError(f"lines of int64 are sorted, not {x}")
    return [TensorType(INT64, (*x.shape[:-1], 2, x.shape[-1]))]


def _sort_reference(
    _attrs: NoAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    (x,) = inputs
    run = max(1 << max(x.shape[-1] - 1, 0).bit_length() >> 1, FIRST_RUN)
    before = np.concatenate([np.sort(x[..., :run]), np.sort(x[..., run:])[..., ::-1]], axis=-1)
    return [np.stack([np.sort(x, axis=-1), before], axis=-2)]


def _comparisons(_attrs: Any, inputs: Sequence[TensorType], _o: Sequence[TensorType]) -> Extent:
    """Each element once a round, of which there are as many as bits in the last place."""
    extent = inputs[0].shape[-1]
    rounds = (extent - 1).bit_length() if isinstance(extent, int) else 31
    return product(inputs[0].shape) * rounds


define(
    Op(
        "merge_sort",
        "y[.., 0, :] = each line in ascending order; y[.., 1, :] = what was merged last, a run that "
        "ascends, of 16 keys or the largest power of two below n, and one that descends",
        _sort_infer,
        _sort_reference,
        _PLACE,
        family="scan",
        flops=_comparisons,
    )
)
