"""OneHot whose depth is a free dim, and TopK of an axis that is one: as ONNX Runtime has them."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.errors import ShapeError
from netloom.frontends.onnx import from_onnx
from netloom.frontends.onnx.restriction import Restriction

from .test_free_dims import assert_right, model_of


def test_a_depth_that_is_free() -> None:
    """Negative indices count from the end; those outside give zeros."""
    body = """size = Shape<start = 0, end = 1>(x)  hot = OneHot<axis = 0>(places, size, values)
              y = Concat<axis = 1>(x, hot)"""
    model = model_of(
        "float[N, 2] x",
        body,
        places=np.array([0, 2, -1, -4]),
        values=np.array([0.5, 2], np.float32),
    )
    assert_right(model, (1, 2), (3, 2), (6, 2))


TOPK = "best, at = TopK<axis = 0>(x, k)  f = Cast<to = 1>(at)  y = Concat<axis = 1>(best, f)"


def test_a_depth_of_two_numbers_is_one_error() -> None:
    body = "size = Shape(x)  y = OneHot<axis = 0>(places, size, values)"
    model = model_of("float[N, 2] x", body, places=np.array([0]), values=np.ones(2, np.float32))
    with pytest.raises(ShapeError, match="depth is int64.*one number is needed"):
        from_onnx(model)


def test_a_number_below_zero_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """No range of the axis mends it, so none is tried."""
    tried: list[Restriction] = []
    made = Restriction.__init__
    monkeypatch.setattr(
        Restriction, "__init__", lambda self, *given: (tried.append(self), made(self, *given))[1]
    )
    with pytest.raises(ShapeError, match="k is -1"):
        from_onnx(model_of("float[N, 2] x", TOPK, k=np.array([-1])))
    assert not tried


def test_a_number_that_the_axis_decides() -> None:
    """It is 0 or more where the axis has 5 elements."""
    body = "n = Shape<start = 0, end = 1>(x)  k = Sub(n, five)  " + TOPK
    model = model_of("float[N, 2] x", body, five=np.array([5]))
    (symbol,) = from_onnx(model).symbols
    assert symbol.lo == 5
    assert_right(model, (5, 2), (8, 2))


def test_the_largest_of_a_free_axis() -> None:
    """There are at least as many as are taken."""
    model = model_of("float[N, 2] x", TOPK, k=np.array([3]))
    (symbol,) = from_onnx(model).symbols
    assert symbol.lo == 3
    assert_right(model, (3, 2), (8, 2))
