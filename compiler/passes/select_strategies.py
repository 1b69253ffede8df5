"""Strategy selection: for every convolution and gradient of one the cheapest of STRATEGIES that applies within the accuracy asked for.

A pure function of the graph and the options: the estimated time uses the rates of a machine table, not of this machine.
Every decision is kept with the cost of each candidate and the reason of each rejection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from netloom.errors import UsageError

from ..graph import Graph, Node, finish, rebuilder
from ..strategies import ACCURACIES, BY_NAME, CONVOLUTIONS, STRATEGIES, Strategy


@dataclass(frozen=True)
class Rates:
    """Multiply-adds and bytes a second of a machine, as costs take them; ``vetoes``: strategy -> why it is not for it."""

    products: float
    bytes: float
    vetoes: Mapping[str, str] = field(default_factory=dict)
    ops: Sequence[str] = CONVOLUTIONS  # that strategies are chosen for


CORE = Rates(54e9, 16e9)  # one core: register tiles; the caches, reads and writes mixed


@dataclass(frozen=True)
class Decision:
    """How one convolution (or a gradient of one: ``op``) is computed, and why: seconds estimated, or the reason against,
    for each strategy."""

    node: str
    op: str
    shape: str
    strategy: str
    seconds: Mapping[str, float]
    rejected: Mapping[str, str]


def select_strategies(
    graph: Graph, accuracy: str = "default", override: str = "auto", decisions: list[Decision] | None = None,
    typical_batch: int | None = None, rates: Rates = CORE,
) -> Graph:  # fmt: skip
    """The graph with each convolution, and each gradient of one, expanded by its strategy. ``override``: auto, a strategy's name for all
    convolutions where it applies, or NODE=NAME; ``typical_batch``: what costs take free dims for. UsageError for
    unknown names."""
    if accuracy not in ACCURACIES:
        raise UsageError(f"there is no accuracy {accuracy!r}.", hint=f"Choose {', '.join(ACCURACIES)}.")
    wanted = _overrides(override)
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        inputs = [mapping[v] for v in node.inputs]
        if node.op.name not in rates.ops:
            mapping.update(zip(node.outputs, b.copy(node, inputs), strict=True))
            continue
        strategy, decision = _decide(graph, node, accuracy, wanted, typical_batch or 1, rates)
        if decisions is not None:
            decisions.append(decision)
        mapping[node.output] = strategy.expand(b, graph, node, inputs)
    return finish(b, graph, mapping)


def _overrides(text: str) -> dict[str, Strategy]:
    if text in ("", "auto"):
        return {}
    node, _, name = text.rpartition("=")
    if name not in BY_NAME:
        raise UsageError(f"there is no convolution strategy {name!r}.", hint=f"Choose auto, {', '.join(BY_NAME)}.")
    return {node: BY_NAME[name]}


def _decide(
    graph: Graph, node: Node, accuracy: str, wanted: Mapping[str, Strategy], batch: int, rates: Rates
) -> tuple[Strategy, Decision]:
    rejected: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for strategy in STRATEGIES:
        reason = strategy.rejects(graph, node) or rates.vetoes.get(strategy.name)
        if reason is None:
            budget, level = strategy.level(node)
            if ACCURACIES.index(level) > ACCURACIES.index(accuracy):
                reason = f"its error budget of {budget:.0e} needs --accuracy {level}"
        if reason is not None:
            rejected[strategy.name] = reason
        else:
            seconds[strategy.name] = strategy.cost(graph, node, batch).seconds(rates.products, rates.bytes)
    asked = wanted.get(node.label) or wanted.get("")
    chosen = asked if asked and asked.name in seconds else BY_NAME[min(seconds, key=lambda name: seconds[name])]
    shape = f"{node.inputs[0].type} * {node.inputs[1].type}"
    return chosen, Decision(node.label, node.op.name, shape, chosen.name, seconds, rejected)
