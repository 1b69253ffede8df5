"""The parts of attention's gradient that its forward kernel has not: weights from rows' largest
scores and sums, the slopes of scores, and products that are added to a gradient.

The tile lies in registers as the forward kernels have it: ``gradient_…`` in those of threads
(attention.py), names with the rows of a thread; ``gradients_…`` in those of a warp
(attention_fragments.py), names with the fragments of a lane. Queries are rows, or, in the kernel that
makes the gradients of keys and values, columns (names end in 1 then). A number of each query is a
tuple over a thread's rows, or columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32
from ..attention_tiles import ACROSS, COLUMNS, row_offset
from ..attention_warps import LANE_ROWS
from .attention import LOWEST, POINTER, exponential
from .attention_fragments import row_of, times_values
from .define import Operand, define, packed, tile_type, unpacked
from .scalars import rounded_once, subtract


@dataclass(frozen=True)
class _Share:
    """A thread's numbers of a tile: of each its row and its column among the thread's own, and how
    far these lie behind the thread's first ones."""

    places: tuple[tuple[int, int], ...]  # row, column
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def kind(self) -> Any:
        return tile_type(len(self.places))

    def queries(self, is_across: int) -> int:
        """Of the thread."""
        return len(self.columns if is_across else self.rows)

    def query(self, at: int, is_across: int) -> int:
        """Which of the thread's queries a number is of."""
        return self.places[at][is_across]


def _of_thread(rows: int) -> _Share:
    places = tuple((row, column) for row in range(rows) for column in range(COLUMNS))
    columns = tuple(ACROSS * column for column in range(COLUMNS))
    return _Share(places, tuple(row_offset(row, rows) for row in range(rows)), columns)


def _of_lane(count: int) -> _Share:
    places = tuple((row_of(at), 2 * (at // 4) + at % 2) for at in range(4 * count))
    columns = tuple(8 * fragment + half for fragment in range(count) for half in range(2))
    return _Share(places, tuple(8 * row for row in range(LANE_ROWS)), columns)


def gradient(share: Callable[[int], _Share], rest: str) -> Any:
    operation, *numbers = rest.split("_")
    if operation == "added":
        return _added(numbers[0], *map(int, numbers[1:]))
    count, *others = map(int, numbers)
    return _MAKERS[operation](share(count), *others)


def _weights(share: _Share, is_across: int) -> Any:
    """``gradient_weights(tile, bases, inverses)``: exp(score - base) * inverse."""
    number = share.queries(is_across)

    def emit(b: Any, tile: Operand, bases: Operand, inverses: Operand) -> Operand:
        base, inverse = unpacked(b, bases, number), unpacked(b, inverses, number)
        multiply, found = rounded_once("mul"), []
        for at, score in enumerate(unpacked(b, tile, len(share.places))):
            query = share.query(at, is_across)
            power = exponential(b, score, base[query])
            found.append(multiply(b, FLOAT32, power, inverse[query]))
        return packed(b, found)

    return define(share.kind, [share.kind, tile_type(number), tile_type(number)], emit)


def _slopes(share: _Share, is_across: int) -> Any:
    """``gradient_slopes(weights, tile, deltas, scale)``: weight * (score - delta) * scale, where
    the tile's scores are products of cotangents and values."""
    number = share.queries(is_across)

    def emit(b: Any, weights: Operand, tile: Operand, deltas: Operand, scale: Operand) -> Operand:
        multiply, delta = rounded_once("mul"), unpacked(b, deltas, number)
        pairs = zip(*(unpacked(b, x, len(share.places)) for x in (weights, tile)), strict=True)
        found = []
        for at, (weight, score) in enumerate(pairs):
            moved = subtract(b, FLOAT32, score, delta[share.query(at, is_across)])
            found.append(multiply(b, FLOAT32, multiply(b, FLOAT32, weight, moved), scale))
        return packed(b, found)

    arguments = [share.kind, share.kind, tile_type(number), types.float32]
    return define(share.kind, arguments, emit)


def _causal(share: _Share) -> Any:
    """``gradient_causal(tile, reach)``: -inf where the query, a column, is before the key, a row;
    ``reach``: the thread's first query's number less its first key's."""

    def emit(b: Any, tile: Operand, reach: Operand) -> Operand:
        found = []
        scores = unpacked(b, tile, len(share.places))
        for score, (row, column) in zip(scores, share.places, strict=True):
            least = I32(share.rows[row] - share.columns[column])
            found.append(b.select(b.icmp_signed(">=", reach, least), score, LOWEST))
        return packed(b, found)

    return define(share.kind, [share.kind, types.int32], emit)


def _added(engine: str, stride: int, count: int, columns: int) -> Any:
    """``gradients_added_ENGINE(made, tile, v)``: made + tile v; v as in fragments_values."""

    def emit(b: Any, made: Operand, tile: Operand, v: Operand) -> Operand:
        found, add = unpacked(b, made, 4 * columns), rounded_once("add")
        left = unpacked(b, tile, 4 * count)
        for at, new in times_values(b, engine, left, v, stride, columns):
            found[at] = add(b, FLOAT32, found[at], new)
        return packed(b, found)

    kind = tile_type(4 * columns)
    return define(kind, [kind, tile_type(4 * count), POINTER], emit)


_MAKERS: dict[str, Callable[..., Any]] = {
    "weights": _weights, "slopes": _slopes, "causal": _causal,
}  # fmt: skip
FAMILIES = {"gradient": partial(gradient, _of_thread), "gradients": partial(gradient, _of_lane)}
