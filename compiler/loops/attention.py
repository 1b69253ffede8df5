"""Loops of attention_online: blocks of 64 keys against tiles of a few rows of queries, scores in
registers, no score in memory.

A work item has several tiles of one head, so that a block of keys and values is read from the L1
cache for all of them. A tile's scores are rows x vectors of keys, summed over the head's depth;
then come each row's largest score, the weights exp(score - largest), their sum by lanes, and the
product of the weights with the rows of values. What a row keeps between blocks: its largest score,
its sum (16 partial ones), its output, not divided yet.

Guarantees: the order of every sum depends on shapes only; a chain of additions is at most CHAIN
terms of a score, 64 of a block's output, and the blocks. Where the last tile is not full it
computes its last row again and stores nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Value
from ..scalar import Expr
from ..tensor_type import BOOL
from .elements import Axis, Elements
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kind,
    LaneFold,
    Load,
    Statement,
    Store,
    block,
    guard,
    loop,
    variable,
)
from .numbering import over_items
from .plan import CHAIN, Machine
from .tile_counts import tile_counts

DEEPEST = CHAIN  # a head's depth: one chain of additions
VECTORS = 4  # of keys in a block
KEYS = VECTORS * LANES  # in a block
MOST_TILES = 8  # of rows in a work item
STATE = 16 << 10  # bytes of outputs that a work item keeps
ENOUGH_ITEMS = 16  # with which all threads have work

_AT_LANE = Dim.of(LANE)


def attention_loops(k: Elements, machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one) of a kernel around attention_online."""
    return _Attention(k, machine).loops(item)


