"""Pads and ranges whose sizes follow from free dims, compared with ONNX Runtime."""

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


def means(model: onnx.ModelProto, *shapes: tuple[int, ...]) -> None:
    """What ONNX Runtime computes for inputs x of several shapes."""
    graph, runtime = from_onnx(model), onnxruntime.InferenceSession(model.SerializeToString())
    for shape in shapes:
        x = np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)
        expected = runtime.run(None, {"x": x})[0]
        np.testing.assert_allclose(interpret(graph, {"x": x})[0], expected, rtol=1e-6)


PADS = """size = Shape<start = 1, end = 2>(x)  more = Sub(size, five)  less = Sub(five, size)
          pads = Concat<axis = 0>(zero, more, zero, zero, one, zero)
          p = Pad<mode = "{mode}">(x, pads)
          twice = Add(size, more)  whole = Add(twice, one)
          shape = Concat<axis = 0>(two, whole, two)  y = Reshape(p, shape)"""
NUMBERS = {"five": 5, "zero": 0, "one": 1, "two": 2}


@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_pads_that_add_or_cut(mode: str) -> None:
    """By the size less five; the result is known to be as long as is computed."""
    numbers = {name: np.array([number]) for name, number in NUMBERS.items()}
    model = model_of("float[2, H, 2] x", PADS.replace("{mode}", mode), **numbers)
    shapes = (2, 9, 2), (2, 5, 2), (2, 4, 2)
    if mode == "constant":
        assert_right(model, *shapes)
    else:  # where something is cut off, nothing may be left to repeat
        means(model, *shapes[:2])


@pytest.mark.parametrize(("pads", "range_of_h", "size"), [
    ("Concat<axis = 0>(low, low)", (6, 10**9), 9), ("Concat<axis = 0>(rest, rest)", (1, 10), 8),
])  # fmt: skip
def test_sizes_that_are_cut_off(pads: str, range_of_h: tuple[int, int], size: int) -> None:
    """Where two cuts would meet, the model does not fit."""
    body = f"size = Shape(x)  rest = Sub(five, size)  p = {pads}  c = Pad(x, p)  y = ReduceSum(c)"
    model = model_of("float[H] x", body, five=np.array([5]), low=np.array([-3]))
    means(model, (size,))
    (symbol,) = from_onnx(model).symbols
    assert (symbol.lo, symbol.hi) == range_of_h


def test_ranges_of_floats() -> None:
    """Sizes that were cast: 0 to H, and in steps of 0.5."""
    body = """size = Shape<start = 1, end = 2>(x)  s = Squeeze(size)  h = Cast<to = 1>(s)
              a = Range(zero, h, one)  b = Range(zero, h, half)  c = Concat<axis = 0>(a, b)
              three = Constant<value_int = 3>()  n = Mul(size, three)  d = Reshape(c, n)
              m = ReduceMax<keepdims = 0>(x)  y = Add(d, m)"""
    steps = {"zero": 0.0, "one": 1.0, "half": 0.5}
    numbers = {name: np.array(step, np.float32) for name, step in steps.items()}
    means(model_of("float[2, H] x", body, **numbers), (2, 1), (2, 7))


def test_positions_in_a_tensor_that_one_number_fills() -> None:
    """As exporters write arange: their number is that of the elements, and no data decide it."""
    body = """size = Shape<start = 1, end = 2>(x)  ones = ConstantOfShape<value = int64[1] {1}>(size)
              none = ConstantOfShape(size)  at = NonZero(ones)  no = NonZero(none)
              both = Concat<axis = 1>(at, no)  row = Squeeze(both, zero)  f = Cast<to = 1>(row)
              y = Add(x, f)"""
    model = model_of("float[2, H] x", body, zero=np.array([0]))
    assert not any(node.op.name == "data_dim" for node in from_onnx(model).nodes)
    means(model, (2, 1), (2, 7))


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool", "LpPool"])
def test_windows_without_axes_are_refused(op: str) -> None:
    """Their padding is not even looked at."""
    node = helper.make_node(op, ["x"], ["y"], auto_pad="SAME_UPPER")
    none = helper.make_attribute("kernel_shape", [], attr_type=onnx.AttributeProto.INTS)
    node.attribute.append(none)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([node], "g", [x], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(ShapeError, match="its input has rank 2"):
        from_onnx(model)
