"""Loops of winograd_fused: a band of tiles goes through all three stages in one work item, and the
entries of its tiles stay in the L2 cache.

First the tiles of the band are transformed, all channels. Then, for every few vectors of filters,
tiles are multiplied with the weights, one entry after the other, and transformed back, with what
is fused behind. Between kernels the entries of a large image would pass through memory, twice (the
input's and the products'); here only the image, the weights, once for each band, and the result do.

Guarantees: bands depend on shapes only, so do the order of every sum and the length of its chains,
which are those of the channels and, beyond CHAIN of them, of parts of CHAIN. Where the last band is
not full it computes its last tile again and stores nothing of it. Of images of any size, a band is a
part of one line of tiles, because nothing can be divided by the tiles of a line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..ops.winograd import entries
from ..scalar import Expr, guarded
from .elements import Axis, Elements
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kind,
    Let,
    Load,
    Statement,
    Store,
    block,
    guard,
    loop,
    variable,
)
from .panels import ENOUGH_TILES, Sweep, is_panel
from .plan import CHAIN, Machine
from .tile_counts import tile_counts
from .tiles import Bordered, PutNumber, ReadNumber, Transforms, least

# bytes of entries that a work item keeps: of the stack, and in the L2 cache; and at most, where fewer
# would read the weights too often
BAND, MOST_BAND = 224 << 10, 576 << 10
LEAST_TILES = 4  # of a band
# of a register tile: it may have as many even where a band holds fewer, and images have as many tiles
FEWEST_ROWS = 6
MOST_WEIGHTS = 10 << 20  # bytes of weights: every band finds them in the last-level cache
AGAIN = 6  # bytes of weights that all bands read, for each byte of entries that they save
# the same of an image of any size: lines of few tiles read them as often, from the L2 cache
MOST_OF_ANY_SIZE = 1 << 20
LEAST_ENTRIES = 3 << 20  # bytes of all tiles' entries, of the input and of the products
COLUMNS = 4  # vectors of filters of a register tile, mostly
ENOUGH_ITEMS = 12  # with which all threads have work

_AT_LANE = Dim.of(LANE)


def band_loops(
    transforms: Transforms, k: Elements, machine: Machine, item: Symbol
) -> tuple[Extent, Statement]:
    """(work items, the body of one) of a kernel around winograd_fused."""
    return _Bands(transforms, k, machine).loops(item)


@dataclass(frozen=True)
class Stages:
    """What bands would stand for: so many entries of a tile, images, tiles in all, channels and
    filters."""

    kept: int
    images: int
    tiles: int
    channels: int
    filters: int

    @property
    def weights(self) -> int:
        """Bytes."""
        return 4 * self.kept * self.channels * self.filters

    @property
    def band(self) -> int:
        """Tiles of a band."""
        tiles = self.tiles // self.images
        return _tiles_of_band(
            self.kept, self.channels, tiles, FEWEST_ROWS, COLUMNS, images=self.images
        )

    @property
    def sharing(self) -> float:
        """How many tiles multiply the weights each time that these come from beyond the L2 cache:
        infinitely many where they stay in it."""
        return math.inf if self.weights <= MOST_OF_ANY_SIZE else self.band

    def reason_against_bands(self, groups: int, is_known: bool = True) -> str | None:
        """Why three kernels are faster; None if they are not (measured: benchmarks/layers.py).
        ``is_known``: height and width are no free dims."""
        if groups != 1:
            return f"it has {groups} groups"
        if self.tiles < FEWEST_ROWS * self.images:
            return "bands end with their image, which has too few tiles to read all weights for"
        if _fitting(self.kept, self.channels) < LEAST_TILES:
            return f"{LEAST_TILES} tiles of {self.channels} channels leave the L2 cache"
        if self.weights > MOST_WEIGHTS:
            return "each band would read its weights from memory"
        if not is_known and self.weights > MOST_OF_ANY_SIZE:
            return "each line of an image of any size would read weights that leave the L2 cache"
        saved = 2 * 4 * self.kept * self.tiles * (self.channels + self.filters)
        if saved < 2 * LEAST_ENTRIES:
            return "its entries stay in the cache anyway"
        bands = self.images * -(-(self.tiles // self.images) // self.band)
        if bands * self.weights > AGAIN * saved:
            return "its bands would read the weights too often"
        return None


def _fitting(kept: int, channels: int, size: int = 4, columns: int = 2) -> int:
    """How many tiles of so many entries of ``size`` bytes fit a band with so many vectors of
    filters.
    """
    return BAND // _bytes_of_tile(kept, channels, size, columns)


def _bytes_of_tile(kept: int, channels: int, size: int, columns: int) -> int:
    """Those of the entries of a tile, and of its products with so many vectors of filters."""
    return kept * (-(-channels // LANES) + columns) * LANES * size


def _tiles_of_band(
    kept: int,
    channels: int,
    tiles: Extent,
    rows: int,
    columns: int,
    size: int = 4,
    images: Extent | None = None,
) -> int:
    """How many of the tiles of an image, or of a line, a band has: register tiles of ``rows``, as
    many as fit, or as many as hide where the next weights come from; of ``images``, enough bands
    for all threads, and of nearly equal length."""
    bytes_ = _bytes_of_tile(kept, channels, size, columns) * rows
    fit = max(BAND // bytes_, min(MOST_BAND // bytes_, ENOUGH_TILES), 1)
    if not isinstance(tiles, int):
        return fit * rows
    in_all = -(-tiles // rows)
    bands = -(-in_all // fit)
    if isinstance(images, int) and images:
        bands = max(bands, min(-(-ENOUGH_ITEMS // images), in_all))
    return -(-in_all // bands) * rows


@dataclass(frozen=True)
class _Band:
    """The image of a band, its line if it is part of one, and its first tile there."""

    image: Extent
    line: Extent | None
    first: Extent


class _Bands:
    def __init__(self, transforms: Transforms, k: Elements, machine: Machine) -> None:
        node = k.anchored
        self.transforms, self.k, self.attrs = transforms, k, node.attrs
        self.x, self.u = node.inputs
        self.dtype, self.entries = node.output.dtype, entries(node.attrs)
        self.batch, filters, *self.image = node.attrs.shape
        channels, counts = self.x.shape[1], self.attrs.tiles(node.attrs.shape)
        assert isinstance(channels, int) and isinstance(filters, int)
        self.channels, self.filters = channels, filters
        self.is_known = all(isinstance(extent, int) for extent in counts)
        self.counts = counts
        # that bands share: those of an image, or of a line
        self.tiles = counts[0] * counts[1] if self.is_known else counts[1]
        room = machine.vectors_of(self.dtype)
        rows, columns = Axis.of("r", self.tiles), Axis.of("c", -(-filters // LANES))
        most = max(_fitting(self.entries, channels, self.dtype.bytes), FEWEST_ROWS)
        self.rows, self.columns, _ = tile_counts(rows, columns, room, most)
        self.band = _tiles_of_band(
            self.entries, channels, self.tiles, self.rows, self.columns, self.dtype.bytes,
            self.batch if self.is_known else None,
        )  # fmt: skip
        self.v = self._buffer("v", self.band, -(-channels // LANES))
        self.m = self._buffer("m", self.band, self.columns)

    def _buffer(self, letter: str, tiles: int, vectors: int) -> Buffer:
        """Entries of a band."""
        shape = (self.entries, tiles, vectors * LANES)
        return Buffer(self.k.local_name(letter), self.dtype, shape, is_local=True)

    # -- work items --------------------------------------------------------------------------------

    def loops(self, item: Symbol) -> tuple[Extent, Statement]:
        """Items: images, bands; or lines, in which images and bands run."""
        bands = dim.ceil_div(self.tiles, self.band)
        n, number = variable("n", self.batch), variable("b", bands)
        line = variable("y", self.counts[0])
        first = Dim.of(number) * self.band
        place = _Band(Dim.of(n), None if self.is_known else Dim.of(line), first)
        body = block(self._transformed(place), self._multiplied(place))
        body = Allocate(self.v, Allocate(self.m, body))
        rest = Dim.of(item)
        if not self.is_known:
            inside = loop(n, self.batch, loop(number, bands, body))
            return self.counts[0], Let(line, rest, inside)
        assert isinstance(bands, int)
        body = Let(n, rest // bands, Let(number, rest % bands, body))
        return self.batch * bands, body

    def _corner(self, at: _Band, number: Extent) -> tuple[Extent, Extent]:
        """Top and left of a tile's output."""
        across, (down, right) = self.counts[1], self.attrs.m
        if at.line is not None:
            return at.line * down, number * right
        assert isinstance(across, int)
        return (number // across) * down, (number % across) * right

    def _groups(self, at: _Band) -> Extent:
        """Register tiles of the band."""
        most = self.band // self.rows
        if self.is_known:
            return most
        return dim.minimum(most, dim.ceil_div(self.tiles - at.first, self.rows))

    # -- stages ------------------------------------------------------------------------------------

    def _transformed(self, at: _Band) -> Statement:
        """V[e, t, c] of the band's tiles."""
        row, vectors = variable("r", self.rows), -(-self.channels // LANES)
        groups = self._groups(at)
        group, vector = variable("t", groups), variable("c", vectors)
        tile = Dim.of(group) * self.rows + Dim.of(row)
        number = dim.minimum(at.first + tile, self.tiles - 1)
        corner = self._corner(at, number)
        top, left = (put - before for put, before in zip(corner, self.attrs.lo, strict=True))
        h, w = self.x.shape[2:]
        channel = Dim.of(vector) * LANES + _AT_LANE
        lanes = (self.channels - 1 - channel,) if self.channels % LANES else ()

        def read(is_inside: bool) -> ReadNumber:
            def element(i: Extent, j: Extent) -> Expr:
                load = self.k.element(self.x, (at.image, channel, top + i, left + j), None)
                inside = (top + i, h - 1 - top - i, left + j, w - 1 - left - j)
                return guarded(lanes if is_inside else (*lanes, *inside), load)

            return element

        def put(e: Extent, value: Expr) -> Statement:
            return Store(self.v, (e, tile, channel), value)

        down, across = self.attrs.inputs
        room = least(top, left, h - down - top, w - across - left)
        body = self.transforms.input(
            self.k, self.attrs, Bordered(read(True), read(False), room), put
        )
        return loop(vector, vectors, loop(group, groups, loop(row, self.rows, body)))

    def _multiplied(self, at: _Band) -> Statement:
        """y of the band's tiles, some vectors of filters at a time."""
        groups, rest = divmod(-(-self.filters // LANES), self.columns)
        group = variable("o", groups)
        parts = []
        if groups:
            vector = Dim.of(group) * self.columns
            body = self._filters(at, vector, self.columns)
            parts.append(loop(group, groups, body))
        if rest:
            parts.append(self._filters(at, groups * self.columns, rest))
        return block(*parts)

    def _filters(self, at: _Band, vector: Extent, count: int) -> Statement:
        """The same for so many vectors of filters."""
        return block(self._products(at, vector, count), self._back(at, vector, count))

    def _products(self, band: _Band, vector: Extent, count: int) -> Statement:
        """M[e, t, o] = sum over c of V[e, t, c] U[e, c, o]."""
        groups = Axis.of("q", self._groups(band))
        e = variable("e", self.entries)
        following = (Dim.of(e) + 1) % self.entries
        row, column = variable("r", self.rows), variable("s", count)
        sums = Buffer(self.k.local_name("a"), self.dtype, (self.rows, count, LANES), is_local=True)
        at = (Dim.of(row), Dim.of(column), _AT_LANE)
        place = groups.position * self.rows + Dim.of(row)
        to = (Dim.of(e), place, Dim.of(column) * LANES + _AT_LANE)

        def each(body: Statement) -> Statement:
            body = loop(LANE, LANES, body, Kind.VECTOR)
            body = loop(column, count, body, Kind.UNROLLED)
            return loop(row, self.rows, body, Kind.UNROLLED)

        def chain(start: int, length: int) -> Statement:
            channel = Axis.of("c", length)
            c = start + channel.position
            filters = (vector + Dim.of(column)) * LANES + _AT_LANE
            weight, next_weight = (
                self.k.element(self.u, (entry, 0, c, filters), None)
                for entry in (Dim.of(e), following)
            )
            hints = _hints(next_weight, channel, (column, count), groups)
            if self.u.layout is None and self.filters % LANES:
                weight = guarded((self.filters - 1 - filters,), weight)
            entry = Load(self.v, (Dim.of(e), place, c))
            added = Store(sums, at, scalar.call("fma", entry, weight, Load(sums, at)))
            total = Load(sums, at) if start == 0 else Load(self.m, to) + Load(sums, at)
            clear = Store(sums, at, scalar.literal(0, self.dtype))
            return block(
                each(clear),
                loop(channel.symbol, length, block(*hints, each(added))),
                each(Store(self.m, to, total)),
            )

        parts = [
            chain(start, min(CHAIN, self.channels - start))
            for start in range(0, self.channels, CHAIN)
        ]
        body = Allocate(sums, block(*parts))
        return loop(e, self.entries, loop(groups.symbol, groups.extent, body))

    def _back(self, band: _Band, vector: Extent, count: int) -> Statement:
        """What is stored of the band's tiles."""
        inside = dim.minimum(self.band, self.tiles - band.first)
        tile, column = variable("t", inside), variable("s", count)
        top, left = self._corner(band, band.first + Dim.of(tile))
        channel = (vector + Dim.of(column)) * LANES + _AT_LANE
        lanes = (self.filters - 1 - channel,) if self.filters % LANES else ()
        h, w = self.image

        def read(e: Extent) -> Expr:
            return Load(self.m, (e, Dim.of(tile), Dim.of(column) * LANES + _AT_LANE))

        def put(is_inside: bool) -> PutNumber:
            def at(i: Extent, j: Extent, value: Expr) -> Statement:
                conditions = () if is_inside else (h - 1 - top - i, w - 1 - left - j)
                index = (band.image, channel, top + i, left + j)
                return guard(conditions, self.k.store(index, value, lanes))

            return at

        room = least(h - self.attrs.m[0] - top, w - self.attrs.m[1] - left)
        body = self.transforms.output(
            self.k, self.attrs, read, Bordered(put(True), put(False), room)
        )
        return loop(column, count, loop(tile, inside, body))


def _hints(weight: Expr, channel: Axis, columns: tuple[Symbol, int], tile: Axis) -> list[Statement]:
    """What a register tile asks for of the next entry's weights, at each channel."""
    tiles = tile.extent
    if not isinstance(weight, Load) or not isinstance(tiles, int) or tiles < ENOUGH_TILES:
        return []
    if not is_panel(weight, (channel,)):
        return []
    return Sweep(weight, (channel,), columns, tiles, tile.position).hints()


__all__ = ["Stages", "band_loops"]
