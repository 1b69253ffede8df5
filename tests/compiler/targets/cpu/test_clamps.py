"""Indices that are clamped to an axis: lanes away from its ends are read as neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Dim, Extent, Symbol, maximum, minimum
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.ir import LANE
from netloom.compiler.loops.lanes import most_step
from netloom.compiler.targets.cpu.machine import host_cpus
from netloom.compiler.tensor_type import FLOAT32, INT8, TensorType
from netloom.runtime.session import Session

LEVELS = [cpu.name for cpu in host_cpus()]
N = Dim.of(Symbol("N", 4, 100))
WIDTHS = 4, 15, 16, 33, 70  # of rows: no run of 16, one, several


def padded(mode: str) -> Graph:
    """Images of a free width, in two dtypes, with more before than behind."""
    b = Builder(mode)
    results = []
    for dtype in (FLOAT32, INT8):
        x = b.input(TensorType(dtype, (2, 3, N)), f"x_{dtype.value}")
        results.append(b("pad", x, lo=(0, 1, 3), hi=(0, 2, 1), mode=mode))
    return b.build(results)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_borders_and_what_lies_between(mode: str, level: str) -> None:
    graph = padded(mode)
    session = Session.in_process(compile_graph(graph, Options(cpu=level)).image, threads=1)
    rng = np.random.default_rng(0)
    for width in WIDTHS:
        arrays = {
            x.label: rng.integers(-99, 99, (2, 3, width)).astype(x.dtype.numpy)
            for x in graph.inputs
        }
        meant = interpret(graph, arrays)
        for found, value, x in zip(session.run(None, arrays), meant, arrays.values(), strict=True):
            np.testing.assert_array_equal(found, np.pad(x, ((0, 0), (1, 2), (3, 1)), mode=mode))
            np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_neighbours_are_one_load(mode: str) -> None:
    b = Builder(mode)
    x = b.input(TensorType(FLOAT32, (8, 56)), "x")
    graph = b.build([b("pad", x, lo=(1, 1), hi=(1, 1), mode=mode)])
    text = compile_graph(graph, Options(cpu="x86-64-v4")).as_text("llvm")
    assert "llvm.masked.load.v16f32" in text or "load <16 x float>" in text


L = Dim.of(LANE)


@pytest.mark.parametrize(
    ("offset", "step"),
    [
        (7, 0), (N * 5, 0), (L + N, 1), (3 - L, 1), (2 * L, 2), (minimum(L + N, 5), 1),
        (maximum(minimum(L - 1, 54 - L), 1 - L), 1), (minimum(3 * L, N) + L, 4), (L // 2, None),
        (minimum(L // 2, 4), None), (L * N, None),
    ],
)  # fmt: skip
def test_how_far_lanes_are_apart_at_most(offset: Extent, step: int | None) -> None:
    assert most_step(offset) == step
