"""Products of matrices, batched by NumPy's rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..dim import Extent, product
from ..formula import sum_to
from ..op import Array, Compute, Op, Read, define
from ..scalar import Expr, cast
from ..tensor_type import BOOL, TensorType, broadcast_shapes
from .products import product_dtype

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class MatmulAttrs:
    """Whether the last two axes of an operand are exchanged first."""

    transpose_a: bool = False
    transpose_b: bool = False


def _extents(
    attrs: MatmulAttrs, a: TensorType, b: TensorType
) -> tuple[Extent, Extent, Extent, Extent]:
    """m, k of a and k, n of b."""
    m, k = (a.shape[-1], a.shape[-2]) if attrs.transpose_a else (a.shape[-2], a.shape[-1])
    l, n = (b.shape[-1], b.shape[-2]) if attrs.transpose_b else (b.shape[-2], b.shape[-1])
    return m, k, l, n


def _infer(attrs: MatmulAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    a, b = inputs
    if a.rank < 2 or b.rank < 2:
        raise ValueError("both operands need two axes or more; reshape vectors to matrices")
    dtype = product_dtype(a.dtype, b.dtype)
    if dtype is None or dtype is BOOL:
        raise ValueError("both operands must share one number type, or be uint8 and int8")
    m, k, l, n = _extents(attrs, a, b)
    batch = broadcast_shapes([a.shape[:-2], b.shape[:-2]])
    if k != l or batch is None:
        raise ValueError(
            f"{k} columns do not meet {l} rows"
            if k != l
            else "the batch axes do not broadcast together"
        )
    return [TensorType(dtype, (*batch, m, n))]


def _reference(
    attrs: MatmulAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    a, b = inputs
    a = np.swapaxes(a, -1, -2) if attrs.transpose_a else a
    b = np.swapaxes(b, -1, -2) if attrs.transpose_b else b
    if a.dtype != b.dtype:
        a, b = (operand.astype(outputs[0].dtype.numpy) for operand in (a, b))
    if a.dtype.itemsize < 4 and outputs[0].dtype.is_float:
        return [np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)]
    return [np.matmul(a, b)]


def _compute(
    attrs: MatmulAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Compute:
    a, b = inputs
    rank = outputs[0].rank

    def batch(operand: TensorType, i: tuple[Extent, ...]) -> list[Extent]:
        own = i[rank - operand.rank : rank - 2]
        return [0 if e == 1 else x for e, x in zip(operand.shape[:-2], own, strict=True)]

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        m, n, k = i[-2], i[-1], r[0]
        left = read(0, [*batch(a, i), *((k, m) if attrs.transpose_a else (m, k))])
        right = read(1, [*batch(b, i), *((n, k) if attrs.transpose_b else (k, n))])
        return cast(left, outputs[0].dtype) * cast(right, outputs[0].dtype)

    return Compute(term, (_extents(attrs, a, b)[1],))


def _vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """da = dy b', db = a' dy, each summed over broadcast batch axes; of one matrix b, db is one
    product whose sum runs over all rows of all batches."""
    x, y = node.inputs
    (dy,) = cotangents
    ta, tb = node.attrs.transpose_a, node.attrs.transpose_b
    if ta:
        dx = b("matmul", y, dy, transpose_a=tb, transpose_b=True)
    else:
        dx = b("matmul", dy, y, transpose_a=False, transpose_b=not tb)
    if y.type.rank == 2 and x.type.rank > 2 and not ta:
        x, dy = (b("reshape", v, shape=(product(v.shape[:-1]), v.shape[-1])) for v in (x, dy))
    if tb:
        dz = b("matmul", dy, x, transpose_a=True, transpose_b=ta)
    else:
        dz = b("matmul", x, dy, transpose_a=not ta, transpose_b=False)
    return [sum_to(b, dx, node.inputs[0].type), sum_to(b, dz, y.type)]


def _flops(
    attrs: MatmulAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Extent:
    return 2 * product(outputs[0].shape) * _extents(attrs, inputs[0], inputs[1])[1]


define(Op("matmul", "y[.., m, n] = sum over k of a[.., m, k] * b[.., k, n]", _infer, _reference, _vjp, MatmulAttrs,
          "matmul", _compute, flops=_flops))  # fmt: skip
