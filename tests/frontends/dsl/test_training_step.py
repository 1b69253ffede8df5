"""The training step: gradients against finite differences, updates against optimizers written
with NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from netloom.api import compile_training
from netloom.compiler.interpret import interpret, interpret_step
from netloom.errors import UsageError
from netloom.frontends import dsl as nl
from netloom.frontends.dsl import losses, optimizers
from netloom.frontends.dsl.optimizers import Optimizer

Arrays = dict[str, np.ndarray]
ONE = np.float32(1)


def states_of(graph: Any, seed: int = 0) -> Arrays:
    """Initial states, with small random values where they would be zero, so that nothing
    vanishes by symmetry.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for state in graph.states:
        array = np.array(state.initial.array)
        if state.name.endswith(".bias"):
            array = array + 0.1 * rng.standard_normal(array.shape).astype(array.dtype)
        found[state.name] = array
    return found


def convolutional(x: nl.Symbolic) -> nl.Symbolic:
    x = nl.tanh(nl.batch_norm(nl.conv2d(x, 4, 3, stride=2, padding="same", bias=False)))
    x = nl.average_pool2d(nl.silu(nl.conv2d(x, 4, 3, padding=1, groups=2)), 2)
    return nl.dense(nl.flatten(x), 3)


def residual(x: nl.Symbolic) -> nl.Symbolic:
    x = nl.conv2d(nl.lrn(x), 4, 3, padding=1)
    x = x + nl.tanh(nl.conv2d(nl.gelu(x), 4, 3, padding=1, dilation=1))
    x = nl.conv_transpose2d(nl.max_pool2d(x, 2), 2, 2, stride=2)
    return nl.dense(nl.layer_norm(nl.flatten(nl.concat([x, x * 2], axis=1))), 3)


def thinned(x: nl.Symbolic) -> nl.Symbolic:
    x = nl.dropout(nl.sigmoid(nl.dense(nl.flatten(x), 7)), 0.4)
    return nl.dense(nl.elu(nl.dense(x, 6)), 3)


@pytest.mark.parametrize("function", [convolutional, residual, thinned])
def test_gradients_against_finite_differences(
    function: Callable[[nl.Symbolic], nl.Symbolic],
) -> None:
    graph = nl.network(function).graph(x=nl.tensor("N", 2, 8, 8, dtype="float64"))
    step = nl.training_graph(graph, losses.cross_entropy, optimizers.SGD())
    rng = np.random.default_rng(1)
    inputs = {"x": rng.standard_normal((4, 2, 8, 8)), "labels": np.array([0, 2, 1, 1]), "rate": ONE}
    states = states_of(graph.training_form())
    _, after = interpret_step(step, inputs, states)
    for name in graph.trainable:
        gradient = states[name] - after[name]
        assert np.abs(gradient).max() > 1e-9, name
        direction = rng.standard_normal(gradient.shape)
        epsilon = 1e-5
        ends = [
            float(
                interpret(step, inputs, states | {name: states[name] + side * epsilon * direction})[
                    0
                ]
            )
            for side in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / (2 * epsilon)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs(slope - np.vdot(gradient, direction)) <= 1e-6 * scale, name


# -- optimizers, written apart: plain loops over (gradient, rate) ----------------------------------


def sgd(
    p: np.ndarray, gradients: Any, rates: Any, momentum: float, nesterov: bool, decay: float
) -> np.ndarray:
    velocity = np.zeros_like(p)
    for gradient_at, rate in zip(gradients, rates, strict=True):
        g = gradient_at(p) + decay * p
        velocity = momentum * velocity + g
        p = p - rate * (g + momentum * velocity if nesterov else velocity)
    return p


def adam(p: np.ndarray, gradients: Any, rates: Any, decay: float, decoupled: bool) -> np.ndarray:
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (gradient_at, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = gradient_at(p)
        if decoupled:
            p = p * (1 - rate * decay)
        else:
            g = g + decay * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def rmsprop(p: np.ndarray, gradients: Any, rates: Any) -> np.ndarray:
    s = np.zeros_like(p)
    for gradient_at, rate in zip(gradients, rates, strict=True):
        g = gradient_at(p)
        s = 0.9 * s + 0.1 * g**2
        p = p - rate * g / (np.sqrt(s) + 1e-8)
    return p


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("optimizer", "oracle"),
    [
        (optimizers.SGD(), lambda *a: sgd(*a, 0.0, False, 0.0)),
        (optimizers.SGD(momentum=0.9), lambda *a: sgd(*a, 0.9, False, 0.0)),
        (
            optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=0.1),
            lambda *a: sgd(*a, 0.9, True, 0.1),
        ),
        (optimizers.Adam(), lambda *a: adam(*a, 0.0, False)),
        (optimizers.Adam(weight_decay=0.1), lambda *a: adam(*a, 0.1, False)),
        (optimizers.AdamW(weight_decay=0.1), lambda *a: adam(*a, 0.1, True)),
        (optimizers.RMSprop(), rmsprop),
    ],
    ids=lambda item: repr(item) if hasattr(item, "slots") else "",
)
def test_updates_against_numpy(
    optimizer: Optimizer, oracle: Callable[..., np.ndarray], dtype: str
) -> None:
    """Least squares |x w - y|² / size, whose gradient is 2 xᵀ (x w - y) / size."""
    graph = nl.network(lambda x: nl.dense(x, 2, bias=False)).graph(x=nl.tensor(5, 3, dtype=dtype))
    step = nl.training_graph(graph, losses.mean_squared_error, optimizer)
    rng = np.random.default_rng(2)
    batches = [
        (rng.standard_normal((5, 3)).astype(dtype), rng.standard_normal((5, 2)).astype(dtype))
        for _ in range(12)
    ]
    rates = [float(np.float32(0.02 / (1 + i))) for i in range(12)]
    states: Arrays = {state.name: np.array(state.initial.array) for state in step.states}
    start = states["dense1.weight"].astype(np.float64)
    for (x, y), rate in zip(batches, rates, strict=True):
        _, states = interpret_step(step, {"x": x, "labels": y, "rate": np.float32(rate)}, states)
    gradients = [
        lambda w, x=x, y=y: x.T.astype(np.float64) @ (x @ w - y) * 2 / 10 for x, y in batches
    ]
    expected = oracle(start, gradients, rates)
    moved = np.abs(expected - start).max()
    assert moved > 1e-3
    precision = np.finfo(dtype).eps
    # each of 12 steps rounds about 20 times, and Adam divides by small moments
    np.testing.assert_allclose(
        states["dense1.weight"], expected, atol=12 * 20 * precision * np.abs(start).max()
    )


