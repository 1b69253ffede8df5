"""Elementwise ops from one formula: what their type rule refuses."""

from __future__ import annotations

import pytest

from netloom.compiler.graph import Builder
from netloom.compiler.tensor_type import BOOL, FLOAT32, DType, TensorType
from netloom.errors import ShapeError


def apply(op: str, *inputs: tuple[DType, tuple[int, ...]]) -> None:
    b = Builder("graph")
    b(op, *(b.input(TensorType(dtype, shape), f"x{i}") for i, (dtype, shape) in enumerate(inputs)))


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        ("add", [(FLOAT32, (3,))], "add takes 2 inputs, not 1"),
        ("relu", [(FLOAT32, (3,)), (FLOAT32, (3,))], "relu takes 1 inputs, not 2"),
        ("add", [(FLOAT32, (3,)), (FLOAT32, (4,))], "do not broadcast together"),
        ("exp", [(BOOL, (3,))], "exp does not take bool"),
    ],
)
def test_what_does_not_fit_is_refused(
    op: str, inputs: list[tuple[DType, tuple[int, ...]]], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        apply(op, *inputs)
