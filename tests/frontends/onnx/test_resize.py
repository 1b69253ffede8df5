"""Resize of free dims: one graph for every size, equal to ONNX Runtime's results at each of
them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper, numpy_helper

import netloom as nl
from netloom.compiler.interpret import interpret
from netloom.errors import UnsupportedOpError
from netloom.frontends.onnx import from_onnx

Array = npt.NDArray[Any]
SIZES = ((4, 6), (1, 9), (7, 5))


def model_of(scales: tuple[float, float] | None, **attributes: Any) -> onnx.ModelProto:
    """x [1, 2, h, w], resized by scales; by None, to the shape of a second input [1, 2, oh, ow]."""
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "h", "w"])]
    if scales is None:
        ports.append(helper.make_tensor_value_info("like", TensorProto.FLOAT, [1, 2, "oh", "ow"]))
        nodes = [
            helper.make_node("Shape", ["like"], ["shape"]),
            helper.make_node("Resize", ["x", "", "", "shape"], ["y"], **attributes),
        ]
        fixed = []
    else:
        nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)]
        fixed = [numpy_helper.from_array(np.array([1, 1, *scales], np.float32), "scales")]
    graph = helper.make_graph(nodes, "g", ports, [onnx.ValueInfoProto(name="y")], fixed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def feeds_of(model: onnx.ModelProto, size: tuple[int, int]) -> dict[str, Array]:
    rng = np.random.default_rng(size[0])
    feeds = {"x": rng.standard_normal((1, 2, *size)).astype(np.float32)}
    return feeds | (
        {"like": np.zeros((1, 2, 5, 8), np.float32)} if len(model.graph.input) > 1 else {}
    )


def expected_of(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, feeds)[0])


CASES = [
    ((2.0, 3.0), {}),
    ((2.0, 3.0), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ((2.0, 2.0), {"mode": "linear"}),
    ((1.5, 2.5), {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ((1.5, 2.0), {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ((1.0, 0.5), {"mode": "cubic", "exclude_outside": 1}),
    ((1.25, 1.0), {"nearest_mode": "ceil"}),
    (None, {"mode": "linear"}),
    (None, {"coordinate_transformation_mode": "asymmetric"}),
]  # fmt: skip


@pytest.mark.parametrize(("scales", "attributes"), CASES, ids=str)
def test_free_dims(scales: tuple[float, float] | None, attributes: dict[str, Any]) -> None:
    model = model_of(scales, **attributes)
    graph = from_onnx(model)
    assert not graph.inputs[0].type.is_static
    for size in SIZES:
        feeds = feeds_of(model, size)
        np.testing.assert_allclose(
            interpret(graph, feeds)[0], expected_of(model, feeds), rtol=1e-5, atol=1e-5
        )


def test_compiled_once_for_all_sizes() -> None:
    model = model_of((2.0, 1.5), mode="linear")
    session = nl.compile(from_onnx(model)).session
    for size in SIZES:
        feeds = feeds_of(model, size)
        np.testing.assert_allclose(
            session.run(None, feeds)[0], expected_of(model, feeds), rtol=1e-5, atol=1e-5
        )


def test_whole_repetitions_gather_nothing() -> None:
    graph = from_onnx(model_of((2.0, 2.0)))
    assert {node.op.name for node in graph.nodes} == {"broadcast", "reshape"}


def test_a_scale_that_is_no_fraction_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="no simple fraction"):
        from_onnx(model_of((1.2345678, 1.0)))


@pytest.mark.parametrize("scale", [0.3, 0.7, 0.9, 1.6, 2.3])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
def test_the_nearest_element_is_that_of_float32(
    scale: float, rounding: str, coordinates: str
) -> None:
    """Scales are float32 numbers: computed in float64, 8 / 1.6 would be less than 5."""
    attributes = {"nearest_mode": rounding, "coordinate_transformation_mode": coordinates}
    model = model_of((scale, scale), **attributes)
    feeds = feeds_of(model, (10, 10))
    graph = from_onnx(model, dims={"h": 10, "w": 10})
    np.testing.assert_array_equal(interpret(graph, feeds)[0], expected_of(model, feeds))


@pytest.mark.parametrize("scale", [0.6, 1.6, 2.0])
def test_opset_10_takes_the_element_after_where_an_axis_shrinks(scale: float) -> None:
    nodes = [helper.make_node("Resize", ["x", "scales"], ["y"], mode="nearest")]
    fixed = [numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")]
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 10, 10])
    graph = helper.make_graph(nodes, "g", [port], [onnx.ValueInfoProto(name="y")], fixed)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
    feeds = feeds_of(model, (10, 10))
    np.testing.assert_array_equal(interpret(from_onnx(model), feeds)[0], expected_of(model, feeds))


def test_coordinates_of_a_huge_axis_are_not_made_at_import() -> None:
    """600 million of them are 2.4 GB: a run refuses them or has the memory."""
    sizes = numpy_helper.from_array(np.array([1, 1, 600_000_000, 3], np.int64), "sizes")
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 7, 3])
    graph = helper.make_graph([node], "g", [x], [onnx.ValueInfoProto(name="y")], [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    imported = from_onnx(model)
    assert imported.outputs[0].shape == (1, 1, 600_000_000, 3)
    constants = [node.output for node in imported.nodes if node.op.name == "constant"]
    assert max(np.prod(value.type.static_shape) for value in constants) < 1 << 15
