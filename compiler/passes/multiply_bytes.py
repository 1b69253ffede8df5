"""Products of quantized integers -> products of bytes, which CPUs add up in fours.

sum (x - z) w = sum x w - z sum w: with weights that are constants of 8 bits, the zero point of x
leaves the sum, and what is left multiplies bytes without a sign by bytes with one. An x with a sign
takes 128 more, and so does its zero point. Weights that do not fit a byte with a sign, because their
zero point lies at the other end of a byte's range, leave what is taken from all of a filter or column
to a sum of x: sum x (w + t) = sum x w + t sum x. Every sum is of int32 and wraps as before, so results
are equal bit for bit. Borders of a convolution hold the zero point instead of zeros, so it must be a byte
there, known or of data. Sums of too few channels for quads, such as those of depthwise convolutions, are sums of
float32 products instead, where weights are so small that these are exact: no CPU multiplies int32
as fast. All others stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..constant import Constant
from ..graph import Graph, Node, Value
from ..layout import BLOCK, QUAD, fills_blocks
from ..rewrite import Rewriter, rewrite
from ..tensor_type import BOOL, FLOAT32, INT8, INT32, UINT8, DType, TensorType

MOST_WEIGHTS = 64 << 20  # whose sums are computed while compiling
SIGNED = 128  # what makes a byte with a sign one without
EXACT = 1 << 24  # float32 numbers hold all integers up to it


@dataclass(frozen=True)
class Centred:
    """x - zero in int32, of bytes x; ``zero``: int32 that broadcasts, None for 0."""

    x: Value
    zero: Value | None


@dataclass(frozen=True)
class Weights:
    """array + taken, which broadcasts: one number for each filter or column; None for 0."""

    array: npt.NDArray[np.int8]
    taken: npt.NDArray[np.int32] | None


def multiply_bytes(graph: Graph) -> Graph:
    """The graph with int32 products by constants of 8 bits as products of bytes."""
    return rewrite(graph, _multiplied)


def are_filters(filters: int, channels: int, groups: int) -> bool:
    """Whether a convolution adds up in quads, in blocks of channels that are at least half full, and
    its filters fill lanes."""
    return groups == 1 and fills_blocks(channels) and 2 * filters > BLOCK


def are_columns(depth: int, columns: int) -> bool:
    """Whether a product's sums are of whole quads, and its columns fill lanes."""
    return depth > 0 and depth % QUAD == 0 and columns >= BLOCK


def _multiplied(b: Rewriter, node: Node) -> list[Value] | None:
    if node.op.name not in ("conv", "matmul") or node.inputs[0].dtype is not INT32:
        return None
    if not node.inputs[1].type.is_static:
        return None
    return _convolution(b, node) if node.op.name == "conv" else _product(b, node)


def _convolution(b: Rewriter, node: Node) -> list[Value] | None:
    x, w = centred(b, node.inputs[0]), integers_of(b, node.inputs[1])
    attrs, (filters, channels) = node.attrs, node.inputs[1].shape[:2]
    assert isinstance(filters, int) and isinstance(channels, int)
    if x is None or w is None or (x.zero is not None and x.zero.type.elements != 1):
        return None
    rows = w.reshape(filters, -1)
    quads = in_bytes(w) if are_filters(filters, channels, attrs.groups) else None
    if quads is None and not are_exact(rows):
        return None
    is_byte = x.zero is not None and _is_cast(b, x.zero, x.x.dtype)
    x = _unsigned(b, x)
    if any((*attrs.lo, *attrs.hi)):
        padded = _padded(b, x, attrs, is_byte)
        if padded is None:
            return None
        x, attrs = Centred(padded, x.zero), _without_padding(attrs)
    shape = (filters, *(1,) * (w.ndim - 2))
    if quads is None:
        total = _sum_of_floats(b, "conv", x.x, w, **_fields(attrs))
    else:
        total = b("conv", x.x, b.constant(Constant(quads.array)), **_fields(attrs))
        if quads.taken is not None:
            sums = _window_sums(b, x.x, w.shape[2:], _fields(attrs))
            total = _with_taken(b, total, sums, quads.taken.reshape(shape))
    return [_corrected(b, total, x.zero, rows.sum(1, dtype=np.int32).reshape(shape))]


