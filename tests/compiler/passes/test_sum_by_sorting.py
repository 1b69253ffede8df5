"""Gradients of gathers as sums of runs: which ones, and that the sums stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.sum_by_sorting import sum_by_sorting
from netloom.compiler.tensor_type import FLOAT32, INT32, INT64, UINT8, DType, TensorType
from netloom.runtime.session import Session

N = symbol("N", 1)


def gradient(
    dy: tuple[Extent, ...], indices: tuple[Extent, ...], axis: int, extent: Extent, dtype: DType
) -> Graph:
    b = Builder("gradient")
    inputs = b.input(TensorType(FLOAT32, dy), "dy"), b.input(TensorType(dtype, indices), "i")
    return b.build([b("gather_gradient", *inputs, axis=axis, extent=extent)])


def of_size(shape: tuple[Extent, ...]) -> tuple[int, ...]:
    return tuple(extent if isinstance(extent, int) else 600 for extent in shape)


@pytest.mark.parametrize(
    ("dy", "indices", "axis", "dtype"),
    [
        ((N, 70), (N,), 0, INT64),
        ((4, 3, 30, 5), (3, 30), 1, INT32),
        ((3, 2, 40), (40,), 2, INT64),
        ((2000,), (2000,), 0, UINT8),
    ],
    ids=str,
)
def test_sums_are_those_of_a_scatter(
    dy: tuple[Extent, ...], indices: tuple[Extent, ...], axis: int, dtype: DType
) -> None:
    """numpy.add.at in float64 says what they are; a third of the table is never asked for."""
    graph, rng = gradient(dy, indices, axis, 50, dtype), np.random.default_rng(0)
    x = rng.standard_normal(of_size(dy)).astype(np.float32)
    least = -34 if dtype.is_signed else 0
    i = rng.integers(least, 34, of_size(indices)).astype(dtype.numpy)
    sorted_ = sum_by_sorting(graph)
    assert "run_sum" in {node.op.name for node in sorted_.nodes}
    table = np.zeros((*x.shape[:axis], 50, *x.shape[axis + i.ndim :]))
    rows = x.astype(np.float64).reshape(*x.shape[:axis], -1, *x.shape[axis + i.ndim :])
    np.add.at(np.moveaxis(table, axis, 0), i.reshape(-1), np.moveaxis(rows, axis, 0))
    (meant,) = interpret(sorted_, {"dy": x, "i": i})
    compiled = Session.in_process(compile_graph(graph).image, threads=1)(x, i)
    for found in (meant, compiled):
        np.testing.assert_allclose(found, table, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "extent"), [(8, 1000), (1000, 8), (symbol("M", 0), 1000)], ids=str
)
def test_small_and_empty_ones_stay(rows: Extent, extent: int) -> None:
    graph = gradient((rows, 4), (rows,), 0, extent, INT64)
    assert sum_by_sorting(graph) is graph


def test_work_does_not_grow_with_the_table_times_the_rows() -> None:
    """What the loops do is counted: all pairs would be 10^9 additions."""
    compiled = compile_graph(gradient((1000, 16), (1000,), 0, 1_000_000, INT64))
    assert "gather_gradient" not in compiled.as_text("kernels")
