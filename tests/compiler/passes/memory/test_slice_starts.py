"""Slices that differ in where they start are one kernel, and read what they should."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.memory.slice_starts import without_starts
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.compiler.text import print_graph
from netloom.runtime.session import Session

N = symbol("N", 1)
REACH = 3


def _part(b: Builder, x: Value, start: tuple[int, ...], size: tuple[Extent, ...]) -> Value:
    return b("slice", x, start=start, size=size, step=(1,) * len(size))


def _correlation(batch: Extent, height: int) -> Graph:
    """The products of one image with another that is moved, as PWC-Net's cost volume has them."""
    b = Builder("correlation")
    shape = (batch, 5, height, 9)
    x, y = (b.input(TensorType(FLOAT32, shape), name) for name in "xy")
    border = (0, 0, 1, 1)
    padded = b("pad", y, lo=border, hi=border, value=0.0)
    results = []
    for i, j in np.ndindex(REACH, REACH):
        moved = _part(b, padded, (0, 0, i, j), shape)
        results.append(b("reduce_sum", b("mul", x, moved), axes=(1,), keep=True))
    return b.build([b("concat", *results, axis=1)])


@pytest.mark.parametrize("batch", [2, N])
def test_moved_images_share_a_kernel(batch: Extent) -> None:
    graph = _correlation(batch, 6)
    compiled = compile_graph(graph)
    # the border, the products and the concat of what does not lie behind each other
    assert len(compiled.program.kernels) <= 3
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((2, 5, 6, 9)).astype(np.float32) for _ in range(2))
    padded = np.pad(y.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.stack(
        [(x * padded[:, :, i : i + 6, j : j + 9]).sum(axis=1)
         for i, j in np.ndindex(REACH, REACH)], axis=1,
    )  # fmt: skip
    found = Session.in_process(compiled.image)(x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(interpret(graph, {"x": x, "y": y})[0], expected, 1e-5, 1e-5)


def _body(*starts: tuple[int, int], step: tuple[int, int] = (1, 1)) -> Graph:
    b = Builder("kernel")
    x = b.input(TensorType(FLOAT32, (8, 10)), "x0")
    parts = [b("slice", x, start=start, size=(2, 3), step=step) for start in starts]
    return b.build([b("add", *parts) if len(parts) > 1 else b("neg", *parts)])


def test_the_least_start_is_left_to_the_launch() -> None:
    body, firsts = without_starts(_body((3, 4), (2, 6)), lambda _: True)
    assert firsts == [24] and print_graph(body, labels=False) == print_graph(
        _body((1, 0), (0, 2)), labels=False
    )


@pytest.mark.parametrize(
    ("body", "may_move"), [(_body((2, 4)), False), (_body((3, 8), step=(1, -2)), True)]
)
def test_what_stays(body: Graph, may_move: bool) -> None:
    found, firsts = without_starts(body, lambda _: may_move)
    assert found is body and firsts == [0]


def test_an_input_that_is_read_whole_stays() -> None:
    b = Builder("kernel")
    x = b.input(TensorType(FLOAT32, (8, 10)), "x0")
    graph = b.build([b("mul", x, b("slice", x, start=(3, 0), size=(1, 10), step=(1, 1)))])
    assert without_starts(graph, lambda _: True) == (graph, [0])
