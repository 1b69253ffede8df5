"""LSTM and GRU beside float64: ONNX's reference for what they compute, PyTorch's formulas written
out in NumPy for their gradients by differences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import netloom as nl
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.differentiate import gradient_graph
from netloom.errors import NetloomError, ShapeError

N, LENGTH, FEATURES, UNITS = 3, 5, 4, 6
# gates of netloom's weights in the order of ONNX's: i o f c, and z r h
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
Arrays = dict[str, np.ndarray[Any, Any]]


def graph_of(kind: str, layers: int = 1, bidirectional: bool = False, initial: bool = False) -> Any:
    layer = nl.lstm if kind == "LSTM" else nl.gru

    @nl.network
    def network(x: nl.Symbolic, h: Any = None, c: Any = None) -> Any:
        given = ((h, c) if kind == "LSTM" else h) if initial else None
        return layer(x, UNITS, layers=layers, bidirectional=bidirectional, initial=given, name="r")

    states = {
        s: nl.tensor(layers * (1 + bidirectional), N, UNITS)
        for s in ("h", "c")[: 2 if kind == "LSTM" else 1]
    }
    return network.graph(x=nl.tensor(N, LENGTH, FEATURES), **(states if initial else {}))


def random_states(graph: Any, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    values = [*graph.inputs, *(state.input for state in graph.states)]
    return {
        v.label: (0.6 * rng.standard_normal(v.type.static_shape)).astype(np.float32) for v in values
    }


def onnx_layer(kind: str, arrays: Arrays, x: Any, prefix: str, initial: Any) -> list[Any]:
    """What ONNX's reference gives for one layer in one direction, over [length, n, features]."""

    def gates(name: str) -> Any:
        parts = np.split(arrays[f"{prefix}.{name}"], len(ORDER[kind]), axis=-1)
        return np.concatenate([parts[place] for place in ORDER[kind]], axis=-1).T[None]

    hidden_bias = gates("hidden_bias") if kind == "GRU" else np.zeros((1, 4 * UNITS), np.float32)
    bias = np.concatenate([gates("bias").reshape(1, -1), hidden_bias.reshape(1, -1)], axis=1)
    feeds = {"X": x, "W": gates("input_weight"), "R": gates("hidden_weight"), "B": bias}
    for name, value in zip(("initial_h", "initial_c"), initial, strict=False):
        feeds[name] = value[None]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    inputs = ["X", "W", "R", "B", "", *(name for name in feeds if name.startswith("initial"))]
    options = {"linear_before_reset": 1} if kind == "GRU" else {}
    node = helper.make_node(kind, inputs, outputs, hidden_size=UNITS, **options)
    graph = helper.make_graph(
        [node], "layer",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in feeds.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    return ReferenceEvaluator(model).run(None, feeds)


def expected(kind: str, arrays: Arrays, layers: int, bidirectional: bool) -> list[Any]:
    """Layer upon layer; the way back reads the steps in reverse."""
    x = np.swapaxes(arrays["x"], 0, 1)
    last: list[list[Any]] = []
    for layer in range(layers):
        found = []
        for way in ("", ".backward")[: 1 + bidirectional]:
            initial = [arrays[s][len(last)] for s in ("h", "c") if s in arrays]
            turned = x[::-1] if way else x
            y, *states = onnx_layer(kind, arrays, turned, f"r.layer{layer + 1}{way}", initial)
            found.append(y[::-1, 0] if way else y[:, 0])
            last.append([state[0] for state in states])
        x = np.concatenate(found, axis=-1)
    return [np.swapaxes(x, 0, 1), *(np.stack(of) for of in zip(*last, strict=True))]


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    ("layers", "bidirectional", "initial"), [(1, False, False), (1, False, True), (2, True, True)]
)
def test_it_is_the_layer_of_onnx(
    kind: str, layers: int, bidirectional: bool, initial: bool
) -> None:
    graph = graph_of(kind, layers, bidirectional, initial)
    arrays = random_states(graph)
    names = {value.label for value in graph.inputs}
    feeds = {name: array for name, array in arrays.items() if name in names}
    found = interpret(nl.with_states(graph, arrays), feeds)
    for own, other in zip(found, expected(kind, arrays, layers, bidirectional), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


def test_a_compiled_layer_is_the_interpreted_one() -> None:
    graph = graph_of("GRU")
    (x,) = (random_states(graph)["x"],)
    for own, other in zip(nl.compile(graph)(x), interpret(graph, {"x": x}), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_its_gradients_are_those_of_differences(kind: str) -> None:
    layer = nl.lstm if kind == "LSTM" else nl.gru

    @nl.network
    def network(x: nl.Symbolic) -> Any:
        y, *_ = layer(x, 3, bidirectional=True, name="r")
        return nl.reduce_sum(nl.square(y))

    graph = network.graph(x=nl.tensor(2, 3, 2, dtype="float64"))
    arrays = {name: array.astype(np.float64) for name, array in random_states(graph).items()}
    names = [name for name in arrays if name != "x"]
    full = gradient_graph(graph, "y", ["x", *names])

    def run(given: Arrays) -> Any:
        states = {name: given[name] for name in names}
        return interpret(nl.with_states(full, states), {"x": given["x"]})

    _, *found = run(arrays)
    rng = np.random.default_rng(1)
    for name, gradient in zip(["x", *names], found, strict=True):
        way = rng.standard_normal(arrays[name].shape)
        ahead, behind = (
            run({**arrays, name: arrays[name] + step * way})[0] for step in (1e-6, -1e-6)
        )
        assert np.sum(gradient * way) == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-8)


def test_a_free_length_is_refused() -> None:
    with pytest.raises(ShapeError, match="fixed length"):
        nl.network(lambda x: nl.lstm(x, 4)[0]).graph(x=nl.tensor("N", "L", 4))


STATE = nl.tensor(1, 2, 4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x, h: nl.lstm(x, 4, initial=h, name="r"), "a pair \\(h, c\\) of symbolic values"),
        (lambda x, h: nl.lstm(x, 4, initial=(h,), name="r"), "a pair"),
        (lambda x, h: nl.lstm(x, 4, initial=(h, None), name="r"), "a pair"),
        (lambda x, h: nl.gru(x, 4, initial=(h,), name="r"), "one symbolic value"),
        (lambda x, h: nl.gru(x, 4, initial=np.zeros((1, 2, 4)), name="r"), "one symbolic value"),
        (lambda x, h: nl.gru(x, 5, initial=h, name="r"), "not float32\\[1, 2, 5\\]"),
        (lambda x, h: nl.gru(x, 4, initial=nl.cast(h, "float64"), name="r"), "float64\\[1, 2, 4\\], not"),
        (lambda x, h: nl.gru(x, 4, dropout=1.5, name="r"), "dropout rate of 1.5"),
    ],
)  # fmt: skip
def test_wrong_arguments_name_the_layer(layer: Any, message: str) -> None:
    with pytest.raises(NetloomError, match=f"r: .*{message}"):
        nl.network(lambda x, h: layer(x, h)[0]).graph(x=nl.tensor(2, 3, 4), h=STATE)
