"""Tuning: measured times for the candidates whose estimates are close, within a budget of seconds,
kept in the cache.

``Tuner.measure`` maps nodes with their candidates' estimated seconds to measured ones. Equal layers
are measured once; those with the most time come first. What was measured on a machine is not
measured there again, so a compile that finds all of it in the cache measures nothing and gives the
same program. A candidate that cannot be measured is left out; layers for which there was no time
keep the estimate's choice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol, TypeAlias

from .cache import Cache, compiler_version
from .dim import Extent, Symbol, symbols_of
from .graph import Builder, Graph, Node, map_extents
from .strategies.strategy import nominal, nominal_number
from .tensor_type import TensorType
from .text import print_graph

CLOSE = 1.6  # times the least estimate: a candidate above that is not measured
LAYER = "layer"  # the label of a layer's one node

Times: TypeAlias = "Mapping[str, float | None]"  # strategy -> seconds; None: it cannot be measured


@dataclass(frozen=True)
class Layer:
    """One convolution or gradient of one by itself, at nominal extents: its graph's text, in which
    every operand is an input, the labels of those that are constants, and whether its network has
    more weights than the caches hold, so that a run finds none there. Equal layers take equal
    times."""

    text: str
    constants: tuple[str, ...]
    is_cold: bool


class Timer(Protocol):
    """What measures a layer (targets/cpu/layer_timer.py)."""

    @property
    def identity(self) -> str:
        """The machine, the CPU level, the number of threads and the tools: all but the layer
        that times depend on.
        """
        ...

    @property
    def cached(self) -> int:
        """Bytes of weights that stay in the machine's caches from run to run."""
        ...

    def measure(self, layer: Layer, strategies: Sequence[str], seconds: float) -> Times:
        """The time of each strategy; those for which the seconds did not suffice are missing."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


@dataclass
class Tuner:
    """Measures with a timer for at most ``seconds`` in all. ``times``: of the layers so far;
    ``open``: those with a choice.
    """

    timer: Timer
    seconds: float
    cache: Cache
    clock: Callable[[], float] = time.monotonic
    # times the least estimate: a candidate above that is not measured (None: CLOSE)
    close: float | None = None
    times: dict[Layer, Times] = field(default_factory=dict)
    open: set[Layer] = field(default_factory=set)
    spent: float = 0.0

    def measure(
        self, graph: Graph, estimates: Mapping[Node, Mapping[str, float]], batch: int
    ) -> dict[Node, dict[str, float]]:
        """Measured seconds by strategy, for the nodes whose layers were measured now or before."""
        is_cold = weight_bytes(graph) > self.timer.cached
        candidates = {
            node: close_candidates(seconds, self.close) for node, seconds in estimates.items()
        }
        nodes = {
            node: layer_of(graph, node, batch, is_cold)
            for node, names in candidates.items()
            if len(names) > 1
        }
        wanted: dict[Layer, list[str]] = {}
        weights: dict[Layer, float] = {}
        for node, layer in nodes.items():
            wanted[layer] = candidates[node]
            weights[layer] = weights.get(layer, 0.0) + min(estimates[node].values())
            self.open.add(layer)
        try:
            for layer in sorted(wanted, key=lambda layer: -weights[layer]):
                self._find(layer, wanted[layer])
        finally:
            self.timer.close()
        return {
            node: _measured(self.times.get(layer, {}), candidates[node])
            for node, layer in nodes.items()
        }

    @property
    def summary(self) -> dict[str, Any]:
        """What a program records: the machine, how many different layers had a choice, how many
        of them were measured.
        """
        return {
            "machine": self.timer.identity,
            "layers": len(self.open),
            "measured": len(self.times),
        }

    def _find(self, layer: Layer, names: Sequence[str]) -> None:
        """Take the layer's times from the cache, or measure them if there is time."""
        key = (
            "tuning",
            compiler_version(),
            self.timer.identity,
            str(layer.is_cold),
            layer.text,
            *layer.constants,
        )
        found = self.times.get(layer) or _read(self.cache.get(*key))
        if set(names) <= set(found):
            self.times[layer] = found
            return
        left = self.seconds - self.spent
        if left <= 0:
            return
        start = self.clock()
        times = self.timer.measure(layer, names, left)
        self.spent += self.clock() - start
        # where all of them fail, the fault may be elsewhere
        if set(names) <= set(times) and any(times.values()):
            self.times[layer] = times
            self.cache.put(json.dumps(dict(times), sort_keys=True).encode(), *key)


def close_candidates(estimates: Mapping[str, float], close: float | None = None) -> list[str]:
    """The strategies worth measuring, the best estimate first: those within ``close`` (None:
    CLOSE) times the least.
    """
    most = min(estimates.values()) * (CLOSE if close is None else close)
    return sorted(
        (name for name, seconds in estimates.items() if seconds <= most),
        key=lambda name: estimates[name],
    )


def weight_bytes(graph: Graph) -> int:
    """Bytes of a graph's constants and states."""
    constants = [
        value for node in graph.nodes if node.op.name == "constant" for value in node.outputs
    ]
    return sum(
        prod(nominal(value)) * value.dtype.bytes
        for value in (*constants, *(state.input for state in graph.states))
    )


def layer_of(graph: Graph, node: Node, batch: int, is_cold: bool) -> Layer:
    """The node as a graph of its own, with free dims taken for ``batch``."""
    values = _numbers(
        (extent for value in (*node.inputs, *node.outputs) for extent in value.shape), batch
    )
    b = Builder(LAYER)
    names = [f"operand{position}" for position in range(len(node.inputs))]
    inputs = [
        b.input(TensorType(value.dtype, nominal(value, batch)), name)
        for name, value in zip(names, node.inputs, strict=True)
    ]
    added = b.add(node.op, inputs, map_extents(node.attrs, values), LAYER)
    constants = tuple(
        name
        for name, value in zip(names, node.inputs, strict=True)
        if graph.constant_of(value) is not None
    )
    return Layer(print_graph(b.build(added.outputs, ["y"])), constants, is_cold)


def _numbers(extents: Iterable[Extent], batch: int) -> dict[Symbol, Extent]:
    return {symbol: nominal_number(symbol, batch) for symbol in symbols_of(list(extents))}


def _measured(times: Times, names: Sequence[str]) -> dict[str, float]:
    """Those of the candidates that have a time, in order."""
    found = ((name, times.get(name)) for name in names)
    return {name: seconds for name, seconds in found if seconds is not None}


def _read(data: bytes | None) -> dict[str, float | None]:
    """Times out of the cache; none if what is there is no table of them."""
    try:
        table = json.loads(data or b"{}")
    except ValueError:
        return {}
    if not isinstance(table, dict) or not all(
        seconds is None or _is_time(seconds) for seconds in table.values()
    ):
        return {}
    return table


def _is_time(seconds: object) -> bool:
    return isinstance(seconds, float) and math.isfinite(seconds) and seconds > 0


__all__ = [
    "CLOSE",
    "LAYER",
    "Layer",
    "Timer",
    "Times",
    "Tuner",
    "close_candidates",
    "layer_of",
    "weight_bytes",
]
