"""What a tiled kernel prefetches: the operand that the rows of its tiles walk, one chunk of terms
ahead.

A chunk of a long sum reads a part of that operand that no chunk before it has read, in short runs
that the prefetchers of a CPU do not follow. So each tile asks for what the same tile reads in the
next chunk, or, in the last one, in the first chunk of the next work item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Expr
from .elements import Axis
from .ir import LANE, Let, Load, Prefetch, Statement, slope_along, variable
from .plan import LINE, Plan, operands

NEAR = 1 << 20  # bytes of an operand that a core's own caches may hold


@dataclass(frozen=True)
class Ahead:
    """Where the next chunk is: ``lets`` bind its place around a chunk's tiles, ``moved`` are the
    positions of axes there."""

    lets: tuple[tuple[Symbol, Extent], ...]
    moved: Mapping[Symbol, Extent]

    def around(self, body: Statement) -> Statement:
        """A chunk's tiles with the place of the next one."""
        for symbol, extent in reversed(self.lets):
            body = Let(symbol, extent, body)
        return body

    def prefetches(self, term: Expr, line: Axis) -> list[Statement]:
        """Hints for the operands of a term that are read a line at a time along an axis."""
        found: dict[tuple[Extent | Expr, ...], Statement] = {}
        for node in scalar.post_order([term]):
            if isinstance(node, Load) and _is_read_by_lines(node, line):
                moved = {**self.moved, line.symbol: 0}
                index = tuple(dim.substitute(part, moved) for part in node.extents)
                found[index] = Prefetch(Load(node.buffer, index))
        return list(found.values())


def next_chunk(plan: Plan, item: Symbol) -> Ahead | None:
    """The chunk after each; None where nothing is prefetched."""
    extents = [plan.tiles(axis) for axis in plan.outer]
    if plan.swept or len(plan.chains.outer) != 1 or not plan.chains.inner:
        return None
    (chunk,) = plan.chains.outer
    known = [extent for extent in (*extents, chunk.extent) if isinstance(extent, int)]
    if len(known) <= len(extents) or not _is_far(plan):
        return None
    chunks, items = known.pop(), prod(known)
    following = Dim.of(chunk.symbol) + 1
    rest: Extent = dim.minimum(Dim.of(item) + following // chunks, items - 1)
    moved: dict[Symbol, Extent] = {}
    lets = [(variable(f"{item.name}n", items), rest)]
    rest = Dim.of(lets[0][0])
    places: list[tuple[Symbol, Extent]] = []
    for axis, extent in reversed(list(zip(plan.outer, known, strict=True))):
        symbol = variable(f"{axis.name}n", extent)
        places.append((symbol, rest % extent))
        rest = rest // extent
        moved[variable(axis.name, extent)] = Dim.of(symbol)
    symbol = variable(f"{chunk.name}n", chunks)
    moved[chunk.symbol] = Dim.of(symbol)
    return Ahead((*lets, *places, (symbol, following % chunks)), moved)


def _is_far(plan: Plan) -> bool:
    """Whether an operand that is the same in all lanes is larger than a core's own caches."""
    import os
    if os.environ.get("NOAHEAD"): return False
    _, scalars = operands(plan.space)
    sizes = [(dim.product(load.buffer.shape), load.dtype.bytes) for load in scalars]
    return any(isinstance(size, int) and size * bytes_ > NEAR for size, bytes_ in sizes)


def _is_read_by_lines(load: Load, line: Axis) -> bool:
    """Whether an operand, the same in all lanes, has a cache line's elements along an axis."""
    if load.buffer.is_local or load.index_expressions or LANE in dim.symbols_of(load.extents):
        return False
    is_line = line.extent * load.dtype.bytes == LINE
    return is_line and slope_along(load.buffer.offset(load.extents), line.symbol) == 1


def symbols_in(statements: Sequence[Statement]) -> frozenset[Symbol]:
    """The symbols of hints."""
    return dim.symbols_of([e for s in statements if isinstance(s, Prefetch) for e in s.element.extents])


__all__ = ["Ahead", "next_chunk", "symbols_in"]
