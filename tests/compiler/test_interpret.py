"""The interpreter: free dims, states, errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph, Node
from netloom.compiler.interpret import interpret, interpret_step
from netloom.compiler.op import OPS
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import InputError, VerificationError

N = symbol("N", 1, 8)


def counter() -> Graph:
    b = Builder("counter")
    x = b.input(TensorType(FLOAT32, (N, 2)), "x")
    total = b.state("total", Constant(np.zeros(2, np.float32)))
    fixed = b.state("fixed", Constant(np.full(2, 10, np.float32)))
    new = b("add", total, b("reduce_sum", x, axes=(0,), keep=False), label="sum")
    b.update_state(total, new)
    return b.build([b("add", b("mul", x, total), fixed, label="scaled")], ["y"])


def ones(n: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((n, 2), np.float32)}


def test_states_step_by_step() -> None:
    graph = counter()
    outputs, states = interpret_step(graph, ones(3))
    assert np.array_equal(outputs[0], np.full((3, 2), 10))
    assert set(states) == {"total", "fixed"}
    outputs, states = interpret_step(graph, ones(2), states)
    assert np.array_equal(outputs[0], np.full((2, 2), 13))
    assert np.array_equal(states["total"], [5, 5])
    assert np.array_equal(states["fixed"], [10, 10])


def test_states_default_to_their_initial_values() -> None:
    (y,) = interpret(counter(), ones(1), {"total": np.array([2, 3], np.float32)})
    assert np.array_equal(y, [[12, 13]])


def test_all_values() -> None:
    graph = counter()
    values = interpret(graph, ones(3), values=True)
    assert set(values) == {
        *graph.sources,
        *(value for node in graph.nodes for value in node.outputs),
    }


def test_dims_are_solved_from_linear_extents() -> None:
    b = Builder("linear")
    x = b.input(TensorType(FLOAT32, (2 * N + 1,)), "x")
    y = b("broadcast", b.number(1.0, FLOAT32), shape=(N, 3))
    graph = b.build([b("mul", y, b("reduce_sum", x, axes=(0,), keep=False))])
    assert interpret(graph, {"x": np.ones(7, np.float32)})[0].shape == (3, 3)
    with pytest.raises(InputError, match=r"x must be float32\[2\*N \+ 1\], not \[8\]"):
        interpret(graph, {"x": np.ones(8, np.float32)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"missing: \['x'\]"),
        ({"x": np.ones((1, 2), np.float32), "z": 1}, r"unknown: \['z'\]"),
        ({"x": np.ones((1, 2))}, r"x must be float32\[N, 2\], not float64\[1, 2\]"),
        ({"x": np.ones(2, np.float32)}, r"not float32\[2\]"),
        ({"x": np.ones((1, 3), np.float32)}, r"x must be float32\[N, 2\], not \[1, 3\] \(N = 1\)"),
        ({"x": np.ones((9, 2), np.float32)}, r"dim N is 9, outside its range 1\.\.8"),
    ],
)
def test_wrong_inputs(inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        interpret(counter(), inputs)


def test_unknown_states() -> None:
    with pytest.raises(InputError, match="no states"):
        interpret(counter(), ones(1), {"other": np.zeros(2)})


def test_a_wrong_result_names_its_node() -> None:
    b = Builder("wrong")
    x = b.input(TensorType(FLOAT32, (2,)), "x")
    right = OPS["neg"]
    wrong = dataclasses.replace(
        right, reference=lambda attrs, inputs, types: [inputs[0].astype(np.float64)]
    )
    node = b.add(wrong, [x], right.attrs(), "the culprit")
    with pytest.raises(
        VerificationError,
        match=r"the culprit: neg gave float64\[2\] where its type is float32\[2\]",
    ):
        interpret(b.build([node.output]), {"x": np.ones(2, np.float32)})


def test_a_failing_reference_names_its_node() -> None:
    def fail(*_: object) -> list[np.ndarray]:
        raise ZeroDivisionError("no")

    b = Builder("failing")
    x = b.input(TensorType(FLOAT32, (2,)), "x")
    node: Node = b.add(
        dataclasses.replace(OPS["neg"], reference=fail), [x], OPS["neg"].attrs(), "the culprit"
    )
    with pytest.raises(VerificationError, match="the culprit: the reference of neg failed"):
        interpret(b.build([node.output]), {"x": np.ones(2, np.float32)})
