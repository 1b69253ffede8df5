"""The polyphase decomposition: which elements a phase has, and that its inverse puts them back."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.strategies import polyphase
from netloom.compiler.tensor_type import FLOAT32, TensorType

# (extents of x, the axes before the last two, steps, zeros before, the phases' shape)
CASES = {
    "to batch": ((2, 3, 5, 7), (2, 3), (2, 3), (1, 2), (12, 3, 3, 3)),
    "to channels": ((2, 6, 8, 4), (2, 2, 3), (4, 2), (0, 0), (2, 48, 2, 2)),
    "to channels, padded": ((1, 4, 3, 3), (1, 2, 2), (2, 2), (1, 0), (1, 16, 2, 2)),
    "of weights": ((4, 3, 7, 5), (4, 3), (2, 2), (0, 0), (4, 12, 4, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_phases_and_back(case: str) -> None:
    extents, leading, steps, skipped, shape = CASES[case]
    b = Builder()
    x = b.input(TensorType(FLOAT32, extents), "x")
    phases = polyphase.split(b, x, leading, steps, skipped, shape, "phases")
    back = polyphase.joined(b, phases, leading, steps, skipped, x)
    array = np.arange(1.0, np.prod(extents) + 1, dtype=np.float32).reshape(extents)
    found, again = interpret(b.build([phases, back], ["phases", "back"]), {"x": array})
    np.testing.assert_array_equal(again, array)

    (s, t), (h, w) = steps, shape[-2:]
    filled = np.zeros((*leading, h * s, w * t), np.float32)
    rows, columns = (
        slice(zeros, zeros + extent) for zeros, extent in zip(skipped, extents[2:], strict=True)
    )
    filled[..., rows, columns] = array.reshape(*leading, *extents[2:])
    apart = found.reshape(*leading[:-1], s, t, leading[-1], h, w)
    for p in range(s):
        for q in range(t):
            np.testing.assert_array_equal(apart[..., p, q, :, :, :], filled[..., p::s, q::t])
