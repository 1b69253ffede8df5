"""Scalar expression -> the cotangents of its arguments, as scalar expressions (reverse mode)."""

from __future__ import annotations

from collections.abc import Sequence

from ..tensor_type import BOOL
from .expression import SCALAR_FUNCTIONS, Argument, Call, Cast, Expr, Number, call, cast
from .walk import post_order


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
                        _accumulate(cotangents, argument, scaled(cotangent, slope))
    return [found.get(position) for position in positions]


def scaled(cotangent: Expr, slope: Number) -> Expr:
    """A cotangent times a slope; a slope that is a truth value is 1 or 0."""
    if isinstance(slope, Expr):
        if slope.dtype is BOOL:  # the slope is 1 where the condition holds, else 0
            return call("select", slope, cotangent, 0.0)
        return cotangent * slope
    return cotangent if slope == 1 else (-cotangent if slope == -1 else cotangent * slope)


def _accumulate(cotangents: dict[int, Expr], argument: Expr, term: Expr) -> None:
    present = cotangents.get(id(argument))
    cotangents[id(argument)] = term if present is None else present + term
