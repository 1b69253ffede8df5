"""Loops of Winograd's transforms: tiles of vectors of 16 channels, in registers and on the stack.

Both transforms are separable: a 1-D transform down the columns of a tile and another along its rows, each a short sum with
exact small coefficients, where the same two matrices as one product over the flattened tile would take about nine times
the arithmetic. Tiles that touch the border read zeros there and store nothing outside; all others test nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..op import Array
from ..ops.transforms import matrices, tile_counts
from ..scalar import Expr, Guarded
from .ir import LANE, LANES, Allocate, Buffer, Kind, Let, Load, Statement, Store, block, guard, loop, variable

if TYPE_CHECKING:
    from .build import KernelBuilder

BLOCKS = 4  # channel blocks that one work item does, if the channels have as many
ROWS = 32  # rows of filters that one work item does, for one vector of columns

Conditions: TypeAlias = tuple[Extent, ...]


def input_tiles(k: KernelBuilder, item: Symbol) -> tuple[Extent, Statement]:
    """V[e, tile, c] = (B' x B)[e] for every tile of the input."""
    attrs = k.anchored.attrs
    return _read_tiles(k, item, attrs.m, attrs.tiles, attrs.lo, matrices(attrs.m)[2])


def output_gradient_tiles(k: KernelBuilder, item: Symbol) -> tuple[Extent, Statement]:
    """P[e, tile, o] = (A dy A')[e] for every tile of the output's gradient."""
    node = k.anchored
    m = node.attrs.m
    return _read_tiles(k, item, m, tile_counts(m, node.inputs[0].shape), (0, 0), matrices(m)[0].T)


def _read_tiles(
    k: KernelBuilder, item: Symbol, step: int, tiles: tuple[Extent, Extent], lo: tuple[int, int], matrix: Array
) -> tuple[Extent, Statement]:
    """matrix x matrix' of windows ``step`` apart, with zeros around the image; ``lo`` of them before it."""
    x = k.anchored.inputs[0]
    out, size = matrix.shape

    def tile(place: _Place) -> Statement:
        top, left = (t * step - before for t, before in zip(place.tile, lo, strict=True))
        h, w = x.shape[2:]

        def read(is_inside: bool) -> Callable[[int, int], Expr]:
            def at(i: int, j: int) -> Expr:
                load = k.element(x, (place.n, place.channel, top + i, left + j), None)
                rows, columns = (top + i, h - 1 - top - i), (left + j, w - 1 - left - j)
                conditions = () if is_inside else (*rows, *columns)
                return _where(conditions, load)

            return at

        def put(e: int, f: int, value: Expr) -> Statement:
            return guard(place.channel_guard, Store(k.out, (e * out + f, place.number, place.channel), value))

        room = _least(top, left, h - size - top, w - size - left)
        whole, border = (_transformed(k, matrix, size, read(inside), put) for inside in (True, False))
        return block(guard((room,), whole), *([] if dim.is_nonnegative(room) else [guard((-1 - room,), border)]))

    return _over_tiles(k, tiles, x.shape[0], x.shape[1], tile, item)


def output_tiles(k: KernelBuilder, item: Symbol) -> tuple[Extent, Statement]:
    """y = A' M A of every tile, then what is fused behind it."""
    node = k.anchored
    attrs, product = node.attrs, node.inputs[0]
    n, filters, h, w = attrs.shape
    size, m = attrs.m + 2, attrs.m
    forward, _, _ = matrices(m)

    def tile(place: _Place) -> Statement:
        top, left = (t * m for t in place.tile)

        def read(i: int, j: int) -> Expr:
            load = k.element(product, (i * size + j, place.number, place.channel), None)
            return _where(place.channel_guard, load)

        def put(is_inside: bool) -> Callable[[int, int, Expr], Statement]:
            def at(i: int, j: int, value: Expr) -> Statement:
                index = (place.n, place.channel, top + i, left + j)
                conditions = () if is_inside else (h - 1 - top - i, w - 1 - left - j)
                return guard(conditions, k.store(index, value, place.channel_guard))

            return at

        room = _least(h - m - top, w - m - left)
        whole, border = (_transformed(k, forward, size, read, put(inside)) for inside in (True, False))
        return block(guard((room,), whole), *([] if dim.is_nonnegative(room) else [guard((-1 - room,), border)]))

    return _over_tiles(k, tile_counts(m, attrs.shape), n, filters, tile, item)


def filters(k: KernelBuilder, item: Symbol) -> tuple[Extent, Statement]:
    """U[e] = (G w G')[e] of every filter: lanes are what the product has as columns."""
    node = k.anchored
    w, attrs = node.inputs[0], node.attrs
    g = matrices(attrs.m)[1]
    _, rows, columns = node.output.shape

    def pair(row: Extent, column: Extent, inside: Conditions) -> Statement:
        def read(i: int, j: int) -> Expr:
            index = (row, column, 2 - i, 2 - j) if attrs.is_turned else (column, row, i, j)
            return _where(inside, k.element(w, index, None))

        def put(e: int, f: int, value: Expr) -> Statement:
            return k.store((e * len(g) + f, row, column), value, inside)

        return _transformed(k, g, 3, read, put)

    return _over_pairs(rows, columns, pair, item)


def filter_gradients(k: KernelBuilder, item: Symbol) -> tuple[Extent, Statement]:
    """dw[o, c] = G' dU[., c, o] G: lanes are filters."""
    node = k.anchored
    product, size = node.inputs[0], node.attrs.m + 2
    back = matrices(node.attrs.m)[1].T
    _, rows, columns = product.shape

    def pair(row: Extent, column: Extent, inside: Conditions) -> Statement:
        def read(i: int, j: int) -> Expr:
            return _where(inside, k.element(product, (i * size + j, row, column), None))

        def put(e: int, f: int, value: Expr) -> Statement:
            return k.store((column, row, e, f), value, inside)

        return _transformed(k, back, size, read, put)

    return _over_pairs(rows, columns, pair, item)


def _over_pairs(
    rows: Extent, columns: Extent, body: Callable[[Extent, Extent, Conditions], Statement], item: Symbol
) -> tuple[Extent, Statement]:
    """Items: a vector of columns with ``ROWS`` rows."""
    assert isinstance(rows, int) and isinstance(columns, int)
    vectors, chunks = -(-columns // LANES), -(-rows // ROWS)
    v, chunk = variable("v", vectors), variable("rc", chunks)
    first = Dim.of(chunk) * ROWS
    extent = dim.minimum(ROWS, rows - first)
    r = variable("r", extent)
    column = Dim.of(v) * LANES + Dim.of(LANE)
    inside = (columns - 1 - column,) if columns % LANES != 0 else ()
    statement = loop(r, extent, body(first + Dim.of(r), column, inside))
    rest = Dim.of(item)
    for symbol, position in ((chunk, rest % chunks), (v, rest // chunks)):
        statement = Let(symbol, position, statement)
    return vectors * chunks, statement


SCHEDULES = {
    "winograd_input": input_tiles,
    "winograd_output": output_tiles,
    "winograd_output_gradient": output_gradient_tiles,
    "winograd_filter": filters,
    "winograd_filter_gradient": filter_gradients,
}


class _Place:
    """One tile and one vector of channels."""

    def __init__(self, n: Extent, tile: tuple[Extent, Extent], number: Extent, channel: Extent, channels: Extent) -> None:
        self.n, self.tile, self.number, self.channel = n, tile, number, channel
        self.channel_guard = (channels - 1 - channel,) if channels % LANES != 0 else ()


def _over_tiles(
    k: KernelBuilder, tiles: tuple[Extent, Extent], batch: Extent, channels: Extent,
    body: Callable[[_Place], Statement], item: Symbol,
) -> tuple[Extent, Statement]:  # fmt: skip
    """Items: image, row of tiles, group of channel blocks; inside: tiles along the row, blocks."""
    blocks = dim.ceil_div(channels, LANES)
    group = next(g for g in range(BLOCKS, 0, -1) if blocks % g == 0)
    groups = blocks // group
    rows, columns = tiles
    n, ty, cg = (variable(name, e) for name, e in (("n", batch), ("ty", rows), ("cg", groups)))
    tx, cb = variable("tx", columns), variable("cb", group)
    at = tuple(Dim.of(s) for s in (n, ty, tx, cg, cb, LANE))
    channel = (at[3] * group + at[4]) * LANES + at[5]
    number = (at[0] * rows + at[1]) * columns + at[2]
    statement = body(_Place(at[0], (at[1], at[2]), number, channel, channels))
    statement = loop(tx, columns, loop(cb, group, statement))
    rest = Dim.of(item)
    assert isinstance(rows, int) and isinstance(groups, int)
    for symbol, position in ((cg, rest % groups), (ty, (rest // groups) % rows), (n, rest // (groups * rows))):
        statement = Let(symbol, position, statement)
    return batch * rows * groups, statement


def _transformed(
    k: KernelBuilder, matrix: Array, size: int, read: Callable[[int, int], Expr],
    put: Callable[[int, int, Expr], Statement],
) -> Statement:  # fmt: skip
    """matrix x matrix' of a tile x: columns first, through a local buffer."""
    out = len(matrix)
    dtype = k.anchored.output.dtype
    half = Buffer(k.local_name("t"), dtype, (out, size, LANES), is_local=True)
    at_lane = Dim.of(LANE)
    statements: list[Statement] = []
    for j in range(size):
        column = [read(i, j) for i in range(size)]
        statements += [Store(half, (e, j, at_lane), _combined(row, column)) for e, row in enumerate(matrix)]
    for e in range(out):
        line = [Load(half, (e, j, at_lane)) for j in range(size)]
        statements += [put(e, f, _combined(row, line)) for f, row in enumerate(matrix)]
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


def _where(conditions: Sequence[Extent], load: Expr) -> Expr:
    open_ = tuple(c for c in conditions if not dim.is_nonnegative(c))
    return Guarded(open_, load, scalar.literal(0, load.dtype)) if open_ else load


def _least(*extents: Extent) -> Extent:
    least = extents[0]
    for extent in extents[1:]:
        least = dim.minimum(least, extent)
    return least
