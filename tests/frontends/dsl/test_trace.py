"""Tracing: names, forms, determinism, operators, and the messages of wrong programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from netloom.compiler.interpret import interpret, interpret_step
from netloom.errors import NetloomError, ShapeError, UsageError
from netloom.frontends import dsl as nl


@nl.network
def small(x: nl.Symbolic) -> nl.Symbolic:
    x = nl.relu(nl.batch_norm(nl.conv2d(x, filters=4, kernel=3, padding="same")))
    x = nl.dropout(nl.flatten(nl.max_pool2d(x, 2)), 0.5)
    return nl.dense(nl.relu(nl.dense(x, 8)), units=3)


def graph(**options: Any) -> nl.TracedGraph:
    return small.graph(x=nl.tensor("N", 1, 8, 8), **options)


def trace(
    function: Callable[[nl.Symbolic], Any], *shape: int | str, **options: Any
) -> nl.TracedGraph:
    return nl.network(function).graph(x=nl.tensor(*shape, **options))


def test_parameters_are_named_by_layer_in_order() -> None:
    assert [state.name for state in graph().states] == [
        "conv1.weight", "conv1.bias", "batch_norm1.scale", "batch_norm1.bias", "batch_norm1.running_mean",
        "batch_norm1.running_variance", "dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias",
    ]  # fmt: skip


def test_types_and_names_of_the_border() -> None:
    made = graph()
    assert made.name == "small" and made.output_names == ("y",)
    assert [str(value.type) for value in (*made.inputs, *made.outputs)] == [
        "float32[N, 1, 8, 8]",
        "float32[N, 3]",
    ]


def test_inference_form_changes_no_state_and_is_what_the_training_form_came_from() -> None:
    inference = graph()
    training = inference.training_form()
    assert all(state.is_unchanged for state in inference.states)
    changed = {state.name for state in training.states if not state.is_unchanged}
    assert changed == {"batch_norm1.running_mean", "batch_norm1.running_variance", "generator.key"}
    assert training.training_form() is training
    assert {s.name: s.initial for s in inference.states}.items() <= {
        s.name: s.initial for s in training.states
    }.items()


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    def initial(made: nl.TracedGraph) -> dict[str, Any]:
        return {state.name: state.initial for state in made.states}

    @nl.network
    def reordered(x: nl.Symbolic) -> nl.Symbolic:
        first = nl.dense(x, 4, name="b")
        return first + nl.dense(x, 4, name="a")

    @nl.network
    def ordered(x: nl.Symbolic) -> nl.Symbolic:
        first = nl.dense(x, 4, name="a")
        return first + nl.dense(x, 4, name="b")

    x = nl.tensor(2, 3)
    assert initial(reordered.graph(x=x)) == initial(ordered.graph(x=x))
    assert initial(graph(seed=1)) == initial(graph(seed=1))
    assert initial(graph(seed=1))["dense1.weight"] != initial(graph(seed=2))["dense1.weight"]
    assert initial(ordered.graph(x=x))["a.weight"] != initial(ordered.graph(x=x))["b.weight"]


def test_initializer_override_spares_running_statistics() -> None:
    states = {
        state.name: state.initial for state in graph(initializer=nl.initializers.zeros).states
    }
    assert (
        states["batch_norm1.scale"].splat_value == 0
        and states["batch_norm1.running_variance"].splat_value == 1
    )


def test_with_states_reaches_the_other_form() -> None:
    bias = np.array([1, 2, 3], np.float32)
    changed = nl.with_states(graph(), {"dense2.bias": bias})
    assert isinstance(changed, nl.TracedGraph)
    for form in (changed, changed.training_form(), changed.training_form().inference_form()):
        (state,) = (s for s in form.states if s.name == "dense2.bias")
        np.testing.assert_array_equal(state.initial.array, bias)
    with pytest.raises(ShapeError, match="dense2.bias"):
        nl.with_states(graph(), {"dense2.bias": np.zeros(4, np.float32)})


def test_operators_agree_with_numpy() -> None:
    def everything(x: nl.Symbolic) -> dict[str, nl.Symbolic]:
        return {
            "sum": 1 + x + x, "difference": 2 - x - 0.5, "product": 3 * x * x, "quotient": 1 / (x + 5) / 2,
            "power": abs(x) ** 2.0, "negative": -x, "product of matrices": x @ nl.transpose(x),
            "array": np.array([1, 2, 3], np.float32) * x, "less": nl.cast(x < 0, "float32"),
            "least": nl.minimum(x, 0.25), "chosen": nl.where(x >= 0.1, x, 0.0), "slice": x[1:, ::-1], "row": x[-1],
            "reduced": nl.reduce_mean(x, axes=-1, keep=True), "shape": nl.reshape(x, (3, -1)),
        }  # fmt: skip

    x = np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)
    made = trace(everything, 2, 3)
    found = dict(zip(made.output_names, interpret(made, {"x": x}), strict=True))
    expected = {
        "sum": 1 + x + x, "difference": 2 - x - np.float32(0.5), "product": 3 * x * x,
        "quotient": 1 / (x + 5) / 2, "power": abs(x) ** 2, "negative": -x, "product of matrices": x @ x.T,
        "array": np.array([1, 2, 3], np.float32) * x, "less": (x < 0).astype(np.float32), "least": np.minimum(x, 0.25),
        "chosen": np.where(x >= np.float32(0.1), x, 0), "slice": x[1:, ::-1], "row": x[-1],
        "reduced": x.mean(-1, keepdims=True), "shape": x.reshape(3, -1),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-6, atol=1e-7, err_msg=name)


def test_networks_compose() -> None:
    @nl.network
    def tower(x: nl.Symbolic) -> nl.Symbolic:
        return small(x) + small(x)

    names = [state.name for state in tower.graph(x=nl.tensor(1, 1, 8, 8)).states]
    assert "conv2.weight" in names and len(names) == 20


def test_own_layers_with_parameter_and_is_training() -> None:
    def scaled(x: nl.Symbolic) -> nl.Symbolic:
        factor = nl.parameter("factor", (3,), nl.initializers.ones)
        return x * factor if nl.is_training() else x - factor

    made = trace(scaled, 2, 3)
    x = np.full((2, 3), 5, np.float32)
    np.testing.assert_array_equal(interpret(made, {"x": x})[0], x - 1)
    np.testing.assert_array_equal(interpret(made.training_form(), {"x": x})[0], x)


def test_dropout_statistics_and_fresh_masks() -> None:
    made = trace(lambda x: (nl.dropout(x, 0.3), nl.dropout(x, 0.3)), "N", 1000).training_form()
    ones = np.ones((100, 1000), np.float32)
    (first, other), states = interpret_step(made, {"x": ones})
    (second, _), _ = interpret_step(made, {"x": ones}, states)
    deviation = np.sqrt(0.3 * 0.7 / ones.size)
    for result in (first, other, second):
        np.testing.assert_allclose(np.unique(result), [0, 1 / 0.7], rtol=1e-6)
        assert abs((result > 0).mean() - 0.7) < 5 * deviation
        # no column is favoured
        assert abs((result > 0).mean(0).std() - np.sqrt(0.21 / 100)) < 0.005
    for pair in (other, second):  # masks of two layers, and of two steps, are independent
        assert abs(((first > 0) & (pair > 0)).mean() - 0.49) < 5 * deviation
    again = interpret_step(made, {"x": ones})[0][0]
    np.testing.assert_array_equal(first, again)


def test_batch_norm_training_form_against_numpy() -> None:
    made = trace(lambda x: nl.batch_norm(x, momentum=0.25), "N", 3, 4, 5)
    x = np.random.default_rng(0).normal(2, 3, (6, 3, 4, 5)).astype(np.float32)
    (y,), states = interpret_step(made.training_form(), {"x": x})
    exact = x.astype(np.float64)
    mean, variance = exact.mean((0, 2, 3)), exact.var((0, 2, 3))
    expected = (exact - mean.reshape(3, 1, 1)) / np.sqrt(variance.reshape(3, 1, 1) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=5e-6)
    np.testing.assert_allclose(states["batch_norm1.running_mean"], 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        states["batch_norm1.running_variance"], 0.75 + 0.25 * variance, rtol=1e-5
    )
    inference = interpret(made, {"x": x}, states)[0]
    running = (
        states["batch_norm1.running_mean"].reshape(3, 1, 1),
        states["batch_norm1.running_variance"].reshape(3, 1, 1),
    )
    np.testing.assert_allclose(
        inference, (exact - running[0]) / np.sqrt(running[1] + 1e-5), atol=5e-6
    )


@pytest.mark.parametrize(
    ("function", "shape", "message"),
    [
        (
            lambda x: nl.conv2d(x, 4, 3),
            ("N", 28, 28),
            "conv1: conv2d takes a value of rank 4 (n c h w)",
        ),
        (lambda x: nl.conv2d(x, 4, 3, padding="Same"), ("N", 1, 8, 8), "padding 'Same' is unknown"),
        (
            lambda x: nl.conv2d(x, 4, 3, padding=(1, 1, 1)),
            ("N", 1, 8, 8),
            "padding (1, 1, 1) is not 2 pairs",
        ),
        (lambda x: nl.conv2d(x, 4, 3, padding=-1), ("N", 1, 8, 8), "padding -1"),
        (lambda x: nl.conv2d(x, 4, 3, stride=0), ("N", 1, 8, 8), "stride 0 is not 2 ints >= 1"),
        (
            lambda x: nl.conv2d(x, 4, 3, groups=3),
            ("N", 6, 8, 8),
            "3 groups must divide 6 channels and 4 filters",
        ),
        (lambda x: nl.conv2d(x, 4, 9), (1, 1, 8, 8), "conv"),
        (
            lambda x: nl.conv2d(x, 4, 3, stride=2, padding="same"),
            (1, 1, "H", "W"),
            "needs a fixed extent",
        ),
        (lambda x: nl.dense(x, 4), ("N", "M"), "Call flatten first"),
        (
            lambda x: nl.dense(nl.dense(x, 4, name="a"), 4, name="a"),
            ("N", 3),
            "two layers are named 'a'",
        ),
        (lambda x: nl.dropout(x, 1.0), ("N", 3), "dropout rate"),
        (lambda x: nl.max_pool2d(x, 2), ("N", 3), "max_pool2d takes a value of rank 4"),
        (lambda x: nl.reshape(x, (2, -1)), ("N", 3), "cannot be reshaped"),
        (lambda x: x + np.zeros((4, 4), np.float32), (2, 3), "do not broadcast"),
        (lambda x: x if x > 0 else -x, (2, 3), "no truth value"),
        (lambda x: x[5], (2, 3), "index 5 is outside"),
        (lambda x: x[:1], ("N", 3), "can only be taken whole"),
        (lambda x: None, (2, 3), "returned None"),
        (lambda x: nl.embedding(x, 5, 5), (2, 3), "embedding takes integers"),
        (lambda x: nl.softmax(x, 2), (2, 3), "has no axis 2"),
    ],
)
def test_wrong_programs_are_told(
    function: Callable[[Any], Any], shape: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(NetloomError) as caught:
        trace(function, *shape)
    assert message in str(caught.value)


def test_wrong_inputs_are_told() -> None:
    with pytest.raises(UsageError, match="not a tensor"):
        small.graph(x=(1, 2, 3))
    with pytest.raises(
        UsageError, match="small\\(x.*missing a required argument: 'x'.*Name each input"
    ):
        small.graph()
    with pytest.raises(UsageError, match="unexpected keyword argument 'y'"):
        small.graph(x=nl.tensor(1, 1, 8, 8), y=nl.tensor(1))
    with pytest.raises(UsageError, match="'float' is not a dtype"):
        nl.tensor(1, dtype="float")
    with pytest.raises(UsageError, match="no network is being traced"):
        nl.parameter("w", (3,))


def test_a_value_of_another_trace_is_refused() -> None:
    kept: list[nl.Symbolic] = []
    trace(lambda x: kept.append(x) or x, 2, 3)  # type: ignore[func-returns-value]
    with pytest.raises(UsageError, match="another trace"):
        trace(lambda x: x + kept[0], 2, 3)
