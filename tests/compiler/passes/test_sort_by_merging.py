"""Sorting by merging: which lines it takes, and that positions and orders stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.merging import comparisons, rounds_of
from netloom.compiler.passes.sort_by_merging import (
    LEAST,
    LEAST_CHOSEN,
    LEAST_LISTED,
    SHORT_LIST,
    sort_by_merging,
)
from netloom.compiler.tensor_type import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT8,
    INT64,
    UINT64,
    DType,
    TensorType,
)
from netloom.runtime.session import Session

Array = npt.NDArray[Any]
N = symbol("N", 1)


def sorted_(b: Builder, x: Value, axis: int, descending: bool, size: Extent) -> list[Value]:
    """The positions along an axis, and which elements come first."""
    places = b("sort_positions", x, axis=axis, descending=descending)
    return [places, b("inverse_positions", places, axis=axis, size=size)]


def order(shape: tuple[Extent, ...], size: Extent, dtype: DType = FLOAT32) -> Graph:
    b = Builder("order")
    x = b.input(TensorType(dtype, shape), "x")
    return b.build(sorted_(b, x, len(shape) - 1, True, size)[1:])


def awkward(shape: tuple[int, ...], dtype: DType, seed: int = 0) -> Array:
    """Ties everywhere, and what has no plain order."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 40, shape) - (0 if dtype is UINT64 else 20)
    if not dtype.is_float:
        wide = np.iinfo(dtype.numpy)
        ends = rng.choice(np.array([wide.min, wide.max], dtype.numpy), shape)
        return np.where(rng.random(shape) < 0.2, ends, x.astype(dtype.numpy))
    values = (x / 4).astype(np.float32)
    special = rng.choice(np.array([np.nan, np.inf, -np.inf, 0, -0.0], np.float32), shape)
    return np.where(rng.random(shape) < 0.2, special, values).astype(dtype.numpy)


def ops(graph: Graph) -> set[str]:
    return {node.op.name for node in graph.nodes}


@pytest.mark.parametrize(
    ("shape", "size", "has", "lacks"),
    [
        ((3, LEAST - 1), LEAST - 1, "sort_positions", "merge_sort"),
        ((3, LEAST), LEAST, "merge_sort", "sort_positions"),
        ((3, N), N, "merge_sort", "inverse_positions"),
        ((3, LEAST_LISTED - 1), 5, "sort_positions", "first_places"),
        ((3, LEAST_LISTED), 5, "first_places", "sort_positions"),
        ((3, N + SHORT_LIST), SHORT_LIST, "first_places", "merge_sort"),
        ((3, N), 5, "merge_sort", "first_places"),
        ((3, 2 * SHORT_LIST - 1), SHORT_LIST, "merge_sort", "first_places"),
        ((3, LEAST_CHOSEN - 1), SHORT_LIST + 1, "merge_sort", "first_places"),
        ((3, LEAST_CHOSEN), SHORT_LIST + 1, "first_places", "sort_positions"),
        ((3, LEAST_CHOSEN), LEAST_CHOSEN // 2 + 1, "merge_sort", "first_places"),
        ((3, SHORT_LIST**2), SHORT_LIST + 1, "first_places", "merge_sort"),
    ],
)
def test_long_lines_are_merged(
    shape: tuple[Extent, ...], size: Extent, has: str, lacks: str
) -> None:
    found = ops(sort_by_merging(order(shape, size)))
    assert has in found and lacks not in found


def test_results_stay_the_same() -> None:
    b, feeds = Builder("sorts"), {}
    outputs = []
    dtypes = [FLOAT32, FLOAT64, FLOAT16, BFLOAT16, INT8, INT64, UINT64]
    for number, dtype in enumerate(dtypes):
        shape, axis = ((2, 3, 70), 2) if number % 2 else ((2, 70, 3), 1)
        x = b.input(TensorType(dtype, shape), f"x{number}")
        feeds[x.label] = awkward(shape, dtype, number)
        for descending in (False, True):
            outputs += sorted_(b, x, axis, descending, 70 if number < 3 else 9)
    places = b.input(TensorType(INT64, (300,)), "places")
    feeds["places"] = np.random.default_rng(0).permutation(300)
    outputs.append(b("inverse_positions", places, axis=0, size=290))
    graph = b.build(outputs)
    session = Session.in_process(compile_graph(graph).image, 2)
    for before, after, compiled in zip(
        interpret(graph, feeds), interpret(sort_by_merging(graph), feeds),
        session.run(None, feeds), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(before, after)
        np.testing.assert_array_equal(before, compiled)


@pytest.mark.parametrize("size", [32, 200])
def test_the_first_few_of_long_lines(size: int) -> None:
    """Of lines with ties, of one that is the same everywhere, of one that ascends."""
    graph = order((3, 2100), size)
    session = Session.in_process(compile_graph(graph).image)
    x = awkward((3, 2100), FLOAT32)
    x[1], x[2] = 0, np.arange(2100)
    for given in (x, -x, np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)):
        (expected,) = interpret(graph, {"x": given})
        (merged,) = interpret(sort_by_merging(graph), {"x": given})
        np.testing.assert_array_equal(expected, merged)
        np.testing.assert_array_equal(expected, session(given))


def test_lines_of_any_length() -> None:
    """Around the borders of runs, blocks, segments and groups of segments."""
    graph = order((2, N), N)
    session = Session.in_process(compile_graph(graph).image)
    for extent in (1, 15, 17, 31, 255, 256, 257, 513, 1023, 1025, 3000):
        x = awkward((2, extent), FLOAT32, extent)
        expected = interpret(graph, {"x": x})[0]
        np.testing.assert_array_equal(expected, session(x))


def test_rounds_are_counted() -> None:
    extents = [0, 1, 16, 17, 32, 33, 64, 65, 1024, 1025]
    assert [rounds_of(extent) for extent in extents] == [0, 0, 0, 1, 1, 2, 2, 3, 6, 7]


def test_the_network_sorts() -> None:
    """By the zero-one principle: what sorts all zeros and ones sorts everything."""
    lines = (np.arange(1 << 16)[:, None] >> np.arange(16)) & 1
    for low, high in comparisons(16):
        pair = lines[:, [low, high]]
        lines[:, low], lines[:, high] = pair.min(axis=1), pair.max(axis=1)
    assert (np.diff(lines, axis=1) >= 0).all()
