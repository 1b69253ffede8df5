"""Extents against Python's integers: operators, ranges, conditions and substitution, on random
polynomials and random values of their symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as combinations

import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Symbol, bounds, evaluate, parse_extent, symbol
from netloom.compiler.dim.ranges import lowest

N, M, K = Symbol("N", 0, 6), Symbol("M", -3, 4), Symbol("K", 1, 5)
SYMBOLS = (N, M, K)
VALUES = tuple(
    dict(zip("NMK", numbers, strict=True))
    for numbers in combinations(*(range(s.lo, s.hi + 1) for s in SYMBOLS if isinstance(s.hi, int)))
)


def drawn(rng: np.random.Generator, depth: int) -> Extent:
    """A random extent of at most ``depth`` operations on top of each other."""
    if depth == 0:
        return int(rng.integers(-9, 10)) if rng.random() < 0.3 else Dim.of(rng.choice(SYMBOLS))
    left = drawn(rng, depth - 1)
    match rng.integers(8):
        case 0:
            return left + drawn(rng, depth - 1)
        case 1:
            return left - drawn(rng, depth - 1)
        case 2:
            return left * drawn(rng, depth - 1)
        case 3:
            return left // int(rng.integers(1, 9))
        case 4:
            return left % int(rng.integers(1, 9))
        case 5:
            return left - left % int(rng.integers(1, 9))
        case 6:
            divisor = int(rng.integers(1, 9))
            return left + (divisor - left % divisor) % divisor
    return dim.minimum(left, drawn(rng, depth - 1))


def extents(count: int = 150, depth: int = 3) -> Iterator[Extent]:
    rng = np.random.default_rng(1)
    return (drawn(rng, depth) for _ in range(count))


def test_operators_are_those_of_integers() -> None:
    rng = np.random.default_rng(2)
    for a, b in zip(extents(), extents(depth=2), strict=True):
        divisor = int(rng.integers(1, 12))
        made = (a + b, a - b, a * b, a // divisor, a % divisor, dim.minimum(a, b), dim.maximum(a, b),
                dim.ceil_div(a, divisor), dim.truncated_quotient(a, divisor))  # fmt: skip
        for values in VALUES[::7]:
            x, y = evaluate(a, values), evaluate(b, values)
            right = (x + y, x - y, x * y, x // divisor, x % divisor, min(x, y), max(x, y),
                     -(-x // divisor), int(x / divisor))  # fmt: skip
            assert tuple(evaluate(e, values) for e in made) == right, (str(a), str(b), divisor)


def test_bounds_hold_every_value() -> None:
    known = 0
    for extent in extents(400):
        low, high = bounds(extent)
        numbers = [evaluate(extent, values) for values in VALUES]
        assert low is None or low <= min(numbers), str(extent)
        assert high is None or high >= max(numbers), str(extent)
        assert dim.is_nonnegative(extent) <= (min(numbers) >= 0)
        known += low is not None and high is not None
    assert known > 100


def test_bounds_of_equal_extents_are_found_once() -> None:
    """However often a verifier makes them anew."""
    first, second = (Dim.of(N) * 77 - Dim.of(K) // 2 * 2 + 13 for _ in range(2))
    assert isinstance(first, Dim) and first is not second
    found = first.bounds()
    misses = lowest.cache_info().misses
    assert second.bounds() == found == (9, 475)
    assert lowest.cache_info().misses == misses


def test_bounds_of_products_with_negative_factors_are_not_guessed() -> None:
    n, m = Dim.of(N), Dim.of(M)
    for extent in (n * m, n * m * m, n * dim.minimum(n - 5, 3), -(m * m)):
        low, high = bounds(extent)
        numbers = [evaluate(extent, values) for values in VALUES]
        assert (low is None or low <= min(numbers)) and (high is None or high >= max(numbers))


def test_ranges_of_loop_variables() -> None:
    n = symbol("N", 1, None)
    i = symbol("i", 0, n - 1)
    assert bounds(n - 1 - i) == (0, None)
    assert dim.unproved(dim.inside([i, i + 1], [n, n])) == (n - 2 - i,)
    assert bounds((16 * i + symbol("l", 0, 15)) // 16) == bounds(i)


def test_equal_polynomials_are_equal() -> None:
    n, m = Dim.of(N), Dim.of(M)
    for left, right in (
        ((n + m) * (n - m), n * n - m * m),
        (n // 4 * 4 + n % 4, n),
        (n % 12 // 4 * 4 + n % 4, n % 12),
        (m * (n // 4) * 4 + n % 4 * m, n * m),
        (n // 3 // 4, n // 12),
        (n % 12 % 4, n % 4),
        ((16 * n + symbol("l", 0, 15)) // 16, n),
        ((n + m) - (m + n), 0),
    ):
        assert left == right and hash(left) == hash(right) and str(left) == str(right)


def test_what_is_cut_or_filled_to_multiples() -> None:
    """Sizes of windows are known to be multiples, however they are computed."""
    h, n = symbol("h", 1), symbol("n", 1)
    assert h - h % 7 == (h // 7) * 7
    assert n * h - n * (h % 7) + 3 == n * ((h // 7) * 7) + 3
    for whole in (h + (7 - h % 7) % 7, h + (-h) % 7, (h + 6) - (h + 6) % 7):
        assert whole % 7 == 0
        assert (whole // 7) * 7 == whole
    assert (h % 14 - h) % 7 == 0


def test_text_is_read_again() -> None:
    by_name = {s.name: s for s in SYMBOLS}
    for extent in extents():
        assert parse_extent(str(extent), by_name) == extent


def test_substitution_is_evaluation_in_two_steps() -> None:
    for extent, other in zip(extents(), extents(depth=1), strict=True):
        replaced = dim.substitute(extent, {N: other})
        for values in VALUES[::7]:
            n = evaluate(other, values)
            if 0 <= n <= 6:  # N's range, which the extent's form relies on
                assert evaluate(replaced, values) == evaluate(extent, {**values, "N": n})


def test_exact_quotients() -> None:
    n, m = Dim.of(N), Dim.of(M)
    assert dim.exact_quotient(6 * n * m + 3 * m, 3 * m) == 2 * n + 1
    assert dim.exact_quotient(0, n) == 0 and dim.exact_quotient(n, n) == 1
    assert dim.exact_quotient(12, -4) == -3
    patches = (n // 14) * (m // 14) + 1  # and a class token
    assert dim.exact_quotient(48 * n * patches, 12 * patches) == 4 * n
    assert dim.exact_quotient((n + m) * (n - m + 1), n + m) == n - m + 1
    assert dim.exact_quotient(n * n + n * m, n + 2 * m) is None
    for numerator, divisor in ((n + 1, n), (n, 0), (3 * n, 2), (n, n + 1), (n, n * n)):
        assert dim.exact_quotient(numerator, divisor) is None


def test_reduced_conditions_hold_where_the_given_ones_do() -> None:
    p, lane = symbol("N", 0, 6), symbol("l", 0, 15)
    reduced = dim.reduced_condition(16 * p + lane - 64)
    assert reduced == p - 4
    for extent in extents(300):
        reduced = dim.reduced_condition(extent)
        for values in VALUES[::11]:
            assert (evaluate(reduced, values) >= 0) == (evaluate(extent, values) >= 0), str(extent)


def test_divisors_are_positive_constants() -> None:
    for divisor in (0, -3):
        with pytest.raises(ValueError, match="divide by positive constants only"):
            Dim.of(N) // divisor


def test_what_halving_and_doubling_leaves_is_no_less_than_zero() -> None:
    h = dim.symbol("h", 2, 10**9)
    rest = h - h // 2 * 2
    assert dim.is_nonnegative(rest)
    assert not dim.is_nonnegative(rest - 1)
    assert not dim.is_nonnegative(h // 2 * 2 - h)


def test_what_rounding_up_adds_is_not_negative() -> None:
    n = Dim.of(N)
    assert dim.is_nonnegative(8 * ((n + 7) // 8) - n)
    assert not dim.is_nonnegative(8 * ((n + 6) // 8) - n)
