"""Discrete Fourier transforms of 2^k points -> straight-line linear programs, in which every step
is one multiply-add.

``real(n, present)`` transforms n real numbers, of which only the first ``present`` are not zero;
``complex_(n, present)`` as many complex ones. Both are split-radix (Duhamel and Hollmann, "Split
radix FFT algorithm", Electronics Letters 20, 1984); with real inputs only one half of the spectrum
is made (Sorensen, Jones, Heideman and Burrus, IEEE Transactions on Acoustics, Speech and Signal
Processing 35, 1987, section III). ``Program.transposed`` is the program of the transposed matrix:
what brings a spectrum back, of which then only the first ``present`` numbers are made.

The half spectrum of n real numbers lies in n numbers: X[0], X[n/2], then the real and the imaginary
part of X[1], X[2], .. (one number alone is its own spectrum); that of complex numbers, like these,
as real and imaginary parts in turn.

A factor stays outside a sum (a x + b y = a (x + (b / a) y), |b / a| <= 1) until it meets another
one, so that a rotation costs two multiply-adds and not four (Linzer and Feig, IEEE Transactions on
Signal Processing 41, 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin, sqrt
from typing import TypeAlias

import numpy as np

from .op import Array

Term: TypeAlias = tuple[float, int] | None  # a factor times the value of that number; None is zero
Complex: TypeAlias = tuple[Term, Term]  # real and imaginary part
# of half a turn: cosine and sine
EIGHTHS = ((1.0, 0.0), (sqrt(0.5), sqrt(0.5)), (0.0, 1.0), (-sqrt(0.5), sqrt(0.5)))


@dataclass(frozen=True)
class Step:
    """x + ratio y of the values of two numbers; |ratio| <= 1."""

    x: int
    ratio: float
    y: int


@dataclass(frozen=True)
class Program:
    """Values 0 .. inputs - 1 are given, then each step makes one; the outputs are values by
    factors.
    """

    inputs: int
    steps: tuple[Step, ...]
    outputs: tuple[Term, ...]

    def transposed(self) -> Program:
        """The program of the transposed matrix: every step hands back what the later ones have
        of it.
        """
        writer = _Writer(len(self.outputs))
        found: list[Term] = [None] * (self.inputs + len(self.steps))
        for place, output in enumerate(self.outputs):
            if output is not None:
                factor, number = output
                found[number] = writer.sum(found[number], (factor, place))
        for number in reversed(range(self.inputs, len(found))):
            step = self.steps[number - self.inputs]
            found[step.x] = writer.sum(found[step.x], found[number])
            found[step.y] = writer.sum(found[step.y], _scaled(step.ratio, found[number]))
        return writer.program(found[: self.inputs])

    def matrix(self) -> Array:
        """What the program does to the unit vectors, as columns: [outputs, inputs] in float64."""
        values = list(np.eye(self.inputs))
        for step in self.steps:
            values.append(values[step.x] + step.ratio * values[step.y])
        zero = np.zeros(self.inputs)
        return np.stack(
            [zero if output is None else output[0] * values[output[1]] for output in self.outputs]
        )


class _Writer:
    """Collects steps; a sum that was made before is made once."""

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.numbers: dict[Step, int] = {}

    def sum(self, left: Term, right: Term) -> Term:
        if left is None or right is None:
            return right if left is None else left
        if abs(left[0]) < abs(right[0]):
            left, right = right, left
        (factor, x), (other, y) = left, right
        if x == y:
            return (factor + other, x) if factor + other else None
        step = Step(x, other / factor, y)
        return factor, self.numbers.setdefault(step, self.inputs + len(self.numbers))

    def difference(self, left: Term, right: Term) -> Term:
        return self.sum(left, _scaled(-1.0, right))

    def program(self, outputs: Sequence[Term]) -> Program:
        """The steps that the outputs need."""
        steps = list(self.numbers)
        needed = {number for _, number in filter(None, outputs)}
        for place in reversed(range(len(steps))):
            if self.inputs + place in needed:
                needed |= {steps[place].x, steps[place].y}
        kept = [place for place in range(len(steps)) if self.inputs + place in needed]
        renamed = {self.inputs + place: self.inputs + i for i, place in enumerate(kept)}
        new = [
            Step(renamed.get(s.x, s.x), s.ratio, renamed.get(s.y, s.y))
            for s in (steps[place] for place in kept)
        ]
        return Program(
            self.inputs, tuple(new), tuple(t and (t[0], renamed.get(t[1], t[1])) for t in outputs)
        )


@cache
def real(n: int, present: int) -> Program:
    """The half spectrum of n real numbers."""
    writer = _Writer(present)
    found = _real(writer, [(1.0, i) if i < present else None for i in range(n)])
    if n == 1:
        return writer.program([found[0][0]])
    inner = [part for k in range(1, n // 2) for part in found[k]]
    return writer.program([found[0][0], found[n // 2][0], *inner])


@cache
def complex_(n: int, present: int) -> Program:
    """The spectrum of n complex numbers."""
    writer = _Writer(2 * present)
    points: list[Complex] = [
        ((1.0, 2 * i), (1.0, 2 * i + 1)) if i < present else (None, None) for i in range(n)
    ]
    return writer.program([part for found in _complex(writer, points) for part in found])


def _complex(w: _Writer, x: Sequence[Complex]) -> list[Complex]:
    """X[k] = sum over j of x[j] e^(-2 pi i j k / n): one transform of the even places and two of
    the odd ones.
    """
    n = len(x)
    if n == 1:
        return list(x)
    if n == 2:
        return [_added(w, x[0], x[1]), _added(w, x[0], _times(-1.0, x[1]))]
    even, first, third = _complex(w, x[::2]), _complex(w, x[1::4]), _complex(w, x[3::4])
    found: list[Complex] = [(None, None)] * n
    for k in range(n // 4):
        for place, value in _butterfly(w, n, k, even[k], even[k + n // 4], first[k], third[k]):
            found[place] = value
    return found


def _real(w: _Writer, x: Sequence[Term]) -> dict[int, Complex]:
    """X[k] for 0 <= k <= n / 2; the rest is their conjugates."""
    n = len(x)
    if n == 1:
        return {0: (x[0], None)}
    if n == 2:
        return {0: (w.sum(x[0], x[1]), None), 1: (w.difference(x[0], x[1]), None)}
    even, first, third = _real(w, x[::2]), _real(w, x[1::4]), _real(w, x[3::4])
    found: dict[int, Complex] = {}
    for k in range(n // 8 + 1):
        for place, value in _butterfly(
            w, n, k, even[k], _mirrored(even, k + n // 4, n // 2), first[k], third[k]
        ):
            half, own = (place, value) if place <= n // 2 else (n - place, _conjugate(value))
            if half not in found:
                found[half] = (own[0], None if half in (0, n // 2) else own[1])
    return found


def _mirrored(spectrum: dict[int, Complex], k: int, n: int) -> Complex:
    return spectrum[k] if k <= n // 2 else _conjugate(spectrum[n - k])


def _butterfly(
    w: _Writer, n: int, k: int, low: Complex, high: Complex, first: Complex, third: Complex
) -> list[tuple[int, Complex]]:
    """X at k + i n / 4 from the even places' spectrum at k and k + n / 4 and those of the places
    4 i + 1 and 4 i + 3 at k.
    """
    a, b = _rotated(w, first, k, n), _rotated(w, third, 3 * k, n)
    both, apart = _added(w, a, b), _added(w, a, _times(-1.0, b))
    turned: Complex = (apart[1], _scaled(-1.0, apart[0]))  # -i (a - b)
    return [
        (k, _added(w, low, both)),
        (k + n // 2, _added(w, low, _times(-1.0, both))),
        (k + n // 4, _added(w, high, turned)),
        (k + 3 * n // 4, _added(w, high, _times(-1.0, turned))),
    ]


def _rotated(w: _Writer, x: Complex, k: int, n: int) -> Complex:
    """x e^(-2 pi i k / n)."""
    c, s = _turn(k, n)
    real_, imaginary = x
    return (
        w.sum(_scaled(c, real_), _scaled(s, imaginary)),
        w.difference(_scaled(c, imaginary), _scaled(s, real_)),
    )


def _turn(k: int, n: int) -> tuple[float, float]:
    """Cosine and sine of 2 pi k / n; at eighths of a turn exactly 0, 1 or both sqrt(1/2)."""
    turns, rest = divmod(8 * k, n)
    if rest:
        return cos(2 * pi * k / n), sin(2 * pi * k / n)
    c, s = EIGHTHS[turns % 4]
    return (c, s) if turns % 8 < 4 else (-c, -s)


def _added(w: _Writer, x: Complex, y: Complex) -> Complex:
    return w.sum(x[0], y[0]), w.sum(x[1], y[1])


def _times(factor: float, x: Complex) -> Complex:
    return _scaled(factor, x[0]), _scaled(factor, x[1])


def _conjugate(x: Complex) -> Complex:
    return x[0], _scaled(-1.0, x[1])


def _scaled(factor: float, term: Term) -> Term:
    return None if term is None or factor == 0 else (factor * term[0], term[1])
