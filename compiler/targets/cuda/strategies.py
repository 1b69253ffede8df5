"""Strategy selection for the cuda target: the same STRATEGIES, costs and budgets, at a device's rates.

A convolution as one product (``direct``) reads its windows through the caches, so a matrix of windows never pays. The rates
are a model (an H200's, from its data sheet and others' measurements), not a measurement of ours. Where products round their
operands, no transform may amplify that: then convolutions are direct.
"""

from __future__ import annotations

from netloom.errors import UsageError

from ...graph import Graph, Node, finish, rebuilder
from ...passes.select_strategies import Decision
from ...strategies import ACCURACIES, BY_NAME, STRATEGIES
from .forms import Engine

PRODUCTS_PER_SECOND = 25e12  # float32 multiply-adds in register tiles
BYTES_PER_SECOND = 4e12
_AMPLIFYING = frozenset(strategy.name for strategy in STRATEGIES if strategy.name.startswith("winograd"))


def select_for_device(graph: Graph, accuracy: str, override: str, decisions: list[Decision], engine: Engine) -> Graph:
    """The graph with each convolution expanded. ``override``: auto, a strategy's name, or NODE=NAME."""
    if accuracy not in ACCURACIES:
        raise UsageError(f"there is no accuracy {accuracy!r}.", hint=f"Choose {', '.join(ACCURACIES)}.")
    label, _, wanted = override.rpartition("=")
    if wanted not in ("", "auto") and wanted not in BY_NAME:
        raise UsageError(f"there is no convolution strategy {wanted!r}.", hint=f"Choose auto, {', '.join(BY_NAME)}.")
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        inputs = [mapping[value] for value in node.inputs]
        if node.op.name != "conv":
            mapping.update(zip(node.outputs, b.copy(node, inputs), strict=True))
            continue
        decision = _decide(graph, node, accuracy, wanted if label in ("", node.label) else "auto", engine)
        decisions.append(decision)
        mapping[node.output] = BY_NAME[decision.strategy].expand(b, graph, node, inputs)
    return finish(b, graph, mapping)


def _decide(graph: Graph, node: Node, accuracy: str, wanted: str, engine: Engine) -> Decision:
    rejected: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for strategy in STRATEGIES:
        reason = strategy.rejects(graph, node)
        if reason is None and ACCURACIES.index(strategy.accuracy) > ACCURACIES.index(accuracy):
            reason = f"its error budget of {strategy.budget:.0e} needs --accuracy {strategy.accuracy}"
        if reason is None and strategy.name in _AMPLIFYING and engine in (Engine.TF32, Engine.BF16):
            reason = f"its transforms would amplify the rounding of {engine.value}"
        if reason is None:
            seconds[strategy.name] = strategy.cost(node).seconds(PRODUCTS_PER_SECOND, BYTES_PER_SECOND)
        else:
            rejected[strategy.name] = reason
    chosen = wanted if wanted in seconds else min(seconds, key=lambda name: seconds[name])
    return Decision(node.label, f"{node.inputs[0].type} * {node.inputs[1].type}", chosen, seconds, rejected)
