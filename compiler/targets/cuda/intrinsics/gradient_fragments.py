"""The parts of attention's gradient on tensor cores that attention itself has not
(attention_fragments.py): weights and slopes in the fragments in which their scores were summed up, and
products that are added to a gradient.

Queries are rows, or, in the kernel that makes the gradients of keys and values, columns (names end
in 1 then). A number of each query is a tuple over this lane's rows, or over its columns, two of each
fragment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32
from .attention import LOWEST, POINTER, exponential
from .attention_fragments import ROWS, row_of, times_values
from .define import Operand, define, packed, tile_type, unpacked
from .scalars import rounded_once, subtract


def gradients(rest: str) -> Any:
    operation, *numbers = rest.split("_")
    if operation == "added":
        return _added(numbers[0], *map(int, numbers[1:]))
    return _MAKERS[operation](*map(int, numbers))


def _queries(count: int, is_across: int) -> int:
    """Of a lane."""
    return 2 * count if is_across else ROWS


def _query(at: int, is_across: int) -> int:
    """Which of the lane's queries a score is of."""
    return 2 * (at // 4) + at % 2 if is_across else row_of(at)


def _weights(count: int, is_across: int) -> Any:
    """``gradients_weights(tile, bases, inverses)``: exp(score - base) * inverse."""

    def emit(b: Any, tile: Operand, bases: Operand, inverses: Operand) -> Operand:
        number, multiply = _queries(count, is_across), rounded_once("mul")
        base, inverse = unpacked(b, bases, number), unpacked(b, inverses, number)
        found = []
        for at, score in enumerate(unpacked(b, tile, 4 * count)):
            query = _query(at, is_across)
            power = exponential(b, score, base[query])
            found.append(multiply(b, FLOAT32, power, inverse[query]))
        return packed(b, found)

    kind, query = tile_type(4 * count), tile_type(_queries(count, is_across))
    return define(kind, [kind, query, query], emit)


def _slopes(count: int, is_across: int) -> Any:
    """``gradients_slopes(weights, tile, deltas, scale)``: weight * (score - delta) * scale, where
    the tile's scores are products of cotangents and values."""

    def emit(b: Any, weights: Operand, tile: Operand, deltas: Operand, scale: Operand) -> Operand:
        multiply, delta = rounded_once("mul"), unpacked(b, deltas, _queries(count, is_across))
        pairs = zip(*(unpacked(b, x, 4 * count) for x in (weights, tile)), strict=True)
        found = []
        for at, (weight, score) in enumerate(pairs):
            moved = subtract(b, FLOAT32, score, delta[_query(at, is_across)])
            found.append(multiply(b, FLOAT32, multiply(b, FLOAT32, weight, moved), scale))
        return packed(b, found)

    kind, query = tile_type(4 * count), tile_type(_queries(count, is_across))
    return define(kind, [kind, kind, query, types.float32], emit)


def _causal(count: int) -> Any:
    """``gradients_causal(tile, reach)``: -inf where the query, a column, is before the key, a row;
    ``reach``: this lane's first query's number less its first key's."""

    def emit(b: Any, tile: Operand, reach: Operand) -> Operand:
        scores = unpacked(b, tile, 4 * count)
        for at, score in enumerate(scores):
            least = I32(8 * row_of(at) - 8 * (at // 4) - at % 2)
            scores[at] = b.select(b.icmp_signed(">=", reach, least), score, LOWEST)
        return packed(b, scores)

    kind = tile_type(4 * count)
    return define(kind, [kind, types.int32], emit)


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
FAMILIES = {"gradients": gradients}
