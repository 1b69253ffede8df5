"""Convolutions and products of dequantized operands -> the same of their integers, times the scales.

sum (x - zx) sx (w - zw) sw = sx sw sum (x - zx) (w - zw), where the sum of integers is exact. It is
taken where passes/multiply_bytes.py makes products of bytes of it: by constant weights of 8 bits, of
so many channels or columns that floats would take longer, or of filters that meet one channel each,
which read bytes sooner than floats.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.compiler.graph import Value
from netloom.compiler.ops.convolution import is_depthwise
from netloom.compiler.passes.multiply_bytes import (
    are_columns,
    are_filters,
    are_signed_bytes,
)
from netloom.compiler.tensor_type import FLOAT32, INT8, INT32, UINT8

from .context import Context
from .dequantized import Dequantized

DEEPEST = 1 << 15  # products of 255 and 255 whose sum is an int32
BYTES = (UINT8, INT8)


def weights_of_filters(context: Context, x: Value, w: Value, groups: int) -> Value | None:
    """The integers of a convolution's weights in int32; None where floats are convolved."""
    if w.type.rank < 3:
        return None
    filters, channels = w.shape[:2]
    if not (isinstance(filters, int) and isinstance(channels, int)):
        return None
    if not (are_filters(filters, channels, groups) or is_depthwise(w.type, groups)):
        return None
    found = _weights(context, x, w, axis=0)
    depth = 0 if found is None else math.prod(found.shape[1:])
    return None if found is None or depth > DEEPEST else _integers(context, found)


def weights_of_columns(context: Context, a: Value, b: Value, transposed: bool) -> Value | None:
    """The integers [k, n] of a product's right operand, given as [n, k] if transposed; None where
    floats are multiplied."""
    if b.type.rank != 2 or a.type.rank < 2 or not b.type.is_static:
        return None
    depth, columns = reversed(b.type.static_shape) if transposed else b.type.static_shape
    if not are_columns(depth, columns) or depth > DEEPEST:
        return None
    found = _weights(context, a, b, axis=0 if transposed else 1)
    return None if found is None else _integers(context, found.T if transposed else found)


def scaled(context: Context, total: Value, x: Value, w: Value, channel: int) -> Value:
    """A sum of products of integers times the scales of both; ``channel``: the axis of filters or
    columns."""
    left, right = context.dequantized[x].scale, context.dequantized[w].scale
    factor = context.reshape(left, ())
    if right.type.elements == 1:
        factor = context("mul", factor, context.reshape(right, ()))
    else:
        factor = context("mul", context.per_channel(right, total.type.rank, channel), factor)
    return context("mul", context("cast", total, dtype=FLOAT32), factor)


def _weights(context: Context, x: Value, w: Value, axis: int) -> npt.NDArray[np.int32] | None:
    """Weights without their zero points; None unless they are bytes, of one scale or one for each
    element of the axis, and x is quantized to bytes as a whole."""
    left, right = context.dequantized.get(x), context.dequantized.get(w)
    if left is None or right is None or left.source.dtype not in BYTES:
        return None
    if left.scale.type.elements != 1 or (right.scale.type.elements != 1 and right.axis != axis):
        return None
    array, scales = context.array(right.source), context.array(right.scale)
    if array is None or scales is None or not np.isfinite(scales).all() or array.dtype.itemsize > 1:
        return None
    if any(part.zero is not None and context.array(part.zero) is None for part in (left, right)):
        return None
    centred: npt.NDArray[np.int32] = array.astype(np.int32) - _zeros(context, right, array)
    return centred if centred.size else None


def _zeros(context: Context, weights: Dequantized, array: npt.NDArray[Any]) -> Any:
    """Zero points that broadcast over the weights."""
    zeros = None if weights.zero is None else context.array(weights.zero)
    if zeros is None or zeros.size == 1:
        return 0 if zeros is None else int(zeros.reshape(-1)[0])
    shape = [-1 if axis == weights.axis else 1 for axis in range(array.ndim)]
    return zeros.astype(np.int32).reshape(shape)


def _integers(context: Context, weights: npt.NDArray[np.int32]) -> Value:
    if not are_signed_bytes(weights):
        return context.constant(np.ascontiguousarray(weights))
    return context("cast", context.constant(np.ascontiguousarray(weights, np.int8)), dtype=INT32)
