"""Composed handlers of float16, where squares and sums exceed 65504, against NumPy's float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from netloom.compiler.interpret import interpret
from netloom.frontends.onnx import from_onnx

X = np.random.default_rng(5).uniform(300, 900, (1, 2, 16, 16)).astype(np.float16)
SPACE = {"axis": (2, 3), "keepdims": True}


def _normalized(x: Any) -> Any:
    return (x - x.mean(axis=(0, 2, 3), keepdims=True)) / x.std(axis=(0, 2, 3), keepdims=True)


def _norms_of_windows(x: Any) -> Any:
    return np.sqrt((x.reshape(1, 2, 8, 2, 8, 2) ** 2).sum(axis=(3, 5)))


CASES: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "ReduceL2": ({"axes": [2, 3]}, lambda x: np.sqrt((x * x).sum(**SPACE))),
    "ReduceLogSum": ({"axes": [2, 3]}, lambda x: np.log(x.sum(**SPACE))),
    "ReduceMean": ({"axes": [2, 3]}, lambda x: x.mean(**SPACE)),
    "GlobalAveragePool": ({}, lambda x: x.mean(**SPACE)),
    "GlobalLpPool": ({}, lambda x: np.sqrt((x * x).sum(**SPACE))),
    "LpPool": ({"kernel_shape": [2, 2], "strides": [2, 2]}, _norms_of_windows),
    "LpNormalization": ({}, lambda x: x / np.sqrt((x * x).sum(axis=-1, keepdims=True))),
    "MeanVarianceNormalization": ({}, _normalized),
}


@pytest.mark.parametrize("op", CASES)
def test_squares_and_sums_have_room(op: str) -> None:
    attributes, expected = CASES[op]
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
        for name, shape in (("x", X.shape), ("y", None))
    ]
    graph = helper.make_graph([node], "short", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (found,) = interpret(from_onnx(model), {"x": X})
    assert found.dtype == np.float16
    exact = expected(X.astype(np.float64))
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=2**-10, atol=2**-10)
