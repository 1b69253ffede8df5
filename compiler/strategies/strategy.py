"""The record of a strategy: where it applies, what it costs, how it expands, and the error it may
add.

A strategy is for some ops: a convolution and its two gradients, of which ``geometry`` tells which
of a node's values is x, w and y of the convolution, or attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from statistics import geometric_mean, mean
from typing import TYPE_CHECKING, TypeAlias

from ..dim import Dim, Extent, Symbol, bounds, evaluate, symbols_of
from ..graph import Graph, Node, Value

if TYPE_CHECKING:
    from ..graph import Builder

ACCURACIES = ("strict", "default", "fast")  # each level may choose what the ones before it may
CONVOLUTIONS = ("conv", "conv_input_gradient", "conv_weight_gradient")
IMAGE = 224  # what a free height or width is taken for: that of most images that networks classify
IMAGES = (IMAGE // 4, IMAGE)  # at which costs are estimated where height or width is free
CHOSEN = (*CONVOLUTIONS, "attention")  # the ops that strategies are chosen for


@dataclass(frozen=True)
class Rates:
    """Multiply-adds and bytes a second of a machine, as costs take them; ``vetoes``: strategy ->
    why it is not for it.

    A workspace of up to ``cache`` bytes is written and read again at ``near`` bytes a second, a
    larger one at ``far`` (None: a write and a read at ``bytes`` each). ``has_bands``: a workspace
    that can be made and used a band at a time is (loops/bands.py), so that it stays in a cache.
    """

    products: float
    bytes: float
    vetoes: Mapping[str, str] = field(default_factory=dict)
    ops: Sequence[str] = CHOSEN  # that strategies are chosen for
    own: Sequence[Strategy] = ()  # strategies of this machine alone, besides STRATEGIES
    cache: float = 0.0
    near: float = math.inf
    far: float | None = None
    has_bands: bool = False
    pricing: Pricing | None = None  # how strategies are priced (None: by their costs)

    def has_bands_of(self, rows: float) -> bool:
        """Whether a workspace can be made and used in bands of so many rows: all bands read the
        float32 weights, which must come from the last-level cache as fast as rows multiply them."""
        return self.has_bands and 4 * self.products <= self.near * rows

    def prices(
        self, graph: Graph, node: Node, batch: int, strategies: Sequence[Strategy]
    ) -> Mapping[str, Price]:
        """By name, what each strategy is expected to take for a node."""
        if self.pricing is not None:
            return self.pricing(graph, node, batch, strategies)
        nodes = at_sizes(graph, node)
        prices = {}
        for s in strategies:
            seconds = [s.cost(graph, found, batch).seconds(self) for found in nodes]
            # nothing to compute costs nothing, which has no logarithm
            prices[s.name] = Price(geometric_mean(seconds) if all(seconds) else mean(seconds))
        return prices


@dataclass(frozen=True)
class Price:
    """Seconds that a strategy is expected to take, and for people what they are made of; infinitely
    many, and why, if the machine cannot."""

    seconds: float
    note: str = ""


Pricing: TypeAlias = "Callable[[Graph, Node, int, Sequence[Strategy]], Mapping[str, Price]]"


@dataclass(frozen=True)
class Cost:
    """Multiply-adds in register tiles, bytes moved between kernels, and the workspace in bytes, at
    nominal dims. The bytes include one write and one read of the workspace, which may be made and
    used in bands: ``band`` of whose rows share the weights each time that these are read (0: it may
    not)."""

    products: float
    bytes: float
    workspace: float
    band: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """Time on one core."""
        far = rates.bytes / 2 if rates.far is None else rates.far
        stays = self.workspace <= rates.cache or rates.has_bands_of(self.band)
        passed = self.workspace / (rates.near if stays else far)
        return (
            self.products / rates.products
            + (self.bytes - 2 * self.workspace) / rates.bytes
            + passed
        )


@dataclass(frozen=True)
class Strategy:
    """``rejects`` gives the reason why a node cannot be computed so, or None; ``expand`` builds it
    from smaller ops.

    ``level`` gives the relative L2 error (float32 against float64) that it keeps for a node, and
    the strictest accuracy at which it may be chosen.
    """

    name: str
    doc: str
    rejects: Callable[[Graph, Node], str | None]
    cost: Callable[[Graph, Node, int], Cost]  # the last: what free dims are taken for
    expand: Callable[[Builder, Graph, Node, Sequence[Value]], Value]
    level: Callable[[Node], tuple[float, str]] = lambda _node: (2e-6, "strict")
    ops: tuple[str, ...] = CONVOLUTIONS  # that it computes


@dataclass(frozen=True)
class Geometry:
    """The values of a convolution y = x * w; in a gradient's node one stands for its own
    gradient.
    """

    x: Value
    w: Value
    y: Value


def geometry(node: Node) -> Geometry:
    """Which values of a convolution's node, or of a gradient's, are x, w and y."""
    match node.op.name:
        case "conv":
            return Geometry(node.inputs[0], node.inputs[1], node.output)
        case "conv_input_gradient":
            return Geometry(node.output, node.inputs[1], node.inputs[0])
        case "conv_weight_gradient":
            return Geometry(node.inputs[0], node.output, node.inputs[1])
    raise ValueError(f"{node.op.name} is no convolution")


def direct_products(node: Node, free: int = 1) -> float:
    """Multiply-adds of a convolution as written; its gradients have as many."""
    of = geometry(node)
    return float(prod(nominal(of.y, free)) * prod(nominal(of.w)[1:]))


def nominal(value: Value, free: int = 1) -> tuple[int, ...]:
    """The shape of an image, or of weights, in numbers: IMAGE for free dims behind the channels,
    ``free`` for others, where their range allows it."""
    return (*numbers(value.shape[:2], free), *numbers(value.shape[2:], max(free, IMAGE)))


def numbers(shape: Sequence[Extent], free: int) -> tuple[int, ...]:
    """A shape in numbers, with ``free`` for free dims where their range allows it."""
    return tuple(
        extent
        if isinstance(extent, int)
        else evaluate(extent, {s.name: nominal_number(s, free) for s in extent.symbols()})
        for extent in shape
    )


def image_dims(node: Node) -> dict[Symbol, int]:
    """The free dims of a convolution's image behind its channels, and what they are taken for."""
    of = geometry(node)
    symbols = symbols_of((*of.x.shape[2:], *of.y.shape[2:]))
    return {symbol: nominal_number(symbol, IMAGE) for symbol in symbols}


