"""Sums of many updates in wide numbers: which ones, and how near they are."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.passes.widen_scatters import widen_scatters
from netloom.compiler.tensor_type import FLOAT16, FLOAT32, FLOAT64, INT32, INT64, DType, TensorType
from netloom.runtime.session import Session


def scattered(count: Extent, dtype: DType, reduction: str = "add") -> Graph:
    b = Builder("scatter")
    x, i, updates = (
        b.input(TensorType(of, (extent,)), name)
        for name, of, extent in (("x", dtype, 5), ("i", INT64, count), ("u", dtype, count))
    )
    return b.build([b("scatter", x, i, updates, axis=0, reduction=reduction)])


@pytest.mark.parametrize(
    ("count", "dtype", "reduction", "expected"),
    [
        (512, FLOAT32, "add", FLOAT32), (513, FLOAT32, "add", FLOAT64),
        (symbol("N", 1), FLOAT32, "add", FLOAT64), (600, FLOAT32, "mul", FLOAT32),
        (3, FLOAT16, "add", FLOAT32), (600, FLOAT16, "add", FLOAT64),
        (3, FLOAT16, "mul", FLOAT32), (600, FLOAT16, "max", FLOAT16), (600, INT32, "add", INT32),
        (600, FLOAT64, "add", FLOAT64),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_widened(count: Extent, dtype: DType, reduction: str, expected: DType) -> None:
    (found,) = (
        node.output.dtype
        for node in widen_scatters(scattered(count, dtype, reduction)).nodes
        if node.op.name == "scatter"
    )
    assert found is expected


def test_many_updates_of_one_element_add_up() -> None:
    """In float32, one after the other, 100,000 tenths are off by 1.4e-4."""
    updates = np.full(100_000, 0.1, np.float32)
    indices = np.full(100_000, 3)
    session = Session.in_process(compile_graph(scattered(100_000, FLOAT32)).image, threads=1)
    found = session(np.zeros(5, np.float32), indices, updates)
    assert abs(found[3] / updates.astype(np.float64).sum() - 1) < 1e-7
    assert not found[[0, 1, 2, 4]].any()
