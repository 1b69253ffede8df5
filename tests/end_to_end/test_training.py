"""Training through the whole compiler: the compiled step against the interpreter, learning, saving, inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret, interpret_step
from netloom.frontends import datasets
from netloom.runtime.training import Trainer

LENET = nl.zoo.lenet5()


def lenet_trainer() -> Trainer:
    return nl.compile_training(LENET, loss=nl.losses.cross_entropy, optimizer=nl.optimizers.Adam(1e-3))


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.digits()


@nl.network
def with_everything(x: nl.Symbolic) -> nl.Symbolic:
    # No bias before the batch norm: its gradient is zero but for rounding, and Adam would make steps of that noise.
    x = nl.relu(nl.batch_norm(nl.conv2d(x, 8, 3, stride=2, padding="same", bias=False)))
    x = nl.max_pool2d(nl.lrn(x), 2)
    return nl.dense(nl.dropout(nl.relu(nl.dense(nl.flatten(x), 16)), 0.3), 3)


@pytest.mark.parametrize(
    "optimizer",
    [nl.optimizers.SGD(momentum=0.9, nesterov=True), nl.optimizers.Adam(), nl.optimizers.RMSprop()],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_steps_follow_the_interpreter(optimizer: nl.optimizers.Optimizer) -> None:
    """Same batches, three of them, the last one smaller: states agree to rounding, the generator's key exactly."""
    graph = with_everything.graph(x=nl.tensor("N", 2, 12, 12))
    trainer = nl.compile_training(graph, loss=nl.losses.cross_entropy, optimizer=optimizer)
    step: Graph = nl.training_graph(graph, nl.losses.cross_entropy, optimizer)
    rng = np.random.default_rng(0)
    states = trainer.tensors()
    assert set(states) == {state.name for state in step.states}
    for samples in (8, 8, 5):
        x, y = rng.standard_normal((samples, 2, 12, 12)).astype(np.float32), rng.integers(0, 3, samples)
        (loss, correct), states = interpret_step(step, {"x": x, "labels": y, "rate": np.float32(0.01)}, states)
        found = trainer.step(x, y, rate=0.01)
        assert found["loss"] == pytest.approx(float(loss), rel=1e-5) and found["correct"] == correct
    for name, array in trainer.tensors().items():
        if array.dtype.kind == "f":
            assert np.linalg.norm(array - states[name]) <= 1e-4 * np.linalg.norm(states[name]), name
        else:
            np.testing.assert_array_equal(array, states[name], err_msg=name)


def test_lenet_learns_digits_and_goes_out_as_a_shared_object(data: datasets.Dataset, tmp_path: Path) -> None:
    trainer = lenet_trainer()
    history = trainer.fit(data.training, epochs=4, batch=32, validation=data.test)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"] and history[-1]["validation"] > 0.93
    trainer.to_inference().save(tmp_path / "lenet.so")
    logits = nl.load(tmp_path / "lenet.so")(data.test_x)
    correct = np.sum(logits.argmax(1) == data.test_y)
    assert abs(correct - history[-1]["validation"] * len(data.test_y)) < 1.5  # rounding may turn one close call
    (expected,) = interpret(nl.with_states(LENET, trainer.tensors()), {"x": data.test_x})
    assert np.linalg.norm(logits - expected) <= 1e-5 * np.linalg.norm(expected)


def test_saved_and_loaded_it_goes_on_with_the_same_bits(data: datasets.Dataset, tmp_path: Path) -> None:
    one, two = lenet_trainer(), lenet_trainer()
    x, y = data.x[:32], data.y[:32]
    one.step(x, y)
    one.save(tmp_path / "c.safetensors")
    two.load(tmp_path / "c.safetensors")
    assert one.step(x, y) == two.step(x, y)
    before, after = one.tensors(), two.tensors()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
