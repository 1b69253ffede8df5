"""Sizes that a model computes as floating-point numbers, from free dims."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.dim import evaluate
from netloom.errors import UnsupportedOpError
from netloom.frontends.onnx import from_onnx
from netloom.frontends.onnx.ratios import Ratio, ratio_of

from .test_equal_extents import assert_means_the_same
from .test_free_dims import model_of

SIZE = "size = Shape<start = 1, end = 2>(x)  float = Cast<to = 1>(size)  "
UP = """part = Div(float, by)  up = Ceil(part)  whole = Cast<to = 7>(up)  full = Mul(whole, parts)
        more = Sub(full, size)  pads = Concat<axis = 0>(zero, more)  y = Pad(x, pads)"""
DOWN = """part = Mul(float, by)  down = Floor(part)  whole = Cast<to = 7>(down)
          sizes = Concat<axis = 0>(one, whole)  y = Resize<mode = "nearest">(x, , , sizes)"""


@pytest.mark.parametrize("by", [8, 7])
def test_pads_up_to_a_multiple_by_floats(by: int) -> None:
    numbers: dict[str, Any] = {
        "by": np.array([by], np.float32),
        "parts": np.array([by]),
        "zero": np.zeros(3, np.int64),
    }
    model = model_of("float[1, T] x", SIZE + UP, **numbers)
    for length in (by, 3 * by - 1, 2 * by + 1):
        assert_means_the_same(model, 1, length)


@pytest.mark.parametrize("by", [1.5, 0.75])
def test_resizes_by_a_scale_in_floats(by: float) -> None:
    numbers: dict[str, Any] = {"by": np.array([by], np.float32), "one": np.array([1])}
    model = model_of("float[1, T] x", SIZE + DOWN, **numbers)
    assert_means_the_same(model, 1, 11)
    assert_means_the_same(model, 1, 8)


def test_a_scale_that_is_no_simple_fraction_is_refused() -> None:
    numbers: dict[str, Any] = {"by": np.array([0.1], np.float32), "one": np.array([1])}
    with pytest.raises(UnsupportedOpError, match="sizes is computed from data"):
        from_onnx(model_of("float[1, T] x", SIZE + DOWN, **numbers))


def test_ratios_are_followed_where_floats_round_once() -> None:
    n = dim.symbol("n", 1, 1 << 20)
    part = Ratio(n) / Ratio(14) + ratio_of(0.5)
    for number in (1, 13, 14, 7, 97, 98, 4099):
        exact = Fraction(number, 14) + Fraction(1, 2)
        near = np.float32(number) / np.float32(14) + np.float32(0.5)
        for found, known, rounded in (
            (part.floor(), exact.__floor__(), np.floor(near)),
            (part.ceil(), exact.__ceil__(), np.ceil(near)),
        ):
            assert evaluate(found.numerator, {"n": number}) == known == rounded
    for twice in (lambda: part * Ratio(14), lambda: part / Ratio(2), lambda: part + part):
        with pytest.raises(ValueError, match="round|exact"):
            twice()
    under = Ratio(-n) / Ratio(14)
    for number in (1, 13, 14, 97):
        near = np.float32(-number) / np.float32(14)
        assert evaluate(under.floor().numerator, {"n": number}) == np.floor(near)
        assert evaluate(under.truncated(), {"n": number}) == np.trunc(near)


WINDOWS = """less = Sub(size, five)  {}  count = Add(steps, three)  v = Constant<value_float = 1.0>()
             y = Expand(v, count)"""
STEPS = {
    "integers": "steps = Div(less, four)",
    "divided by less than 0": "near = Div(less, under)  steps = Neg(near)",
    "cast": "f = Cast<to = 1>(less)  q = Mul(f, part)  steps = Cast<to = 7>(q)",
    "floor": "f = Cast<to = 1>(less)  q = Mul(f, part)  d = Floor(q)  steps = Cast<to = 7>(d)",
    "ceil": "f = Cast<to = 1>(less)  q = Mul(f, part)  d = Ceil(q)  steps = Cast<to = 7>(d)",
}


@pytest.mark.parametrize("steps", STEPS)
def test_quotients_of_differences_that_may_be_negative(steps: str) -> None:
    """As many windows as fit behind the first, which a short axis has less than none of."""
    numbers = {"five": 5, "four": 4, "three": 3, "under": -4}
    fixed: dict[str, Any] = {name: np.array([number]) for name, number in numbers.items()}
    part = np.array([0.25], np.float32)
    body = "size = Shape(x)  " + WINDOWS.format(STEPS[steps])
    model = model_of("float[T] x", body, **fixed, part=part)
    for length in (1, 2, 4, 6, 8, 9, 13):
        assert_means_the_same(model, length)