def at_sizes(graph: Graph, node: Node) -> list[Node]:
    """A convolution with its image at each size that costs are estimated for; they are in no graph,
    and their free dims stay free dims. What is best for large images alone can take several times
    as long for others."""
    if node.op.name not in CONVOLUTIONS or not (symbols := image_dims(node)):
        return [node]
    return [_narrowed(node, image_numbers(graph, symbols, size)) for size in IMAGES]


def image_numbers(graph: Graph, symbols: Iterable[Symbol], size: int) -> dict[Symbol, int]:
    """Numbers of free dims with which the inputs that they are extents of are ``size`` long, if
    their ranges allow it: of a height 4 H, H is a quarter of it."""
    factors: dict[Symbol, int] = {}
    for extent in (extent for value in graph.inputs for extent in value.shape):
        for atoms, factor in () if isinstance(extent, int) else extent.terms:
            if len(atoms) == 1 and isinstance(atoms[0], Symbol):
                factors[atoms[0]] = max(factors.get(atoms[0], 1), factor)
    return {
        symbol: nominal_number(symbol, max(size // factors.get(symbol, 1), 1)) for symbol in symbols
    }


def _narrowed(node: Node, numbers: Mapping[Symbol, int]) -> Node:
    """The node with free dims that can be these numbers only."""
    narrow: dict[Symbol, Extent] = {
        symbol: Dim.of(Symbol(symbol.name, number, number)) for symbol, number in numbers.items()
    }

    def changed(value: Value) -> Value:
        if symbols_of(value.shape).isdisjoint(narrow):
            return value
        return Value(value.type.substitute(narrow), value.label, value.layout)

    inputs, outputs = (tuple(map(changed, values)) for values in (node.inputs, node.outputs))
    return Node(node.op, inputs, node.attrs, outputs, node.label)


def nominal_number(symbol: Symbol, free: int = 1) -> int:
    """What a free dim is taken for: ``free`` where its range allows it."""
    high = bounds(symbol.hi)[1] if symbol.hi is not None else None
    return max(symbol.lo, min(free, free if high is None else high), 1)