def _padded(b: Rewriter, x: Centred, attrs: Any, is_byte: bool) -> Value | None:
    """Bytes x with their zero point around them; None where it is not known to be a byte.
    ``is_byte``: it is, though data decide which."""
    lo, hi = (0, 0, *attrs.lo), (0, 0, *attrs.hi)
    zero = _number(b, x.zero)
    if zero is not None:
        fits = 0 <= zero < 2 * SIGNED
        return b("pad", x.x, lo=lo, hi=hi, value=float(zero)) if fits else None
    if not is_byte:
        return None
    assert x.zero is not None
    one = TensorType(BOOL, (1,) * x.x.type.rank)
    inside = b("broadcast", b.constant(Constant.splat(True, one)), shape=(1, 1, *x.x.shape[2:]))
    border = b("cast", b("reshape", x.zero, shape=()), dtype=UINT8)
    bytes_ = b("pad", x.x, lo=lo, hi=hi, value=0.0)
    return b("select", b("pad", inside, lo=lo, hi=hi, value=0.0), bytes_, border)


def _is_cast(b: Rewriter, value: Value, dtype: DType) -> bool:
    """Whether a value is made of one of a dtype by a cast, and views of it."""
    node = b.producers.get(value)
    while node is not None and node.op.name == "reshape":
        node = b.producers.get(node.inputs[0])
    return node is not None and node.op.name == "cast" and node.inputs[0].dtype is dtype


def _window_sums(b: Rewriter, x: Value, kernel: tuple[int, ...], attrs: dict[str, Any]) -> Value:
    """What the filters of a convolution see of bytes x, added up: [n, 1, out..]."""
    sums = b("reduce_sum", b("cast", x, dtype=INT32), axes=(1,), keep=True)
    if math.prod((*kernel, *attrs["stride"])) == 1:
        return sums
    ones = b.constant(Constant(np.ones((1, 1, *kernel), np.int32)))
    return b("conv", sums, ones, **attrs)


def _sum_of_floats(b: Rewriter, op: str, x: Value, w: npt.NDArray[np.int32], **attrs: Any) -> Value:
    """A sum of products of bytes x and small integers in int32, made of float32 numbers."""
    weights = b.constant(Constant(w.astype(np.float32)))
    return b("cast", b(op, b("cast", x, dtype=FLOAT32), weights, **attrs), dtype=INT32)


def are_exact(weights: npt.NDArray[np.int32]) -> bool:
    """Whether float32 holds all sums, of any order, of bytes times the weights of a row."""
    return bool(np.abs(weights.astype(np.int64)).sum(1).max() * (2 * SIGNED - 1) <= EXACT)


def _product(b: Rewriter, node: Node) -> list[Value] | None:
    x, weights = centred(b, node.inputs[0]), node.inputs[1]
    if x is None or weights.type.rank != 2 or node.attrs.transpose_a or node.attrs.transpose_b:
        return None
    w = integers_of(b, weights) if x.x.shape == node.inputs[0].shape else None
    if w is None:
        return None
    quads = in_bytes(w.T) if are_columns(*weights.type.static_shape) else None
    if quads is None and not are_exact(w.T):
        return None
    x = _unsigned(b, x)
    if (
        x.zero is not None and x.zero.type.rank and x.zero.shape[-1] != 1
    ):  # one for each row at most
        return None
    if quads is None:
        total = _sum_of_floats(b, "matmul", x.x, w)
    else:
        total = b("matmul", x.x, b.constant(Constant(np.ascontiguousarray(quads.array.T))))
        if quads.taken is not None:
            last = x.x.type.rank - 1
            sums = b("reduce_sum", b("cast", x.x, dtype=INT32), axes=(last,), keep=True)
            total = _with_taken(b, total, sums, quads.taken.reshape(-1))
    return [_corrected(b, total, x.zero, w.sum(0, dtype=np.int32))]


def _with_taken(b: Rewriter, total: Value, sums: Value, taken: npt.NDArray[np.int32]) -> Value:
    """total + sums * taken"""
    return b("add", total, b("mul", sums, b.constant(Constant(taken))))


