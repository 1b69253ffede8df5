"""Losses against formulas written with NumPy and SciPy in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.differentiate import differentiate
from netloom.errors import ShapeError
from netloom.frontends.dsl import losses
from netloom.frontends.dsl.losses import Loss
from netloom.frontends.dsl.network import network
from netloom.frontends.dsl.trace import tensor
from netloom.runtime.session import Session

RNG = np.random.default_rng(5)
X = 3 * RNG.standard_normal((6, 4))
SIGNS = np.where(RNG.random((6, 4)) < 0.5, -1.0, 1.0)
BITS = (SIGNS > 0).astype(np.float64)
LABELS = RNG.integers(0, 4, 6)
REAL = X + RNG.standard_normal((6, 4))


def value(loss: Loss | Callable, x: np.ndarray, target: np.ndarray) -> list[np.ndarray]:  # type: ignore[type-arg]
    def both(x, target):  # type: ignore[no-untyped-def]
        return (
            (loss(x, target), loss.correct(x, target))
            if isinstance(loss, Loss) and loss.correct
            else loss(x, target)
        )

    types = {
        "x": tensor(*x.shape, dtype="float64"),
        "target": tensor(*target.shape, dtype=target.dtype.name),
    }
    return interpret(network(both).graph(**types), {"x": x, "target": target})


@pytest.mark.parametrize(
    ("loss", "target", "expected", "correct"),
    [
        (losses.cross_entropy, LABELS, -log_softmax(X, 1)[np.arange(6), LABELS].mean(), (X.argmax(1) == LABELS).sum()),
        (losses.mean_squared_error, REAL, ((X - REAL) ** 2).mean(), None),
        (losses.mean_absolute_error, REAL, abs(X - REAL).mean(), None),
        (losses.binary_cross_entropy_with_logits, BITS,
         -(BITS * np.log(expit(X)) + (1 - BITS) * np.log(expit(-X))).mean(), ((X > 0) == BITS).sum()),
        (losses.hinge, SIGNS, np.maximum(0, 1 - SIGNS * X).mean(), (np.sign(X) == SIGNS).sum()),
        (losses.huber(0.5), REAL,
         np.where(abs(X - REAL) <= 0.5, (X - REAL) ** 2 / 2, 0.5 * (abs(X - REAL) - 0.25)).mean(), None),
    ],
    ids=lambda item: item.name if isinstance(item, Loss) else "",
)  # fmt: skip
def test_value_and_count(
    loss: Loss, target: np.ndarray, expected: float, correct: int | None
) -> None:
    results = value(loss, X, target)
    np.testing.assert_allclose(results[0], expected, rtol=1e-12)
    assert len(results) == (1 if correct is None else 2)
    if correct is not None:
        assert results[1] == correct


def test_large_logits_stay_finite() -> None:
    big = np.array([[1e4, -1e4], [-1e4, 1e4]])
    np.testing.assert_allclose(value(losses.cross_entropy, big, np.array([1, 1]))[0], 1e4)
    np.testing.assert_allclose(
        value(losses.binary_cross_entropy_with_logits, big, np.zeros((2, 2)))[0], 5e3
    )


def test_a_target_of_the_wrong_type_is_told() -> None:
    with pytest.raises(ShapeError, match="takes a target int64\\[6\\], not float64\\[6, 4\\]"):
        value(losses.cross_entropy, X, REAL)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.25]])
@pytest.mark.parametrize("ignored", [None, -100, 1])
def test_weighted_cross_entropy(
    smoothing: float, weights: list[float] | None, ignored: int | None
) -> None:
    """From its definition, sample by sample."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 4, 3)).astype(np.float32)
    labels = rng.integers(0, 4, (5, 3))
    labels[0, 0] = labels[2, 1] = ignored if ignored is not None else 2
    wide = logits.astype(np.float64)
    logs = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    weight = np.asarray(weights or [1.0] * 4)
    total = mass = 0.0
    for n, p in np.ndindex(labels.shape):
        label = labels[n, p]
        if label != ignored:
            target = smoothing / 4 * np.ones(4) + (1 - smoothing) * (np.arange(4) == label)
            total -= float((target * weight * logs[n, :, p]).sum())
            mass += weight[label]
    loss = losses.weighted_cross_entropy(weights, smoothing, ignored)
    graph = network(lambda x, y: loss(x, y)).graph(
        x=tensor("N", 4, 3), y=tensor("N", 3, dtype="int64")
    )
    (found,) = interpret(graph, {"x": logits, "y": labels})
    assert float(found) == pytest.approx(total / mass, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [losses.cross_entropy, losses.weighted_cross_entropy(ignored=9)],
    ids=["plain", "weighted"],
)
def test_classes_that_cannot_be_have_no_part(loss: Loss) -> None:
    """Logits of -inf, as masks of actions and of tokens write them: compiled, with the gradient."""
    logits = np.array([[0, -np.inf, 1], [2, 3, -np.inf]], np.float32)
    labels = np.array([2, 1])
    wide = logits.astype(np.float64)
    b = Builder("loss")
    graph = network(lambda x, y: loss(x, y)).graph(x=tensor(2, 3), y=tensor(2, dtype="int64"))
    b.inputs, b.nodes = list(graph.inputs), list(graph.nodes)
    step = b.build([*graph.outputs, *differentiate(b, graph.outputs[0], graph.inputs[:1])])
    session = Session.in_process(compile_graph(step).image, threads=1)
    found, gradient = session.run(None, {"x": logits, "y": labels})
    assert float(found) == pytest.approx(-log_softmax(wide, 1)[np.arange(2), labels].mean(), 1e-6)
    wanted = (softmax(wide, 1) - np.eye(3)[labels]) / 2
    np.testing.assert_allclose(gradient, wanted, 1e-5, 1e-7)


def test_weighted_binary_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((6, 2)).astype(np.float32), rng.random((6, 2)).astype(np.float32)
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    wanted = -(np.array([3.0, 0.5]) * t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    loss = losses.weighted_binary_cross_entropy([3.0, 0.5])
    graph = network(lambda x, t: loss(x, t)).graph(x=tensor("N", 2), t=tensor("N", 2))
    (found,) = interpret(graph, {"x": x, "t": t})
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