def test_states_of_the_step() -> None:
    graph = nl.zoo.lenet5()
    step = nl.training_graph(graph, losses.cross_entropy, optimizers.Adam())
    names = {state.name for state in step.states}
    assert {state.name for state in graph.states} < names
    assert {"optimizer.correction1", "conv1.weight.moment1", "dense3.bias.moment2"} < names
    assert [value.label for value in step.inputs] == ["x", "labels", "rate"]
    assert step.output_names == ("loss", "correct")
    assert [str(value.type) for value in step.outputs] == ["float32[]", "int64[]"]
    assert not any(state.is_unchanged for state in step.states)


def test_only_the_chosen_parameters_change() -> None:
    step = nl.training_graph(
        nl.zoo.lenet5(),
        losses.cross_entropy,
        optimizers.SGD(momentum=0.5),
        trainable=["dense3.weight"],
    )
    assert [s.name for s in step.states if not s.is_unchanged] == [
        "dense3.weight",
        "dense3.weight.velocity",
    ]


def test_a_graph_without_a_trace_trains_its_unchanged_states() -> None:
    traced = nl.zoo.mlp(features=4, hidden=(3,), classes=2)
    from netloom.compiler.graph import Graph

    plain = Graph(
        traced.name, traced.inputs, traced.nodes, traced.outputs, traced.output_names, traced.states
    )
    step = nl.training_graph(plain, losses.cross_entropy, optimizers.SGD())
    assert sum(not state.is_unchanged for state in step.states) == 4


def test_any_function_is_a_loss_and_wrong_ones_are_told() -> None:
    graph = nl.zoo.mlp(features=4, hidden=(3,), classes=2)
    step = nl.training_graph(graph, lambda y, t: nl.reduce_sum(abs(y - t)), optimizers.SGD())
    assert step.output_names == ("loss",) and str(step.inputs[1].type) == "float32[N, 2]"
    with pytest.raises(UsageError, match="not a float scalar"):
        nl.training_graph(graph, lambda y, t: y - t, optimizers.SGD())
    with pytest.raises(UsageError, match="no parameter 'w'"):
        nl.training_graph(graph, losses.cross_entropy, optimizers.SGD(), trainable=["w"])
    with pytest.raises(UsageError, match="one output"):
        two = nl.network(lambda x: (nl.dense(x, 2), x)).graph(x=nl.tensor(2, 2))
        nl.training_graph(two, losses.cross_entropy, optimizers.SGD())
    with pytest.raises(UsageError, match="no parameters"):
        nl.training_graph(
            nl.network(nl.relu).graph(x=nl.tensor(2, 2)), losses.cross_entropy, optimizers.SGD()
        )


