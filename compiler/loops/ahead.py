"""What a tiled kernel prefetches: the operand that the rows of its tiles walk, one chunk of terms
ahead, and the rows that a gather copies next.

A chunk of a long sum reads a part of that operand that no chunk before it has read, in short runs
that the prefetchers of a CPU do not follow. So each tile asks for what the same tile reads in the
next chunk, or, in the last one, in the first chunk of the next work item; behind the last item, of
the first.

Hints change no result. What their indices load lies inside its buffer; they themselves may not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Checked, Expr, Index
from .elements import Axis
from .ir import (
    LANE,
    LANES,
    Buffer,
    Load,
    Prefetch,
    Statement,
    extents_in,
    slope_along,
    variable,
)
from .numbering import Lets, Level, bound, next_place
from .plan import LINE, Plan, operands

NEAR = 1 << 20  # bytes of an operand that a core's own caches may hold
LINES_AHEAD = 128  # of gathered rows


@dataclass(frozen=True)
class Ahead:
    """Where the next chunk is: ``lets`` bind its place around a chunk's tiles, ``moved`` are the
    positions of axes there."""

    lets: Lets
    moved: Mapping[Symbol, Extent]

    def around(self, body: Statement) -> Statement:
        """A chunk's tiles with the place of the next one."""
        return bound(self.lets, body)

    def prefetches(self, term: Expr, line: Axis) -> list[Statement]:
        """Hints for the operands of a term that are read a line at a time along an axis."""
        found: dict[tuple[Buffer, tuple[Extent, ...]], Statement] = {}
        for node in scalar.post_order([term]):
            if isinstance(node, Load) and _is_read_by_lines(node, line):
                moved = {**self.moved, line.symbol: 0}
                index = tuple(dim.substitute(part, moved) for part in node.extents)
                found[node.buffer, index] = Prefetch(Load(node.buffer, index))
        return list(found.values())


def next_chunk(plan: Plan, item: Symbol) -> Ahead | None:
    """The chunk after each; None where nothing is prefetched."""
    if plan.swept or len(plan.chains.outer) != 1 or not plan.chains.inner or not _is_far(plan):
        return None
    (chunk,) = plan.chains.outer
    tiles = {axis: plan.tiles(axis) for axis in plan.outer}
    if not all(isinstance(turns, int) for turns in (*tiles.values(), chunk.extent)):
        return None
    here = {axis: variable(axis.name, turns) for axis, turns in tiles.items()}
    nest = [Level(axis, turns, Dim.of(here[axis])) for axis, turns in tiles.items()]
    lets, turns = next_place([*nest, Level(chunk, chunk.extent, chunk.position)], item.name, "n")
    moved = {here.get(axis, axis.symbol): turns[axis.symbol] for axis in (*tiles, chunk)}
    return Ahead(lets, moved)


def _is_far(plan: Plan) -> bool:
    """Whether an operand that is the same in all lanes is larger than a core's own caches."""
    _, scalars = operands(plan.space)
    sizes = [(dim.product(load.buffer.shape), load.dtype.bytes) for load in scalars]
    return any(isinstance(size, int) and size * bytes_ > NEAR for size, bytes_ in sizes)


def _is_read_by_lines(load: Load, line: Axis) -> bool:
    """Whether an operand, the same in all lanes, has a cache line's elements along an axis."""
    if load.buffer.is_local or load.index_expressions or LANE in dim.symbols_of(load.extents):
        return False
    is_line = line.extent * load.dtype.bytes == LINE
    return is_line and slope_along(load.buffer.offset(load.extents), line.symbol) == 1


# -- rows of a gather ------------------------------------------------------------------------------


def gathered_rows(plan: Plan, value: Expr, positions: Mapping[Symbol, Extent]) -> list[Statement]:
    """Hints for the rows that a gather copies next, a vector for each that is copied: their
    numbers are known before they are needed, and no prefetcher follows them. ``positions``: the
    loops' variables by the symbols of their axes."""
    found: list[Statement] = []
    for node in scalar.post_order([value]) if plan.tile.has_lanes else []:
        if isinstance(node, Load) and _is_gathered_row(node):
            ahead = _steps_ahead(plan, node, positions)
            if ahead is not None:
                found.append(_row_hint(node, *ahead))
    return found


def _is_gathered_row(load: Load) -> bool:
    """Whether a load reads rows, far apart in a large array, whose numbers are loaded."""
    size = dim.product(load.buffer.shape)
    if not load.index_expressions or load.buffer.is_local or not isinstance(size, int):
        return False
    first = tuple(0 if isinstance(part, Expr) else part for part in load.index)
    is_row = slope_along(load.buffer.offset(first), LANE) == 1
    is_far = size * load.dtype.bytes > NEAR
    return is_row and is_far and LANE not in _symbols_of(load.index_expressions)


def _symbols_of(roots: Sequence[Expr]) -> frozenset[Symbol]:
    return dim.symbols_of([e for node in scalar.post_order(roots) for e in extents_in(node)])


def _steps_ahead(
    plan: Plan, load: Load, positions: Mapping[Symbol, Extent]
) -> tuple[Symbol, int] | None:
    """(the variable of the innermost loop over row numbers, how many of them make LINES_AHEAD);
    None if no loop of a work item runs over them."""
    lines: Extent = max(LANES * load.dtype.bytes // LINE, 1)
    used = _symbols_of(load.index_expressions)
    for axis in reversed(plan.inner):
        (symbol,) = dim.symbols_of([positions[axis.symbol]]) or (None,)
        if symbol in used:
            assert symbol is not None
            return symbol, max(LINES_AHEAD // lines, 1) if isinstance(lines, int) else 1
        lines = lines * axis.extent
    return None


def _row_hint(load: Load, symbol: Symbol, steps: int) -> Statement:
    """A hint for the element at a load's first lane, some rows later; the number of the last row
    that is copied stands for those behind it."""

    def moved(part: Extent, extent: Extent) -> Extent:
        later = dim.substitute(part, {symbol: Dim.of(symbol) + steps})
        if later == part:
            return part
        return dim.minimum(dim.maximum(later, 0), extent - 1)  # backwards, the first row is last

    def made(node: Expr, new: Sequence[Expr]) -> Expr | None:
        match node:
            case Load(buffer) if not node.index_expressions:
                places = zip(node.extents, buffer.shape, strict=True)
                return Load(buffer, tuple(moved(part, extent) for part, extent in places))
            case Checked(_, extent):
                return scalar.call("min", scalar.call("max", new[0], 0), Index(extent - 1))
        return None

    index = tuple(
        scalar.transform(part, made) if isinstance(part, Expr) else dim.substitute(part, {LANE: 0})
        for part in load.index
    )
    return Prefetch(Load(load.buffer, index))


def symbols_in(statements: Sequence[Statement]) -> frozenset[Symbol]:
    """The symbols of hints."""
    return dim.symbols_of(
        [e for s in statements if isinstance(s, Prefetch) for e in s.element.extents]
    )


__all__ = ["Ahead", "gathered_rows", "next_chunk", "symbols_in"]
