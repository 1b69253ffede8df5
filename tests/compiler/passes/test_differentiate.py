"""Reverse mode: which nodes a gradient goes through, what it meets on the way, and what it gives
back.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.op import OPS, ByDecomposition, NotDifferentiable, Op
from netloom.compiler.passes.differentiate import differentiate, gradient_graph
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, INT64, TensorType
from netloom.compiler.verify import verify
from netloom.errors import ShapeError, UnsupportedOpError, UsageError, VerificationError

N = symbol("N", 1, 8)
TYPE = TensorType(FLOAT64, (N, 3))
X = np.random.default_rng(0).standard_normal((2, 3))


def start() -> tuple[Builder, Value]:
    b = Builder("g")
    return b, b.input(TYPE, "x")


def gradient(b: Builder, output: Value, wrt: Value) -> np.ndarray:
    graph = b.build(differentiate(b, output, [wrt]))
    verify(graph)
    (result,) = interpret(graph, {value.label: X for value in graph.inputs})
    return result


def test_ways_that_join_are_added() -> None:
    b, x = start()
    y = b("add", b("mul", x, x), b("sin", x))
    assert np.allclose(gradient(b, y, x), 2 * X + np.cos(X), rtol=1e-14, atol=0)


def test_an_output_of_any_shape_is_summed() -> None:
    b, x = start()
    assert np.array_equal(gradient(b, b("mul", x, 3.0), x), np.full((2, 3), 3.0))


def test_no_influence_gives_zeros_of_any_shape() -> None:
    b, x = start()
    other = b.input(TYPE, "other")
    assert np.array_equal(gradient(b, b("mul", x, 3.0), other), np.zeros((2, 3)))


def test_the_output_itself_has_gradient_one() -> None:
    b, x = start()
    assert np.array_equal(gradient(b, x, x), np.ones((2, 3)))


def test_gradients_by_inner_values() -> None:
    b, x = start()
    y = b("sin", x)
    assert np.allclose(gradient(b, b("mul", y, y), y), 2 * np.sin(X), rtol=1e-14, atol=0)


def test_second_derivative() -> None:
    b, x = start()
    (first,) = differentiate(b, b("sin", x), [x])
    assert np.allclose(gradient(b, first, x), -np.sin(X), rtol=1e-14, atol=0)


def test_broadcast_inputs_get_sums() -> None:
    b, x = start()
    w = b.state("w", Constant(np.arange(3.0)))
    y = b("mul", x, w)
    graph = b.build(differentiate(b, y, [w]))
    assert np.allclose(interpret(graph, {"x": X})[0], X.sum(0), rtol=1e-14, atol=0)


def test_a_composed_op_is_differentiated_through_its_parts() -> None:
    assert isinstance(OPS["softmax"].vjp, ByDecomposition)
    b, x = start()
    weights = np.arange(3.0)
    y = b("mul", b("softmax", x, axis=1), b.constant(weights))
    p = np.exp(X) / np.exp(X).sum(1, keepdims=True)
    expected = p * (weights - (p * weights).sum(1, keepdims=True))
    assert np.allclose(gradient(b, y, x), expected, rtol=1e-12, atol=1e-15)


def no_gradient() -> Op:
    return dataclasses.replace(OPS["tanh"], name="odd", vjp=NotDifferentiable("it is odd"))


def test_an_op_without_gradient_on_the_way_is_named() -> None:
    b, x = start()
    y = b(no_gradient(), x, label="odd node")
    with pytest.raises(UnsupportedOpError, match="odd node: odd has no gradient: it is odd"):
        differentiate(b, b("sin", y), [x])


def test_an_op_without_gradient_beside_the_way_does_no_harm() -> None:
    b, x = start()
    other = b.input(TYPE, "other")
    y = b("mul", b("sin", x), b(no_gradient(), other))
    b(no_gradient(), x)
    assert np.allclose(gradient(b, y, x), np.cos(X) * np.tanh(X), rtol=1e-14, atol=0)


def test_integers_stop_gradients() -> None:
    b, x = start()
    index = b("cast", b("cast", x, dtype=INT64), dtype=FLOAT64)
    assert np.allclose(gradient(b, b("mul", x, index), x), np.trunc(X), rtol=0, atol=0)
    counts = b.input(TensorType(INT64, (3,)), "counts")
    with pytest.raises(ShapeError, match=r"counts is int64\[3\]"):
        differentiate(b, x, [counts])


def test_a_rule_that_gives_the_wrong_type_is_named() -> None:
    wrong = dataclasses.replace(
        OPS["tanh"], vjp=lambda b, node, dy: [b("cast", dy[0], dtype=FLOAT32)]
    )
    b, x = start()
    y = b(wrong, x, label="culprit")
    with pytest.raises(
        VerificationError, match=r"culprit: the gradient of tanh is float32\[N, 3\]"
    ):
        differentiate(b, y, [x])


def test_gradient_graph_keeps_outputs_and_states() -> None:
    b, x = start()
    w = b.state("w", Constant(np.ones(3)))
    graph = b.build([b("sin", b("mul", x, w))], ["loss"])
    result = gradient_graph(graph, "loss", ["w", "x"])
    assert result.output_names == ("loss", "gradient of w", "gradient of x")
    assert result.states == graph.states
    outputs = interpret(result, {"x": X})
    assert np.allclose(outputs[2], np.cos(X), rtol=1e-14, atol=0)
    with pytest.raises(UsageError, match=r"\['z'\]"):
        gradient_graph(graph, "loss", ["z"])
    with pytest.raises(UsageError, match="'other'"):
        gradient_graph(graph, "other", ["x"])


def test_the_gradient_of_weights_is_one_product_over_all_rows() -> None:
    b = Builder("dense")
    x = b.input(TensorType(FLOAT32, (symbol("N", 1), 3, 4)), "x")
    w = b.input(TensorType(FLOAT32, (4, 5)), "w")
    y = b("tanh", b("matmul", x, w))
    graph = gradient_graph(
        b.build([b("reduce_sum", y, axes=(0, 1, 2), keep=False)], ["y"]), "y", ["w"]
    )
    product = graph.producers[graph.outputs[1]]
    assert product.op.name == "matmul" and [v.type.rank for v in product.inputs] == [2, 2]
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((2, 3, 4)), "w": rng.standard_normal((4, 5))}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    slope = 1 - np.tanh(arrays["x"].astype(np.float64) @ arrays["w"]) ** 2
    expected = np.einsum("nij,nik->jk", arrays["x"], slope)
    np.testing.assert_allclose(interpret(graph, arrays)[1], expected, rtol=1e-5, atol=1e-6)
