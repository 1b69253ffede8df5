"""Imported graphs as parts of networks: their weights become parameters, other layers follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret, interpret_step
from netloom.errors import ShapeError, UsageError

X = np.random.default_rng(0).standard_normal((6, 2, 8, 8)).astype(np.float32)
LABELS = np.arange(6) % 3


@nl.network
def backbone(x: nl.Symbolic) -> nl.Symbolic:
    x = nl.relu(nl.batch_norm(nl.conv2d(x, 4, 3, padding=1, bias=False)))
    return nl.dense(nl.global_average_pool(x), 5)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    path = Path(tmp_path_factory.mktemp("model")) / "model.onnx"
    nl.to_onnx(backbone.graph(x=nl.tensor("N", 2, 8, 8)), path)
    return nl.from_onnx(path)


def test_an_imported_model_has_the_steps_of_the_network_it_came_from(imported: Graph) -> None:
    """Two steps, so that the second one shows what the first has changed, statistics too."""
    optimizer = nl.optimizers.SGD(0.1, momentum=0.9)
    own = backbone.graph(x=nl.tensor("N", 2, 8, 8))
    results = []
    for graph in (own, nl.trainable(imported)):
        assert np.allclose(interpret(graph, {"x": X})[0], interpret(own, {"x": X})[0], atol=1e-6)
        step = nl.training_graph(graph, nl.losses.cross_entropy, optimizer)
        states, losses = None, []
        for _ in range(2):
            feeds = {"x": X, "labels": LABELS, "rate": np.float32(0.1)}
            initial = {s.name: s.initial.array for s in step.states}
            (loss, _), states = interpret_step(step, feeds, states or initial)
            losses.append(float(loss))
        results.append((losses, states))
    (losses, one), (other_losses, other) = results
    assert other_losses == pytest.approx(losses, rel=1e-6)
    found = sorted(other.values(), key=lambda a: (a.size, float(a.sum())))
    wanted = sorted(one.values(), key=lambda a: (a.size, float(a.sum())))
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x.ravel(), y.ravel(), rtol=1e-5, atol=1e-6)


def test_a_new_head_is_trained_and_the_rest_stays(imported: Graph) -> None:
    pooled = [node.label for node in imported.nodes if node.op.name == "reduce_mean"][-1]

    @nl.network
    def tuned(x: nl.Symbolic) -> nl.Symbolic:
        features = nl.apply(imported, x, output=pooled)
        return nl.dense(nl.flatten(features), 3, name="head")

    graph = tuned.graph(x=nl.tensor("B", 2, 8, 8))
    trainer = nl.compile_training(
        graph, loss=nl.losses.cross_entropy, optimizer=nl.optimizers.SGD(0.1),
        trainable=lambda name: name.startswith("head."),
    )  # fmt: skip
    before = trainer.tensors()
    losses = [trainer.step(X, LABELS)["loss"] for _ in range(30)]
    after = trainer.tensors()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert losses[-1] < losses[0]
    parameters = {name for name in moved if name in graph.training_form().trainable}
    assert parameters == {"head.weight", "head.bias"}
    assert trainer.predict(X).shape == (6, 3)


def test_what_does_not_fit_is_named(imported: Graph) -> None:
    def at(name: str | None, channels: int = 2) -> Graph:
        network = nl.network(lambda x: nl.apply(imported, x, output=name))
        return network.graph(x=nl.tensor(1, channels, 8, 8))

    with pytest.raises(UsageError, match="no value 'nowhere'"):
        at("nowhere")
    with pytest.raises(ShapeError, match="input 'x'"):
        at(None, channels=3)
    with pytest.raises(UsageError, match="no parameters") as caught:
        nl.training_graph(imported, nl.losses.cross_entropy, nl.optimizers.SGD())
    assert "nl.trainable" in str(caught.value.hint)
