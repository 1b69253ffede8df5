"""Loops of suppress: what is not compared any more once a line has as many boxes as it may."""

from __future__ import annotations

import numpy as np

from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.interpret import run_kernel
from netloom.compiler.tensor_type import BOOL, FLOAT32, TensorType

BOXES = 60


def _loads(most: int) -> int:
    """What is loaded for a line of boxes that lie apart, of which so many are kept."""
    b = Builder("suppress")
    boxes = b.input(TensorType(FLOAT32, (4, BOXES)), "boxes")
    candidates = b.input(TensorType(BOOL, (BOXES,)), "candidates")
    graph = b.build([b("suppress", boxes, candidates, b.number(0.5, FLOAT32), most=most)])
    low = 10.0 * np.arange(BOXES, dtype=np.float32)
    given = np.stack([low, low, low + 5, low + 5]), np.ones(BOXES, np.bool_)
    found = run_kernel(build_kernel("kernel", graph, Machine()), given, {})
    (expected,) = interpret(graph, {"boxes": given[0], "candidates": given[1]})
    np.testing.assert_array_equal(found.output, expected)
    assert found.output.sum() == most
    return found.loads


def test_boxes_behind_the_last_that_may_be_kept_are_not_compared() -> None:
    """Only the count of those that are kept is read for them."""
    assert _loads(1) < 60 + 5 * BOXES
    assert _loads(16) > _loads(2) > _loads(1)
