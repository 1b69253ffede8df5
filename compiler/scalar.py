"""Scalar expressions: the one representation of an elementwise formula.

A formula such as ``x / (1 + exp(-x))`` is written once, with Python operators over ``Expr``. From
that tree come the NumPy value (``evaluate``), the gradient (``differentiate``), the code of every
target, and its text. Loops add two leaves of their own (a load from a buffer, an index), so a
kernel's body is the same tree. Trees are shared DAGs: walk them with ``rebuild``, which visits each
node once and needs no recursion limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .dim import Extent, unproved
from .tensor_type import BOOL, FLOAT32, FLOAT64, INT32, INT64, DType

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


SCALAR_FUNCTIONS: dict[str, ScalarFunction] = {}


def _define(function: ScalarFunction) -> None:
    if function.name in SCALAR_FUNCTIONS:
        raise ValueError(f"scalar function {function.name} is defined twice")
    SCALAR_FUNCTIONS[function.name] = function


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


def children(expression: Expr) -> tuple[Expr, ...]:
    """Direct sub-expressions."""
    match expression:
        case Call():
            return expression.arguments
        case Cast() | Bitcast():
            return (expression.argument,)
        case Guarded():
            return (expression.value, expression.otherwise)
        case Checked():
            return (expression.index,)
        case Literal():
            return ()
        case _:
            return getattr(expression, "index_expressions", ())


def with_children(expression: Expr, new: Sequence[Expr]) -> Expr:
    """The same node over other sub-expressions."""
    match expression:
        case Call(function, _, _):
            entry = SCALAR_FUNCTIONS[function]
            return Call(function, tuple(new), entry.result([a.dtype for a in new]))
        case Cast(_, dtype):
            return cast(new[0], dtype)
        case Bitcast(_, dtype):
            return Bitcast(new[0], dtype)
        case Guarded(conditions, _, _):
            return Guarded(conditions, new[0], new[1])
        case Checked(_, extent):
            return Checked(new[0], extent)
        case _ if new:
            replaced: Expr = expression.with_index_expressions(tuple(new))  # type: ignore[attr-defined]
            return replaced
        case _:
            return expression


def post_order(
    roots: Sequence[Expr], closed: tuple[type[Expr], ...] = (), known: Iterable[int] = ()
) -> list[Expr]:
    """Every node once, arguments before users; nodes of ``closed`` types are not entered, and nodes
    whose ids are ``known`` left out.

    With Guarded closed, these are the nodes that are evaluated whatever guards say.
    """
    seen = set(known)
    order: list[Expr] = []
    # None: all below the innermost open node is done
    stack: list[Expr | None] = list(reversed(roots))
    open_: list[Expr] = []
    while stack:
        node = stack.pop()
        if node is None:
            order.append(open_.pop())
        elif id(node) not in seen:
            seen.add(id(node))
            below = () if isinstance(node, closed) else children(node)
            if not below:
                order.append(node)
                continue
            open_.append(node)
            stack.append(None)
            stack += reversed(below)
    return order


def rebuild(root: Expr, replace: Callable[[Expr], Expr | None]) -> Expr:
    """The tree with each node for which ``replace`` gives an expression replaced by it (leaves
    first).
    """
    return transform(root, lambda node, _: replace(node))


def transform(root: Expr, make: Callable[[Expr, Sequence[Expr]], Expr | None]) -> Expr:
    """The tree made anew, leaves first: ``make`` gets a node and its new sub-expressions; None:
    the node over these.
    """
    done: dict[int, Expr] = {}
    for node in post_order([root]):
        old = children(node)
        new = [done[id(child)] for child in old]
        found = make(node, new)
        if found is None:
            same = all(a is b for a, b in zip(old, new, strict=True))
            found = node if same else with_children(node, new)
        done[id(node)] = found
    return done[id(root)]


def apply(formula: Expr, arguments: Sequence[Expr]) -> Expr:
    """A formula with its arguments put in."""
    return rebuild(
        formula, lambda node: arguments[node.position] if isinstance(node, Argument) else None
    )


def evaluate(
    root: Expr, arguments: Sequence[npt.NDArray[Any]], leaf: Callable[[Expr], Any] | None = None
) -> npt.NDArray[Any]:
    """The NumPy value of a formula over arrays (broadcast together); ``leaf`` values other
    leaves.
    """
    values: dict[int, Any] = {}
    with np.errstate(all="ignore"):
        for node in post_order([root]):
            match node:
                case Literal(value, dtype):
                    result: Any = dtype.numpy.type(value)
                case Argument(position, _):
                    result = arguments[position]
                case Call(function, inner, dtype):
                    result = SCALAR_FUNCTIONS[function].numpy(*(values[id(a)] for a in inner))
                    result = np.asarray(result).astype(dtype.numpy, copy=False)
                case Cast(argument, dtype):
                    result = cast_array(np.asarray(values[id(argument)]), dtype)
                case Bitcast(argument, dtype):
                    result = np.asarray(values[id(argument)]).view(dtype.numpy)
                case _ if leaf is not None:
                    result = leaf(node)
                case _:
                    raise TypeError(f"{type(node).__name__} has no value outside loops")
            values[id(node)] = result
    return np.asarray(values[id(root)])


def cast_array(array: npt.NDArray[Any], dtype: DType) -> npt.NDArray[Any]:
    """``Cast`` on arrays: float to integer truncates and saturates, NaN gives 0; integers wrap."""
    if dtype is BOOL:
        truth: npt.NDArray[Any] = np.not_equal(array, 0)
        return truth
    if dtype.is_integer and DType.of(array.dtype).is_float:
        info = np.iinfo(dtype.numpy)
        wide = np.trunc(
            np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        )
        result = np.zeros(wide.shape, dtype.numpy)
        inside = (wide > float(info.min)) & (wide < float(info.max))
        result[inside] = wide[inside].astype(dtype.numpy)
        result[wide >= float(info.max)] = info.max
        result[wide <= float(info.min)] = info.min
        return result
    with np.errstate(all="ignore"):
        converted: npt.NDArray[Any] = array.astype(dtype.numpy)
        return converted


def differentiate(root: Expr, seed: Expr, positions: Sequence[int]) -> list[Expr | None]:
    """Cotangents of the formula's arguments, given that of its result (reverse mode; None: no
    influence).
    """
    cotangents: dict[int, Expr] = {id(root): seed}
    found: dict[int, Expr] = {}
    for node in reversed(post_order([root])):
        cotangent = cotangents.get(id(node))
        if cotangent is None:
            continue
        match node:
            case Argument(position, _):
                found[position] = found[position] + cotangent if position in found else cotangent
            case Cast(argument, _):
                if argument.dtype.is_float and node.dtype.is_float:
                    _accumulate(cotangents, argument, cast(cotangent, argument.dtype))
            case Call(function, arguments, _):
                rule = SCALAR_FUNCTIONS[function].derivative
                if rule is None:
                    continue
                for argument, slope in zip(arguments, rule(node, *arguments), strict=True):
                    if slope is not None and argument.dtype.is_float:
                        _accumulate(cotangents, argument, _scaled(cotangent, slope))
    return [found.get(position) for position in positions]


def _scaled(cotangent: Expr, slope: Number) -> Expr:
    if isinstance(slope, Expr):
        if slope.dtype is BOOL:  # the slope is 1 where the condition holds, else 0
            return call("select", slope, cotangent, 0.0)
        return cotangent * slope
    return cotangent if slope == 1 else (-cotangent if slope == -1 else cotangent * slope)


def _accumulate(cotangents: dict[int, Expr], argument: Expr, term: Expr) -> None:
    present = cotangents.get(id(argument))
    cotangents[id(argument)] = term if present is None else present + term


# -- the primitives --------------------------------------------------------------------------------


def _divide(x: Any, y: Any) -> Any:
    """Division: integers truncate towards zero, x / 0 is 0 and the smallest / -1 wraps (never a
    trap).
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "iu":
        return np.divide(x, y)
    safe = np.where(y == 0, np.ones_like(y), y)
    quotient = np.where(y == -1, np.negative(x), x // np.where(y == -1, np.ones_like(y), safe)) \
        if x.dtype.kind == "i" else x // safe  # fmt: skip
    if x.dtype.kind == "i":
        inexact = (quotient * safe != x) & ((x < 0) != (safe < 0)) & (y != -1)
        quotient = quotient + inexact
    return np.where(y == 0, np.zeros_like(x), quotient).astype(x.dtype)


def _remainder(x: Any, y: Any) -> Any:
    """C's remainder: the sign of the dividend; integer x % 0 is 0 (never a trap)."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind == "f" or x.dtype.kind == "V":
        return np.fmod(x, y)
    return np.where(y == 0, np.zeros_like(x), np.fmod(x, np.where(y == 0, np.ones_like(y), y)))


def _maximum(x: Any, y: Any) -> Any:
    """The larger; NaN if either is NaN (the NaN of x first)."""
    return np.where(
        (x > y) | (x != x) | ((x == y) & ~np.signbit(x) if _is_float(x) else x > y), x, y
    )  # noqa: PLR0124


def _minimum(x: Any, y: Any) -> Any:
    """The smaller; NaN if either is NaN (the NaN of x first)."""
    return np.where(
        (x < y) | (x != x) | ((x == y) & np.signbit(x) if _is_float(x) else x < y), x, y
    )  # noqa: PLR0124


def _is_float(x: Any) -> bool:
    return DType.of(np.asarray(x).dtype).is_float


def _shift_left(x: Any, y: Any) -> Any:
    bits = np.asarray(x).dtype.itemsize * 8
    y = np.asarray(y)
    return np.where(
        (y >= 0) & (y < bits), np.left_shift(x, np.where((y >= 0) & (y < bits), y, 0)), 0
    )


def _shift_right(x: Any, y: Any) -> Any:
    bits = np.asarray(x).dtype.itemsize * 8
    y = np.asarray(y)
    inside = (y >= 0) & (y < bits)
    return np.where(inside, np.right_shift(x, np.where(inside, y, 0)), 0)


def _erf(x: Any) -> Any:
    return (
        np.vectorize(math.erf, otypes=[np.float64])(np.asarray(x, np.float64))
        if np.size(x)
        else np.asarray(x)
    )


def _in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Evaluate in float64 and round once, so that references of small dtypes are correctly
    rounded.
    """

    def wrapped(*arrays: Any) -> Any:
        dtype = np.asarray(arrays[0]).dtype
        with np.errstate(all="ignore"):
            return np.asarray(function(*(np.asarray(a, np.float64) for a in arrays))).astype(dtype)

    return wrapped


def _bool(_: Sequence[DType]) -> DType:
    return BOOL


def _fma(x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once for float32 and smaller (the product of two float32 is exact in
    float64).
    """
    dtype = np.asarray(x).dtype
    if dtype.itemsize >= 8:
        return x * y + z
    return (np.asarray(x, np.float64) * y + z).astype(dtype)


def exp(x: Number) -> Expr:
    return call("exp", x)


def select(condition: Expr, x: Number, y: Number) -> Expr:
    """``x`` where the condition holds, else ``y`` (both are evaluated)."""
    return call("select", condition, x, y)


def maximum(x: Number, y: Number) -> Expr:
    return call("max", x, y)


def minimum(x: Number, y: Number) -> Expr:
    return call("min", x, y)


for _entry in (
    ScalarFunction("add", 2, np.add, derivative=lambda r, x, y: (1, 1), commutative=True,
                   identity=0.0, doc="x + y"),
    ScalarFunction("sub", 2, np.subtract, derivative=lambda r, x, y: (1, -1), doc="x - y"),
    ScalarFunction("mul", 2, np.multiply, derivative=lambda r, x, y: (y, x), commutative=True,
                   identity=1.0, doc="x * y"),
    ScalarFunction("div", 2, _divide, derivative=lambda r, x, y: (1.0 / y, -r / y),
                   doc="x / y; integers truncate, and x / 0 is 0"),
    ScalarFunction("rem", 2, _remainder, derivative=lambda r, x, y: (1, -call("trunc", x / y)),
                   doc="x - y * trunc(x / y); integer x % 0 is 0"),
    ScalarFunction("fma", 3, _fma, "f", derivative=lambda r, x, y, z: (y, x, 1),
                   doc="x * y + z, rounded once"),
    ScalarFunction("neg", 1, np.negative, derivative=lambda r, x: (-1,), doc="-x"),
    ScalarFunction("abs", 1, np.abs, derivative=lambda r, x: (call("sign", x),), doc="|x|"),
    ScalarFunction("sign", 1, np.sign, doc="-1, 0 or 1; NaN stays"),
    ScalarFunction("max", 2, _maximum, "fi", derivative=lambda r, x, y: (y <= x, x < y),
                   commutative=True, doc="the larger; NaN passes"),
    ScalarFunction("min", 2, _minimum, "fi", derivative=lambda r, x, y: (x <= y, y < x),
                   commutative=True, doc="the smaller; NaN passes"),
    ScalarFunction("exp", 1, _in_float64(np.exp), "f", derivative=lambda r, x: (r,),
                   doc="e to the x"),
    ScalarFunction("log", 1, _in_float64(np.log), "f", derivative=lambda r, x: (1.0 / x,),
                   doc="natural logarithm"),
    ScalarFunction("sqrt", 1, _in_float64(np.sqrt), "f", derivative=lambda r, x: (0.5 / r,),
                   doc="square root"),
    ScalarFunction("pow", 2, _in_float64(np.power), "f",
                   derivative=lambda r, x, y: (y * call("pow", x, y - 1.0), r * call("log", x)),
                   doc="x to the y"),
    ScalarFunction("tanh", 1, _in_float64(np.tanh), "f", derivative=lambda r, x: (1.0 - r * r,),
                   doc="hyperbolic tangent"),
    ScalarFunction("erf", 1, _in_float64(_erf), "f",
                   derivative=lambda r, x: (1.1283791670955126 * exp(-(x * x)),),
                   doc="error function"),
    ScalarFunction("sin", 1, _in_float64(np.sin), "f", derivative=lambda r, x: (call("cos", x),),
                   doc="sine"),
    ScalarFunction("cos", 1, _in_float64(np.cos), "f", derivative=lambda r, x: (-call("sin", x),),
                   doc="cosine"),
    ScalarFunction("floor", 1, np.floor, "f", doc="largest integer not above x"),
    ScalarFunction("ceil", 1, np.ceil, "f", doc="smallest integer not below x"),
    ScalarFunction("round", 1, np.rint, "f", doc="nearest integer, halves to even"),
    ScalarFunction("trunc", 1, np.trunc, "f", doc="x without its fraction"),
    ScalarFunction("equal", 2, np.equal, "fib", _bool, commutative=True, doc="x == y"),
    ScalarFunction("not_equal", 2, np.not_equal, "fib", _bool, commutative=True, doc="x != y"),
    ScalarFunction("less", 2, np.less, "fi", _bool, doc="x < y"),
    ScalarFunction("less_equal", 2, np.less_equal, "fi", _bool, doc="x <= y"),
    ScalarFunction("and", 2, np.bitwise_and, "ib", commutative=True,
                   doc="bitwise (bool: logical) and"),
    ScalarFunction("or", 2, np.bitwise_or, "ib", commutative=True,
                   doc="bitwise (bool: logical) or"),
    ScalarFunction("xor", 2, np.bitwise_xor, "ib", commutative=True,
                   doc="bitwise (bool: logical) exclusive or"),
    ScalarFunction("not", 1, np.invert, "ib", doc="bitwise (bool: logical) not"),
    ScalarFunction("shift_left", 2, _shift_left, "i", doc="x << y; 0 when y is not in [0, bits)"),
    ScalarFunction("shift_right", 2, _shift_right, "i",
                   doc="x >> y (arithmetic if signed); 0 when y is not in [0, bits)"),
    ScalarFunction("select", 3, np.where, "fib", lambda dtypes: dtypes[1],
                   lambda r, c, x, y: (None, c, call("not", c)), doc="x where c holds, else y"),
):  # fmt: skip
    _define(_entry)

INDEX = INT64  # the dtype of index expressions as scalars
__all__ = [
    "BOOL", "FLOAT32", "FLOAT64", "INDEX", "INT32", "SCALAR_FUNCTIONS", "Argument", "Bitcast",
    "Call",
    "Cast", "Checked", "Expr", "Guarded", "Index", "Literal",
    "Number", "ScalarFunction", "apply", "call", "cast", "cast_array", "children", "differentiate",
    "evaluate", "exp",
    "guarded", "literal", "maximum", "minimum", "post_order", "rebuild", "select", "with_children",
]  # fmt: skip
