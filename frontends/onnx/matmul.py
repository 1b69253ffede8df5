"""Gemm, MatMul and Einsum -> matmul."""

from __future__ import annotations

from typing import Final

from netloom.compiler import dim
from netloom.compiler.graph import Value

from .context import Context
from .handler import HandlerTable
from .names import printable
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
    return product(context, node, node.input(0), node.input(1))


@MATMUL.on("Gemm")
def gemm(context: Context, node: ModelNode) -> Value:
    """alpha * op(a) @ op(b) + beta * c."""
    a, b, c = node.input(0), node.input(1), node.optional(2)
    if a.type.rank != 2 or b.type.rank != 2:
        raise node.misshapen(f"it multiplies {a.type} by {b.type}; matrices are needed.", "Flatten the input first.")
    value = context("matmul", a, b, transpose_a=node.flag("transA", False), transpose_b=node.flag("transB", False))
    value = _scaled(context, value, node.number("alpha", 1.0))
    if c is None:
        return value
    result = context("add", value, _scaled(context, c, node.number("beta", 1.0)))
    if result.shape != value.shape:
        raise node.misshapen(f"c is {c.type}, which does not broadcast to {value.type}.", "Export it again.")
    return result


def _scaled(context: Context, value: Value, factor: float) -> Value:
    if factor == 1:
        return value
    return context("mul", value, factor if value.dtype.is_float else int(factor))


# -- einsum ---------------------------------------------------------------------------------------------------


@MATMUL.on("Einsum", first=12)
def einsum(context: Context, node: ModelNode) -> Value:
    """One or two operands without ellipses or repeated letters: a transposed, batched product."""
    equation = node.text("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        result = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    is_plain = all(term.isalpha() or not term for term in (*terms, result))
    if len(terms) != len(node.inputs) or not is_plain or any(len(set(t)) < len(t) for t in (*terms, result)):
        raise node.unsupported(f"the equation {printable(equation)!r} is not supported.", "Use MatMul and Transpose.")
    values = node.present
    for term, value in zip(terms, values, strict=True):
        if len(term) != value.type.rank or set(result) - set(left):
            raise node.misshapen(f"the equation {printable(equation)!r} does not fit {value.type}.", "Export it again.")
    if len(values) > 2:
        raise node.unsupported(f"it has {len(values)} operands; one or two are supported.", "Split the product.")
    if len(values) == 1:
        return _arranged(context, *_summed(context, terms[0], values[0], result), result)
    return _pair(context, terms, values, result)


def _summed(context: Context, term: str, value: Value, wanted: str) -> tuple[str, Value]:
    """Sums over the letters that nobody else needs."""
    axes = tuple(axis for axis, letter in enumerate(term) if letter not in wanted)
    if not axes:
        return term, value
    return "".join(c for c in term if c in wanted), context("reduce_sum", value, axes=axes, keep=False)


def _arranged(context: Context, term: str, value: Value, order: str) -> Value:
    return context.transpose(value, [term.index(letter) for letter in order])


def _pair(context: Context, terms: list[str], values: list[Value], result: str) -> Value:
    """[batch, rows, inner] @ [batch, inner, columns]."""
    a, x = _summed(context, terms[0], values[0], result + terms[1])
    b, y = _summed(context, terms[1], values[1], result + terms[0])
    batch = "".join(c for c in a if c in b and c in result)
    inner = "".join(c for c in a if c in b and c not in result)
    rows, columns = ("".join(c for c in t if c not in batch + inner) for t in (a, b))
    extents = dict(zip(a + b, x.shape + y.shape, strict=True))

    def grouped(term: str, value: Value, *groups: str) -> Value:
        moved = _arranged(context, term, value, batch + "".join(groups))
        lead = tuple(extents[c] for c in batch)
        return context.reshape(moved, (*lead, *(dim.product([extents[c] for c in group]) for group in groups)))

    out = context("matmul", grouped(a, x, rows, inner), grouped(b, y, inner, columns))
    order = batch + rows + columns
    return _arranged(context, order, context.reshape(out, tuple(extents[c] for c in order)), result)
