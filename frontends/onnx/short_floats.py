"""Floats of 16 bits in what handlers compose of several ops."""

from __future__ import annotations

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32

from .context import Context


def widened(context: Context, value: Value) -> Value:
    """``value`` as float32 if its floats have 16 bits: float16 has no room for their squares and
    sums, nor for small epsilons.
    """
    is_short = value.dtype.is_float and value.dtype.bytes < FLOAT32.bytes
    return context.cast(value, FLOAT32) if is_short else value
