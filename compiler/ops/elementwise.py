"""Elementwise ops: every scalar primitive as an op of the same name, conversions, and
activations as formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import scalar
from ..formula import elementwise, in_float32
from ..op import NoAttrs, NotDifferentiable
from ..scalar import SCALAR_FUNCTIONS, Expr, ScalarFunction, call, exp, select
from ..tensor_type import DType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value

_STEP = NotDifferentiable("its slope is zero or undefined everywhere")
_INTEGER = NotDifferentiable("it maps to or from integers or truth values")


def _primitive(function: ScalarFunction) -> None:
    has_slope = function.derivative is not None
    elementwise(
        function.name,
        function.arity,
        lambda _attrs, *arguments, _name=function.name: call(_name, *arguments),
        function.doc,
        kinds=function.kinds,
        vjp=None
        if has_slope
        else (_STEP if "f" in function.kinds and "b" not in function.kinds else _INTEGER),
        commutative=function.commutative,
        identity=function.identity,
    )


for _function in SCALAR_FUNCTIONS.values():
    if _function.is_op:
        _primitive(_function)


@dataclass(frozen=True)
class CastAttrs:
    dtype: DType


def _cast_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    (x,) = node.inputs
    if not (x.dtype.is_float and node.output.dtype.is_float):
        return [None]
    return [b("cast", cotangents[0], dtype=x.dtype)]


elementwise("cast", 1, lambda a, x: scalar.cast(x, a.dtype), "x as another dtype: float to integer saturates",
            attrs=CastAttrs, kinds="fib", vjp=_cast_vjp)  # fmt: skip


@dataclass(frozen=True)
class LeakyReluAttrs:
    slope: float = 0.01


@dataclass(frozen=True)
class AlphaAttrs:
    alpha: float = 1.0


@dataclass(frozen=True)
class SeluAttrs:
    alpha: float = 1.6732632423543772
    gamma: float = 1.0507009873554805


@dataclass(frozen=True)
class HardSigmoidAttrs:
    alpha: float = 0.2
    beta: float = 0.5


@dataclass(frozen=True)
class ClipAttrs:
    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True)
class GeluAttrs:
    approximate: bool = False


def _relu(_a: NoAttrs, x: Expr) -> Expr:
    return select(x < 0, 0, x)


def _sigmoid(x: Expr) -> Expr:
    return 1 / (1 + exp(-x))


def _elu(x: Expr, alpha: float) -> Expr:
    return select(x < 0, alpha * (exp(scalar.minimum(x, 0)) - 1), x)


def _clip(a: ClipAttrs, x: Expr) -> Expr:
    low = x if a.lo is None else scalar.maximum(x, a.lo)
    return low if a.hi is None else scalar.minimum(low, a.hi)


def _gelu(a: GeluAttrs, x: Expr) -> Expr:
    if a.approximate:
        return 0.5 * x * (1 + call("tanh", math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    return 0.5 * x * (1 + call("erf", x * math.sqrt(0.5)))


def _softplus(_a: NoAttrs, x: Expr) -> Expr:
    return scalar.maximum(x, 0) + call("log", 1 + exp(-call("abs", x)))


def _hard_sigmoid(a: HardSigmoidAttrs, x: Expr) -> Expr:
    return scalar.maximum(scalar.minimum(a.alpha * x + a.beta, 1), 0)


def _float(
    name: str,
    formula: Any,
    doc: str,
    attrs: type = NoAttrs,
    arity: int = 1,
    slope: Any = None,
    **facts: Any,
) -> None:
    """Of floats; those of 16 bits are rounded once, at the end of the formula."""
    wide = None if slope is None else in_float32(slope)
    elementwise(name, arity, in_float32(formula), doc, attrs=attrs, kinds="f", slope=wide, **facts)


def _silu_slope(_a: NoAttrs, x: Expr, _y: Expr) -> Expr:
    """s + x s (1 - s), with s = sigmoid(x)."""
    sigmoid = _sigmoid(x)
    return sigmoid * (1 + x * (1 - sigmoid))


# at 0, where a ReLU has no slope, it is 0, as elsewhere (PyTorch)
elementwise("relu", 1, _relu, "0 > x ? 0 : x (NaN passes)", idempotent=True,
            slope=lambda _a, x, _y: call("not", x <= 0))  # fmt: skip
_float("sigmoid", lambda _a, x: _sigmoid(x), "1 / (1 + exp(-x))",
       slope=lambda _a, x, y: y * _sigmoid(-x))  # fmt: skip
_float("silu", lambda _a, x: x * _sigmoid(x), "x * sigmoid(x)", slope=_silu_slope)
_float("softplus", _softplus, "log(1 + exp(x)), without overflow",
       slope=lambda _a, x, _y: _sigmoid(x))  # fmt: skip
_float("softsign", lambda _a, x: x / (1 + call("abs", x)), "x / (1 + |x|)")
_float("reciprocal", lambda _a, x: 1 / x, "1 / x")
elementwise("square", 1, lambda _a, x: x * x, "x * x")
_float(
    "leaky_relu",
    lambda a, x: select(x < 0, a.slope * x, x),
    "x < 0 ? slope * x : x",
    LeakyReluAttrs,
)
_float("elu", lambda a, x: _elu(x, a.alpha), "x < 0 ? alpha * (exp(x) - 1) : x", AlphaAttrs)
_float("selu", lambda a, x: a.gamma * _elu(x, a.alpha), "gamma * elu(x, alpha)", SeluAttrs)
_float("hard_sigmoid", _hard_sigmoid, "max(0, min(1, alpha * x + beta))", HardSigmoidAttrs)
elementwise("clip", 1, _clip, "min(max(x, lo), hi); a bound of None is absent", attrs=ClipAttrs)
_float("gelu", _gelu, "0.5 * x * (1 + erf(x / sqrt(2))), or its tanh approximation", GeluAttrs)
_float("thresholded_relu", lambda a, x: select(x > a.alpha, x, 0), "x > alpha ? x : 0", AlphaAttrs)
_float(
    "prelu",
    lambda _a, x, s: select(x < 0, s * x, x),
    "x < 0 ? slope * x : x, slope a tensor",
    arity=2,
)
_float("is_nan", lambda _a, x: call("not_equal", x, x), "whether x is NaN", vjp=_INTEGER)
