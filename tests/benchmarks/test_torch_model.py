"""The torch peer computes what the ONNX reference evaluator does, op by op."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from netloom.errors import UsageError

torch = pytest.importorskip("torch")

N = helper.make_node
IMAGE = (4, 4, 7, 6)  # as many samples as channels: the evaluator's LRN mixes the two up
CASES: dict[str, tuple[onnx.NodeProto, Sequence[tuple[int, ...]]]] = {
    "conv": (
        N("Conv", ["x", "a", "b"], ["y"], pads=[1, 1, 1, 1], strides=[2, 1]),
        [(6, 4, 3, 3), (6,)],
    ),
    "conv_uneven_pads": (
        N("Conv", ["x", "a"], ["y"], pads=[0, 1, 2, 0], dilations=[2, 1]),
        [(6, 4, 3, 2)],
    ),
    "conv_groups": (N("Conv", ["x", "a"], ["y"], group=2), [(6, 2, 2, 2)]),
    "max_pool": (
        N("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0]),
        [],
    ),
    "max_pool_ceil": (
        N("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        [],
    ),
    "average_pool": (
        N("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        [],
    ),
    "average_pool_all": (
        N("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 0, 1, 0], count_include_pad=1),
        [],
    ),
    "global_average_pool": (N("GlobalAveragePool", ["x"], ["y"]), []),
    "batch_norm": (
        N("BatchNormalization", ["x", "a", "b", "c", "d"], ["y"], epsilon=1e-3),
        [(4,)] * 4,
    ),
    "lrn": (N("LRN", ["x"], ["y"], size=3, alpha=0.1, beta=0.5, bias=2.0), []),
    "concat": (N("Concat", ["x", "a"], ["y"], axis=1), [(4, 1, 7, 6)]),
    "flatten": (N("Flatten", ["x"], ["y"]), []),
    "flatten_all": (N("Flatten", ["x"], ["y"], axis=0), []),
    "softmax": (N("Softmax", ["x"], ["y"]), []),
    "transpose": (N("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]), []),
    "sum": (N("Sum", ["x", "a", "b"], ["y"]), [IMAGE, IMAGE]),
    "matmul": (N("MatMul", ["x", "a"], ["y"]), [(6, 5)]),
    **{op: (N(op, ["x"], ["y"]), []) for op in ("Relu", "Sigmoid", "Tanh", "Identity", "Dropout")},
    **{op: (N(op, ["x", "a"], ["y"]), [(4, 1, 1)]) for op in ("Add", "Sub", "Mul", "Div")},
}


def model(
    nodes: Sequence[onnx.NodeProto],
    shapes: Sequence[tuple[int, ...]],
    shape: Sequence[int],
    **vectors: Any,
) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    weights = [numpy_helper.from_array(generator.uniform(0.5, 1.5, extents).astype(np.float32), name)
               for name, extents in zip("abcd", shapes, strict=False)]  # fmt: skip
    weights += [
        numpy_helper.from_array(np.array(values, np.int64), name)
        for name, values in vectors.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def agree(source: onnx.ModelProto, shape: Sequence[int], folder: Path) -> None:
    from netloom.benchmarks.torch_model import TorchModel

    onnx.save(source, folder / "m.onnx")
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (expected,) = ReferenceEvaluator(source).run(None, {"x": x})
    found = TorchModel(str(folder / "m.onnx"))({"x": torch.from_numpy(x)})["y"].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_ops(name: str, tmp_path: Path) -> None:
    node, shapes = CASES[name]
    agree(model([node], shapes, IMAGE), IMAGE, tmp_path)


@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1}, {"transA": 1, "alpha": 0.5, "beta": 2.0}]
)
def test_gemm(attributes: dict[str, Any], tmp_path: Path) -> None:
    shape = (4, 3) if "transA" in attributes else (3, 4)
    weights = (5, 4) if "transB" in attributes else (4, 5)
    agree(
        model([N("Gemm", ["x", "a", "b"], ["y"], **attributes)], [weights, (5,)], shape),
        shape,
        tmp_path,
    )
    agree(model([N("Gemm", ["x", "a"], ["y"], **attributes)], [weights], shape), shape, tmp_path)


def test_shapes(tmp_path: Path) -> None:
    agree(model([N("Reshape", ["x", "s"], ["y"])], [], IMAGE, s=[0, -1]), IMAGE, tmp_path)
    agree(model([N("Unsqueeze", ["x", "s"], ["y"])], [], IMAGE, s=[1, 3]), IMAGE, tmp_path)
    agree(
        model([N("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)], [], IMAGE), IMAGE, tmp_path
    )
    constant = N("Constant", [], ["k"], value=numpy_helper.from_array(np.array([2], np.int64)))
    filled = N(
        "ConstantOfShape", ["k"], ["f"], value=numpy_helper.from_array(np.array([3.0], np.float32))
    )
    agree(model([constant, filled, N("Add", ["x", "f"], ["y"])], [], (3, 2)), (3, 2), tmp_path)


def test_an_unknown_op_is_named(tmp_path: Path) -> None:
    from netloom.benchmarks.torch_model import TorchModel

    onnx.save(model([N("Erf", ["x"], ["y"])], [], IMAGE), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="does not know the op Erf"):
        TorchModel(str(tmp_path / "m.onnx"))
