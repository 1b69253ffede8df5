"""OneHot whose depth is a free dim, and TopK of an axis that is one: as ONNX Runtime has them."""

from __future__ import annotations

import numpy as np

from netloom.frontends.onnx import from_onnx

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


def test_the_largest_of_a_free_axis() -> None:
    """There are at least as many as are taken."""
    body = "best, at = TopK<axis = 0>(x, k)  f = Cast<to = 1>(at)  y = Concat<axis = 1>(best, f)"
    model = model_of("float[N, 2] x", body, k=np.array([3]))
    (symbol,) = from_onnx(model).symbols
    assert symbol.lo == 3
    assert_right(model, (3, 2), (8, 2))
