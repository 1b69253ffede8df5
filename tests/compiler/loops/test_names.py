"""Free dims may have any name, those of kernels' own loops too."""

from __future__ import annotations

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.dim import symbol, symbols_of
from netloom.compiler.driver import plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.ir import LOOP_VARIABLE, For, Let, walk
from netloom.compiler.tensor_type import FLOAT32, TensorType
from tests.compiler.loops.case_graphs import PLAIN, weights
from tests.compiler.loops.case_kernels import MACHINE, SMALL_ITEMS, kernels_of
from tests.compiler.loops.cases import CASES

NAMES = ("w", "l", "n", "p0", "r0")


def network(name: str) -> Graph:
    """Kernels of every kind over a batch of that name."""
    b = Builder("network")
    x = b.input(TensorType(FLOAT32, (symbol(name, 1), 16, 5, 6)), "x")
    y = b("conv", b("relu", x), b.constant(weights(18, 16, 3, 3)), **PLAIN)
    rows = b("reduce_sum", y, axes=(2, 3))
    products = b("matmul", rows, b.constant(weights(18, 20)))
    return b.build(
        [b("softmax", b("transpose", products, permutation=(1, 0)), axis=0), b("exp", b("neg", x))],
        ["s", "e"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_dim_may_be_called_like_a_loop(name: str) -> None:
    graph = network(name)
    x = np.random.default_rng(0).standard_normal((3, 16, 5, 6), np.float32) / 4
    found = nl.compile(graph, conv_strategy="winograd_f2")(x)
    for got, wanted in zip(found, interpret(graph, {"x": x}), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["w", "N", "w_"])
def test_launches_name_the_models_dims(name: str) -> None:
    program = plan_graph(network(name)).program
    assert [s.name for s in program.symbols] == [name]
    extents = [
        extent
        for launch in program.entries[0].launches
        for extent in (*launch.extents, launch.items)
    ]
    assert {s.name for s in symbols_of(extents)} == {name}


def test_other_names_stay_apart() -> None:
    """A kernel's own name for a dim is none that another dim has."""
    b = Builder("sum")
    x, y = (b.input(TensorType(FLOAT32, (symbol(name, 1), 3)), name) for name in ("w", "w_"))
    graph = b.build([b("concat", b("relu", x), b("relu", y), axis=0)], ["z"])
    found = nl.compile(graph)(np.ones((2, 3), np.float32), np.full((4, 3), 5, np.float32))
    np.testing.assert_array_equal(found, [[1] * 3] * 2 + [[5] * 3] * 4)


def test_loops_keep_to_their_names() -> None:
    kernels = [kernel for case in CASES for kernel in kernels_of(case, SMALL_ITEMS, MACHINE)]
    loops = {
        s.variable.name for kernel in kernels for s in walk(kernel.body) if isinstance(s, For | Let)
    }
    assert not [
        name
        for name in loops | {kernel.variable.name for kernel in kernels}
        if not LOOP_VARIABLE.fullmatch(name)
    ]
