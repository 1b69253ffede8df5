"""The record of a strategy: where it applies, what it costs, how it expands, and the error it may add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..dim import evaluate
from ..graph import Graph, Node, Value

if TYPE_CHECKING:
    from ..graph import Builder

ACCURACIES = ("strict", "default", "fast")  # each level may choose what the ones before it may


@dataclass(frozen=True)
class Cost:
    """Multiply-adds in register tiles, bytes moved between kernels, and the workspace in bytes, at nominal dims."""

    products: float
    bytes: float
    workspace: float

    def seconds(self, rate: float, bandwidth: float) -> float:
        """Time on one core with ``rate`` multiply-adds and ``bandwidth`` bytes a second."""
        return self.products / rate + self.bytes / bandwidth


@dataclass(frozen=True)
class Strategy:
    """``rejects`` gives the reason why a node cannot be computed so, or None; ``expand`` builds it from smaller ops.

    ``budget`` is the relative L2 error (float32 against float64) that it keeps; ``accuracy`` the least strict level
    that is needed to choose it.
    """

    name: str
    doc: str
    rejects: Callable[[Graph, Node], str | None]
    cost: Callable[[Node], Cost]
    expand: Callable[[Builder, Graph, Node, Sequence[Value]], Value]
    budget: float = 2e-6
    accuracy: str = "strict"


def nominal(value: Value) -> tuple[int, ...]:
    """A shape in numbers, free dims at their least value but 1 at least."""
    return tuple(
        extent if isinstance(extent, int) else evaluate(extent, {s.name: max(s.lo, 1) for s in extent.symbols()})
        for extent in value.shape
    )
