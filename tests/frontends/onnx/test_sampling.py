"""GridSample and Resize of short floats and integers: places are floats of 32 bits at least, and sums
are rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from netloom.compiler.interpret import interpret
from netloom.frontends.onnx import from_onnx

Array = npt.NDArray[Any]
RNG = np.random.default_rng(5)


def model_of(node: onnx.NodeProto, given: dict[str, Array], **fixed: Array) -> onnx.ModelProto:
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in given.items()
    ]
    weights = [numpy_helper.from_array(x, name) for name, x in fixed.items()]
    graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name="y")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def meaning_of(model: onnx.ModelProto, given: dict[str, Array]) -> Array:
    return np.asarray(interpret(from_onnx(model), given)[0])


def computed_elsewhere(model: onnx.ModelProto, given: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, given)[0])


X = RNG.standard_normal((1, 2, 5, 6)).astype(np.float32)
GRID = (RNG.random((1, 3, 4, 2)) * 2 - 1).astype(np.float32)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize(("x", "grid"), [
    (X.astype(np.float16), GRID), ((X * 50).astype(np.int32), GRID), (X, GRID.astype(np.float64)),
])  # fmt: skip
def test_samples_of_another_dtype_than_the_grid(x: Array, grid: Array, mode: str) -> None:
    """Those of the same numbers as float32, in the dtype of x."""
    plain = {"x": x.astype(np.float32), "grid": grid.astype(np.float32)}
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode)
    expected = computed_elsewhere(model_of(node, plain), plain)
    given = {"x": x, "grid": grid}
    found = meaning_of(model_of(node, given), given)
    assert found.dtype == x.dtype
    if x.dtype.kind == "i":
        np.testing.assert_array_equal(found, np.trunc(expected))
    else:
        bound = 1e-3 if x.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(found, expected, rtol=bound, atol=bound)


def test_integers_that_float32_does_not_hold() -> None:
    """At the centre of an element its number."""
    x = np.full((1, 1, 3, 3), (1 << 24) + 1, np.int32)
    given = {"x": x, "grid": np.zeros((1, 1, 1, 2), np.float32)}
    node = helper.make_node("GridSample", ["x", "grid"], ["y"])
    assert meaning_of(model_of(node, given), given).item() == (1 << 24) + 1


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_samples_of_equal_integers_are_equal(mode: str) -> None:
    """Wherever they are taken inside, and however the weights were rounded."""
    x = np.full((1, 1, 11, 7), 9, np.int32)
    grid = (RNG.random((1, 20, 20, 2)) - 0.5).astype(np.float32)
    given = {"x": x, "grid": grid}
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode)
    assert (meaning_of(model_of(node, given), given) == 9).all()


SCALES = np.array([1, 1, 2, 2], np.float32)
HALVED = np.array([1, 1, 0.5, 0.7], np.float32)
THIRDS = np.array([1, 1, 1.5, 3], np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_integers_between_two_are_cut(dtype: Any) -> None:
    x = RNG.integers(0 if dtype is np.uint8 else -100, 100, (1, 2, 5, 6)).astype(dtype)
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")
    model = model_of(node, {"x": x}, scales=SCALES)
    np.testing.assert_array_equal(meaning_of(model, {"x": x}), computed_elsewhere(model, {"x": x}))


@pytest.mark.parametrize("attributes", [{"mode": "cubic"}, {"mode": "linear", "antialias": 1}])
def test_integers_of_wider_kernels_are_rounded(attributes: dict[str, Any]) -> None:
    """ONNX Runtime has no cubic integers, and wrong ones with a sign: the reference has them."""
    x = RNG.integers(-128, 128, (1, 2, 8, 9)).astype(np.int8)
    scales = HALVED if "antialias" in attributes else SCALES
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    model = model_of(node, {"x": x}, scales=scales)
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_array_equal(meaning_of(model, {"x": x}), expected)


def test_whole_results_stay_whole() -> None:
    """A third of the way between 9 and 9 is 9, however the weights were rounded."""
    x = np.full((1, 1, 7, 7), 9, np.uint8)
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")
    found = meaning_of(model_of(node, {"x": x}, scales=THIRDS), {"x": x})
    assert (found == 9).all()
