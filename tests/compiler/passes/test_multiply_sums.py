"""Running sums for devices: products with a triangle of ones give the same."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.multiply_sums import multiply_sums
from netloom.compiler.tensor_type import FLOAT32, INT32, DType, TensorType


@pytest.mark.parametrize("dtype", [FLOAT32, INT32])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
def test_products_are_sums(shape: tuple[int, ...], dtype: DType) -> None:
    b = Builder("sums")
    graph = b.build([b("running_sum", b.input(TensorType(dtype, shape), "x"))])
    new = multiply_sums(graph)
    names = [node.op.name for node in new.nodes]
    assert "matmul" in names and "running_sum" not in names
    x = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype.numpy)
    (found,) = interpret(new, {"x": x})
    assert found.dtype == x.dtype and np.array_equal(found, np.cumsum(x, axis=-1))
