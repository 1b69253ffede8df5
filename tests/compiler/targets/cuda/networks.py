"""Whole graphs for the cuda target: the light ONNX networks, LeNet-5's training step, a
transformer's block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import netloom as nl
from netloom.benchmarks.models import light_models
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.targets.cuda.driver import PIPELINE, TRAINING_PIPELINE, DevicePlacement, plan
from netloom.compiler.tensor_type import FLOAT32, TensorType


def lenet_step(batch: int | str = "N") -> Graph:
    graph = nl.zoo.lenet5(batch=batch)
    return nl.training_graph(graph, nl.losses.cross_entropy, nl.optimizers.Adam(1e-3))


def zoo_step(name: str, batch: int) -> Graph:
    """The step of a network of the zoo by stochastic gradient descent; its weights are one number,
    which costs no time to draw."""
    graph = getattr(nl.zoo, name)(batch=batch, initializer=nl.initializers.constant(0.01))
    return nl.training_graph(graph, nl.losses.cross_entropy, nl.optimizers.SGD(momentum=0.9))


def transformer_block(batch: int = 2, tokens: int = 33, width: int = 48, heads: int = 3) -> Graph:
    """Pre-norm attention and a gelu MLP, each with its residual."""
    b = Builder("transformer_block")
    x = b.input(TensorType(FLOAT32, (batch, tokens, width)), "x")

    def weight(name: str, *shape: int) -> Value:
        return b.input(TensorType(FLOAT32, shape), name)

    def normed(value: Value, name: str) -> Value:
        return b(
            "layer_norm",
            value,
            weight(f"{name}.scale", width),
            weight(f"{name}.bias", width),
            axis=2,
        )

    def dense(value: Value, name: str, inputs: int, outputs: int) -> Value:
        return b(
            "add",
            b("matmul", value, weight(f"{name}.weight", inputs, outputs)),
            weight(f"{name}.bias", outputs),
        )

    def split(value: Value) -> Value:
        """[batch, heads, tokens, width / heads]"""
        return b(
            "transpose",
            b("reshape", value, shape=(batch, tokens, heads, width // heads)),
            permutation=(0, 2, 1, 3),
        )

    y = normed(x, "norm1")
    q, k, v = (split(dense(y, name, width, width)) for name in ("q", "k", "v"))
    scores = b(
        "softmax", b("mul", b("matmul", q, k, transpose_b=True), (width // heads) ** -0.5), axis=3
    )
    joined = b(
        "reshape",
        b("transpose", b("matmul", scores, v), permutation=(0, 2, 1, 3)),
        shape=(batch, tokens, width),
    )
    x = b("add", x, dense(joined, "out", width, width))
    hidden = b("gelu", dense(normed(x, "norm2"), "up", width, 4 * width))
    return b.build([b("add", x, dense(hidden, "down", 4 * width, width))], ["y"])


def light(name: str) -> Graph:
    return nl.from_onnx(light_models()[name])


GRAPHS: Mapping[str, Callable[[], Graph]] = {
    "lenet5 training step": lenet_step,
    "transformer block": transformer_block,
    "resnet50 training step": lambda: zoo_step("resnet50", 64),
    "vgg16 training step": lambda: zoo_step("vgg16", 16),
    **{name: (lambda name=name: light(name)) for name in light_models()},  # type: ignore[misc]
}


def planned(graph: Graph) -> DevicePlacement:
    """The kernels of a graph, as an inference program or, if it has states that change, as a
    training step.
    """
    is_training = any(not state.is_unchanged for state in graph.states)
    graphs = {"run": graph, "train_step": graph} if is_training else {"run": graph}
    return plan(graphs, TRAINING_PIPELINE if is_training else PIPELINE)[1]
