"""Sparse tensors of a model become dense ones, or one clear error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.compiler.interpret import interpret
from netloom.errors import ModelError
from netloom.frontends.onnx import from_onnx

SHAPE = (2, 3)
WANTED = np.array([[0, 5, 0], [0, 0, 7]], np.float32)
BOTH = np.array([5, 7], np.float32)


def sparse(
    values: np.ndarray, indices: object, dims: Sequence[int] = SHAPE
) -> onnx.SparseTensorProto:  # type: ignore[type-arg]
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values, "w"),
        numpy_helper.from_array(np.asarray(indices, np.int64), "places"),
        dims,
    )


def with_initializer(tensor: onnx.SparseTensorProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y])
    graph.sparse_initializer.append(tensor)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def with_constant(tensor: onnx.SparseTensorProto) -> onnx.ModelProto:
    model = with_initializer(tensor)
    del model.graph.sparse_initializer[:]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=tensor))
    return model


@pytest.mark.parametrize("made", [with_initializer, with_constant])
@pytest.mark.parametrize(
    ("values", "indices"),
    [
        (BOTH, [1, 5]),
        (BOTH[::-1], [5, 1]),
        (BOTH, [[0, 1], [1, 2]]),
    ],
)
def test_places_are_numbers_or_positions(made, values, indices) -> None:  # type: ignore[no-untyped-def]
    graph = from_onnx(made(sparse(np.ascontiguousarray(values), indices)))
    x = np.arange(6, dtype=np.float32).reshape(SHAPE)
    assert np.array_equal(interpret(graph, {"x": x})[0], x + WANTED)


def test_none_are_given() -> None:
    graph = from_onnx(with_initializer(sparse(np.zeros(0, np.float32), np.zeros((0,)))))
    assert np.array_equal(interpret(graph, {"x": WANTED})[0], WANTED)


@pytest.mark.parametrize(
    ("indices", "dims", "message"),
    [
        ([1, 6], SHAPE, "has an index outside its 6 elements"),
        ([-1, 2], SHAPE, "has an index outside its 6 elements"),
        ([[0, 1], [0, 3]], SHAPE, "has an index outside its 3 elements"),
        ([1, 1], SHAPE, "gives an element twice"),
        ([1, 2, 3], SHAPE, r"has the values float32\[2\] and the indices int64\[3\]"),
        ([[0], [1]], SHAPE, r"has the values float32\[2\] and the indices int64\[2, 1\]"),
        ([0, 1], (-2, 3), "has a negative extent"),
    ],
)
def test_what_fits_no_tensor_is_refused(indices: object, dims: Sequence[int], message: str) -> None:
    with pytest.raises(ModelError, match=f"sparse initializer 'w' {message}"):
        from_onnx(with_initializer(sparse(BOTH, indices, dims)))
