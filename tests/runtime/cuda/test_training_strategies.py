"""Training steps whose convolutions and gradients are Winograd's, on the emulator: they follow the
interpreter, in which every convolution is direct."""

from __future__ import annotations

from collections import Counter

import pytest

import netloom as nl
from netloom.compiler.graph import Graph
from netloom.compiler.targets.cuda.compile import is_available
from netloom.compiler.targets.cuda.driver import TRAINING_PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import FusedWinograd, Transform
from tests.runtime.cuda.test_session import follow

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
OPS = ("conv", "conv_input_gradient", "conv_weight_gradient")


@nl.network
def residual_block(x: nl.Symbolic) -> nl.Symbolic:
    """A block of ResNet-18 between a stem and a classifier."""
    x = nl.relu(nl.conv2d(x, 8, 1))
    y = nl.relu(nl.batch_norm(nl.conv2d(x, 8, 3, padding=1, bias=False)))
    y = nl.batch_norm(nl.conv2d(y, 8, 3, padding=1, bias=False))
    return nl.dense(nl.global_average_pool(nl.relu(x + y)), 3)


BLOCK = residual_block.graph(x=nl.tensor("N", 3, 5, 4))


@nl.network
def filters(x: nl.Symbolic) -> nl.Symbolic:
    """LeNet-5's two convolutions, smaller."""
    x = nl.max_pool2d(nl.relu(nl.conv2d(x, 3, 5, padding=2)), 2)
    return nl.dense(nl.flatten(nl.relu(nl.conv2d(x, 4, 5))), 3)


def step_of(graph: nl.TracedGraph) -> Graph:
    return nl.training_graph(graph, nl.losses.cross_entropy, nl.optimizers.SGD())


def strategies(graph: nl.TracedGraph, options: CudaOptions) -> dict[str, Counter[str]]:
    """How often each strategy was chosen in the step and the network, by op."""
    graphs = {"run": graph.inference_form(), "train_step": step_of(graph)}
    plan(graphs, TRAINING_PIPELINE, options)
    return {op: Counter(d.strategy for d in options.decisions if d.op == op) for op in OPS}


@needs_compiler
def test_a_residual_block_follows_the_interpreter() -> None:
    options = CudaOptions(override="winograd_f2_fused")
    follow(BLOCK, nl.optimizers.SGD(momentum=0.9), (3, 5, 4), 3, (2,), options)


@needs_compiler
def test_large_filters_by_winograd_follow_the_interpreter() -> None:
    options, graph = CudaOptions(override="winograd_f2"), filters.graph(x=nl.tensor("N", 1, 18, 14))
    # not Adam, whose first step is the sign of a gradient, however small that is
    follow(graph, nl.optimizers.SGD(momentum=0.9), (1, 18, 14), 3, (2,), options)
    chosen = {d.op for d in options.decisions if d.strategy == "winograd_f2"}
    assert chosen == set(OPS)


@pytest.mark.parametrize(("name", "gradient"), [
    ("winograd_f2", "winograd_f2"), ("winograd_f4", "winograd_f4"), ("winograd_f2_fused", ""),
])  # fmt: skip
def test_forward_and_both_gradients_are_asked_for(name: str, gradient: str) -> None:
    """3 x 3 convolutions, one in the network and two gradients each; 1 x 1 stay direct."""
    found = strategies(BLOCK, CudaOptions(override=name))
    assert found["conv"][name] == 4 and found["conv_input_gradient"][name] == 2
    assert found["conv"]["direct"] == 2
    assert found["conv_weight_gradient"][gradient] == (2 if gradient else 0)


def test_weights_are_transformed_in_the_step() -> None:
    graphs = {"run": BLOCK.inference_form(), "train_step": step_of(BLOCK)}
    for name, form in (("winograd_f2", Transform), ("winograd_f2_fused", FusedWinograd)):
        _, placement, _ = plan(graphs, TRAINING_PIPELINE, CudaOptions(override=name))
        forms = [kernel.form for kernel in placement.forms.values()]
        assert any(isinstance(f, Transform) and f.name.startswith("filter") for f in forms)
        assert any(isinstance(f, form) for f in forms)


def test_rounded_products_train_by_direct_convolutions() -> None:
    for precision in ("tf32", "bf16"):
        found = strategies(BLOCK, CudaOptions(precision))
        assert {name for counts in found.values() for name in counts} == {"direct"}


def test_large_layers_of_a_step_are_winograds_without_being_asked() -> None:
    @nl.network
    def stage(x: nl.Symbolic) -> nl.Symbolic:
        for _ in range(3):
            x = nl.relu(nl.conv2d(x, 128, 3, padding=1))
        return nl.dense(nl.global_average_pool(x), 10)

    found = strategies(stage.graph(x=nl.tensor("N", 128, 28, 28)), CudaOptions())
    for op in OPS[:2]:
        assert all(name.startswith("winograd") for name in found[op]), found
