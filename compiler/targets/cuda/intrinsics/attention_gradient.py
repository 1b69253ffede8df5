"""The parts of attention's gradient that its forward kernel has not: weights from rows' largest
scores and sums, and the slopes of scores.

Threads share scores as in attention.py. Queries are rows, or, in the kernel that makes the gradients
of keys and values, columns (names end in 1 then); a number of each query is a tuple over this
thread's rows, or columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ..attention_tiles import ACROSS, COLUMNS, row_offset
from .attention import LOWEST, exponential
from .define import Operand, define, packed, tile_type, unpacked
from .scalars import rounded_once, subtract


def gradient(rest: str) -> Any:
    operation, *numbers = rest.split("_")
    return _MAKERS[operation](*map(int, numbers))


def _queries(rows: int, is_across: int) -> int:
    """Of a thread."""
    return COLUMNS if is_across else rows


def _query(at: int, is_across: int) -> int:
    """Which of the thread's queries a score is of."""
    return at % COLUMNS if is_across else at // COLUMNS


def _weights(rows: int, is_across: int) -> Any:
    """``gradient_weights(tile, bases, inverses)``: exp(score - base) * inverse."""

    def emit(b: Any, tile: Operand, bases: Operand, inverses: Operand) -> Operand:
        number = _queries(rows, is_across)
        base, inverse = unpacked(b, bases, number), unpacked(b, inverses, number)
        found = []
        for at, score in enumerate(unpacked(b, tile, rows * COLUMNS)):
            query = _query(at, is_across)
            power = exponential(b, score, base[query])
            found.append(rounded_once("mul")(b, FLOAT32, power, inverse[query]))
        return packed(b, found)

    kind, query = tile_type(rows * COLUMNS), tile_type(_queries(rows, is_across))
    return define(kind, [kind, query, query], emit)


def _slopes(rows: int, is_across: int) -> Any:
    """``gradient_slopes(weights, tile, deltas, scale)``: weight * (score - delta) * scale, where
    the tile's scores are products of cotangents and values."""

    def emit(b: Any, weights: Operand, tile: Operand, deltas: Operand, scale: Operand) -> Operand:
        multiply, delta = rounded_once("mul"), unpacked(b, deltas, _queries(rows, is_across))
        pairs = zip(*(unpacked(b, x, rows * COLUMNS) for x in (weights, tile)), strict=True)
        found = []
        for at, (weight, score) in enumerate(pairs):
            moved = subtract(b, FLOAT32, score, delta[_query(at, is_across)])
            found.append(multiply(b, FLOAT32, multiply(b, FLOAT32, weight, moved), scale))
        return packed(b, found)

    kind, query = tile_type(rows * COLUMNS), tile_type(_queries(rows, is_across))
    return define(kind, [kind, kind, query, types.float32], emit)


def _causal(rows: int) -> Any:
    """``gradient_causal(tile, reach)``: -inf where the query, a column, is before the key, a row;
    ``reach``: this thread's first query's number less its first key's."""

    def emit(b: Any, tile: Operand, reach: Operand) -> Operand:
        scores: Sequence[Operand] = unpacked(b, tile, rows * COLUMNS)
        found = []
        for at, score in enumerate(scores):
            row, c = divmod(at, COLUMNS)
            least = ir.Constant(ir.IntType(32), row_offset(row, rows) - ACROSS * c)
            found.append(b.select(b.icmp_signed(">=", reach, least), score, LOWEST))
        return packed(b, found)

    kind = tile_type(rows * COLUMNS)
    return define(kind, [kind, types.int32], emit)


_MAKERS: dict[str, Callable[..., Any]] = {
    "weights": _weights, "slopes": _slopes, "causal": _causal,
}  # fmt: skip
FAMILIES = {"gradient": gradient}