class _Attention:
    def __init__(self, k: Elements, machine: Machine) -> None:
        node = k.anchored
        self.k, self.attrs, self.dtype = k, node.attrs, node.output.dtype
        self.q, self.panels, self.v, *self.mask = node.inputs
        *self.heads, self.queries, width = node.output.shape
        self.keys: Extent = self.v.shape[-2]
        depth = self.q.shape[-1]
        assert isinstance(width, int) and isinstance(depth, int)
        self.width, self.depth, self.vectors = width, depth, -(-width // LANES)
        room = machine.vectors_of(self.dtype)
        rows, columns = Axis.of("r", self.queries), Axis.of("c", VECTORS)
        self.rows, self.columns, _ = tile_counts(rows, columns, room)
        self.rows = min(self.rows, LANES)  # what is known of rows lies in one vector
        self.tiles = self._tiles_of_an_item()
        shape = (self.tiles, self.rows)
        self.largest = self._buffer("m", self.tiles)
        self.sums = self._buffer("s", *shape)
        self.made = self._buffer("o", *shape, self.vectors)
        self.at_heads: tuple[Extent, ...] = ()
        self.first: Extent = 0  # row of the item

    def _tiles_of_an_item(self) -> int:
        held = self.rows * self.vectors * LANES * self.dtype.bytes
        tiles = max(min(MOST_TILES, STATE // held), 1)
        heads = dim.product([e for e in self.heads if isinstance(e, int)])
        assert isinstance(heads, int)
        if isinstance(self.queries, int):
            tiles = min(tiles, -(-self.queries // self.rows))
            while tiles > 1 and heads * -(-self.queries // (self.rows * tiles)) < ENOUGH_ITEMS:
                tiles -= 1
        return tiles

    def _buffer(self, letter: str, *extents: int) -> Buffer:
        """Vectors of the work item's own."""
        return Buffer(self.k.local_name(letter), self.dtype, (*extents, LANES), is_local=True)

    # -- work items --------------------------------------------------------------------------------

    def loops(self, item: Symbol) -> tuple[Extent, Statement]:
        """Items: heads, blocks of rows."""
        in_item = self.rows * self.tiles
        axes = [Axis.of(f"p{place}", extent) for place, extent in enumerate(self.heads)]
        rows = Axis.of("rb", dim.ceil_div(self.queries, in_item))
        self.at_heads, self.first = tuple(axis.position for axis in axes), rows.position * in_item
        axes.append(rows)
        return over_items(axes, item, self._item())

    def _item(self) -> Statement:
        tile = variable("t", self.tiles)
        clear = loop(tile, self.tiles, self._cleared(Dim.of(tile)))
        body = block(clear, *self._blocks(), self._over_tiles(self._finished))
        for buffer in (self.made, self.sums, self.largest):
            body = Allocate(buffer, body)
        return body

    def _over_tiles(self, body: Callable[[Dim], Statement]) -> Statement:
        """Something for every tile of the item that has rows."""
        tiles = dim.minimum(self.tiles, dim.ceil_div(self.queries - self.first, self.rows))
        tile = variable("t", tiles)
        return loop(tile, tiles, body(Dim.of(tile)))

    def _cleared(self, tile: Dim) -> Statement:
        zero, row, vector = self._number(0), variable("r", self.rows), variable("c", self.vectors)
        at = Dim.of(row)
        outputs = _unrolled(
            vector, _lanes(Store(self.made, (tile, at, Dim.of(vector), _AT_LANE), zero))
        )
        sums = _lanes(Store(self.sums, (tile, at, _AT_LANE), zero))
        return block(
            _lanes(Store(self.largest, (tile, _AT_LANE), self._number(-inf))),
            _unrolled(row, block(sums, outputs)),
        )

    def _number(self, value: float) -> Expr:
        return scalar.literal(value, self.dtype)

    # -- blocks of keys ----------------------------------------------------------------------------

    def _blocks(self) -> list[Statement]:
        """Whole blocks of keys, then what is left: one smaller block, or one vector at a time
        where its extent is free.
        """
        last = self.first + self.rows * self.tiles - 1  # row of the item
        full, rest = self.keys // KEYS, self.keys % KEYS
        seen = dim.minimum(full, last // KEYS + 1) if self.attrs.is_causal else full
        number = variable("kb", seen)
        found: list[Statement] = []
        if full != 0:
            first = Dim.of(number) * VECTORS
            found.append(
                loop(number, seen, self._over_tiles(lambda tile: self._tile(tile, first, VECTORS)))
            )
        if isinstance(rest, int):
            if rest:
                tail = self._over_tiles(
                    lambda tile: self._tile(tile, full * VECTORS, -(-rest // LANES))
                )
                found.append(guard((last - full * KEYS,), tail) if self.attrs.is_causal else tail)
            return found
        vector = variable("kv", dim.ceil_div(rest, LANES))
        place = full * VECTORS + Dim.of(vector)
        found.append(
            loop(
                vector,
                dim.ceil_div(rest, LANES),
                self._over_tiles(lambda tile: self._tile(tile, place, 1)),
            )
        )
        return found

    def _tile(self, tile: Dim, panel: Extent, vectors: int) -> Statement:
        """A tile of rows meets so many vectors of keys, from a panel on."""
        scores = Buffer(
            self.k.local_name("p"), self.dtype, (self.rows, vectors * LANES), is_local=True
        )
        factor, base = self._buffer("f"), self._buffer("b")
        keys = dim.minimum(vectors * LANES, self.keys - panel * LANES)
        statements = (
            *(self._scores(tile, panel, *part, scores) for part in self._groups(vectors)),
            self._raised(tile, vectors, scores, base, factor),
            self._weights(tile, vectors, scores, base, factor),
            *(
                self._outputs(tile, panel, keys, *part, scores, factor)
                for part in self._groups(self.vectors)
            ),
        )
        return Allocate(scores, Allocate(factor, Allocate(base, block(*statements))))

    def _groups(self, vectors: int) -> list[tuple[int, int]]:
        """(first vector, how many) of each register tile."""
        return [
            (first, min(self.columns, vectors - first)) for first in range(0, vectors, self.columns)
        ]

    def _scores(
        self, tile: Dim, panel: Extent, first: int, count: int, scores: Buffer
    ) -> Statement:
        """scores[r, j] = scale * (q . k) and the mask, for so many vectors of keys."""
        row, column, depth = (
            variable("r", self.rows),
            variable("c", count),
            variable("d", self.depth),
        )
        place, here = self._row(tile, row), first + Dim.of(column)
        query = self._read(self.q, self._inside(place), Dim.of(depth))
        key = self._read(self.panels, panel + here, Dim.of(depth), _AT_LANE)

        def stored(sum_: Expr) -> Statement:
            score = sum_ if self.attrs.scale == 1 else sum_ * self._number(self.attrs.scale)
            masked = self._masked(score, place, (panel + here) * LANES + _AT_LANE)
            return Store(scores, (Dim.of(row), here * LANES + _AT_LANE), masked)

        return self._product(row, column, Axis(depth, self.depth), (query, key), stored)

    def _product(
        self,
        row: Symbol,
        column: Symbol,
        terms: Axis,
        term: tuple[Expr, Expr],
        stored: Callable[[Expr], Statement],
    ) -> Statement:
        """Sums of products of rows x columns vectors in registers, then what is made of them."""
        sums = self._buffer("a", _extent(row), _extent(column))
        at = (Dim.of(row), Dim.of(column), _AT_LANE)

        def each(body: Statement) -> Statement:
            return _unrolled(row, _unrolled(column, _lanes(body)))

        added = each(Store(sums, at, scalar.call("fma", *term, Load(sums, at))))
        clear = each(Store(sums, at, self._number(0)))
        return Allocate(
            sums,
            block(clear, loop(terms.symbol, terms.extent, added), each(stored(Load(sums, at)))),
        )

    def _masked(self, score: Expr, row: Extent, key: Extent) -> Expr:
        """The score behind the mask, -inf where the row does not see the key or there is none."""
        for mask in self.mask:
            inside = self._inside(row)
            given = self._read(
                mask, *(0 if e == 1 else i for e, i in _aligned(mask.shape[-2:], (inside, key)))
            )
            if mask.dtype is BOOL:
                score = scalar.select(given, score, self._number(self.attrs.fill))
            else:
                score = score + given
        conditions = (self.keys - 1 - key, *((row - key,) if self.attrs.is_causal else ()))
        left = dim.unproved(map(dim.reduced_condition, conditions))
        return scalar.Guarded(left, score, self._number(-inf)) if left else score

    def _raised(
        self, tile: Dim, vectors: int, scores: Buffer, base: Buffer, factor: Buffer
    ) -> Statement:
        """The largest scores so far, one row a lane; ``factor`` scales what was made below smaller
        ones. Where all are -inf, ``base`` is 0, so that weights are 0 and not NaN as long as
        other keys may come."""
        row = variable("r", self.rows)
        most, found = self._buffer("v", self.rows), self._buffer("n")
        by_lane = _folded(
            "max", [Load(scores, (Dim.of(row), v * LANES + _AT_LANE)) for v in range(vectors)]
        )
        lanes = _unrolled(row, _lanes(Store(most, (Dim.of(row), _AT_LANE), by_lane)))
        clear = _lanes(Store(found, (_AT_LANE,), self._number(-inf)))
        fold = _unrolled(row, Store(found, (Dim.of(row),), LaneFold(most, (Dim.of(row),), "max")))
        before, at = Load(self.largest, (tile, _AT_LANE)), (_AT_LANE,)
        largest = scalar.maximum(before, Load(found, at))
        is_none = scalar.call("equal", largest, self._number(-inf))
        raised = (
            Store(base, at, scalar.select(is_none, self._number(0), largest)),
            Store(factor, at, scalar.exp(before - Load(base, at))),
            Store(self.largest, (tile, _AT_LANE), largest),
        )
        return Allocate(most, Allocate(found, block(lanes, clear, fold, *map(_lanes, raised))))

    def _weights(
        self, tile: Dim, vectors: int, scores: Buffer, base: Buffer, factor: Buffer
    ) -> Statement:
        """Scores become weights, which are added to the row's sums."""
        row, vector = variable("r", self.rows), variable("v", vectors)
        at = (Dim.of(row), Dim.of(vector) * LANES + _AT_LANE)
        weights = _lanes(
            Store(scores, at, scalar.exp(Load(scores, at) - Load(base, (Dim.of(row),))))
        )
        total = _folded(
            "add", [Load(scores, (Dim.of(row), v * LANES + _AT_LANE)) for v in range(vectors)]
        )
        place = (tile, Dim.of(row), _AT_LANE)
        added = scalar.call("fma", Load(self.sums, place), Load(factor, (Dim.of(row),)), total)
        return _unrolled(
            row, block(_unrolled(vector, weights), _lanes(Store(self.sums, place, added)))
        )

    def _outputs(
        self,
        tile: Dim,
        panel: Extent,
        keys: Extent,
        first: int,
        count: int,
        scores: Buffer,
        factor: Buffer,
    ) -> Statement:
        """made[r, e] = made[r, e] * factor[r] + the sum over the block's keys of weights[r, j]
        v[j, e], for so many vectors.
        """
        row, column, key = variable("r", self.rows), variable("c", count), variable("j", keys)
        here = first + Dim.of(column)
        value = self._read(self.v, panel * LANES + Dim.of(key), here * LANES + _AT_LANE)
        term = (
            Load(scores, (Dim.of(row), Dim.of(key))),
            scalar.guarded(self._lane_guard(here), value),
        )

        def stored(sum_: Expr) -> Statement:
            at = (tile, Dim.of(row), here, _AT_LANE)
            return Store(
                self.made,
                at,
                scalar.call("fma", Load(self.made, at), Load(factor, (Dim.of(row),)), sum_),
            )

        return self._product(row, column, Axis(key, keys), term, stored)

    # -- results -----------------------------------------------------------------------------------

    def _finished(self, tile: Dim) -> Statement:
        """The outputs over their sums, and what is fused behind them."""
        total, row, vector = (
            self._buffer("w"),
            variable("r", self.rows),
            variable("c", self.vectors),
        )
        at, place, here = Dim.of(row), self._row(tile, row), Dim.of(vector)
        fold = _unrolled(row, Store(total, (at,), LaneFold(self.sums, (tile, at), "add")))
        result = Load(self.made, (tile, at, here, _AT_LANE)) / Load(total, (at,))
        if self.attrs.has_zeros:
            is_empty = scalar.call("equal", Load(total, (at,)), self._number(0))
            result = scalar.select(is_empty, self._number(0), result)
        index = (*self.at_heads, place, here * LANES + _AT_LANE)
        store = _unrolled(vector, _lanes(self.k.store(index, result, self._lane_guard(here))))
        inside = () if self._is_full else (self.queries - 1 - place,)
        clear = _lanes(Store(total, (_AT_LANE,), self._number(1)))
        return Allocate(total, block(clear, fold, _unrolled(row, guard(inside, store))))

    # -- elements ----------------------------------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        """Whether every tile has all of its rows."""
        return self.queries % self.rows == 0

    def _row(self, tile: Dim, row: Symbol) -> Extent:
        return self.first + tile * self.rows + Dim.of(row)

    def _inside(self, row: Extent) -> Extent:
        """A row that can be read: the last one stands for those behind it."""
        return row if self._is_full else dim.minimum(row, self.queries - 1)

    def _lane_guard(self, vector: Extent) -> tuple[Extent, ...]:
        return (self.width - 1 - vector * LANES - _AT_LANE,) if self.width % LANES else ()

    def _read(self, value: Value, *index: Extent) -> Expr:
        """An element of an operand at the item's head."""
        batch = value.shape[: len(value.shape) - len(index)]
        heads = [0 if extent == 1 else at for extent, at in _aligned(batch, self.at_heads)]
        return self.k.element(value, (*heads, *index), None)


def _aligned(extents: Sequence[Extent], positions: Sequence[Extent]) -> list[tuple[Extent, Extent]]:
    """Extents and positions paired from the right."""
    return list(zip(extents, positions[len(positions) - len(extents) :], strict=True))


def _folded(function: str, values: Sequence[Expr]) -> Expr:
    total = values[0]
    for value in values[1:]:
        total = scalar.call(function, total, value)
    return total


def _lanes(body: Statement) -> Statement:
    return loop(LANE, LANES, body, Kind.VECTOR)


def _extent(symbol: Symbol) -> int:
    assert isinstance(symbol.hi, int)
    return symbol.hi + 1


def _unrolled(symbol: Symbol, body: Statement) -> Statement:
    return loop(symbol, _extent(symbol), body, Kind.UNROLLED)


__all__ = ["DEEPEST", "attention_loops"]
