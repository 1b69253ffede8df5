"""The op record: everything the compiler knows of an op, in one place.

``define`` registers an op; nothing else keeps lists of op names. An op has a type rule (``infer``),
a NumPy meaning (``reference``), a gradient (``vjp``, as a graph) and a loop meaning: either a
``compute`` (its output element by element) or a ``decompose`` (a graph of smaller ops). Elementwise
ops get all of these from one scalar formula (formula.py). See docs/adding-an-op.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy.typing as npt

from .dim import Extent
from .scalar import Expr
from .tensor_type import TensorType

if TYPE_CHECKING:
    from .graph import Builder, Node, Value

Array: TypeAlias = npt.NDArray[Any]
IndexLike: TypeAlias = "Extent | Expr"


@dataclass(frozen=True)
class NoAttrs:
    """The attributes of an op that has none. Attributes are frozen dataclasses; text and
    verifier derive from them.
    """


class Read(Protocol):
    """``read(k, index)``: the element of input k at a logical index (extents, or int64
    expressions).
    """

    def __call__(self, position: int, index: Sequence[IndexLike], /) -> Expr: ...


@dataclass(frozen=True)
class Compute:
    """One output, element by element: out[i] = finish(combine over r of term(i, r)).

    ``reduce`` holds the extents of r; empty means out[i] = term(i, ()). ``combine`` is add, mul,
    max or min, starting from ``initial``. A term that is a product, combined by add, is accumulated
    with fma.
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
# vjp(builder, node, cotangents of the outputs) -> cotangents of the inputs (None: no gradient flows
# there)
Vjp: TypeAlias = "Callable[[Builder, Node, Sequence[Value]], Sequence[Value | None]]"


@dataclass(frozen=True, eq=False)
class Op:
    """One op. ``reference(attrs, inputs, output_types)`` sees attrs and types with every symbol
    replaced by its number.
    """

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


__all__ = [
    "OPS", "Array", "ByDecomposition", "Compute", "Infer", "NoAttrs", "NotDifferentiable", "Op",
    "Read", "Reference", "Vjp", "define",
]  # fmt: skip
