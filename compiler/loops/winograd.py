"""Loops of Winograd's transforms: tiles of vectors of 16 channels, in registers and on the stack.

Both transforms are separable: a 1-D transform down the columns of a tile and another along its rows, each a short sum with
exact small coefficients, where the same two matrices as one product over the flattened tile would take about nine times
the arithmetic. Tiles that touch the border read zeros there and store nothing outside; all others test nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..op import Array
from ..scalar import Expr, guarded
from .elements import Elements
from .ir import LANE, LANES, Allocate, Buffer, Kind, Let, Load, Statement, Store, block, guard, loop, variable

BLOCKS = 4  # channel blocks that one work item does, if the channels have as many
ROWS = 32  # rows of filters that one work item does, for one vector of columns

Conditions: TypeAlias = tuple[Extent, ...]


def input_tiles(k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """V[e, g, tile, c] = (B' x B)[e] for every tile of the input."""
    attrs = k.anchored.attrs
    return _read_tiles(k, item, attrs.counts, attrs.lo, attrs.matrices(2))


def output_gradient_tiles(k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """P[e, g, tile, o] = (A dy A')[e] for every tile of the output's gradient."""
    node = k.anchored
    down, across = node.attrs.matrices(0)
    return _read_tiles(k, item, node.attrs.tiles(node.inputs[0].shape), (0, 0), (down.T, across.T))


def _read_tiles(
    k: Elements, item: Symbol, tiles: tuple[Extent, Extent], lo: tuple[int, int], matrices: tuple[Array, Array]
) -> tuple[Extent, Statement]:
    """Windows as far apart as tiles of the output, with zeros around the image; ``lo`` of them before it."""
    attrs, x = k.anchored.attrs, k.anchored.inputs[0]
    (_, rows), (width, columns) = matrices[0].shape, matrices[1].shape
    per_group = k.anchored.output.shape[3]

    def tile(place: _Place) -> Statement:
        top, left = (t * m - before for t, m, before in zip(place.tile, attrs.m, lo, strict=True))
        h, w = x.shape[2:]

        def read(is_inside: bool) -> Callable[[int, int], Expr]:
            def at(i: int, j: int) -> Expr:
                load = k.element(x, (place.n, place.channel, top + i, left + j), None)
                inside = (top + i, h - 1 - top - i, left + j, w - 1 - left - j)
                return guarded(() if is_inside else inside, load)

            return at

        def put(e: int, f: int, value: Expr) -> Statement:
            group, channel = place.within(attrs.groups, per_group)
            return k.store((e * width + f, group, place.number, channel), value, place.channel_guard)

        room = _least(top, left, h - rows - top, w - columns - left)
        whole, border = (_transformed(k, matrices, read(inside), put) for inside in (True, False))
        return block(guard((room,), whole), *([] if dim.is_nonnegative(room) else [guard((-1 - room,), border)]))

    return _over_tiles(k, tiles, x.shape[0], x.shape[1], tile, item)


def output_tiles(k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """y = A' M A of every tile, then what is fused behind it."""
    node = k.anchored
    attrs, product = node.attrs, node.inputs[0]
    n, filters, h, w = attrs.shape
    width = attrs.inputs[1]
    _, groups, _, per_group = product.shape

    def tile(place: _Place) -> Statement:
        top, left = (t * m for t, m in zip(place.tile, attrs.m, strict=True))
        group, channel = place.within(groups, per_group)

        def read(i: int, j: int) -> Expr:
            load = k.element(product, (i * width + j, group, place.number, channel), None)
            return guarded(place.channel_guard, load)

        def put(is_inside: bool) -> Callable[[int, int, Expr], Statement]:
            def at(i: int, j: int, value: Expr) -> Statement:
                index = (place.n, place.channel, top + i, left + j)
                conditions = () if is_inside else (h - 1 - top - i, w - 1 - left - j)
                return guard(conditions, k.store(index, value, place.channel_guard))

            return at

        room = _least(h - attrs.m[0] - top, w - attrs.m[1] - left)
        whole, border = (_transformed(k, attrs.matrices(0), read, put(inside)) for inside in (True, False))
        return block(guard((room,), whole), *([] if dim.is_nonnegative(room) else [guard((-1 - room,), border)]))

    return _over_tiles(k, attrs.tiles(attrs.shape), n, filters, tile, item)


def filters(k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """U[e, g] = (G w G')[e] of every filter: lanes are what the product has as columns."""
    node = k.anchored
    w, attrs = node.inputs[0], node.attrs
    _, groups, rows, columns = node.output.shape
    width, per_group = attrs.inputs[1], rows if attrs.is_turned else columns
    last = [taps - 1 for taps in attrs.taps]

    def pair(group: Extent, row: Extent, column: Extent, inside: Conditions) -> Statement:
        def read(i: int, j: int) -> Expr:
            if attrs.is_turned:
                index = (group * per_group + row, column, last[0] - i, last[1] - j)
            else:
                index = (group * per_group + column, row, i, j)
            return guarded(inside, k.element(w, index, None))

        def put(e: int, f: int, value: Expr) -> Statement:
            return k.store((e * width + f, group, row, column), value, inside)

        return _transformed(k, attrs.matrices(1), read, put)

    return _over_pairs(groups, rows, columns, pair, item)


def filter_gradients(k: Elements, item: Symbol) -> tuple[Extent, Statement]:
    """dw[o, c] = G' dU[., c, o] G: lanes are filters."""
    node = k.anchored
    sums, attrs = node.inputs[0], node.attrs
    down, across = attrs.matrices(1)
    _, groups, rows, columns = sums.shape

    def pair(group: Extent, row: Extent, column: Extent, inside: Conditions) -> Statement:
        def read(i: int, j: int) -> Expr:
            return guarded(inside, k.element(sums, (i * len(across) + j, group, row, column), None))

        def put(e: int, f: int, value: Expr) -> Statement:
            return k.store((group * columns + column, row, e, f), value, inside)

        return _transformed(k, (down.T, across.T), read, put)

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
    places = ((chunk, rest % chunks), (v, (rest // chunks) % vectors), (group, rest // (chunks * vectors)))
    for symbol, position in places:
        statement = Let(symbol, position, statement)
    return groups * vectors * chunks, statement


SCHEDULES = {
    "winograd_input": input_tiles,
    "winograd_output": output_tiles,
    "winograd_output_gradient": output_gradient_tiles,
    "winograd_filter": filters,
    "winograd_filter_gradient": filter_gradients,
}


class _Place:
    """One tile and one vector of channels."""

    def __init__(self, n: Extent, tile: tuple[Extent, Extent], number: Extent, block_: Extent, channels: Extent) -> None:
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
    k: Elements, tiles: tuple[Extent, Extent], batch: Extent, channels: Extent,
    body: Callable[[_Place], Statement], item: Symbol,
) -> tuple[Extent, Statement]:  # fmt: skip
    """Items: image, row of tiles, group of channel blocks; inside: tiles along the row, blocks."""
    blocks = dim.ceil_div(channels, LANES)
    group = next(g for g in range(BLOCKS, 0, -1) if blocks % g == 0)
    groups = blocks // group
    rows, columns = tiles
    n, ty, cg = (variable(name, e) for name, e in (("n", batch), ("ty", rows), ("cg", groups)))
    tx, cb = variable("tx", columns), variable("cb", group)
    at = tuple(Dim.of(s) for s in (n, ty, tx, cg, cb))
    number = (at[0] * rows + at[1]) * columns + at[2]
    statement = body(_Place(at[0], (at[1], at[2]), number, at[3] * group + at[4], channels))
    statement = loop(tx, columns, loop(cb, group, statement))
    rest = Dim.of(item)
    assert isinstance(rows, int) and isinstance(groups, int)
    for symbol, position in ((cg, rest % groups), (ty, (rest // groups) % rows), (n, rest // (groups * rows))):
        statement = Let(symbol, position, statement)
    return batch * rows * groups, statement


def _transformed(
    k: Elements, matrices: tuple[Array, Array], read: Callable[[int, int], Expr],
    put: Callable[[int, int, Expr], Statement],
) -> Statement:  # fmt: skip
    """down x across' of a tile x: columns first, through a local buffer."""
    (out, rows), columns = matrices[0].shape, matrices[1].shape[1]
    dtype = k.anchored.output.dtype
    half = Buffer(k.local_name("t"), dtype, (out, columns, LANES), is_local=True)
    at_lane = Dim.of(LANE)
    statements: list[Statement] = []
    for j in range(columns):
        column = [read(i, j) for i in range(rows)]
        statements += [Store(half, (e, j, at_lane), _combined(row, column)) for e, row in enumerate(matrices[0])]
    for e in range(out):
        line = [Load(half, (e, j, at_lane)) for j in range(columns)]
        statements += [put(e, f, _combined(row, line)) for f, row in enumerate(matrices[1])]
    vector = [loop(LANE, LANES, statement, Kind.VECTOR) for statement in statements]
    return Allocate(half, block(*vector))


def _combined(coefficients: Sequence[float], values: Sequence[Expr]) -> Expr:
    """sum of coefficient * value, without the zeros; what needs no product comes first."""
    pairs = [(float(c), v) for c, v in zip(coefficients, values, strict=True) if c]
    pairs.sort(key=lambda pair: (abs(pair[0]) != 1, pair[0] < 0))
    first, value = pairs[0]
    total = value if first == 1 else -value if first == -1 else value * scalar.literal(first, value.dtype)
    for coefficient, value in pairs[1:]:
        if abs(coefficient) == 1:
            total = total + value if coefficient > 0 else total - value
        else:
            total = scalar.call("fma", value, scalar.literal(coefficient, value.dtype), total)
    return total


def _least(*extents: Extent) -> Extent:
    least = extents[0]
    for extent in extents[1:]:
        least = dim.minimum(least, extent)
    return least
