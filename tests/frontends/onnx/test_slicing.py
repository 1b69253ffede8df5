"""Slices whose bounds follow from free dims and may be negative, which count from the end; joins."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import helper

from netloom.compiler.interpret import interpret
from netloom.errors import ShapeError
from netloom.frontends.onnx import from_onnx

from .test_free_dims import assert_right, model_of

NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "five": 5, "far": 1 << 62, "low": -(1 << 62)}
BODY = """size = Shape<start = 0, end = 1>(x)  less = Sub(size, five)  rest = Sub(five, size)
          near = Sub(size, three)  back = Neg(size)  half = Div(size, two)  last = Sub(half, one)
          step = Constant<value_ints = [{step}]>()  y = Slice(x, {start}, {end}, zero, step)"""


def slice_of(start: str, end: str, step: int) -> onnx.ModelProto:
    numbers = {name: np.array([number]) for name, number in NUMBERS.items()}
    body = BODY.replace("{start}", start).replace("{end}", end).replace("{step}", str(step))
    return model_of("float[N, 2] x", body, **numbers)


@pytest.mark.parametrize(("start", "end", "step"), [
    ("less", "far", 1), ("zero", "less", 1), ("less", "near", 1), ("rest", "far", 1),
    ("zero", "rest", 2), ("less", "low", -1), ("far", "rest", -2), ("back", "less", 1),
    ("last", "half", 1),
])  # fmt: skip
def test_bounds_of_any_sign(start: str, end: str, step: int) -> None:
    """From one element on, where 5 less or more than there are is below zero."""
    model = slice_of(start, end, step)
    graph, runtime = from_onnx(model), onnxruntime.InferenceSession(model.SerializeToString())
    (symbol,) = graph.symbols
    assert symbol.lo == 1
    for size in (1, 2, 3, 4, 5, 6, 9, 11):
        x = np.arange(2 * size, dtype=np.float32).reshape(size, 2)
        expected = runtime.run(None, {"x": x})[0]
        np.testing.assert_array_equal(interpret(graph, {"x": x})[0], expected)


def test_bounds_of_any_sign_compiled() -> None:
    assert_right(slice_of("less", "far", 1), (2, 2), (4, 2), (5, 2), (8, 2))


def test_joins_of_different_ranks_are_refused() -> None:
    ports = [
        helper.make_tensor_value_info(name, 1, shape) for name, shape in (("a", [2, 3]), ("b", [3]))
    ]
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=1)
    graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(ShapeError, match=r"Concat 'y'.*differ in rank"):
        from_onnx(model)