def test_a_parameter_that_does_not_matter_gets_no_gradient() -> None:
    def ignoring(x: nl.Symbolic) -> nl.Symbolic:
        nl.dense(x, 3, name="unused")
        return nl.dense(x, 2, name="used")

    graph = nl.network(ignoring).graph(x=nl.tensor(2, 4))
    step = nl.training_graph(graph, losses.cross_entropy, optimizers.SGD())
    inputs = {"x": np.ones((2, 4), np.float32), "labels": np.array([0, 0]), "rate": ONE}
    _, after = interpret_step(step, inputs)
    before = {state.name: state.initial.array for state in step.states}
    np.testing.assert_array_equal(after["unused.weight"], before["unused.weight"])
    assert not np.array_equal(after["used.weight"], before["used.weight"])


def test_schedules() -> None:
    assert optimizers.ConstantRate(0.1)(10**6) == 0.1
    decay = optimizers.StepDecay(1.0, every=10, factor=0.5)
    assert [decay(i) for i in (0, 9, 10, 25)] == [1.0, 1.0, 0.5, 0.25]
    assert optimizers.ExponentialDecay(1.0, every=10, factor=0.25)(5) == pytest.approx(0.5)
    cosine = optimizers.CosineDecay(1.0, steps=100, final=0.1)
    assert [cosine(i) for i in (0, 50, 100, 200)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    warm = optimizers.Warmup(4, cosine)
    assert [warm(i) for i in (0, 1, 3, 4)] == pytest.approx([0.25, 0.5, 1.0, 1.0])
    assert warm(54) == pytest.approx(0.55)


@pytest.mark.parametrize("most", [0.1, 1e6])
def test_gradients_are_clipped_by_their_common_norm(most: float) -> None:
    graph = nl.zoo.mlp(features=4, hidden=(3,), classes=2)
    inputs = {"x": 3 * np.ones((2, 4), np.float32), "labels": np.array([0, 0]), "rate": ONE}
    before = states_of(graph)
    moves = []
    for clip_norm in (None, most):
        step = nl.training_graph(graph, losses.cross_entropy, optimizers.SGD(), clip_norm=clip_norm)
        after = interpret_step(step, inputs, before)[1]
        moves.append({name: before[name].astype(np.float64) - after[name] for name in before})
    norm = np.sqrt(sum(np.square(move).sum() for move in moves[0].values()))
    for name, move in moves[1].items():
        wanted = moves[0][name] * min(1.0, most / norm)
        np.testing.assert_allclose(move, wanted, rtol=1e-3, atol=1e-6)
    with pytest.raises(UsageError, match="clipped"):
        nl.training_graph(graph, losses.cross_entropy, optimizers.SGD(), clip_norm=0.0)


def test_a_loss_gets_all_outputs_and_noise_is_new_in_each_step() -> None:
    """A variational autoencoder (Kingma and Welling 2014, appendix B)."""

    @nl.network
    def autoencoder(x: nl.Symbolic) -> dict[str, nl.Symbolic]:
        mean, spread = nl.dense(x, 2), nl.dense(x, 2)
        noise = nl.random_normal(mean.shape)
        code = mean + nl.exp(0.5 * spread) * noise if nl.is_training() else mean
        return {"y": nl.dense(code, 4), "mean": mean, "spread": spread}

    def bound(
        y: nl.Symbolic, mean: nl.Symbolic, spread: nl.Symbolic, target: nl.Symbolic
    ) -> nl.Symbolic:
        divergence = -0.5 * nl.reduce_mean(1 + spread - nl.square(mean) - nl.exp(spread))
        return nl.reduce_mean(nl.square(y - target)) + divergence

    graph = autoencoder.graph(x=nl.tensor("N", 4))
    step = nl.training_graph(graph, bound, optimizers.SGD())
    assert str(step.inputs[1].type) == "float32[N, 4]"
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    states, found = states_of(step), []
    for _ in range(2):
        feeds = {"x": x, "labels": x, "rate": np.float32(0)}
        (loss,), states = interpret_step(step, feeds, states)
        found.append(float(loss))
    assert found[0] != found[1]
    trainer = compile_training(graph, loss=bound, optimizer=optimizers.SGD(), threads=1)
    first = {state.name: state.initial.array for state in step.states}
    (loss,), _ = interpret_step(step, {"x": x, "labels": x, "rate": ONE}, first)
    assert trainer.step(x, x)["loss"] == pytest.approx(float(loss), rel=1e-5)
    outputs = trainer.predict(x, batch=2)
    assert [output.shape for output in outputs] == [(3, 4), (3, 2), (3, 2)]
    assert trainer.evaluate(x, x) == pytest.approx(float(np.square(outputs[0] - x).mean()))
