"""Running sums for devices: products with a triangle of ones give the same."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.multiply_sums import multiply_sums
from netloom.compiler.tensor_type import FLOAT32, INT32, DType, TensorType


@pytest.mark.parametrize("dtype", [FLOAT32, INT32])
@pytest.mark.parametrize(("shape", "axis"), [((7,), -1), ((2, 3, 5), 2), ((2, 3, 5), 0)])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_products_are_sums(
    shape: tuple[int, ...], axis: int, dtype: DType, exclusive: bool, reverse: bool
) -> None:
    b = Builder("sums")
    x = b.input(TensorType(dtype, shape), "x")
    graph = b.build([b("running_sum", x, axis=axis, exclusive=exclusive, reverse=reverse)])
    new = multiply_sums(graph)
    names = [node.op.name for node in new.nodes]
    assert "matmul" in names and "running_sum" not in names
    given = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype.numpy)
    (found,) = interpret(new, {"x": given})
    line = np.flip(given, axis) if reverse else given
    sums = np.cumsum(line, axis, dtype=dtype.numpy) - (line if exclusive else 0)
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(found, np.flip(sums, axis) if reverse else sums)
