"""Loops of the five ops of ops/tiles.py, for any transforms: vectors of 16 channels of tiles, or of
pairs of filter and channel.

A ``Forward`` transform reads the numbers of a tile, (i, j), and puts its entries, e; a ``Backward``
one reads entries and puts numbers. Places are extents, so that a transform may loop over them.
Tiles that touch the border read zeros there and store nothing outside; all others test nothing: a
transform has its numbers ``either`` way, or tests ``any`` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..ops.tiles import Pair, TileAttrs
from ..scalar import Expr, guarded
from .elements import Axis, Elements
from .ir import LANE, LANES, Let, Statement, block, guard, loop, variable
from .numbering import over_items
from .plan import Machine

BLOCKS = 4  # channel blocks that one work item does, if the channels have as many
ROWS = 32  # rows of filters that one work item does, for one vector of columns

Access = TypeVar("Access")
Conditions: TypeAlias = tuple[Extent, ...]
ReadNumber: TypeAlias = Callable[[Extent, Extent], Expr]
PutNumber: TypeAlias = Callable[[Extent, Extent, Expr], Statement]
ReadEntry: TypeAlias = Callable[[Extent], Expr]
PutEntry: TypeAlias = Callable[[Extent, Expr], Statement]
Forward: TypeAlias = "Callable[[Elements, TileAttrs, Bordered[ReadNumber], PutEntry], Statement]"
Backward: TypeAlias = "Callable[[Elements, TileAttrs, ReadEntry, Bordered[PutNumber]], Statement]"
Schedule: TypeAlias = "Callable[[Elements, Machine, Symbol], tuple[Extent, Statement]]"


@dataclass(frozen=True)
class Bordered(Generic[Access]):
    """How to reach the numbers of a tile whose ``room`` on all sides is >= 0, and of one at the
    border.
    """

    whole: Access
    border: Access
    room: Extent = 0

    @property
    def any(self) -> Access:
        """For every tile: tested at each number where there may be no room."""
        return self.whole if dim.is_nonnegative(self.room) else self.border

    def either(
        self, of_whole: Callable[[Access], Statement], of_border: Callable[[Access], Statement]
    ) -> Statement:
        """What is made for whole tiles where there is room, else what is made for those at the
        border.
        """
        if dim.is_nonnegative(self.room):
            return of_whole(self.whole)
        if dim.is_nonnegative(-1 - self.room):
            return of_border(self.border)
        return block(
            guard((self.room,), of_whole(self.whole)),
            guard((-1 - self.room,), of_border(self.border)),
        )


@dataclass(frozen=True)
class Transforms:
    """The transforms of one algorithm; their statements are whole vectors of lanes."""

    input: Forward
    output: Backward
    gradient: Forward
    filter: Forward
    filter_gradient: Backward


def schedules(name: str, transforms: Transforms) -> Mapping[str, Schedule]:
    """The loops of an algorithm's five ops, by op."""
    return {
        f"{name}_input": lambda k, _machine, item: _input_tiles(transforms.input, k, item),
        f"{name}_output": lambda k, _machine, item: _output_tiles(transforms.output, k, item),
        f"{name}_output_gradient": lambda k, _machine, item: _gradient_tiles(
            transforms.gradient, k, item
        ),
        f"{name}_filter": lambda k, _machine, item: _filters(transforms.filter, k, item),
        f"{name}_filter_gradient": lambda k, _machine, item: _filter_gradients(
            transforms.filter_gradient, k, item
        ),
    }


