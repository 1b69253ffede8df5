"""Which free axis work items share out, where memory is walked in its order."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pytest

from netloom.compiler.dim import Extent, evaluate, symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.interpret import run_kernel
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.tensor_type import FLOAT32, TensorType

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
