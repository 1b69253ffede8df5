"""Loops of scatter, scatter_last and scatter_source: each element and each update once, equal indices in
order; rows in vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbols_of
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.interpret import Run, run_kernel
from netloom.compiler.loops.ir import LANES
from netloom.compiler.loops.verify import verify_kernel

from .case_graphs import N, one, scattered_rows

SHAPES: list[tuple[tuple[Extent, ...], int, int]] = [  # x, axis, updates
    ((70,), 0, 33), ((3, 20), 1, 40), ((20, 3), 0, 40), ((5, 9, 70), 1, 4), ((N, 6, 5), 0, 12),
    ((2, N), 1, 12), ((9, N), 0, 12), ((9, 2, 3, 17), 0, 4),
]  # fmt: skip

SIZE = {symbol: 8 for symbol in symbols_of([N])}


def run(graph: Graph, *arrays: Any) -> Run:
    kernel = build_kernel("kernel", graph, Machine())
    assert not [o for o in verify_kernel(kernel) if "inside" not in str(o)]
    return run_kernel(kernel, arrays, {symbol.name: 8 for symbol in kernel.symbols})


@pytest.mark.parametrize(("shape", "axis", "count"), SHAPES, ids=str)
def test_every_element_and_update_is_stored_once(
    shape: tuple[Extent, ...], axis: int, count: int
) -> None:
    size = tuple(extent if isinstance(extent, int) else 8 for extent in shape)
    some, at = (*shape[:axis], count, *shape[axis + 1 :]), (*size[:axis], count, *size[axis + 1 :])
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, size).astype(np.float32)
    indices = rng.integers(-size[axis], size[axis], at)
    updates = rng.integers(-9, 9, at).astype(np.float32)
    added = one("scatter", shape, some, some, integers=(1,), axis=axis, reduction="add")()
    last = one("scatter_source", some, integers=(0,), axis=axis, extent=shape[axis])()
    put = one("scatter_last", shape, some, some, integers=(1,), axis=axis)()
    given = x, indices, updates
    for graph, arrays in ((added, given), (put, given), (last, (indices,))):
        found = run(graph, *arrays)
        names = [value.label for value in graph.inputs]
        (expected,) = interpret(graph, dict(zip(names, arrays, strict=True)), symbols=SIZE)
        np.testing.assert_array_equal(found.output, expected)
        assert found.stores == x.size + updates.size


@pytest.mark.parametrize("reduction", [None, "add", "max"])
@pytest.mark.parametrize("width", [1, 16, 70, 600, N], ids=str)
def test_rows_with_one_index_are_stored_in_vectors(width: Extent, reduction: str | None) -> None:
    columns, count = width if isinstance(width, int) else 8, 7
    attrs = {} if reduction is None else {"reduction": reduction}
    op = "scatter_last" if reduction is None else "scatter"
    graph = scattered_rows(op, (9, width), count, **attrs)()
    rng = np.random.default_rng(1)
    x, updates = (rng.integers(-9, 9, (rows, columns)).astype(np.float32) for rows in (9, count))
    indices = np.array([3, -1, 0, 3, 8, -9, 3])
    expected = x.copy()
    for index, update in zip(indices, updates, strict=True):
        row = expected[index]
        match reduction:
            case "add":
                expected[index] = row + update
            case "max":
                expected[index] = np.maximum(row, update)
            case None:
                expected[index] = update
    found = run(graph, x, indices, updates)
    np.testing.assert_array_equal(found.output, expected)
    assert found.stores == x.size + updates.size
    vectors = {s: n for s, n in found.executed.items() if s.index_expressions}
    assert sum(vectors.values()) == count * -(-columns // LANES)


def test_an_index_out_of_range_is_told() -> None:
    graph = one("scatter_source", (3,), integers=(0,), axis=0, extent=4)()
    assert run(graph, np.array([0, 4, 1])).is_index_wrong
    assert not run(graph, np.array([0, -4, 3])).is_index_wrong
