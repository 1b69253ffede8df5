"""The MNIST and super-resolution models with their own test sets (folder in NETLOOM_DATA)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from netloom.compiler.interpret import interpret
from netloom.frontends.onnx import from_onnx, to_onnx

FOLDER = Path(os.environ.get("NETLOOM_DATA", "")) / "models"
needs_data = pytest.mark.skipif(
    "NETLOOM_DATA" not in os.environ, reason="NETLOOM_DATA names no folder with models"
)


def tensor(path: Path) -> npt.NDArray[Any]:
    result = onnx.TensorProto()
    result.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(result)


@needs_data
@pytest.mark.parametrize(
    ("name", "number"),
    [("mnist-cntk-8", 0), ("mnist-cntk-8", 1), ("mnist-cntk-8", 2), ("espcn-superres-10", 0)],
)
def test_repository_test_set(name: str, number: int) -> None:
    graph = from_onnx(FOLDER / name / "model.onnx")
    data = FOLDER / name / f"test_data_set_{number}"
    x, expected = tensor(data / "input_0.pb"), tensor(data / "output_0.pb")
    (actual,) = interpret(graph, {graph.inputs[0].label: x})
    assert actual.shape == expected.shape
    assert np.linalg.norm((actual - expected).ravel()) <= 1e-5 * np.linalg.norm(expected.ravel())


@needs_data
def test_super_resolution_has_a_free_batch() -> None:
    graph = from_onnx(FOLDER / "espcn-superres-10" / "model.onnx")
    assert [str(value.type) for value in graph.inputs] == ["float32[batch_size, 1, 224, 224]"]
    assert [str(value.type) for value in graph.outputs] == ["float32[batch_size, 1, 672, 672]"]
    assert not {node.op.name for node in graph.nodes} - {
        "constant",
        "conv",
        "add",
        "relu",
        "reshape",
        "transpose",
    }


@needs_data
def test_mnist_survives_export() -> None:
    graph = from_onnx(FOLDER / "mnist-cntk-8" / "model.onnx")
    x = tensor(FOLDER / "mnist-cntk-8" / "test_data_set_0" / "input_0.pb")
    feeds = {graph.inputs[0].label: x}
    np.testing.assert_allclose(
        interpret(from_onnx(to_onnx(graph)), feeds)[0], interpret(graph, feeds)[0], rtol=1e-6
    )