def _corrected(b: Rewriter, total: Value, zero: Value | None, sums: npt.NDArray[np.int32]) -> Value:
    """total - zero * sums; in one constant where the zero point is a number."""
    number = _number(b, zero)
    if zero is None or number == 0:
        return total
    if number is not None:
        with np.errstate(over="ignore"):
            return b("sub", total, b.constant(Constant(sums * np.int32(number))))
    return b("sub", total, b("mul", zero, b.constant(Constant(sums))))


def centred(b: Rewriter, value: Value) -> Centred | None:
    """What bytes an int32 value is made of: of cast(x), or cast(x) - zero."""
    node, zero = b.producers.get(value), None
    if node is not None and node.op.name == "sub":
        zero = node.inputs[1]
        if node.inputs[0].shape != value.shape:
            return None
        node = b.producers.get(node.inputs[0])
    if node is None or node.op.name != "cast" or node.output.dtype is not INT32:
        return None
    if node.inputs[0].dtype not in (UINT8, INT8):
        return None
    return Centred(node.inputs[0], zero)


def _unsigned(b: Rewriter, x: Centred) -> Centred:
    if x.x.dtype is UINT8:
        return x
    shifted = b("cast", b("add", b("cast", x.x, dtype=INT32), SIGNED), dtype=UINT8)
    zero = b.number(SIGNED, INT32) if x.zero is None else b("add", x.zero, SIGNED)
    number = _number(b, x.zero) if x.zero is not None else None
    return Centred(shifted, zero if number is None else b.number(number + SIGNED, INT32))


def _number(b: Rewriter, zero: Value | None) -> int | None:
    """A zero point that is one known number."""
    if zero is None:
        return 0
    constant = b.constant_of(zero)
    if constant is None or not (constant.is_splat or constant.array.size == 1):
        return None
    return int(constant.splat_value if constant.is_splat else constant.array.reshape(-1)[0])


def are_signed_bytes(weights: npt.NDArray[np.int32]) -> bool:
    """Whether all weights fit a byte with a sign."""
    return bool(weights.min() >= -SIGNED and weights.max() < SIGNED)


def in_bytes(weights: npt.NDArray[np.int32]) -> Weights | None:
    """Weights as bytes with a sign, and what is taken from each filter, the first axis; None where
    the weights of a filter lie further apart than bytes do."""
    if are_signed_bytes(weights):
        return Weights(weights.astype(np.int8), None)
    rest = tuple(range(1, weights.ndim))
    least, most = (f(weights, axis=rest, keepdims=True).astype(np.int64) for f in (np.min, np.max))
    if (most - least).max() >= 2 * SIGNED:
        return None
    taken = least + SIGNED
    return Weights((weights - taken).astype(np.int8), taken.astype(np.int32))


def integers_of(b: Rewriter, value: Value) -> npt.NDArray[np.int32] | None:
    """Constant weights; None where they are not constant, or too many."""
    if not 0 < math.prod(value.type.static_shape) <= MOST_WEIGHTS:
        return None
    return _array(b, value)


def _array(b: Rewriter, value: Value) -> npt.NDArray[np.int32] | None:
    """A constant, or cast(constant) and cast(constant) - constant, which grow too much to fold."""
    node = b.producers.get(value)
    if node is None or node.op.name != "sub":
        return _cast_constant(b, value)
    left, right = (_cast_constant(b, operand) for operand in node.inputs)
    return None if left is None or right is None else left - right


def _cast_constant(b: Rewriter, value: Value) -> npt.NDArray[np.int32] | None:
    node = b.producers.get(value)
    if node is not None and node.op.name == "cast" and node.output.dtype is INT32:
        value = node.inputs[0]
    constant = b.constant_of(value)
    return None if constant is None else constant.array.astype(np.int32)


def _without_padding(attrs: Any) -> Any:
    none = (0,) * len(attrs.lo)
    return replace(attrs, lo=none, hi=none)


def _fields(attrs: Any) -> dict[str, Any]:
    return {name: getattr(attrs, name) for name in ("stride", "dilation", "lo", "hi", "groups")}


__all__ = [
    "Centred", "Weights", "are_columns", "are_exact", "are_filters", "are_signed_bytes",
    "centred", "in_bytes", "integers_of", "multiply_bytes",
]  # fmt: skip
