"""The largest that integers can be which data decide -> the bound of the dims that they become.

A bound holds for all elements of a value, which are not negative: that of a count of what holds, of
its sums, products and parts. What has none may be given one by the caller, by its name in the
model (``input_shapes.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy.typing as npt

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.op import OPS
from netloom.compiler.tensor_type import BOOL

from .ratios import Ratio

# (attributes, inputs, their bounds) -> the bound of the result
Rule: TypeAlias = "Callable[[Any, Sequence[Value], Sequence[Extent]], Extent | None]"


def bound_of_array(array: npt.NDArray[Any]) -> Extent | None:
    """Of numbers that are known."""
    if array.dtype.kind not in "iub" or not array.size or array.min() < 0:
        return None
    return int(array.max())


def bound_of(
    op: str, attrs: Mapping[str, Any], inputs: Sequence[Value], bounds: Sequence[Extent | None]
) -> Extent | None:
    """Of the result of an op on values of those bounds; None if there is none that is known."""
    known = [
        1 if value.dtype is BOOL else bound for value, bound in zip(inputs, bounds, strict=True)
    ]
    rule = _RULES.get(op)
    needed = known[:1] if op in _OF_FIRST else known
    if rule is None or any(bound is None for bound in needed):
        return None
    given = [0 if bound is None else bound for bound in known]
    return rule(OPS[op].attrs(**attrs), inputs, given)


def _largest(bounds: Sequence[Extent]) -> Extent:
    found = bounds[0]
    for bound in bounds[1:]:
        found = dim.maximum(found, bound)
    return found


def _sum(attrs: Any, inputs: Sequence[Value], bounds: Sequence[Extent]) -> Extent:
    return bounds[0] * dim.product([inputs[0].shape[axis] for axis in attrs.axes])


def _first(_attrs: Any, _inputs: Sequence[Value], bounds: Sequence[Extent]) -> Extent:
    return bounds[0]


_OF_FIRST: Final = frozenset(
    {"cast", "reshape", "transpose", "slice", "broadcast", "gather", "gather_elements",
     "reduce_max", "reduce_min", "reduce_sum", "running_sum"}
)  # fmt: skip
_RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(_OF_FIRST, _first),
    "reduce_sum": _sum,
    "running_sum": lambda attrs, inputs, bounds: bounds[0] * inputs[0].shape[attrs.axis],
    "add": lambda _a, _i, bounds: bounds[0] + bounds[1],
    "mul": lambda _a, _i, bounds: bounds[0] * bounds[1],
    "min": lambda _a, _i, bounds: dim.minimum(*bounds),
    "max": lambda _a, _i, bounds: dim.maximum(*bounds),
    "select": lambda _a, _i, bounds: dim.maximum(*bounds[1:]),
    "concat": lambda _a, _i, bounds: _largest(bounds),
}


def truncated_quotient(x: Any, y: Any) -> Any:
    """x / y, rounded towards zero; ValueError where y is a free dim that leaves a rest."""
    if isinstance(x, Ratio) and isinstance(y, Ratio):
        return x / y
    if isinstance(x, int) and isinstance(y, int) and y:
        quotient = abs(x) // abs(y)
        return quotient if (x < 0) == (y < 0) else -quotient
    exact = dim.exact_quotient(x, y)
    if exact is not None:
        return exact
    if isinstance(y, int) and y:
        whole = dim.truncated_quotient(x, abs(y))
        return whole if y > 0 else -whole
    raise ValueError(f"{x} / {y} is no extent")
