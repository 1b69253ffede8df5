"""The op record: everything the compiler knows of an op, in one place.

``define`` registers an op; nothing else keeps lists of op names. An op has a type rule (``infer``), a NumPy
meaning (``reference``), a gradient (``vjp``, as a graph) and a loop meaning: either a ``compute`` (its output
element by element) or a ``decompose`` (a graph of smaller ops). Elementwise ops get all of these from one
scalar formula. See docs/adding-an-op.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy.typing as npt

from . import scalar
from .dim import Extent
from .scalar import Expr
from .tensor_type import BOOL, DType, TensorType, broadcast_shapes

if TYPE_CHECKING:
    from .graph import Builder, Node, Value

Array: TypeAlias = npt.NDArray[Any]
IndexLike: TypeAlias = "Extent | Expr"


@dataclass(frozen=True)
class NoAttrs:
    """The attributes of an op that has none. Attributes are frozen dataclasses; text and verifier derive from them."""


class Read(Protocol):
    """``read(k, index)``: the element of input k at a logical index (extents, or int64 expressions)."""

    def __call__(self, position: int, index: Sequence[IndexLike], /) -> Expr: ...


@dataclass(frozen=True)
class Compute:
    """One output, element by element: out[i] = finish(combine over r of term(i, r)).

    ``reduce`` holds the extents of r; empty means out[i] = term(i, ()). ``combine`` is add, mul, max or min, starting
    from ``initial``. A term that is a product, combined by add, is accumulated with fma.
    """

    term: Callable[[tuple[Extent, ...], tuple[Extent, ...], Read], Expr]
    reduce: tuple[Extent, ...] = ()
    combine: str = "add"
    initial: float = 0.0
    finish: Callable[[Expr, tuple[Extent, ...], Read], Expr] | None = None


@dataclass(frozen=True)
class NotDifferentiable:
    """Why an op has no gradient."""

    reason: str


@dataclass(frozen=True)
class ByDecomposition:
    """The gradient is that of the op's decomposition."""


Infer: TypeAlias = Callable[[Any, Sequence[TensorType]], Sequence[TensorType]]
Reference: TypeAlias = Callable[[Any, Sequence[Array], Sequence[TensorType]], Sequence[Array]]
# vjp(builder, node, cotangents of the outputs) -> cotangents of the inputs (None: no gradient flows there)
Vjp: TypeAlias = "Callable[[Builder, Node, Sequence[Value]], Sequence[Value | None]]"


@dataclass(frozen=True, eq=False)
class Op:
    """One op. ``reference(attrs, inputs, output_types)`` sees attrs and types with every symbol replaced by its number."""

    name: str
    doc: str
    infer: Infer
    reference: Reference
    vjp: Vjp | NotDifferentiable | ByDecomposition
    attrs: type = NoAttrs
    family: str = ""
    compute: Callable[[Any, Sequence[TensorType], Sequence[TensorType]], Compute] | None = None
    decompose: Callable[[Builder, Node], Sequence[Value]] | None = None
    formula: Callable[..., Expr] | None = None  # elementwise ops: formula(attrs, *arguments)
    commutative: bool = False
    identity: float | None = None  # op(x, identity) = x
    idempotent: bool = False  # op(op(x)) = op(x)
    flops: Callable[[Any, Sequence[TensorType], Sequence[TensorType]], Extent] | None = None

    @property
    def is_elementwise(self) -> bool:
        return self.formula is not None

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, Op] = {}


def define(op: Op) -> Op:
    """Register an op; a second op of the same name is refused."""
    if op.name in OPS:
        raise ValueError(f"op {op.name} is defined twice")
    if not op.doc:
        raise ValueError(f"op {op.name} needs a docstring")
    if not (dataclasses.is_dataclass(op.attrs) and op.attrs.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise ValueError(f"the attributes of op {op.name} must be a frozen dataclass")
    OPS[op.name] = op
    return op


# -- elementwise ops: all from one formula -------------------------------------------------------------------


def elementwise(
    name: str,
    arity: int,
    formula: Callable[..., Expr],
    doc: str,
    *,
    attrs: type = NoAttrs,
    kinds: str = "fi",
    vjp: Vjp | NotDifferentiable | None = None,
    **facts: Any,
) -> Op:
    """Define an op that applies ``formula(attrs, *arguments)`` to each element, inputs broadcast by NumPy's rule.

    ``kinds`` are the dtypes accepted (f float, i integer, b bool); all inputs share one, but for select's condition.
    Type rule, meaning, loops and gradient follow from the formula.
    """

    def infer(values: Any, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
        shape = broadcast_shapes([t.shape for t in inputs])
        if shape is None:
            raise ValueError(f"shapes {', '.join(str(t) for t in inputs)} do not broadcast together")
        for t in inputs:
            if _kind(t.dtype) not in kinds:
                raise ValueError(f"{name} does not take {t.dtype.value}")
        return [TensorType(_expression(values, inputs).dtype, shape)]

    def _expression(values: Any, inputs: Sequence[TensorType]) -> Expr:
        try:
            return formula(values, *(scalar.Argument(i, t.dtype) for i, t in enumerate(inputs)))
        except TypeError as error:
            raise ValueError(str(error)) from error

    def reference(values: Any, inputs: Sequence[Array], outputs: Sequence[TensorType]) -> Sequence[Array]:
        types = [TensorType(DType.of(x.dtype), x.shape) for x in inputs]
        result = scalar.evaluate(_expression(values, types), inputs)
        shape = outputs[0].static_shape
        if result.shape != shape:
            import numpy as np

            result = np.broadcast_to(result, shape)
        return [result]

    def compute(values: Any, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Compute:
        rank = outputs[0].rank

        def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
            loaded = []
            for position, t in enumerate(inputs):
                own = i[rank - t.rank :]
                loaded.append(read(position, [0 if e == 1 else x for e, x in zip(t.shape, own, strict=True)]))
            return formula(values, *loaded)

        return Compute(term)

    def flops(_values: Any, _inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Extent:
        return outputs[0].elements

    return define(
        Op(name, doc, infer, reference, vjp or _formula_vjp, attrs, "elementwise", compute, None, formula,
           flops=flops, **facts)  # fmt: skip
    )


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
            result.append(sum_to(b, emit_formula(b, slope, operands, {id(formula): node.outputs[0]}), value.type))
    return result


def emit_formula(
    b: Builder, root: Expr, operands: Sequence[Value], known: dict[int, Value] | None = None
) -> Value:
    """A scalar expression as a graph of primitive elementwise ops over ``operands``; ``known`` nodes are reused."""
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


__all__ = [
    "OPS", "Array", "ByDecomposition", "Compute", "Infer", "NoAttrs", "NotDifferentiable", "Op", "Read", "Reference", "Vjp", "define",
    "elementwise", "emit_formula", "field", "sum_to",
]  # fmt: skip
