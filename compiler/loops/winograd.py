"""Loops of Winograd's transforms: tiles of vectors of 16 channels, in registers and on the stack.

Both transforms are separable: a 1-D transform down the columns of a tile and another along its
rows, each a short sum with exact small coefficients, where the same two matrices as one product
over the flattened tile would take about nine times the arithmetic. Whole tiles are straight code,
which keeps vectors in registers; those at the border, which wait for their tests, are loops over
columns and rows, a small part of that code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ..dim import Dim, Extent
from ..op import Array
from ..ops.tiles import TileAttrs
from ..ops.winograd import both_matrices
from ..scalar import Expr
from .bands import band_loops
from .elements import Elements
from .ir import LANE, LANES, Allocate, Buffer, Kind, Load, Statement, Store, block, loop, variable
from .tiles import (
    Backward,
    Bordered,
    Forward,
    PutEntry,
    PutNumber,
    ReadEntry,
    ReadNumber,
    Transforms,
    combined,
    schedules,
)

Each: TypeAlias = Callable[[str, int, Callable[[Extent], list[Statement]]], Statement]


def _forward(which: int, is_transposed: bool = False) -> Forward:
    """Numbers to entries by A', G or B' (0, 1, 2)."""

    def transform(
        k: Elements, attrs: TileAttrs, read: Bordered[ReadNumber], put: PutEntry
    ) -> Statement:
        pair, width = _pair(attrs, which, is_transposed), attrs.inputs[1]

        def made(each: Each, at: ReadNumber) -> Statement:
            return _transformed(k, pair, at, lambda e, f, value: put(e * width + f, value), each)

        return read.either(partial(made, _in_a_row), partial(made, _in_a_loop))

    return transform


def _backward(which: int, is_transposed: bool = False, is_straight: bool = True) -> Backward:
    """Entries to numbers by A', G or B' (0, 1, 2); ``is_straight``: of whole tiles."""

    def transform(
        k: Elements, attrs: TileAttrs, read: ReadEntry, put: Bordered[PutNumber]
    ) -> Statement:
        pair, width = _pair(attrs, which, is_transposed), attrs.inputs[1]

        def made(each: Each, at: PutNumber) -> Statement:
            return _transformed(k, pair, lambda i, j: read(i * width + j), at, each)

        whole = _in_a_row if is_straight else _in_a_loop
        return put.either(partial(made, whole), partial(made, _in_a_loop))

    return transform


def _pair(attrs: TileAttrs, which: int, is_transposed: bool) -> tuple[Array, Array]:
    down, across = both_matrices(attrs, which)
    return (down.T, across.T) if is_transposed else (down, across)


def _transformed(
    k: Elements, matrices: tuple[Array, Array], read: Callable[[Extent, Extent], Expr],
    put: Callable[[Extent, Extent, Expr], Statement], each: Each,
) -> Statement:  # fmt: skip
    """down x across' of a tile x: columns first, through a local buffer."""
    (out, rows), columns = matrices[0].shape, matrices[1].shape[1]
    dtype = k.anchored.output.dtype
    half = Buffer(k.local_name("t"), dtype, (out, columns, LANES), is_local=True)
    at_lane = Dim.of(LANE)

    def column(j: Extent) -> list[Statement]:
        numbers = [read(i, j) for i in range(rows)]
        return [
            Store(half, (e, j, at_lane), combined(row, numbers))
            for e, row in enumerate(matrices[0])
        ]

    def line(e: Extent) -> list[Statement]:
        numbers = [Load(half, (e, j, at_lane)) for j in range(columns)]
        return [put(e, f, combined(row, numbers)) for f, row in enumerate(matrices[1])]

    return Allocate(half, block(each("j", columns, column), each("e", out, line)))


def _in_a_row(_name: str, count: int, make: Callable[[Extent], list[Statement]]) -> Statement:
    """The statements of each number, one after another, on vectors."""
    return _vectors([statement for number in range(count) for statement in make(number)])


def _in_a_loop(name: str, count: int, make: Callable[[Extent], list[Statement]]) -> Statement:
    """The same as a loop."""
    number = variable(name, count)
    return loop(number, count, _vectors(make(Dim.of(number))))


def _vectors(statements: list[Statement]) -> Statement:
    return block(*(loop(LANE, LANES, statement, Kind.VECTOR) for statement in statements))


WINOGRAD = Transforms(
    input=_forward(2),
    output=_backward(0),
    gradient=_forward(0, True),
    filter=_forward(1),
    filter_gradient=_backward(1, True, False),  # its time goes into stores of single numbers
)
SCHEDULES = {
    **schedules("winograd", WINOGRAD),
    "winograd_fused": lambda k, machine, item: band_loops(WINOGRAD, k, machine, item),
}
