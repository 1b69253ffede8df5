"""Elementwise ops, each all from one scalar formula: type rule, NumPy meaning, loops and gradient.

The gradient is a graph: the chain rule over the formula, as primitive ops, summed over the axes
that were broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import scalar
from .dim import Extent
from .op import Array, Compute, NoAttrs, NotDifferentiable, Op, Read, Vjp, define
from .scalar import Expr
from .tensor_type import BOOL, FLOAT32, DType, TensorType, broadcast_shapes

if TYPE_CHECKING:
    from .graph import Builder, Node, Value


Slope: TypeAlias = "Callable[[Any, Expr, Expr], Expr]"


def elementwise(
    name: str,
    arity: int,
    formula: Callable[..., Expr],
    doc: str,
    *,
    attrs: type = NoAttrs,
    kinds: str = "fi",
    slope: Slope | None = None,
    vjp: Vjp | NotDifferentiable | None = None,
    **facts: Any,
) -> Op:
    """Define an op that applies ``formula(attrs, *arguments)`` to each element, inputs broadcast by
    NumPy's rule.

    ``kinds`` are the dtypes accepted (f float, i integer, b bool); all inputs share one, but for
    select's condition. Type rule, meaning, loops and gradient follow from the formula. ``slope``: the
    derivative of a formula of one argument, from (attrs, argument, result), where the chain rule
    gives another one at a kink, or NaN because a part of the formula overflows.
    """
    parts = _Parts(name, arity, formula, kinds)
    return define(
        Op(
            name,
            doc,
            parts.infer,
            parts.reference,
            vjp or (_formula_vjp if slope is None else _slope_vjp(slope)),
            attrs,
            "elementwise",
            parts.compute,
            None,
            formula,
            flops=_flops,
            **facts,
        )  # fmt: skip
    )


def in_float32(formula: Callable[..., Expr]) -> Callable[..., Expr]:
    """The formula; of floats of 16 bits it is evaluated in float32, and rounded once."""

    def wide(attrs: Any, *arguments: Expr) -> Expr:
        dtype = arguments[0].dtype
        if not dtype.is_float or dtype.bytes >= FLOAT32.bytes:
            return formula(attrs, *arguments)
        result = formula(attrs, *(scalar.cast(argument, FLOAT32) for argument in arguments))
        return scalar.cast(result, dtype) if result.dtype is FLOAT32 else result

    return wide


@dataclass(frozen=True)
class _Parts:
    """The parts of an elementwise op's record that depend on its formula."""

    name: str
    arity: int
    formula: Callable[..., Expr]
    kinds: str

    def infer(self, attrs: Any, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
        if len(inputs) != self.arity:
            raise ValueError(f"{self.name} takes {self.arity} inputs, not {len(inputs)}")
        shape = broadcast_shapes([t.shape for t in inputs])
        if shape is None:
            raise ValueError(
                f"shapes {', '.join(str(t) for t in inputs)} do not broadcast together"
            )
        for t in inputs:
            if _kind(t.dtype) not in self.kinds:
                raise ValueError(f"{self.name} does not take {t.dtype.value}")
        return [TensorType(self._expression(attrs, inputs).dtype, shape)]

    def reference(
        self, attrs: Any, inputs: Sequence[Array], outputs: Sequence[TensorType]
    ) -> Sequence[Array]:
        types = [TensorType(DType.of(x.dtype), x.shape) for x in inputs]
        result = scalar.evaluate(self._expression(attrs, types), inputs)
        shape = outputs[0].static_shape
        return [result if result.shape == shape else np.broadcast_to(result, shape)]

    def compute(
        self, attrs: Any, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> Compute:
        rank = outputs[0].rank

        def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
            loaded = []
            for position, t in enumerate(inputs):
                own = i[rank - t.rank :]
                loaded.append(
                    read(position, [0 if e == 1 else x for e, x in zip(t.shape, own, strict=True)])
                )
            return self.formula(attrs, *loaded)

        return Compute(term)

    def _expression(self, attrs: Any, inputs: Sequence[TensorType]) -> Expr:
        dtypes = tuple(t.dtype for t in inputs)
        # attributes that are equal may still differ (0.0 and -0.0), so those are not looked up
        made = _plain_expression if type(attrs) is NoAttrs else _expression_over
        return made(self.formula, attrs, dtypes)


def _expression_over(formula: Callable[..., Expr], attrs: Any, dtypes: tuple[DType, ...]) -> Expr:
    """A formula applied to arguments of these dtypes; ValueError where it does not take them."""
    try:
        return formula(attrs, *(scalar.Argument(i, dtype) for i, dtype in enumerate(dtypes)))
    except TypeError as error:
        raise ValueError(str(error)) from error


_plain_expression = cache(_expression_over)


def _flops(_attrs: Any, _inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Extent:
    return outputs[0].elements


def _kind(dtype: DType) -> str:
    return "f" if dtype.is_float else ("b" if dtype is BOOL else "i")


def _formula_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """The chain rule over the formula, as a graph of primitive ops."""
    assert node.op.formula is not None
    arguments = [scalar.Argument(i, v.type.dtype) for i, v in enumerate(node.inputs)]
    formula = node.op.formula(node.attrs, *arguments)
    seed = scalar.Argument(len(arguments), formula.dtype)
    slopes = scalar.differentiate(formula, seed, range(len(arguments)))
    operands = [*node.inputs, cotangents[0]]
    result: list[Value | None] = []
    for slope, value in zip(slopes, node.inputs, strict=True):
        if slope is None or not value.type.dtype.is_float:
            result.append(None)
        else:
            result.append(
                sum_to(
                    b, emit_formula(b, slope, operands, {id(formula): node.outputs[0]}), value.type
                )
            )
    return result


def _slope_vjp(slope: Slope) -> Vjp:
    """The slope as it is written."""

    def vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
        (x,), y = node.inputs, node.outputs[0]
        if not x.dtype.is_float:
            return [None]
        own, result, cotangent = (scalar.Argument(i, v.dtype) for i, v in enumerate((x, y, y)))
        product = scalar.scaled(cotangent, slope(node.attrs, own, result))
        return [emit_formula(b, product, [x, y, cotangents[0]])]

    return vjp


def emit_formula(
    b: Builder, root: Expr, operands: Sequence[Value], known: dict[int, Value] | None = None
) -> Value:
    """A scalar expression as a graph of primitive elementwise ops over ``operands``; ``known``
    nodes are reused.
    """
    values: dict[int, Value] = dict(known or {})
    for node in scalar.post_order([root]):
        if id(node) in values:
            continue
        match node:
            case scalar.Argument(position, _):
                values[id(node)] = operands[position]
            case scalar.Literal(value, dtype):
                values[id(node)] = b.number(value, dtype)
            case scalar.Cast(argument, dtype):
                values[id(node)] = b("cast", values[id(argument)], dtype=dtype)
            case scalar.Call(function, inner, _):
                values[id(node)] = b(function, *(values[id(a)] for a in inner))
            case _:
                raise TypeError(f"a formula holds {type(node).__name__}, which is for loops only")
    return values[id(root)]


def sum_to(b: Builder, value: Value, target: TensorType) -> Value:
    """Sum over the axes along which ``target`` was broadcast to ``value``'s shape."""
    extra = value.type.rank - target.rank
    axes = tuple(range(extra)) + tuple(
        extra + axis
        for axis, extent in enumerate(target.shape)
        if extent == 1 and value.type.shape[extra + axis] != 1
    )
    if axes:
        value = b("reduce_sum", value, axes=axes, keep=False)
    if value.type.shape != target.shape:
        value = b("reshape", value, shape=target.shape)
    return value


__all__ = ["Slope", "elementwise", "emit_formula", "in_float32", "sum_to"]
