"""The zoo's networks: published parameter counts, shapes, and that they run in both forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netloom.compiler.interpret import interpret, interpret_step
from netloom.compiler.verify import verify
from netloom.errors import UsageError
from netloom.frontends import datasets
from netloom.frontends import dsl as nl
from netloom.frontends.dsl import zoo
from netloom.frontends.dsl.initializers import Initializer

# torchvision's counts; AlexNet by the paper's own sizes (34,944 + 307,456 + 885,120 + 663,936 +
# 442,624 + ...)
PARAMETERS = {
    "lenet5": 61_706, "alexnet": 60_965_224, "vgg16": 138_357_544, "vgg19": 143_667_240, "resnet18": 11_689_512,
    "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160, "resnet152": 60_192_808,
    "mlp": 784 * 128 + 128 + 128 * 10 + 10,
}  # fmt: skip


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_parameters_and_shapes(name: str) -> None:
    graph = zoo.NETWORKS[name](initializer=nl.initializers.zeros)
    shapes = {state.name: state.input.type.static_shape for state in graph.states}
    assert sum(math.prod(shapes[parameter]) for parameter in graph.trainable) == PARAMETERS[name]
    assert graph.name == name
    classes = 10 if name in ("lenet5", "mlp") else 1000
    assert [str(value.type) for value in graph.outputs] == [f"float32[N, {classes}]"]
    assert all(state.initial.is_splat for state in graph.states)


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_training_form_has_the_same_parameters(name: str) -> None:
    graph = zoo.NETWORKS[name](initializer=nl.initializers.zeros)
    training = zoo.NETWORKS[name](initializer=nl.initializers.zeros, training=True)
    assert graph.trainable == training.trainable == graph.training_form().trainable
    types = {state.name: state.input.type for state in training.states}
    assert all(types[state.name] == state.input.type for state in graph.states)
    dropouts = sum(node.op.name == "dropout" for node in training.nodes)
    assert dropouts == (2 if name in ("alexnet", "vgg16", "vgg19") else 0)
    assert not any(node.op.name == "dropout" for node in graph.nodes)


@pytest.mark.parametrize("variant", ["modern", "classic"])
@pytest.mark.parametrize("size", [28, 32])
def test_lenet_runs_and_samples_are_independent(variant: str, size: int) -> None:
    graph = zoo.lenet5(size=size, variant=variant)
    x = np.random.default_rng(0).standard_normal((3, 1, size, size)).astype(np.float32)
    (y,) = interpret(graph, {"x": x})
    assert y.shape == (3, 10) and np.isfinite(y).all() and np.ptp(y) > 0.01
    np.testing.assert_allclose(interpret(graph, {"x": x[1:2]})[0], y[1:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lenet_starts_without_an_opinion(seed: int) -> None:
    """Its first loss on digits is near log 10, that of a classifier that knows nothing; with
    He's rule it is not.
    """
    data = datasets.digits()

    def loss(initializer: Initializer | None) -> float:
        graph = zoo.lenet5(seed=seed, initializer=initializer)
        (logits,) = interpret(graph, {"x": data.x[:200]})
        return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(200), data.y[:200]]))

    assert loss(None) < np.log(10) + 0.3 < loss(nl.initializers.he_normal)


def test_a_small_resnet_runs_in_both_forms() -> None:
    graph = zoo.resnet18(classes=4, size=32, batch=2)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    (y,) = interpret(graph, {"x": x})
    (z,), states = interpret_step(graph.training_form(), {"x": x})
    assert y.shape == z.shape == (2, 4) and np.isfinite(y).all() and np.isfinite(z).all()
    assert not np.array_equal(states["stem.norm.running_mean"], np.zeros(64, np.float32))


def test_wrong_sizes_are_told() -> None:
    with pytest.raises(UsageError, match="28x28 or 32x32"):
        zoo.lenet5(size=30)
    with pytest.raises(UsageError, match="variant"):
        zoo.lenet5(variant="relu")


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_both_forms_and_the_training_step_are_valid_graphs(name: str) -> None:
    graph = zoo.NETWORKS[name](initializer=nl.initializers.zeros)
    step = nl.training_graph(graph, nl.losses.cross_entropy, nl.optimizers.SGD(momentum=0.9))
    for form in (graph, graph.training_form(), step):
        verify(form)
    assert not [state.name for state in step.states if state.is_unchanged]
