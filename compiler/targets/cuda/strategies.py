"""Strategy selection for the cuda target: the same STRATEGIES and budgets, each priced as the kernels
that it would become on a device (estimates.py), for convolutions and both their gradients.

A convolution as one product (``direct``) reads its windows through the caches, so a matrix of
windows never pays. Where products round their operands, no transform may amplify that: then
convolutions are direct. Attention is one kernel, whose products the engine makes, and its gradient
two. With a table of a
device's times (measured.py), what was measured goes before what is predicted, for strategies and for
the tilings of products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from netloom.errors import MemoryBudgetError

from ...graph import Graph, Node
from ...passes.select_strategies import Decision, select_strategies
from ...strategies import CONVOLUTIONS, STRATEGIES, Rates, Strategy
from ...strategies.attention import ATTENTION_FUSED
from ...strategies.strategy import CHOSEN, Price
from ...strategies.winograd import WINOGRAD_F2_FUSED
from ...tensor_type import FLOAT32
from ...tuning import Tuner, layer_of
from .attention_form import numbers_of_a_word
from .attention_tiles import KEYS
from .attention_warps import SHORTEST, warp_tile
from .devices import FIGURES
from .estimates import TENSOR_CORES, planned_layer
from .forms import CHAIN, Engine
from .gradient_strategies import (
    ATTENTION_GRADIENT_DIRECT,
    ATTENTION_GRADIENT_FUSED,
    gradient_rejects,
)
from .gradient_strategies import OPS as GRADIENT_OPS
from .measured import MeasuredTimes
from .tilings import Size, Tiling

OWN = (
    WINOGRAD_F2_FUSED, ATTENTION_FUSED, ATTENTION_GRADIENT_DIRECT, ATTENTION_GRADIENT_FUSED,
)  # fmt: skip
DECIDED = (*CHOSEN, *GRADIENT_OPS)  # the ops that strategies are chosen for
WIDE = 4.0  # times the least prediction: what is above that at a device's best is not planned
TILED = 0.75  # of the multiply-add rate, the tiles of attention: an estimate
PLAIN = "product"  # how a matmul is computed, in tables of times


def select_for_device(
    graph: Graph,
    accuracy: str,
    override: str,
    decisions: list[Decision],
    typical_batch: int | None,
    engine: Engine,
    tuner: Tuner | None,
    measured: dict[Size, Tiling],
) -> Graph:
    """The graph with each convolution, gradient of one and attention expanded. A tuner's times go
    before the predictions; ``measured`` gets the tilings that its table has for the products."""
    is_rounded = engine in (Engine.TF32, Engine.BF16)
    reason = f"its transforms would amplify the rounding of {engine.value}"
    vetoes = {
        s.name: reason for s in (*STRATEGIES, *OWN) if s.name.startswith("winograd") and is_rounded
    }
    vetoes |= {
        s.name: "the cuda target has no code for its transforms"
        for s in STRATEGIES
        if s.name.startswith("fft")
    }
    vetoes["attention_online"] = "the cuda target has no code for its loops"
    rates = Rates(
        FIGURES.products * FIGURES.multiprocessors, FIGURES.near, vetoes, DECIDED,
        own_strategies(engine), pricing=partial(_prices, engine),
    )  # fmt: skip
    own: list[Decision] = []
    result = select_strategies(graph, accuracy, override, own, typical_batch, rates, tuner)
    decisions += own
    if tuner is not None and isinstance(tuner.timer, MeasuredTimes):
        measured |= _tilings(graph, own, engine, tuner, tuner.timer, typical_batch or 1)
    return result


def own_strategies(engine: Engine) -> tuple[Strategy, ...]:
    """OWN, with what an engine cannot compute."""
    rejects = {ATTENTION_FUSED: _attention_rejects, ATTENTION_GRADIENT_FUSED: _gradient_rejects}
    return tuple(
        replace(own, rejects=partial(rejects[own], engine)) if own in rejects else own
        for own in OWN
    )


def _attention_rejects(engine: Engine, graph: Graph, node: Node) -> str | None:
    reason = ATTENTION_FUSED.rejects(graph, node)
    if reason is not None or engine is Engine.FFMA:
        return reason
    depth, width = node.inputs[0].shape[-1], node.inputs[2].shape[-1]
    assert isinstance(depth, int) and isinstance(width, int)
    if warp_tile(1, 1, depth, width, numbers_of_a_word(engine)) is not None:
        return None
    return f"its heads are {depth} deep and {width} wide; in {engine.value} they do not fit a block"


def _gradient_rejects(engine: Engine, graph: Graph, node: Node) -> str | None:
    longest = CHAIN * (KEYS if engine is Engine.FFMA else SHORTEST)
    return gradient_rejects(graph, node, longest)


def _prices(
    engine: Engine, graph: Graph, node: Node, batch: int, strategies: Sequence[Strategy]
) -> Mapping[str, Price]:
    """What each strategy's kernels are predicted to take. Those that would be far behind even at
    the device's full rates keep that bound: it takes longer to plan them."""
    if node.op.name not in CONVOLUTIONS:
        return {
            s.name: Price(s.cost(graph, node, batch).seconds(_tiled(engine))) for s in strategies
        }
    peak = Rates(FIGURES.products * FIGURES.multiprocessors, FIGURES.near)
    bounds = {s.name: s.cost(graph, node, batch).seconds(peak) for s in strategies}
    found: dict[str, Price] = {}
    least = math.inf
    for name in sorted(bounds, key=lambda name: bounds[name]):
        if bounds[name] > WIDE * least:
            found[name] = Price(bounds[name], "predicted: at least so much at full rates")
            continue
        try:
            planned = planned_layer(graph, node, name, engine, batch)
        except MemoryBudgetError as error:
            found[name] = Price(math.inf, error.message)
            continue
        found[name] = Price(planned.seconds, str(planned))
        least = min(least, planned.seconds)
    return {name: found[name] for name in bounds}


def _tiled(engine: Engine) -> Rates:
    """The rates of the tiles of attention and its gradient."""
    share = TENSOR_CORES.get(engine, 1.0)
    return Rates(TILED * share * FIGURES.products * FIGURES.multiprocessors, FIGURES.far)


def products_of(graph: Graph) -> list[Node]:
    """The matrix products that a graph holds before strategies make more of them."""
    return [
        node for node in graph.nodes if node.op.name == "matmul" and node.output.dtype is FLOAT32
    ]


def _tilings(
    graph: Graph, decisions: Sequence[Decision], engine: Engine, tuner: Tuner, times: MeasuredTimes,
    batch: int,
) -> dict[Size, Tiling]:  # fmt: skip
    """By the sizes of the products that the chosen strategies make, the tilings that were fastest;
    where layers that share a size disagree, the first one's."""
    nodes = [node for node in graph.nodes if node.op.name in DECIDED]
    chosen = [
        (node, decision.strategy)
        for node, decision in zip(nodes, decisions, strict=True)
        if node.op.name in CONVOLUTIONS
    ]
    found: dict[Size, Tiling] = {}
    for node, strategy in (*chosen, *((node, PLAIN) for node in products_of(graph))):
        layer = layer_of(graph, node, batch, False)
        if (best := times.best(layer, strategy)) is None:
            continue
        tuner.open.add(layer)
        tuner.times.setdefault(layer, times.measure(layer, [strategy], math.inf))
        if (tiling := best[1]) is not None:
            for size in planned_layer(graph, node, strategy, engine, batch).sizes:
                found.setdefault(size, tiling)
    return found
