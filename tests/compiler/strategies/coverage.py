"""What of the loops that compiler/loops builds a kernel executes: a kernel and its dims -> the
names of its variants.

A statement counts only if a work item comes to it: ``executed`` follows the loops with numbers for
their variables. Which variant it is part of is read off the loop IR: the shape of a tile's
accumulators, the names of its loops, its conditions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from netloom.compiler import dim, scalar
from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.loops.ir import (
    LANE,
    LANES,
    Allocate,
    Block,
    For,
    If,
    Kernel,
    Kind,
    LaneFold,
    Let,
    Load,
    Prefetch,
    Statement,
    Store,
    walk,
)
from netloom.compiler.scalar import Expr, Guarded

ENDS = 3  # of a loop's positions that are tried: so many first and so many last ones
ALGORITHMS = ("winograd", "fft")  # whose ops are those of ops/tiles.py
STAGES = ("input", "output", "output_gradient", "filter", "filter_gradient")
MOST_ITEMS = 512  # that are tried; more are tried in even steps


def executed(kernel: Kernel, dims: Mapping[str, int]) -> frozenset[int]:
    """The ids of the statements that some work item comes to."""
    search = _Search()
    items = dim.evaluate(kernel.items, dims)
    for item in range(0, items, max(1, items // MOST_ITEMS)):
        search.visit(kernel.body, {**dims, kernel.variable.name: item})
    if items:
        search.visit(kernel.body, {**dims, kernel.variable.name: items - 1})
    return frozenset(search.reached)


class _Search:
    """Follows a body once for each way its loops are set, and leaves out what was wholly reached
    before.
    """

    def __init__(self) -> None:
        self.reached: set[int] = set()
        self.whole: set[int] = set()

    def visit(self, statement: Statement, values: Mapping[str, int]) -> None:
        if id(statement) in self.whole:
            return
        match statement:
            case Store() | Prefetch():
                self._done(statement)
            case Block(statements):
                self._enter(statement, statements, values)
            case Allocate(body=body):
                self._enter(statement, (body,), values)
            case Let(symbol, extent, body):
                self._enter(
                    statement, (body,), {**values, symbol.name: dim.evaluate(extent, values)}
                )
            case If(conditions, body):
                if all(_holds(condition, values) for condition in conditions):
                    self._enter(statement, (body,), values)
            case For(symbol, extent, kind, body):
                for position in _positions(dim.evaluate(extent, values), kind):
                    self._enter(statement, (body,), {**values, symbol.name: position})

    def _enter(
        self, statement: Statement, inner: tuple[Statement, ...], values: Mapping[str, int]
    ) -> None:
        self.reached.add(id(statement))
        for part in inner:
            self.visit(part, values)
        if all(id(part) in self.whole for part in inner):
            self.whole.add(id(statement))

    def _done(self, statement: Statement) -> None:
        self.reached.add(id(statement))
        self.whole.add(id(statement))


def _positions(extent: int, kind: Kind) -> Iterator[int]:
    """Numbers for a loop's variable: all of a few, else both ends and the middle; the first lane
    stands for all.
    """
    if kind is Kind.VECTOR:
        return iter(range(min(extent, 1)))
    if extent <= 2 * ENDS + 1:
        return iter(range(extent))
    return iter((*range(ENDS), extent // 2, *range(extent - ENDS, extent)))


def _holds(condition: Extent, values: Mapping[str, int]) -> bool:
    return dim.evaluate(condition, values) >= 0


def variants(name: str, kernel: Kernel, dims: Mapping[str, int]) -> frozenset[str]:
    """The names of the variants that a kernel of a program executes; ``name`` ends in the op
    that decides its loops.
    """
    reached = executed(kernel, dims)
    statements = [statement for statement in walk(kernel.body) if id(statement) in reached]
    tiles = [
        s for s in statements if isinstance(s, Allocate) and re.fullmatch(r"t\d+", s.buffer.name)
    ]
    found = {"one work item" if dim.evaluate(kernel.items, dims) == 1 else "many work items"}
    names = {s.variable.name for s in statements if isinstance(s, For | Let)}
    algorithm, stage = next(
        ((a, name.partition(f"_{a}_")[2]) for a in ALGORITHMS if f"_{a}_" in name), ("", "")
    )
    if stage in STAGES:
        found |= _transformed(f"{algorithm} {stage}", statements)
    elif tiles:
        found |= _tiles(tiles, reached) | _axes(statements, names)
    else:
        found |= _pointwise(statements, names)
    return frozenset(found)


# -- register tiles --------------------------------------------------------------------------------


def _tiles(tiles: list[Allocate], reached: frozenset[int]) -> set[str]:
    """Lanes, shapes and tails of the tiles of one kernel."""
    found: set[str] = set()
    shapes = []
    for tile in tiles:
        stores = [s for s in walk(tile.body) if isinstance(s, Store) and id(s) in reached]
        unrolled = [s for s in walk(tile.body) if isinstance(s, For) and s.kind is Kind.UNROLLED]
        sizes = {s.variable: s.extent for s in unrolled if isinstance(s.extent, int)}
        rows, columns = _rows_and_columns(stores, sizes)
        shapes.append((rows, columns))
        found |= _lanes(tile, stores) | _sums(tile)
    most = (max(rows for rows, _ in shapes), max(columns for _, columns in shapes))
    found.add({(False, False): "one accumulator", (True, False): "rows", (False, True): "columns",
               (True, True): "rows and columns"}[most[0] > 1, most[1] > 1])  # fmt: skip
    found |= {"row tail"} if any(rows < most[0] for rows, _ in shapes) else set()
    found |= {"column tail"} if any(columns < most[1] for _, columns in shapes) else set()
    found |= (
        {"row and column tail"}
        if any(rows < most[0] and columns < most[1] for rows, columns in shapes)
        else set()
    )
    return found


def _rows_and_columns(stores: list[Store], sizes: Mapping[Symbol, int]) -> tuple[int, int]:
    """How many rows (the vectors do not depend on them) and columns a tile has."""
    vectors = [
        load
        for s in stores
        for load in _loads(s.value)
        if not load.buffer.is_local and LANE in _symbols(load)
    ]
    rows, columns = 1, 1
    for symbol, size in sizes.items():
        if vectors and symbol not in _symbols(vectors[0]):
            rows *= size
        else:
            columns *= size
    return rows, columns


def _lanes(tile: Allocate, stores: list[Store]) -> set[str]:
    """Which axis gives lanes, and whether its last vector is full."""
    if tile.buffer.shape[-1] != LANES:
        return {"no lanes"}
    folds = [e for s in stores for e in scalar.post_order([s.value]) if isinstance(e, LaneFold)]
    guards = [
        c
        for s in stores
        for e in scalar.post_order([s.value])
        if isinstance(e, Guarded)
        for c in e.conditions
    ]
    has_tail = any(_is_tail(c) for c in guards)
    if folds:
        return {"lanes of a sum", *(["tail of a sum's lanes"] if has_tail else [])}
    conditions = [c for s in walk(tile.body) if isinstance(s, If) for c in s.conditions]
    found = {"lanes of an output axis"}
    found |= {"tail of the output's lanes"} if any(_is_tail(c) for c in conditions) else set()
    padding = [e for s in stores if not s.buffer.is_local and isinstance(e := s.value, Guarded)]
    return found | (
        {"padding lanes stored"}
        if any(_is_tail(c) for e in padding for c in e.conditions)
        else set()
    )


def _is_tail(condition: Extent) -> bool:
    """Whether a condition leaves out the last lanes of an axis: it falls by one a lane."""
    return isinstance(condition, Dim) and dict(condition.terms).get((LANE,)) == -1


def _sums(tile: Allocate) -> set[str]:
    """How a sum is cut into chains: not, along whole axes, or within an axis (in equal parts or
    not).
    """
    inside = list(walk(tile.body))
    if not any(isinstance(s, Allocate) for s in inside):  # of a partial sum
        return {"one chain"}
    loops = {s.variable.name: s for s in inside if isinstance(s, For)}
    parts = [s for name, s in loops.items() if name.endswith("i") and f"{name[:-1]}o" in loops]
    if not parts:
        return {"partial sums of whole axes"}
    return {
        "partial sums of unequal parts"
        if any(isinstance(s.extent, Dim) for s in parts)
        else "partial sums of equal parts"
    }


def _axes(statements: list[Statement], names: set[str]) -> set[str]:
    """What became of a kernel's axes: taken apart, joined, chunked; and how its tails and
    borders are reached.
    """
    found = set()
    for pattern, what in (
        (r"r\d+b", "channel blocks summed"), (r"p\d+\w*g", "filters by group"),
        (r"p\d+p\d+\w*", "axes joined"),
        (r"p\w+c", "axis in chunks"), (r"p\w+t", "tail one at a time"),
        (r"p\w+f", "tail a few at a time"),
    ):  # fmt: skip
        found |= {what} if any(re.fullmatch(pattern, name) for name in names) else set()
    found |= (
        {"tail in work items"}
        if any(isinstance(s, If) and _holds_tiles(s) for s in statements)
        else set()
    )
    found |= (
        {"tail in loops"}
        if any(isinstance(s, Block) and _loops_twice(s) for s in statements)
        else set()
    )
    chunks = [
        s for s in statements if isinstance(s, For) and re.fullmatch(r"p\w+k", s.variable.name)
    ]
    found |= {"last chunk smaller"} if any(isinstance(s.extent, Dim) for s in chunks) else set()
    return found | _borders(statements)


def _holds_tiles(statement: If) -> bool:
    return any(isinstance(s, Allocate) for s in walk(statement.body))


def _loops_twice(statement: Block) -> bool:
    """Whether loops over whole tiles are followed by the tile at the end."""
    return any(
        isinstance(first, For)
        and any(isinstance(s, Allocate) for s in walk(first))
        and any(isinstance(s, Allocate) for s in walk(second))
        for first, second in pairwise(statement.statements)
    )


def _borders(statements: list[Statement]) -> set[str]:
    """Borders that the tile's own loops test: before the first element of an axis, behind the
    last."""
    guards = [
        e
        for s in statements
        if isinstance(s, Store)
        for e in scalar.post_order([s.value])
        if isinstance(e, Guarded)
    ]
    conditions = [
        c for guard in guards for c in guard.conditions if isinstance(c, Dim) and not _is_tail(c)
    ]
    found = set()
    for condition in conditions:
        factors = [factor for atoms, factor in condition.terms if atoms]
        if max(factors) > 0 and dict(condition.terms).get((), 0) <= 0:
            found.add("before the first element")
        else:
            found.add("behind the last element")
    return found


# -- kernels without tiles -------------------------------------------------------------------------


def _pointwise(statements: list[Statement], names: set[str]) -> set[str]:
    """Kernels without a sum: those that copy by index; padding that they write."""
    found = set() if "v" in names else {"copied by index"}
    return found | ({"borders of a padded copy"} if _borders(statements) else set())


# -- transforms of tiles ---------------------------------------------------------------------------


def _transformed(stage: str, statements: list[Statement]) -> set[str]:
    """Whole tiles and those at the border (or numbers that are tested one by one); which rows a
    Fourier transform has; channels that do not fill a vector; how vectors are dealt out."""
    conditions = [c for s in statements if isinstance(s, If) for c in s.conditions]
    guards = [
        e
        for s in statements
        if isinstance(s, Store)
        for e in scalar.post_order([s.value])
        if isinstance(e, Guarded)
    ]
    found = set(map(_room, conditions)) - {""}
    places = [
        c for guard in guards for c in guard.conditions if isinstance(c, Dim) and not _is_tail(c)
    ]
    found |= {"tested numbers"} if places else set()
    found |= (
        {"channel tail"}
        if any(map(_is_tail, [*conditions, *(c for guard in guards for c in guard.conditions)]))
        else set()
    )
    for s in statements:
        match s:
            case For(Symbol("cb"), extent) if extent != 1:
                found.add("many blocks an item")
            case Let(Symbol("cg"), position) if position != 0:
                found.add("many groups of blocks")
            case For(Symbol("r"), Dim()):
                found.add("last rows fewer")
            case For(Symbol("k")):
                found.add("rows of complex numbers")
            case For(Symbol("h"), 1):
                found.add("one row of real numbers")
            case Let(Symbol("v"), Dim()):
                found.add("many vectors")
    return {f"{stage}: {variant}" for variant in found}


def _room(condition: Extent) -> str:
    """Whole tiles run where the least room is >= 0, border tiles where it is < 0."""
    terms = condition.terms if isinstance(condition, Dim) else ()
    signs = [
        factor for atoms, factor in terms if any(isinstance(atom, dim.Minimum) for atom in atoms)
    ]
    return "" if not signs else "whole tile" if signs[0] > 0 else "border tile"


def _loads(root: Expr) -> Iterator[Load]:
    return (node for node in scalar.post_order([root]) if isinstance(node, Load))


def _symbols(load: Load) -> frozenset[Symbol]:
    return dim.symbols_of(list(load.extents))
