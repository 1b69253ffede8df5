"""Quantized models on the cuda target: ONNX -> PTX -> emulator, against ONNX's own reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from netloom.compiler.targets.cuda.compile import is_available
from netloom.frontends.onnx.importer import from_onnx
from tests.compiler.targets.cuda import emulated

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
RNG = np.random.default_rng(0)
X, W = (2, 3, 5, 7), (5, 3, 3, 3)
BYTES = RNG.integers(0, 256, X).astype(np.uint8)
KERNEL = RNG.integers(-128, 128, W).astype(np.int8)
MATRIX = RNG.integers(-128, 128, (7, 9)).astype(np.int8)
SCALES = np.array([0.011, 0.02, 0.003, 0.04, 0.0151], np.float32)


def model(op: str, constants: dict[str, npt.NDArray[Any]], dtype: int, **attrs: Any) -> Any:
    """One op of the bytes ``x`` and constants, in its inputs' order."""
    node = helper.make_node(op, ["x", *constants], ["y"], **attrs)
    graph = helper.make_graph(
        [node], op, [helper.make_tensor_value_info("x", TensorProto.UINT8, X)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(found)


def scale(value: float) -> npt.NDArray[Any]:
    return np.array(value, np.float32)


CASES = {
    "QLinearConv": model(
        "QLinearConv",
        {"xs": scale(0.02), "xz": np.array(131, np.uint8), "w": KERNEL, "ws": SCALES,
         "wz": np.zeros(5, np.int8), "ys": scale(0.15), "yz": np.array(7, np.uint8),
         "b": RNG.integers(-900, 900, 5).astype(np.int32)},
        TensorProto.UINT8, pads=[1, 1, 1, 1], strides=[2, 1],
    ),
    "ConvInteger": model(
        "ConvInteger", {"w": KERNEL, "xz": np.array(131, np.uint8)}, TensorProto.INT32,
        pads=[1, 0, 0, 1],
    ),
    "MatMulInteger": model(
        "MatMulInteger", {"w": MATRIX, "xz": np.array(3, np.uint8)}, TensorProto.INT32
    ),
    "DequantizeLinear": model(
        "DequantizeLinear", {"xs": SCALES, "xz": RNG.integers(0, 256, 5).astype(np.uint8)},
        TensorProto.FLOAT, axis=2,
    ),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("op", CASES)
def test_one_op(op: str) -> None:
    """Integers are the same; a quantized result may be one off where it lies between two."""
    (wanted,) = ReferenceEvaluator(CASES[op]).run(None, {"x": BYTES})
    (found,) = emulated.run(from_onnx(CASES[op]), {"x": BYTES})
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    apart = np.abs(found.astype(np.float64) - wanted)
    if op == "QLinearConv":
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01 and np.ptp(wanted) > 100
    else:
        assert apart.max() == 0
