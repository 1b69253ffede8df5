"""Loops of the Fourier transforms of tiles: vectors of 16 channels, a transform of a column or row
as straight-line code.

A tile of rows x columns real numbers is copied to a local buffer. There each column becomes its
half spectrum (fourier.py), which has as many numbers; then come complex transforms along the rows
of the inner frequencies and real ones along the first and the last. Columns and rows are loops, so
that the code of a transform stands there once. Numbers that are known to be zero (behind a filter's
taps) or are not wanted (where windows wrap around) take no steps. The way back is the transpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import scalar
from ..dim import Dim, Extent
from ..fourier import Program, Step, complex_, real
from ..ops.tiles import Pair, TileAttrs
from ..scalar import Expr
from ..tensor_type import DType
from .elements import Elements
from .ir import LANE, LANES, Allocate, Buffer, Kind, Load, Statement, Store, block, loop, variable
from .tiles import Bordered, PutEntry, PutNumber, ReadEntry, ReadNumber, Transforms, schedules


@dataclass(frozen=True)
class _Tile:
    """n numbers down and across, of which the first ``present`` are not zero or wanted; where
    their frequencies are.
    """

    n: Pair
    present: Pair

    @property
    def inner(self) -> int:
        """Rows of complex numbers."""
        return max(self.n[0] // 2 - 1, 0)

    @property
    def ends(self) -> int:
        """Rows of real numbers: the first and the last frequency."""
        return min(self.n[0], 2)

    @property
    def reals(self) -> int:
        """Real frequencies along a row of real numbers."""
        return min(self.n[1], 2)

    def complex_entry(self, row: Extent, column: int) -> Extent:
        """The first of the three entries of a frequency along an inner row."""
        return 3 * (row * self.n[1] + column)

    def half_entry(self, end: Extent, number: int) -> Extent:
        """That of the number-th complex frequency along a row of real numbers."""
        return 3 * (self.inner * self.n[1] + end * max(self.n[1] // 2 - 1, 0) + number)

    def real_entry(self, end: Extent, number: int) -> Extent:
        """That of a real frequency."""
        return self.half_entry(self.ends, 0) + end * self.reals + number


class _Writer:
    """Statements over whole vectors; the values of a program's steps lie in a local buffer at
    fixed places: registers.
    """

    def __init__(self, k: Elements) -> None:
        self.k = k

    @property
    def dtype(self) -> DType:
        return self.k.anchored.output.dtype

    def buffer(self, *extents: int) -> Buffer:
        return Buffer(self.k.local_name("t"), self.dtype, (*extents, LANES), is_local=True)

    def straight_line(
        self,
        program: Program,
        inputs: Sequence[Expr],
        finish: Callable[[list[Expr]], list[Statement]],
    ) -> Statement:
        """The program over values, each read once, then what is made of its outputs."""
        count = len(inputs) + len(program.steps)
        made, at_lane = self.buffer(count), Dim.of(LANE)
        values = [Load(made, (place, at_lane)) for place in range(count)]
        computed = [*inputs, *(_stepped(step, values) for step in program.steps)]
        stores: list[Statement] = [
            Store(made, (place, at_lane), value) for place, value in enumerate(computed)
        ]
        outputs = [self.scaled(term, values) for term in program.outputs]
        vectors = [
            loop(LANE, LANES, statement, Kind.VECTOR) for statement in [*stores, *finish(outputs)]
        ]
        return Allocate(made, block(*vectors))

    def scaled(self, term: tuple[float, int] | None, values: Sequence[Expr]) -> Expr:
        if term is None:
            return scalar.literal(0, self.dtype)
        factor, number = term
        value = values[number]
        return (
            value
            if factor == 1
            else -value
            if factor == -1
            else value * scalar.literal(factor, self.dtype)
        )


def _stepped(step: Step, values: Sequence[Expr]) -> Expr:
    x, y = values[step.x], values[step.y]
    if abs(step.ratio) == 1:
        return x + y if step.ratio > 0 else x - y
    return scalar.call("fma", y, scalar.literal(step.ratio, y.dtype), x)


# -- there -----------------------------------------------------------------------------------------


def _spectrum(k: Elements, tile: _Tile, read: Bordered[ReadNumber], put: _PutSpectrum) -> Statement:
    """The half spectrum of a tile."""
    w = _Writer(k)
    (rows, columns), (height, width) = tile.n, tile.present
    half = w.buffer(rows, width)
    at_lane = Dim.of(LANE)

    def column(j: Extent) -> Statement:
        def keep(outputs: list[Expr]) -> list[Statement]:
            return [Store(half, (i, j, at_lane), value) for i, value in enumerate(outputs)]

        return w.straight_line(
            real(rows, height), [Load(half, (i, j, at_lane)) for i in range(height)], keep
        )

    def inner_row(row: Extent) -> Statement:
        parts = [
            Load(half, (2 + 2 * row + part, j, at_lane)) for j in range(width) for part in range(2)
        ]
        return w.straight_line(complex_(columns, width), parts, lambda outputs: _triples(
            outputs, lambda number: tile.complex_entry(row, number), put))  # fmt: skip

    def end_row(end: Extent) -> Statement:
        def finish(outputs: list[Expr]) -> list[Statement]:
            stores = [
                put.real(tile.real_entry(end, i), value)
                for i, value in enumerate(outputs[: tile.reals])
            ]
            return stores + _triples(
                outputs[tile.reals :], lambda number: tile.half_entry(end, number), put
            )

        return w.straight_line(
            real(columns, width), [Load(half, (end, j, at_lane)) for j in range(width)], finish
        )

    copied = _over_tile(tile.present, lambda i, j: Store(half, (i, j, at_lane), read.any(i, j)))
    stages = (
        _over("j", width, column),
        _over("k", tile.inner, inner_row),
        _over("h", tile.ends, end_row),
    )
    return Allocate(half, block(copied, *stages))


def _over(name: str, extent: int, body: Callable[[Extent], Statement]) -> Statement:
    """A loop whose body is built once, if it runs at all."""
    if extent == 0:
        return block()
    symbol = variable(name, extent)
    return loop(symbol, extent, body(Dim.of(symbol)))


def _over_tile(present: Pair, body: Callable[[Extent, Extent], Statement]) -> Statement:
    """Vectors of numbers one after another."""
    height, width = present
    return _over(
        "i",
        height,
        lambda i: _over("j", width, lambda j: loop(LANE, LANES, body(i, j), Kind.VECTOR)),
    )


@dataclass(frozen=True)
class _PutSpectrum:
    """Makes entries of frequencies: three of a complex one."""

    complex_: Callable[[Expr, Expr], tuple[Expr, Expr, Expr]]
    put: PutEntry
    real_factor: float = 1.0

    def triple(self, first: Extent, re: Expr, im: Expr) -> list[Statement]:
        return [self.put(first + place, value) for place, value in enumerate(self.complex_(re, im))]

    def real(self, entry: Extent, value: Expr) -> Statement:
        scaled = (
            value
            if self.real_factor == 1
            else value * scalar.literal(self.real_factor, value.dtype)
        )
        return self.put(entry, scaled)


def _triples(
    parts: Sequence[Expr], entry: Callable[[int], Extent], put: _PutSpectrum
) -> list[Statement]:
    """The entries of complex frequencies, given as real and imaginary parts in turn."""
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [
        store
        for number, (re, im) in enumerate(pairs)
        for store in put.triple(entry(number), re, im)
    ]


def _input(k: Elements, attrs: TileAttrs, read: Bordered[ReadNumber], put: PutEntry) -> Statement:
    """a, b, a + b."""
    return _spectrum(
        k,
        _Tile(attrs.inputs, attrs.inputs),
        read,
        _PutSpectrum(lambda re, im: (re, im, re + im), put),
    )


def _conjugate(k: Elements, tile: _Tile, read: Bordered[ReadNumber], put: PutEntry) -> Statement:
    """d - c, c + d, c of the conjugate c + di times 2 / N; the real ones times 1 / N. N is a
    power of two: no rounding.
    """
    scale = 1.0 / (tile.n[0] * tile.n[1])

    def planes(re: Expr, im: Expr) -> tuple[Expr, Expr, Expr]:
        factor = scalar.literal(2 * scale, re.dtype)
        return -(re + im) * factor, (re - im) * factor, re * factor

    return _spectrum(k, tile, read, _PutSpectrum(planes, put, scale))


def _filter(k: Elements, attrs: TileAttrs, read: Bordered[ReadNumber], put: PutEntry) -> Statement:
    return _conjugate(k, _Tile(attrs.inputs, attrs.taps), read, put)


def _gradient(
    k: Elements, attrs: TileAttrs, read: Bordered[ReadNumber], put: PutEntry
) -> Statement:
    return _conjugate(k, _Tile(attrs.inputs, attrs.m), read, put)


# -- back ------------------------------------------------------------------------------------------


def _numbers(k: Elements, tile: _Tile, read: ReadEntry, put: Bordered[PutNumber]) -> Statement:
    """The first numbers of a tile from the products of its entries."""
    w = _Writer(k)
    (rows, columns), (height, width) = tile.n, tile.present
    half = w.buffer(rows, width)
    at_lane = Dim.of(LANE)

    def joined(first: Extent) -> list[Expr]:
        p, q, both = (read(first + place) for place in range(3))
        return [both - q, both + p]

    def inner_row(row: Extent) -> Statement:
        def keep(outputs: list[Expr]) -> list[Statement]:
            return [
                Store(half, (2 + 2 * row + i % 2, i // 2, at_lane), value)
                for i, value in enumerate(outputs)
            ]

        parts = [
            part for number in range(columns) for part in joined(tile.complex_entry(row, number))
        ]
        return w.straight_line(complex_(columns, width).transposed(), parts, keep)

    def end_row(end: Extent) -> Statement:
        def keep(outputs: list[Expr]) -> list[Statement]:
            return [Store(half, (end, j, at_lane), value) for j, value in enumerate(outputs)]

        parts = [read(tile.real_entry(end, number)) for number in range(tile.reals)]
        parts += [
            part
            for number in range(max(columns // 2 - 1, 0))
            for part in joined(tile.half_entry(end, number))
        ]
        return w.straight_line(real(columns, width).transposed(), parts, keep)

    def column(j: Extent) -> Statement:
        def keep(outputs: list[Expr]) -> list[Statement]:
            return [Store(half, (i, j, at_lane), value) for i, value in enumerate(outputs)]

        parts = [Load(half, (i, j, at_lane)) for i in range(rows)]
        return w.straight_line(real(rows, height).transposed(), parts, keep)

    def copied(at: PutNumber) -> Statement:
        return _over_tile(tile.present, lambda i, j: at(i, j, Load(half, (i, j, at_lane))))

    stages = (
        _over("k", tile.inner, inner_row),
        _over("h", tile.ends, end_row),
        _over("j", width, column),
    )
    return Allocate(half, block(*stages, put.either(copied, copied)))


def _output(k: Elements, attrs: TileAttrs, read: ReadEntry, put: Bordered[PutNumber]) -> Statement:
    return _numbers(k, _Tile(attrs.inputs, attrs.m), read, put)


def _filter_gradient(
    k: Elements, attrs: TileAttrs, read: ReadEntry, put: Bordered[PutNumber]
) -> Statement:
    return _numbers(k, _Tile(attrs.inputs, attrs.taps), read, put)


SCHEDULES = schedules("fft", Transforms(_input, _output, _gradient, _filter, _filter_gradient))
