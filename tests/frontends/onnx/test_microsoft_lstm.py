"""LSTMs whose weights have 8 bits, compared with ONNX Runtime."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.interpret import interpret
from netloom.errors import ShapeError
from netloom.frontends.onnx import from_onnx

from .runtime_case import Case, case, compare, expected_of, model_of, q, r


def quantized(*shape: int) -> npt.NDArray[Any]:
    return q(*shape, dtype=np.int8)


def each(*numbers: float, dtype: Any = np.float32) -> npt.NDArray[Any]:
    """A scale or zero point of each direction."""
    return np.array(numbers, dtype)


CASES = [
    # one sequence: Runtime takes the range of the states of all that a thread has
    case("DynamicQuantizeLSTM", r(5, 1, 3), quantized(1, 3, 16), quantized(1, 4, 16), r(1, 32), None, None, None, None,
         each(0.02), each(3, dtype=np.int8), each(0.03), each(-2, dtype=np.int8), hidden_size=4,
         outputs=("y", "h", "c")),
    case("DynamicQuantizeLSTM", r(5, 1, 3), quantized(2, 3, 16), quantized(2, 4, 16), r(2, 32), None, r(2, 1, 4),
         r(2, 1, 4), r(2, 12), np.abs(r(2, 16)) / 64, np.zeros((2, 16), np.int8), np.abs(r(2, 16)) / 64,
         np.zeros((2, 16), np.int8), hidden_size=4, direction="bidirectional", outputs=("y", "", "c")),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=["of_directions", "of_columns"])
def test_weights_of_eight_bits(c: Case) -> None:
    model, given = model_of(c)
    compare(interpret(from_onnx(model), given), expected_of(model, given))


def test_weights_of_eight_bits_that_do_not_fit() -> None:
    whole = CASES[0].inputs
    for position, shape, words in (
        (2, (1, 16, 4), "input 2 is"),
        (8, (1, 7), "a scale or zero point is"),
    ):
        inputs = [*whole]
        inputs[position] = np.ones(shape, np.int8 if position == 2 else np.float32)
        with pytest.raises(ShapeError, match=words):
            from_onnx(model_of(dataclasses.replace(CASES[0], inputs=tuple(inputs)))[0])
