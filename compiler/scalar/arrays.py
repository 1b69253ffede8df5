"""Scalar functions on NumPy arrays, where NumPy's own give another result than compiled code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..tensor_type import DType

# -- the primitives --------------------------------------------------------------------------------


def divide(x: Any, y: Any) -> Any:
    """Division: integers truncate towards zero, x / 0 is 0 and the smallest / -1 wraps (never a
    trap).
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "iu":
        return np.divide(x, y)
    safe = np.where(y == 0, np.ones_like(y), y)
    quotient = np.where(y == -1, np.negative(x), x // np.where(y == -1, np.ones_like(y), safe)) \
        if x.dtype.kind == "i" else x // safe  # fmt: skip
    if x.dtype.kind == "i":
        inexact = (quotient * safe != x) & ((x < 0) != (safe < 0)) & (y != -1)
        quotient = quotient + inexact
    return np.where(y == 0, np.zeros_like(x), quotient).astype(x.dtype)


def remainder(x: Any, y: Any) -> Any:
    """C's remainder: the sign of the dividend; integer x % 0 is 0 (never a trap)."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind == "f" or x.dtype.kind == "V":
        return np.fmod(x, y)
    return np.where(y == 0, np.zeros_like(x), np.fmod(x, np.where(y == 0, np.ones_like(y), y)))


def maximum(x: Any, y: Any) -> Any:
    """The larger; NaN if either is NaN (the NaN of x first)."""
    return np.where(
        (x > y) | (x != x) | ((x == y) & ~np.signbit(x) if _is_float(x) else x > y), x, y
    )  # noqa: PLR0124


def minimum(x: Any, y: Any) -> Any:
    """The smaller; NaN if either is NaN (the NaN of x first)."""
    return np.where(
        (x < y) | (x != x) | ((x == y) & np.signbit(x) if _is_float(x) else x < y), x, y
    )  # noqa: PLR0124


def _is_float(x: Any) -> bool:
    return DType.of(np.asarray(x).dtype).is_float


def shift_left(x: Any, y: Any) -> Any:
    bits = np.asarray(x).dtype.itemsize * 8
    y = np.asarray(y)
    return np.where(
        (y >= 0) & (y < bits), np.left_shift(x, np.where((y >= 0) & (y < bits), y, 0)), 0
    )


def shift_right(x: Any, y: Any) -> Any:
    bits = np.asarray(x).dtype.itemsize * 8
    y = np.asarray(y)
    inside = (y >= 0) & (y < bits)
    return np.where(inside, np.right_shift(x, np.where(inside, y, 0)), 0)


def erf(x: Any) -> Any:
    return (
        np.vectorize(math.erf, otypes=[np.float64])(np.asarray(x, np.float64))
        if np.size(x)
        else np.asarray(x)
    )


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Evaluate in float64 and round once, so that references of small dtypes are correctly
    rounded.
    """

    def wrapped(*arrays: Any) -> Any:
        dtype = np.asarray(arrays[0]).dtype
        with np.errstate(all="ignore"):
            return np.asarray(function(*(np.asarray(a, np.float64) for a in arrays))).astype(dtype)

    return wrapped


def fma(x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once for float32 and smaller (the product of two float32 is exact in
    float64).
    """
    dtype = np.asarray(x).dtype
    if dtype.itemsize >= 8:
        return x * y + z
    return (np.asarray(x, np.float64) * y + z).astype(dtype)


def dot_bytes(x: Any, y: Any, z: Any) -> Any:
    """The bytes of x, unsigned, times those of y, signed, added to z; the sum wraps."""
    x, y, z = np.broadcast_arrays(x, y, z)
    kind = z.dtype
    left = np.ascontiguousarray(x)[..., None].view(np.uint8).astype(kind)
    right = np.ascontiguousarray(y)[..., None].view(np.int8).astype(kind)
    return z + (left * right).sum(-1, dtype=kind)
