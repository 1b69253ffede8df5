"""exp, log, tanh, erf, sin, cos and pow as trees of primitives: compiled code calls no mathematical
library.

``expand_all`` maps an expression to one of adds, products, fma, divisions, comparisons, selects,
conversions and bit operations: lane by lane, no branches, no tables. Results are within
``ULP_BOUNDS`` units in the last place over the whole range (sin, cos: up to ``SINE_LIMITS``), with
fma fused or not; denormals, signed zeros, infinities and NaN are C's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from .... import scalar
from ....scalar import Argument, Call, Cast, Expr, cast
from ....tensor_type import FLOAT32, FLOAT64, DType
from .exponential import erf, exp, scaling, tanh
from .logarithm import log, pow
from .trigonometric import SINE_LIMITS, cos, sin

_FORMULAS: dict[str, Callable[..., Expr]] = {
    "exp": exp, "log": log, "tanh": tanh, "erf": erf, "sin": sin, "cos": cos, "pow": pow,
}  # fmt: skip

ULP_BOUNDS: dict[tuple[str, DType], float] = {
    (name, dtype): 2.0 for dtype in (FLOAT32, FLOAT64) for name in _FORMULAS
}  # fmt: skip


def expand(expression: Call) -> Expr | None:
    """The call as a tree of primitives; None if it is one. float16 and bfloat16 compute in
    float32 and round once more.
    """
    if expression.function not in _FORMULAS:
        return None
    dtype = expression.dtype
    wide = FLOAT64 if dtype is FLOAT64 else FLOAT32
    arguments = [cast(argument, wide) for argument in expression.arguments]
    return cast(scalar.apply(_formula(expression.function, wide), arguments), dtype)


def expand_all(root: Expr) -> Expr:
    """The expression with every call of a mathematical function expanded."""
    done: dict[int, Expr] = {}

    def expanded(node: Expr) -> Expr:
        old = scalar.children(node)
        new = [done[id(child)] for child in old]
        same = all(a is b for a, b in zip(old, new, strict=True))
        node = node if same else scalar.with_children(node, new)
        return (expand(node) or node) if isinstance(node, Call) else node

    for node in scalar.post_order([root]):
        done[id(node)] = expanded(node)
    return done[id(root)]


@cache
def _formula(function: str, dtype: DType) -> Expr:
    arity = scalar.SCALAR_FUNCTIONS[function].arity
    return _FORMULAS[function](*(Argument(position, dtype) for position in range(arity)))


def _operations(formula: Expr) -> int:
    return sum(isinstance(node, Call | Cast) for node in scalar.post_order([formula]))


# Vector instructions of one evaluation, for the cost model (a conversion between float32 and
# float64 counts as one).
OPERATION_COUNTS: dict[tuple[str, DType], int] = {
    key: _operations(_formula(*key)) for key in ULP_BOUNDS
}

__all__ = ["OPERATION_COUNTS", "SINE_LIMITS", "ULP_BOUNDS", "expand", "expand_all", "scaling"]