def _input_tiles(transform: Forward, k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """V[e, g, tile, c] of every tile of the input."""
    attrs = k.anchored.attrs
    return _read_tiles(transform, k, item, attrs.counts, attrs.lo, attrs.inputs)


def _gradient_tiles(transform: Forward, k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """P[e, g, tile, o] of every tile of the output's gradient."""
    node = k.anchored
    return _read_tiles(
        transform, k, item, node.attrs.tiles(node.inputs[0].shape), (0, 0), node.attrs.m
    )


def _read_tiles(
    transform: Forward,
    k: Elements,
    item: Symbol,
    tiles: tuple[Extent, Extent],
    lo: Pair,
    extent: Pair,
) -> tuple[Extent, Statement]:
    """Windows of that extent as far apart as tiles of the output, with zeros around the image;
    ``lo`` of them before it.
    """
    attrs, x = k.anchored.attrs, k.anchored.inputs[0]
    per_group = k.anchored.output.shape[3]

    def tile(place: _Place) -> Statement:
        top, left = (t * m - before for t, m, before in zip(place.tile, attrs.m, lo, strict=True))
        h, w = x.shape[2:]

        def read(is_inside: bool) -> ReadNumber:
            def at(i: Extent, j: Extent) -> Expr:
                load = k.element(x, (place.n, place.channel, top + i, left + j), None)
                inside = (top + i, h - 1 - top - i, left + j, w - 1 - left - j)
                return guarded(() if is_inside else inside, load)

            return at

        def put(e: Extent, value: Expr) -> Statement:
            group, channel = place.within(attrs.groups, per_group)
            return k.store((e, group, place.number, channel), value, place.channel_guard)

        room = least(top, left, h - extent[0] - top, w - extent[1] - left)
        return transform(k, attrs, Bordered(read(True), read(False), room), put)

    return _over_tiles(tiles, x.shape[0], x.shape[1], tile, item)


def _output_tiles(transform: Backward, k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """y of every tile, then what is fused behind it."""
    node = k.anchored
    attrs, product = node.attrs, node.inputs[0]
    n, filters, h, w = attrs.shape
    _, groups, _, per_group = product.shape

    def tile(place: _Place) -> Statement:
        top, left = (t * m for t, m in zip(place.tile, attrs.m, strict=True))
        group, channel = place.within(groups, per_group)

        # padding of a panel holds zeros
        inside = place.channel_guard if product.layout is None else ()

        def read(e: Extent) -> Expr:
            return guarded(inside, k.element(product, (e, group, place.number, channel), None))

        def put(is_inside: bool) -> PutNumber:
            def at(i: Extent, j: Extent, value: Expr) -> Statement:
                index = (place.n, place.channel, top + i, left + j)
                conditions = () if is_inside else (h - 1 - top - i, w - 1 - left - j)
                return guard(conditions, k.store(index, value, place.channel_guard))

            return at

        room = least(h - attrs.m[0] - top, w - attrs.m[1] - left)
        return transform(k, attrs, read, Bordered(put(True), put(False), room))

    return _over_tiles(attrs.tiles(attrs.shape), n, filters, tile, item)


def _filters(transform: Forward, k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """U[e, g] of every filter: lanes are what the product has as columns."""
    node = k.anchored
    w, attrs = node.inputs[0], node.attrs
    _, groups, rows, columns = node.output.shape
    per_group = rows if attrs.is_flipped else columns
    last = [taps - 1 for taps in attrs.taps]

    def pair(group: Extent, row: Extent, column: Extent, inside: Conditions) -> Statement:
        def read(i: Extent, j: Extent) -> Expr:
            if attrs.is_flipped:
                index = (group * per_group + row, column, last[0] - i, last[1] - j)
            else:
                index = (group * per_group + column, row, i, j)
            return guarded(inside, k.element(w, index, None))

        def put(e: Extent, value: Expr) -> Statement:
            return k.store((e, group, row, column), value, inside)

        return transform(k, attrs, Bordered(read, read), put)

    return _over_pairs(groups, rows, columns, pair, item)


def _filter_gradients(transform: Backward, k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """dw[o, c] of dU[., c, o]: lanes are filters."""
    node = k.anchored
    sums, attrs = node.inputs[0], node.attrs
    _, groups, rows, columns = sums.shape

    def pair(group: Extent, row: Extent, column: Extent, inside: Conditions) -> Statement:
        def read(e: Extent) -> Expr:
            return guarded(inside, k.element(sums, (e, group, row, column), None))

        def put(i: Extent, j: Extent, value: Expr) -> Statement:
            return k.store((group * columns + column, row, i, j), value, inside)

        return transform(k, attrs, read, Bordered(put, put))

    return _over_pairs(groups, rows, columns, pair, item)


def _over_pairs(
    groups: Extent, rows: Extent, columns: Extent, body: Callable[[Extent, Extent, Extent, Conditions], Statement],
    item: Symbol,
) -> tuple[Extent, Statement]:  # fmt: skip
    """Items: a vector of columns with ``ROWS`` rows of a group."""
    assert isinstance(groups, int) and isinstance(rows, int) and isinstance(columns, int)
    vectors, chunks = -(-columns // LANES), -(-rows // ROWS)
    group, v, chunk = variable("g", groups), variable("v", vectors), variable("rc", chunks)
    first = Dim.of(chunk) * ROWS
    extent = dim.minimum(ROWS, rows - first)
    r = variable("r", extent)
    column = Dim.of(v) * LANES + Dim.of(LANE)
    inside = (columns - 1 - column,) if columns % LANES != 0 else ()
    statement = loop(r, extent, body(Dim.of(group), first + Dim.of(r), column, inside))
    rest = Dim.of(item)
    places = (
        (chunk, rest % chunks),
        (v, (rest // chunks) % vectors),
        (group, rest // (chunks * vectors)),
    )
    for symbol, position in places:
        statement = Let(symbol, position, statement)
    return groups * vectors * chunks, statement


class _Place:
    """One tile and one vector of channels."""

    def __init__(
        self,
        n: Extent,
        tile: tuple[Extent, Extent],
        number: Extent,
        block_: Extent,
        channels: Extent,
    ) -> None:
        self.n, self.tile, self.number, self.block = n, tile, number, block_
        self.channel = block_ * LANES + Dim.of(LANE)
        self.channel_guard = (channels - 1 - self.channel,) if channels % LANES != 0 else ()

    def within(self, groups: Extent, per_group: Extent) -> tuple[Extent, Extent]:
        """The group and the channel inside it; several groups are whole vectors each."""
        if groups == 1:
            return 0, self.channel
        assert isinstance(per_group, int) and per_group % LANES == 0
        blocks = per_group // LANES
        return self.block // blocks, (self.block % blocks) * LANES + Dim.of(LANE)


def _over_tiles(
    tiles: tuple[Extent, Extent], batch: Extent, channels: Extent,
    body: Callable[[_Place], Statement], item: Symbol,
) -> tuple[Extent, Statement]:  # fmt: skip
    """Items: image, row of tiles, group of channel blocks; inside: tiles along the row, blocks. A free
    number of rows comes before that of the images, which may be one."""
    blocks = dim.ceil_div(channels, LANES)
    group = next(g for g in range(BLOCKS, 0, -1) if blocks % g == 0)
    rows, columns = tiles
    n, ty, cg = Axis.of("n", batch), Axis.of("ty", rows), Axis.of("cg", blocks // group)
    tx, cb = Axis.of("tx", columns), Axis.of("cb", group)
    number = (n.position * rows + ty.position) * columns + tx.position
    block_ = cg.position * group + cb.position
    place = _Place(n.position, (ty.position, tx.position), number, block_, channels)
    inside = loop(cb.symbol, group, loop(tx.symbol, columns, body(place)))
    return over_items((ty, n, cg) if isinstance(rows, Dim) else (n, cg, ty), item, inside)


def combined(coefficients: Sequence[float], values: Sequence[Expr]) -> Expr:
    """sum of coefficient * value, without the zeros; what needs no product comes first."""
    pairs = [(float(c), v) for c, v in zip(coefficients, values, strict=True) if c]
    pairs.sort(key=lambda pair: (abs(pair[0]) != 1, pair[0] < 0))
    first, value = pairs[0]
    total = (
        value
        if first == 1
        else -value
        if first == -1
        else value * scalar.literal(first, value.dtype)
    )
    for coefficient, value in pairs[1:]:
        if abs(coefficient) == 1:
            total = total + value if coefficient > 0 else total - value
        else:
            total = scalar.call("fma", value, scalar.literal(coefficient, value.dtype), total)
    return total


def least(*extents: Extent) -> Extent:
    """The smallest of some extents."""
    found = extents[0]
    for extent in extents[1:]:
        found = dim.minimum(found, extent)
    return found
