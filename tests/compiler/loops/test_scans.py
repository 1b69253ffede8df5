"""Loops of running_sum: lines beside each other are added up in lanes; and of suppress: what is not
compared any more once a line has as many boxes as it may."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.interpret import run_kernel
from netloom.compiler.loops.ir import LANES
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.tensor_type import BOOL, FLOAT32, TensorType

from .case_graphs import N

BOXES = 60


def _loads(most: int, step: float = 10.0) -> int:
    """What is loaded for a line of boxes, each so far from the one before, of which so many may be
    kept: of those that lie apart as many are, of those in one place the first."""
    b = Builder("suppress")
    boxes = b.input(TensorType(FLOAT32, (4, BOXES)), "boxes")
    candidates = b.input(TensorType(BOOL, (BOXES,)), "candidates")
    graph = b.build([b("suppress", boxes, candidates, b.number(0.5, FLOAT32), most=most)])
    low = step * np.arange(BOXES, dtype=np.float32)
    given = np.stack([low, low, low + 5, low + 5]), np.ones(BOXES, np.bool_)
    found = run_kernel(build_kernel("kernel", graph, Machine()), given, {})
    (expected,) = interpret(graph, {"boxes": given[0], "candidates": given[1]})
    np.testing.assert_array_equal(found.output, expected)
    assert found.output.sum() == (most if step else 1)
    return found.loads


def test_boxes_behind_the_last_that_may_be_kept_are_not_compared() -> None:
    """Only the count of those that are kept is read for them."""
    assert _loads(1) < 60 + 5 * BOXES
    assert _loads(16) > _loads(2) > _loads(1)


def test_boxes_are_compared_with_vectors_that_hold_some() -> None:
    """Of a longer list only the count is read where it is empty."""
    assert _loads(LANES, 0) < _loads(3 * LANES, 0) < _loads(LANES, 0) + 10 * BOXES


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 64), 0), ((2, 4, 70), 1), ((3, 7), 0), ((2, 3, N), 1), ((2, 9), 1)]
)
def test_lines_beside_each_other_are_added_up_in_lanes(
    shape: tuple[Extent, ...], axis: int, reverse: bool, exclusive: bool
) -> None:
    b, columns = Builder("sums"), 37
    size = tuple(extent if isinstance(extent, int) else columns for extent in shape)
    x = b.input(TensorType(FLOAT32, shape), "x")
    attrs = {"axis": axis, "reverse": reverse, "exclusive": exclusive}
    graph = b.build([b("running_sum", x, **attrs)])
    kernel = build_kernel("kernel", graph, Machine())
    assert not verify_kernel(kernel)
    given = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    symbols = {symbol.name: columns for symbol in kernel.symbols}
    found = run_kernel(kernel, [given], symbols)
    wide = np.flip(given, axis) if reverse else given
    sums = np.cumsum(wide.astype(np.float64), axis)
    if exclusive:
        sums = sums - wide
    sums = np.flip(sums, axis) if reverse else sums
    np.testing.assert_allclose(found.output, sums, rtol=1e-6, atol=1e-6)
    stores = sum(n for s, n in found.executed.items() if not s.buffer.is_local)
    *outer, width = size
    vectors = -(-width // LANES) if axis < len(shape) - 1 else width
    assert stores == int(np.prod(outer)) * vectors
