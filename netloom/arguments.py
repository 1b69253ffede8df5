"""Checks of numbers that are given as arguments: one sentence in place of what Python or NumPy would
say further in.
"""

from __future__ import annotations

import operator
from math import inf
from numbers import Real

from netloom.errors import UsageError


def whole(value: object, what: str, *, node: str = "", least: int | None = None) -> int:
    """The value as an int; UsageError unless it is a whole number, and ``least`` or more."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        from_ = "" if least is None else f" >= {least}"
        raise UsageError(f"{what} is {value!r}, not a whole number{from_}.", node=node)
    return number


def real(value: object, what: str, least: float = -inf, below: float = inf) -> None:
    """UsageError unless the value is a number in [least, below)."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not least <= float(value) < below:  # type: ignore[arg-type]
        end = "" if below == inf else f" and < {below:g}"
        bounds = f" >= {least:g}{end}" if least > -inf else ""
        raise UsageError(f"{what} is {value!r}, not a number{bounds}.")


__all__ = ["real", "whole"]
