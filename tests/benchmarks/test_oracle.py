"""The float64 oracle widens all of a network, loops too."""

from __future__ import annotations

import numpy as np

from netloom.benchmarks.oracle import float64_outputs
from netloom.compiler.graph import Builder, Value
from tests.compiler.test_bodies import turns


def _smaller(b: Builder, state: Value, shared: Value) -> Value:
    return b("div", b("sin", state), b("exp", b("mul", shared, shared)))


def test_loops_are_computed_in_float64() -> None:
    x = np.array([0.3, -1.7, 2.9], np.float32)
    last, stacked = float64_outputs(turns(_smaller, count=3), {"x": x})
    state, factor = x.astype(np.float64), np.array([2, 0.5, -1])
    states = []
    for _ in range(3):
        states.append(state)
        state = np.sin(state) / np.exp(factor * factor)
    assert last.dtype == np.float64
    np.testing.assert_allclose(last, state, rtol=1e-14)
    np.testing.assert_allclose(stacked, states, rtol=1e-14)
