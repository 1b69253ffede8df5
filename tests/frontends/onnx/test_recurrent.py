"""How many products the steps of a recurrent layer take: the inputs of all steps are one, and each
step adds as few as its equations allow. Steps of a free number are turns, compared with ONNX
Runtime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.compiler.driver import compile_graph
from netloom.compiler.interpret import interpret
from netloom.compiler.pipeline import GRAPH_PASSES, Pipeline
from netloom.frontends.dsl.imported import trainable
from netloom.frontends.onnx.importer import from_onnx
from netloom.frontends.onnx.turns import MOST_COPIES
from netloom.runtime.session import Session

from .runtime_case import compare

STEPS, BATCH, FEATURES, HIDDEN = 5, 2, 3, 4


def layer(folder: Path, op: str, gates: int, **attributes: int) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"w": (1, gates * HIDDEN, FEATURES), "r": (1, gates * HIDDEN, HIDDEN)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node(op, ["x", "w", "r"], ["y"], hidden_size=HIDDEN, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (STEPS, BATCH, FEATURES))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (STEPS, 1, BATCH, HIDDEN))
    graph = helper.make_graph([node], "layer", [x], [y], weights)
    path = folder / "layer.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize(("op", "gates", "attributes", "products"), [
    ("RNN", 1, {}, STEPS), ("LSTM", 4, {}, STEPS), ("GRU", 3, {}, 2 * STEPS),
    ("GRU", 3, {"linear_before_reset": 1}, STEPS),
])  # fmt: skip
def test_products(
    tmp_path: Path, op: str, gates: int, attributes: dict[str, int], products: int
) -> None:
    """One for the inputs, and those of all steps but the first, whose state is zero; a gate before
    the product leaves that one too, for it may be NaN."""
    graph, _ = Pipeline(GRAPH_PASSES).run(from_onnx(layer(tmp_path, op, gates, **attributes)))
    assert sum(node.op.name == "matmul" for node in graph.nodes) == products


def free_layer(op: str, gates: int, direction: str, has_lengths: bool) -> onnx.ModelProto:
    """A layer of any number of steps and sequences."""
    rng, count = np.random.default_rng(1), 2 if direction == "bidirectional" else 1
    shapes = {"w": (count, gates * HIDDEN, FEATURES), "r": (count, gates * HIDDEN, HIDDEN),
              "b": (count, 2 * gates * HIDDEN)}  # fmt: skip
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    names = ["x", "w", "r", "b", *["lengths"][: int(has_lengths)]]
    results = ["y", "h", *["c"][: int(op == "LSTM")]]
    node = helper.make_node(op, names, results, hidden_size=HIDDEN, direction=direction)
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("t", "n", FEATURES)),
             helper.make_tensor_value_info("lengths", TensorProto.INT32, ("n",))]  # fmt: skip
    graph = helper.make_graph([node], "layer", ports[: 1 + int(has_lengths)],
                              [onnx.ValueInfoProto(name=name) for name in results], weights)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("op", "gates", "direction", "has_lengths", "is_compiled"), [
    ("LSTM", 4, "bidirectional", True, False), ("LSTM", 4, "forward", False, False),
    ("GRU", 3, "reverse", True, False), ("RNN", 1, "reverse", True, True),
])  # fmt: skip
def test_free_steps_are_turns(
    op: str, gates: int, direction: str, has_lengths: bool, is_compiled: bool
) -> None:
    rng = np.random.default_rng(2)
    model = free_layer(op, gates, direction, has_lengths)
    graph = from_onnx(model)
    assert {node.op.name for node in graph.nodes} >= {"iterate"}
    runtime = onnxruntime.InferenceSession(model.SerializeToString())
    session = Session.in_process(compile_graph(graph).image) if is_compiled else None
    for steps, n in ((1, 1), (9, 3)):
        given = {"x": rng.standard_normal((steps, n, FEATURES)).astype(np.float32)}
        if has_lengths:
            given["lengths"] = rng.integers(0, steps + 1, n).astype(np.int32)
        expected = runtime.run(None, given)
        compare(interpret(graph, given), expected)
        if session is not None:
            compare(session.run(None, given), expected)


def test_many_steps_are_turns() -> None:
    """More than are unrolled, known or the most of a range; and a number that may be 0."""
    model = free_layer("GRU", 3, "forward", False)
    for dims in ({"t": MOST_COPIES + 1}, {"t": range(1, MOST_COPIES + 2)}, {"t": range(9)}):
        graph = from_onnx(model, dims=dims)
        assert sum(node.op.name == "iterate" for node in graph.nodes) == 1
    masked = from_onnx(model, dims={"t": range(1, 9)})
    assert not any(node.op.name == "iterate" for node in masked.nodes)


def test_no_steps() -> None:
    """The last state is the first one, which is zero."""
    graph = from_onnx(free_layer("GRU", 3, "forward", False), dims={"t": range(9)})
    y, h = interpret(graph, {"x": np.zeros((0, 2, FEATURES), np.float32)})
    assert y.shape == (0, 1, 2, HIDDEN)
    np.testing.assert_array_equal(h, np.zeros((1, 2, HIDDEN), np.float32))


@pytest.mark.parametrize("steps", [3, MOST_COPIES + 1])
def test_weights_are_trained_by_name(steps: int) -> None:
    """Few steps or many, both directions, gates apart: each tensor of the model is one parameter."""
    model = free_layer("GRU", 3, "bidirectional", False)
    network = trainable(from_onnx(model, dims={"t": steps, "n": 2}))
    initial = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {state.name: state.input.shape for state in network.states} == {
        name: array.shape for name, array in initial.items()
    }
