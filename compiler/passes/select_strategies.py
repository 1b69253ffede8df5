"""Strategy selection: for every convolution, gradient of one and attention the cheapest of
STRATEGIES that applies within the accuracy asked for.

A pure function of the graph and the options: the estimated time uses the rates of a machine table,
not of this machine. With a tuner, measured times decide among the candidates that it measured:
asked for › measured › estimated. Every decision is kept with the cost of each candidate and the
reason of each rejection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netloom.errors import UsageError

from ..graph import Graph, Node, finish, rebuilder
from ..strategies import ACCURACIES, BY_NAME, STRATEGIES, Rates, Strategy, rates_of
from ..tensor_type import UINT8
from ..tuning import Tuner

EXACT = "direct"  # the strategy that adds up whole numbers without rounding
REFERENCE = "x86-64-v4"  # the level whose rates are taken where none is named


@dataclass(frozen=True)
class Decision:
    """How one node (a convolution, a gradient of one, attention: ``op``) is computed, and why:
    seconds estimated, or the reason against, for each strategy; seconds measured, for those that
    a tuner measured."""

    node: str
    op: str
    shape: str
    strategy: str
    seconds: Mapping[str, float]
    rejected: Mapping[str, str]
    measured: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)  # what estimates are made of


def select_strategies(
    graph: Graph, accuracy: str = "default", override: str = "auto", decisions: list[Decision] | None = None,
    typical_batch: int | None = None, rates: Rates | None = None, tuner: Tuner | None = None,
) -> Graph:  # fmt: skip
    """The graph with each node that has strategies expanded by one of them. ``override``: auto, a
    strategy's name for all nodes where it applies, or NODE=NAME; ``typical_batch``: what costs take
    free dims for. UsageError for unknown names."""
    if accuracy not in ACCURACIES:
        raise UsageError(
            f"there is no accuracy {accuracy!r}.", hint=f"Choose {', '.join(ACCURACIES)}."
        )
    rates = rates or rates_of(REFERENCE)
    known = {**BY_NAME, **{strategy.name: strategy for strategy in rates.own}}
    wanted = _overrides(override, known)
    chosen = _decide_all(graph, accuracy, wanted, typical_batch or 1, rates, tuner)
    if decisions is not None:
        decisions += chosen.values()
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        inputs = [mapping[v] for v in node.inputs]
        if node in chosen:
            mapping[node.output] = known[chosen[node].strategy].expand(b, graph, node, inputs)
        else:
            mapping.update(zip(node.outputs, b.copy(node, inputs), strict=True))
    return finish(b, graph, mapping)


def _overrides(text: str, known: Mapping[str, Strategy]) -> dict[str, Strategy]:
    if text in ("", "auto"):
        return {}
    node, _, name = text.rpartition("=")
    if name not in known:
        raise UsageError(
            f"there is no strategy {name!r}.", hint=f"Choose auto, {', '.join(known)}."
        )
    return {node: known[name]}


def _decide_all(
    graph: Graph,
    accuracy: str,
    wanted: Mapping[str, Strategy],
    batch: int,
    rates: Rates,
    tuner: Tuner | None,
) -> dict[Node, Decision]:
    """By estimated costs first; then the tuner sees those that nobody asked for otherwise."""
    chosen: dict[Node, Decision] = {}
    open_: dict[Node, Mapping[str, float]] = {}
    for node in graph.nodes:
        if node.op.name not in rates.ops:
            continue
        decision = chosen[node] = _estimated(graph, node, accuracy, batch, rates)
        asked = wanted.get(node.label) or wanted.get("")
        if asked and asked.name in decision.seconds:
            chosen[node] = replace(decision, strategy=asked.name)
        else:
            open_[node] = decision.seconds
    measured = tuner.measure(graph, open_, batch) if tuner is not None else {}
    for node, seconds in measured.items():
        if seconds:
            chosen[node] = replace(chosen[node], strategy=_least(seconds), measured=seconds)
    return chosen


def _estimated(graph: Graph, node: Node, accuracy: str, batch: int, rates: Rates) -> Decision:
    rejected: dict[str, str] = {}
    admitted: list[Strategy] = []
    for strategy in (item for item in (*STRATEGIES, *rates.own) if node.op.name in item.ops):
        reason = strategy.rejects(graph, node) or rates.vetoes.get(strategy.name)
        if _adds_bytes(graph, node) and strategy.name != EXACT:
            reason = "its sums are of whole numbers, and must be exact"
        if reason is None:
            budget, level = strategy.level(node)
            if ACCURACIES.index(level) > ACCURACIES.index(accuracy):
                reason = f"its error budget of {budget:.0e} needs --accuracy {level}"
        if reason is not None:
            rejected[strategy.name] = reason
        else:
            admitted.append(strategy)
    prices = rates.prices(graph, node, batch, admitted)
    impossible = {name: price.note for name, price in prices.items() if math.isinf(price.seconds)}
    if len(impossible) < len(prices):  # else planning says what is wrong
        rejected |= impossible
        prices = {name: price for name, price in prices.items() if name not in impossible}
    seconds = {name: price.seconds for name, price in prices.items()}
    notes = {name: price.note for name, price in prices.items() if price.note}
    shape = f"{node.inputs[0].type} * {node.inputs[1].type}"
    return Decision(
        node.label, node.op.name, shape, _least(seconds), seconds, rejected, notes=notes
    )


def _adds_bytes(graph: Graph, node: Node) -> bool:
    """Whether a node adds up products of bytes, as float32 numbers (passes/multiply_bytes.py)."""
    made = graph.producers.get(node.inputs[0])
    return made is not None and made.op.name == "cast" and made.inputs[0].dtype is UINT8


def _least(seconds: Mapping[str, float]) -> str:
    """The strategy of the least time; the first of STRATEGIES among equals."""
    return min(seconds, key=lambda name: seconds[name])
