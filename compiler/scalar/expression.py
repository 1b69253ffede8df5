"""The nodes of scalar expressions, the table of scalar functions, and how expressions are built.

``functions.py`` fills the table; importing any module of this package imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..dim import Extent, unproved
from ..tensor_type import INT64, DType

Number: TypeAlias = "Expr | float | int | bool"


class Expr:
    """A scalar expression; ``dtype`` is its type. Subclasses are frozen dataclasses."""

    dtype: DType

    def __add__(self, other: Number) -> Expr:
        return call("add", self, other)

    def __radd__(self, other: Number) -> Expr:
        return call("add", other, self)

    def __sub__(self, other: Number) -> Expr:
        return call("sub", self, other)

    def __rsub__(self, other: Number) -> Expr:
        return call("sub", other, self)

    def __mul__(self, other: Number) -> Expr:
        return call("mul", self, other)

    def __rmul__(self, other: Number) -> Expr:
        return call("mul", other, self)

    def __truediv__(self, other: Number) -> Expr:
        return call("div", self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return call("div", other, self)

    def __neg__(self) -> Expr:
        return call("neg", self)

    def __lt__(self, other: Number) -> Expr:
        return call("less", self, other)

    def __le__(self, other: Number) -> Expr:
        return call("less_equal", self, other)

    def __gt__(self, other: Number) -> Expr:
        return call("less", other, self)

    def __ge__(self, other: Number) -> Expr:
        return call("less_equal", other, self)


@dataclass(frozen=True, eq=False)
class Literal(Expr):
    """A number of a known dtype."""

    value: float | int | bool
    dtype: DType


@dataclass(frozen=True, eq=False)
class Argument(Expr):
    """The i-th argument of a formula."""

    position: int
    dtype: DType


@dataclass(frozen=True, eq=False)
class Call(Expr):
    """A scalar function applied to arguments."""

    function: str
    arguments: tuple[Expr, ...]
    dtype: DType


@dataclass(frozen=True, eq=False)
class Cast(Expr):
    """Conversion to ``dtype``: float to integer saturates (NaN gives 0), number to bool is ``!=
    0``.
    """

    argument: Expr
    dtype: DType


@dataclass(frozen=True, eq=False)
class Bitcast(Expr):
    """The same bits read as another dtype of the same size (vector math takes floats apart with
    it).
    """

    argument: Expr
    dtype: DType


@dataclass(frozen=True, eq=False)
class Index(Expr):
    """An index or extent as an int64 number; inside loops it may name loop variables."""

    extent: Extent
    dtype: DType = INT64


@dataclass(frozen=True, eq=False)
class Guarded(Expr):
    """``value`` where every condition is >= 0, else ``otherwise``; loads in ``value`` happen
    only under the guard.
    """

    conditions: tuple[Extent, ...]
    value: Expr
    otherwise: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.value.dtype


@dataclass(frozen=True, eq=False)
class Checked(Expr):
    """A run-time index made safe: negative ones count from the end; outside [-extent, extent)
    sets the error flag.
    """

    index: Expr
    extent: Extent
    dtype: DType = INT64


Result: TypeAlias = Callable[[Sequence[DType]], DType]
Derivative: TypeAlias = "Callable[..., Sequence[Number | None]]"


@dataclass(frozen=True)
class ScalarFunction:
    """A primitive: its NumPy meaning, result dtype, and derivative by each argument.

    ``derivative(result, *arguments)`` gives the partial derivatives as expressions (None: zero
    everywhere). ``kinds`` are the dtypes it accepts: any of f (float), i (integer), b (bool).
    """

    name: str
    arity: int
    numpy: Callable[..., Any]
    kinds: str = "fi"
    result: Result = field(default=lambda dtypes: dtypes[0])
    derivative: Derivative | None = None
    commutative: bool = False
    identity: float | None = None
    doc: str = ""
    is_op: bool = True  # there is an elementwise op of this name


SCALAR_FUNCTIONS: dict[str, ScalarFunction] = {}


def literal(value: float | int | bool, dtype: DType) -> Literal:
    """A literal rounded to its dtype."""
    return Literal(dtype.numpy.type(value).item(), dtype)


def call(function: str, *arguments: Number) -> Expr:
    """Apply a scalar function; Python numbers take the dtype of the other arguments."""
    entry = SCALAR_FUNCTIONS[function]
    if len(arguments) != entry.arity:
        raise TypeError(f"{function} takes {entry.arity} arguments, not {len(arguments)}")
    typed = [a.dtype for a in arguments if isinstance(a, Expr)]
    common = typed[-1] if function == "select" else typed[0]
    lifted = tuple(a if isinstance(a, Expr) else literal(a, common) for a in arguments)
    operands = lifted[1:] if function == "select" else lifted
    if len({a.dtype for a in operands}) > 1:
        raise TypeError(
            f"{function} mixes {', '.join(a.dtype.value for a in operands)}; cast first"
        )
    return Call(function, lifted, entry.result([a.dtype for a in lifted]))


def cast(expression: Expr, dtype: DType) -> Expr:
    """Convert; nothing to do when the dtype is right already."""
    return expression if expression.dtype is dtype else Cast(expression, dtype)


def guarded(conditions: Iterable[Extent], value: Expr, otherwise: Number = 0) -> Expr:
    """The value where all conditions (extent >= 0) hold, else ``otherwise``; nothing to do when
    all of them are proved.
    """
    left = unproved(conditions)
    other = otherwise if isinstance(otherwise, Expr) else literal(otherwise, value.dtype)
    return Guarded(left, value, other) if left else value
