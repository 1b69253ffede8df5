"""Gemm and MatMul -> matmul."""

from __future__ import annotations

from typing import Final

from netloom.compiler.dim import exact_quotient
from netloom.compiler.dim import product as product_of
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT64

from .byte_products import scaled, weights_of_columns
from .context import Context
from .handler import HandlerTable
from .node import ModelNode

MATMUL: Final = HandlerTable()


def product(context: Context, node: ModelNode, a: Value, b: Value) -> Value:
    """NumPy's matmul: vectors become matrices of one row or column, and lose that axis again."""
    if not a.type.rank or not b.type.rank:
        raise node.misshapen(f"it multiplies {a.type} by {b.type}; scalars are no matrices.")
    left = context.reshape(a, (1, *a.shape)) if a.type.rank == 1 else a
    right = context.reshape(b, (*b.shape, 1)) if b.type.rank == 1 else b
    value = context("matmul", left, right)
    rows = value.shape[:-2] + (() if a.type.rank == 1 else value.shape[-2:-1])
    return context.reshape(value, rows + (() if b.type.rank == 1 else value.shape[-1:]))


@MATMUL.on("MatMul")
def matmul(context: Context, node: ModelNode) -> Value:
    a, b = node.input(0), node.input(1)
    value = _product_of_integers(context, a, b, transposed=False)
    return product(context, node, a, b) if value is None else value


def _product_of_integers(context: Context, a: Value, b: Value, transposed: bool) -> Value | None:
    """The product of dequantized matrices, made of their integers; None where floats are
    multiplied."""
    integers = weights_of_columns(context, a, b, transposed)
    if integers is None:
        return None
    total = context("matmul", context.dequantized[a].centred, integers)
    return scaled(context, total, a, b, channel=total.type.rank - 1)


@MATMUL.on("Gemm")
def gemm(context: Context, node: ModelNode) -> Value:
    """alpha * op(a) @ op(b) + beta * c."""
    a, b, c = node.input(0), node.input(1), node.optional(2)
    if a.type.rank != 2 or b.type.rank != 2:
        raise node.misshapen(
            f"it multiplies {a.type} by {b.type}; matrices are needed.", "Flatten the input first."
        )
    transpose_a, transpose_b = node.flag("transA", False), node.flag("transB", False)
    if not transpose_a and (c is None or c.type.rank < 2):
        a = _unflattened(context, a)
    made = None if transpose_a else _product_of_integers(context, a, b, transpose_b)
    if made is None:
        made = context("matmul", a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    value = _biased(context, node, made, c)
    return context.reshape(value, (product_of(value.shape[:-1]), value.shape[-1]))


def _unflattened(context: Context, a: Value) -> Value:
    """A matrix that was flattened from more axes, with these: a free dim among them could not be
    split off again.
    """
    source, columns = context.source(a), a.shape[-1]
    if a.type.is_static:
        return a
    for count in reversed(range(1, source.type.rank)):
        rest = exact_quotient(product_of(source.shape[count:]), columns)
        if rest is not None:
            return context.reshape(
                source, (*source.shape[:count], *(() if rest == 1 else (rest,)), columns)
            )
    return a


def _biased(context: Context, node: ModelNode, value: Value, c: Value | None) -> Value:
    """alpha * value + beta * c; a beta of 0 leaves no NaN of c."""
    value = _scaled(context, value, node.number("alpha", 1.0))
    if c is None:
        return value
    beta = node.number("beta", 1.0)
    c = context.splat(0, c.dtype, c.shape) if beta == 0 else _scaled(context, c, beta)
    result = context("add", value, c)
    if result.shape != value.shape:
        raise node.misshapen(
            f"c is {c.type}, which does not broadcast to {value.type}.", "Export it again."
        )
    return result


def _scaled(context: Context, value: Value, factor: float) -> Value:
    if factor == 1:
        return value
    if value.dtype.is_float or factor.is_integer():
        return context("mul", value, factor if value.dtype.is_float else int(factor))
    return context.cast(context("mul", context.cast(value, FLOAT64), factor), value.dtype)
