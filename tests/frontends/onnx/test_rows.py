"""ReverseSequence and ScatterND move rows: by one number each, at sizes that are known and at free ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import netloom as nl
from netloom.compiler.graph import Graph
from netloom.errors import NetloomError

Array = np.ndarray[Any, Any]


def graph_of(op: str, inputs: dict[str, Array], names: bool, **attributes: Any) -> Graph:
    """A model of one node; ``names``: the extents of its inputs are free."""
    letters = {12: "t", 5: "b", 4: "r", 9: "n"}
    ports = []
    for name, x in inputs.items():
        shape = [letters.get(e, e) if names else e for e in x.shape]
        kind = TensorProto.INT64 if x.dtype == np.int64 else TensorProto.FLOAT
        ports.append(helper.make_tensor_value_info(name, kind, shape))
    node = helper.make_node(op, list(inputs), ["y"], **attributes)
    graph = helper.make_graph([node], op, ports, [onnx.ValueInfoProto(name="y")])
    return nl.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


@pytest.mark.parametrize("is_free", [False, True])
@pytest.mark.parametrize(
    ("shape", "time"), [((12, 5), 0), ((5, 12), 1), ((12, 5, 17), 0), ((5, 12, 4, 3), 1)]
)
def test_sequences_are_turned_row_by_row(shape: tuple[int, ...], time: int, is_free: bool) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    lengths = np.array([0, 1, 12, 7, 3])
    graph = graph_of("ReverseSequence", {"x": x, "lengths": lengths}, is_free, time_axis=time,
                     batch_axis=1 - time)  # fmt: skip
    moved = next(node for node in graph.nodes if node.op.name.startswith("gather"))
    assert moved.op.name == ("gather" if len(shape) > 2 else "gather_elements")
    assert moved.inputs[1].type.rank == 2  # one number for each row
    expected = x.copy()
    for sample, length in enumerate(lengths):
        line = expected[:, sample] if time == 0 else expected[sample]
        line[:length] = line[:length][::-1].copy()
    program = nl.compile(graph, threads=1)
    np.testing.assert_array_equal(program(x, lengths), expected)
    with pytest.raises(NetloomError, match="range"):
        program(x, lengths + 2)


@pytest.mark.parametrize("is_free", [False, True])
@pytest.mark.parametrize("shape", [(9,), (9, 17), (9, 2, 4)])
def test_rows_replace_others_in_their_order(shape: tuple[int, ...], is_free: bool) -> None:
    rng = np.random.default_rng(0)
    indices = np.array([[3], [0], [-1], [3]])
    x, updates = (rng.standard_normal((n, *shape[1:])).astype(np.float32) for n in (9, 4))
    inputs = {"x": x, "i": indices, "u": updates}
    graph = graph_of("ScatterND", inputs, is_free)
    (node,) = (node for node in graph.nodes if node.op.name.startswith("scatter"))
    assert node.op.name == "scatter_last"
    expected = x.copy()
    for (index,), update in zip(indices, updates, strict=True):
        expected[index] = update
    np.testing.assert_array_equal(nl.compile(graph, threads=1)(*inputs.values()), expected)


def test_windows_that_overlap_give_their_largest_once() -> None:
    x = np.array([[[[5, 5], [7, 5]]]], np.float32)
    places = np.array([[[[8, 8], [12, 8]]]])
    inputs = {"x": x, "i": places}
    graph = graph_of("MaxUnpool", inputs, False, kernel_shape=[3, 3], strides=[2, 2])
    assert "scatter_last" in [node.op.name for node in graph.nodes]
    expected = np.zeros((1, 1, 5, 5), np.float32)
    expected.flat[places.ravel()] = x.ravel()
    np.testing.assert_array_equal(nl.compile(graph, threads=1)(x, places), expected)
