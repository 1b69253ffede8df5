"""Sums of products of bytes -> ``dot_bytes`` of int32 numbers that hold four bytes each.

Where the summed axis is innermost in both operands, four neighbours of each are one number in
memory (the machines are little-endian, and so is the function), and a sum over the axis is one over
its quarters. The integers are the same: products and sums in int32 wrap in any order.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import dim, scalar
from ..layout import QUAD
from ..scalar import Call, Cast, Expr
from ..tensor_type import INT8, INT32, UINT8
from .elements import Axis
from .ir import Buffer, Load, slope_along


def word_buffers(term: Expr, inner: Axis) -> Mapping[Buffer, Buffer] | None:
    """The two buffers of a product of bytes as int32 numbers; None unless both hold the four bytes
    along the axis next to each other, and the first of them in a whole number."""
    loads = _factors(term)
    if loads is None or loads[0].buffer is loads[1].buffer:
        return None
    found = {load.buffer: _word_buffer(load, inner) for load in loads}
    words = {buffer: word for buffer, word in found.items() if word is not None}
    return words if len(words) == len(loads) else None


def dot_of_words(term: Expr, words: Mapping[Buffer, Buffer]) -> Expr:
    """A product of bytes, the first of four, as ``dot_bytes`` of the numbers that they are in."""
    loads = _factors(term)
    assert loads is not None
    return scalar.call("dot_bytes", *(_word(load, words[load.buffer]) for load in loads), 0)


def _factors(term: Expr) -> tuple[Load, Load] | None:
    """The loads of uint8 and int8 whose product in int32 a term is."""
    match term:
        case Call("mul", (Cast(Load() as left, _), Cast(Load() as right, _)), dtype) if (
            dtype is INT32 and (left.dtype, right.dtype) == (UINT8, INT8)
        ):
            is_indexed = left.index_expressions or right.index_expressions
            return None if is_indexed else (left, right)
    return None


def _word_buffer(load: Load, inner: Axis) -> Buffer | None:
    offset = load.buffer.offset(load.extents)
    size = dim.exact_quotient(dim.product(load.buffer.shape), QUAD)
    is_next = slope_along(offset, inner.symbol) == 1
    if not is_next or size is None or dim.exact_quotient(offset - inner.position, QUAD) is None:
        return None
    return Buffer(load.buffer.name, INT32, (size,))


def _word(load: Load, buffer: Buffer) -> Load:
    position = dim.exact_quotient(load.buffer.offset(load.extents), QUAD)
    assert position is not None
    return Load(buffer, (position,))


__all__ = ["dot_of_words", "word_buffers"]
