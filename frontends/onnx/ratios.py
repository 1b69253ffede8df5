"""What floating-point numbers that follow from free dims are: floor(1.5 h), ceil(t / 8).

PyTorch computes sizes so: as integers that become floats and integers again. A float tensor's known
contents are quotients of extents, as long as it holds just these numbers, or the floats next to
them: integers below 2^24 are floats, and so are their parts by powers of two; one division by
another number is rounded, which neither makes an integer of a fraction nor moves it past one. What
would be rounded twice is not followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent

LARGEST_DIVISOR: Final = 1 << 10
LARGEST_NUMBER: Final = 1 << 24  # up to which all integers are floats


@dataclass(frozen=True)
class Ratio:
    """numerator / divisor; its operators raise ValueError where a float would be rounded twice."""

    numerator: Extent
    divisor: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.divisor <= LARGEST_DIVISOR:
            raise ValueError(f"{self.divisor} is no divisor to follow")

    @property
    def is_exact(self) -> bool:
        """Whether a float holds the number itself."""
        return _is_power_of_two(self.divisor)

    def __add__(self, other: Ratio) -> Ratio:
        _exact_one_of(self, other)
        divisor = lcm(self.divisor, other.divisor)
        numerators = (x.numerator * (divisor // x.divisor) for x in (self, other))
        return Ratio(sum(numerators, start=0), divisor)

    def __neg__(self) -> Ratio:
        return Ratio(-self.numerator, self.divisor)

    def __sub__(self, other: Ratio) -> Ratio:
        return self + -other

    def __mul__(self, other: Ratio) -> Ratio:
        if not (self.is_exact and other.is_exact):
            raise ValueError("the product of a rounded number is rounded again")
        if not any(isinstance(x.numerator, int) for x in (self, other)):
            raise ValueError("the product of free dims may be too large")
        return Ratio(self.numerator * other.numerator, self.divisor * other.divisor)

    def __truediv__(self, other: Ratio) -> Ratio:
        by = other.numerator
        if not isinstance(by, int) or by <= 0 or not (self.is_exact and other.is_exact):
            raise ValueError("only a number that is exact is divided, by a positive one")
        part = Fraction(other.divisor, by * self.divisor)
        return Ratio(self.numerator * part.numerator, part.denominator)

    def floor(self) -> Ratio:
        """The largest integer below."""
        return Ratio(self.numerator // self.divisor)

    def ceil(self) -> Ratio:
        """The smallest integer above."""
        return Ratio(dim.ceil_div(self.numerator, self.divisor))

    def truncated(self) -> Extent:
        """The integer that a cast makes of it."""
        return dim.truncated_quotient(self.numerator, self.divisor)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _exact_one_of(x: Ratio, y: Ratio) -> None:
    """Of a sum: if it is an integer, the other one is exact too."""
    if not (x.is_exact or y.is_exact):
        raise ValueError("the sum of two rounded numbers")


def ratio_of(number: float) -> Ratio:
    """A float constant; ValueError if it is no simple fraction."""
    if not abs(number) < LARGEST_NUMBER:
        raise ValueError(f"{number} is too large")
    fraction = Fraction(float(number))
    return Ratio(fraction.numerator, fraction.denominator)


def known_floats(array: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """The ratios that a small tensor holds; None if one is no simple fraction."""
    try:
        return objects(np.frompyfunc(ratio_of, 1, 1)(array))
    except ValueError:
        return None


def converted(item: Any, to_float: bool) -> Any:
    """An extent as a float, or a ratio as an integer."""
    match item:
        case Ratio():
            return item if to_float else item.truncated()
        case _:
            return Ratio(item) if to_float else item


def objects(array: Any) -> npt.NDArray[Any]:
    """An array of Python ints, Dims and ratios."""
    source = np.asarray(array, dtype=object) if not isinstance(array, np.ndarray) else array
    result = np.empty(source.shape, dtype=object)
    for index in np.ndindex(source.shape):
        item = source[index]
        result[index] = item if isinstance(item, Dim | Ratio) else int(item)
    return result
