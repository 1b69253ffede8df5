"""Pools over large windows taken axis after axis: what is split, and that results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.split_windows import split_windows
from netloom.compiler.tensor_type import FLOAT16, FLOAT32, DType, TensorType
from netloom.runtime.session import Session

TAKEN = {  # spatial extents, kernel, stride, dilation, lo, hi, windows of the pools
    "square": ((9, 11), (5, 5), (1, 1), (1, 1), (2, 2), (2, 2), [(5, 1), (1, 5)]),
    "strided": ((19, 23), (9, 9), (2, 2), (1, 1), (4, 3), (4, 4), [(9, 1), (1, 9)]),
    "one stride": ((20, 21), (7, 7), (1, 3), (1, 1), (3, 0), (3, 0), [(1, 7), (7, 1)]),
    "dilated": ((19, 17), (5, 6), (1, 1), (2, 3), (1, 2), (4, 0), [(5, 1), (1, 6)]),
    "volume": ((7, 8, 9), (3, 5, 5), (1,) * 3, (1,) * 3, (1, 2, 2), (1, 2, 2),
               [(1, 5, 1), (3, 1, 5)]),
}  # fmt: skip
WHOLE = {
    "small": ((9, 11), (3, 3), (1, 1)),
    "steps as long as windows": ((20, 20), (5, 5), (5, 5)),
    "along one axis": ((20, 20), (1, 13), (1, 1)),
    "strides along the other axis": ((20, 40), (13, 1), (1, 2)),
}


def pool(op: str, spatial: tuple[int, ...], dtype: DType = FLOAT32, **attrs: Any) -> Graph:
    b = Builder("pool")
    return b.build([b(op, b.input(TensorType(dtype, (2, 3, *spatial)), "x"), **attrs)], ["y"])


def windows(graph: Graph) -> list[tuple[int, ...]]:
    return [node.attrs.kernel for node in graph.nodes]


def attributes(name: str) -> tuple[tuple[int, ...], dict[str, Any], list[tuple[int, ...]]]:
    spatial, kernel, stride, dilation, lo, hi, parts = TAKEN[name]
    attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "lo": lo, "hi": hi}
    return spatial, attrs, parts


@pytest.mark.parametrize("name", TAKEN)
def test_a_maximum_stays_bit_for_bit(name: str) -> None:
    spatial, attrs, parts = attributes(name)
    graph = pool("max_pool", spatial, **attrs)
    new = split_windows(graph)
    assert windows(new) == parts
    x = np.random.default_rng(0).standard_normal((2, 3, *spatial), np.float32)
    x[0, 0].flat[5] = np.nan
    (before,), (after,) = (interpret(g, {"x": x}) for g in (graph, new))
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("name", TAKEN)
def test_a_mean_is_that_of_all_real_elements(name: str, count_padding: bool) -> None:
    spatial, attrs, parts = attributes(name)
    extra = tuple(min(1, hi) for hi in attrs["hi"]) if count_padding else ()
    graph = pool("average_pool", spatial, **attrs, count_padding=count_padding, extra=extra)
    new = split_windows(graph)
    assert windows(new) == parts
    x = np.random.default_rng(0).random((2, 3, *spatial), np.float32)
    (expected,), (found,) = (interpret(g, {"x": x}) for g in (graph, new))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_programs_compute_the_same() -> None:
    spatial, attrs, _ = attributes("strided")
    x = np.random.default_rng(0).random((2, 3, *spatial), np.float32)
    b = Builder("pools")
    value = b.input(TensorType(FLOAT32, x.shape), "x")
    graph = b.build([b(f"{name}_pool", value, **attrs) for name in ("max", "average")])
    session = Session.in_process(compile_graph(graph, Options(threads=1)).image)
    windowed = [node for node in compile_graph(graph).graphs["run"].nodes if node.attrs]
    assert len(windowed) == 4
    for found, expected in zip(session(x), interpret(graph, {"x": x}), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", WHOLE)
def test_others_stay_whole(name: str) -> None:
    spatial, kernel, stride = WHOLE[name]
    none = {"dilation": (1, 1), "lo": (0, 0), "hi": (0, 0)}
    graph = pool("max_pool", spatial, kernel=kernel, stride=stride, **none)
    assert windows(split_windows(graph)) == [kernel]


def test_means_of_small_floats_are_rounded_once() -> None:
    spatial, attrs, parts = attributes("square")
    assert windows(split_windows(pool("average_pool", spatial, FLOAT16, **attrs))) == [(5, 5)]
    assert windows(split_windows(pool("max_pool", spatial, FLOAT16, **attrs))) == parts
