"""Which free axis work items share out, where memory is walked in its order; which parts of a
product follow one another."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.dim import Extent, evaluate, symbol
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.interpret import run_kernel
from netloom.compiler.loops.items import ENOUGH_AGAIN
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

from .case_graphs import N

T = symbol("T")
VALUES = {"N": 3, "T": 20}
Shape: TypeAlias = tuple[Extent, ...]

CASES: list[tuple[Shape, Shape, int]] = [  # what is added, and the work items where N is 1
    ((64, 3, T), (64, 1, 1), 64),  # the axes before the free one are items enough
    ((2, T), (2, 1), 2 * 2),  # they are not: a vector each
    ((N, T, 768), (N, 1, 768), 20),  # the batch is often 1
    ((N, T, 8), (1, T, 1), 1),  # short rows stay in the order of memory
]


def added(left: Shape, right: Shape) -> Graph:
    """The sum of a value and one that is the same along some axes."""
    b = Builder("add")
    x, y = (b.input(TensorType(FLOAT32, s), name) for s, name in ((left, "x"), (right, "y")))
    return b.build([b("add", x, b("broadcast", y, shape=left))])


@pytest.mark.parametrize(("left", "right", "items"), CASES, ids=str)
def test_free_axes_are_shared_out(left: Shape, right: Shape, items: int) -> None:
    kernel = build_kernel("kernel", added(left, right), Machine())
    assert not verify_kernel(kernel)
    assert evaluate(kernel.items, VALUES | {"N": 1}) == items
    rng = np.random.default_rng(0)
    x, y = (
        rng.standard_normal([evaluate(e, VALUES) for e in shape]).astype(np.float32)
        for shape in (left, right)
    )
    symbols = {symbol.name: VALUES[symbol.name] for symbol in kernel.symbols}
    found = run_kernel(kernel, [x, y], symbols)
    np.testing.assert_array_equal(found.output.reshape(x.shape), x + y)


def product(terms: int, columns: int) -> tuple[Graph, npt.NDArray[np.float32]]:
    """The product of free rows and constant weights, and the weights."""
    weights = np.random.default_rng(1).standard_normal((terms, columns)).astype(np.float32)
    b = Builder("matmul")
    x = b.input(TensorType(FLOAT32, (T, terms)), "x")
    y = b("matmul", x, b.constant(weights), transpose_a=False, transpose_b=False)
    return b.build([y], ["y"]), weights


@pytest.mark.parametrize(("terms", "columns"), [(600, 272), (300, 448)])
def test_free_rows_meet_the_same_columns_together(terms: int, columns: int) -> None:
    """Weights that leave the L2 cache are read from afar once for several tiles of rows, which ask
    for the next ones meanwhile; behind the last tile, work items are empty."""
    graph, weights = product(terms, columns)
    compiled = compile_graph(graph, Options())
    text = compiled.as_text("loops")
    assert f"(w)%{ENOUGH_AGAIN}" in text
    assert "prefetch" in text
    session = Session.in_process(compiled.image, threads=2)
    rng = np.random.default_rng(2)
    for rows in (1, 7, 95, 96, 97, 200):
        x = rng.standard_normal((rows, terms)).astype(np.float32)
        (found,) = session.run(None, {"x": x})
        wanted = x.astype(np.float64) @ weights
        assert np.abs(found - wanted).max() <= 1e-6 * terms


def test_free_rows_go_on_where_columns_stay_near() -> None:
    text = compile_graph(product(64, 64)[0], Options()).as_text("loops")
    assert f"(w)%{ENOUGH_AGAIN}" not in text
