"""asin and acos: a polynomial and a root, of full relative accuracy where they are near zero."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler import scalar
from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.op import OPS, NoAttrs
from netloom.compiler.scalar import Argument, Call
from netloom.compiler.tensor_type import FLOAT32, TensorType


@pytest.mark.parametrize("op", ["asin", "acos"])
def test_they_do_not_divide(op: str) -> None:
    formula = OPS[op].formula
    assert formula is not None
    steps = scalar.post_order([formula(NoAttrs(), Argument(0, FLOAT32))])
    names = [step.function for step in steps if isinstance(step, Call)]
    assert "div" not in names and names.count("sqrt") == 1


@pytest.mark.parametrize("op", ["asin", "acos"])
def test_they_are_within_two_units_in_the_last_place(op: str) -> None:
    small = np.logspace(-30, 0, 400)
    x = np.concatenate([small, 1 - small, np.linspace(0, 1, 999), [0.5, np.nextafter(0.5, 1)]])
    x = np.concatenate([x, -x]).astype(np.float32)
    b = Builder("arcs")
    graph = b.build([b(op, b.input(TensorType(FLOAT32, x.shape), "x"))])
    (found,) = interpret(graph, {"x": x})
    expected = {"asin": np.arcsin, "acos": np.arccos}[op](x.astype(np.float64))
    units = np.abs(found - expected) / np.spacing(np.abs(expected).astype(np.float32))
    assert units.max() <= 2
