"""Vectors of 16 lanes rearranged by shuffles of two: a transpose of sixteen, every n-th element
of several.

The transpose is made of steps that every machine has as instructions. Elements of 4 and 8 bytes:
squares of 4 x 4 by interleaving pairs inside groups of 4 lanes (128 bits, of 4 bytes), then the
groups, as elements of a 4 x 4 square, by moving them whole. Narrower elements: interleaving row i
with row i + 8 is a perfect shuffle of the bits of an element's number, and four of them exchange
rows and lanes (Stone 1971).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from llvmlite import ir

from ....loops.ir import LANES
from .representation import I32, Operand, Undefined

_HALF, _GROUP = LANES // 2, 4
_SOURCES = range(2 * LANES)  # lanes of the first vector, then of the second


def transposed(b: ir.IRBuilder, rows: Sequence[Operand]) -> list[Operand]:
    """Lane i of vector k is lane k of row i."""
    bits = {"half": 16, "float": 32, "double": 64}.get(str(rows[0].type.element)) or rows[
        0
    ].type.element.width
    return _by_groups(b, rows) if bits >= 32 else _by_interleaving(b, rows)


def picked(
    b: ir.IRBuilder, parts: Sequence[Operand], starts: Sequence[int], wanted: Sequence[int]
) -> Operand:
    """In each lane the element of memory that is wanted there; part k holds those from
    ``starts[k]`` on."""
    result = parts[0]
    order = [  # what the first holds; the rest is taken from later ones
        min(element - starts[0], LANES - 1) for element in wanted
    ]
    if len(parts) == 1:
        return _shuffled(b, result, result, order)
    for part, start in zip(parts[1:], starts[1:], strict=True):
        order = [
            LANES + e - start if start <= e < start + LANES else order[lane]
            for lane, e in enumerate(wanted)
        ]
        result, order = _shuffled(b, result, part, order), list(range(LANES))
    return result


def runs(known: Sequence[int]) -> list[tuple[int, int]]:
    """(first lane, how many: a power of two that divides it) of the fewest such parts that make up
    the lanes that are set."""
    found: list[tuple[int, int]] = []
    lane = 0
    while lane < LANES:
        count = 1
        while lane % (2 * count) == 0 and all(known[lane : lane + 2 * count]) and count < LANES:
            count *= 2
        if known[lane]:
            found.append((lane, count))
        lane += count if known[lane] else 1
    return found


def part_of(b: ir.IRBuilder, value: Operand, first: int, count: int) -> Operand:
    """Some neighbouring lanes of a vector; of one lane a scalar."""
    if count == 1:
        return b.extract_element(value, I32(first))
    lanes = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    return b.shuffle_vector(value, Undefined(value.type), lanes)


def spread(b: ir.IRBuilder, mask: Operand | None, lanes: Sequence[int | None]) -> Operand | None:
    """The mask of a vector whose elements are those of some lanes, and between them of none."""
    if mask is None:
        return None
    return _shuffled(
        b, mask, ir.Constant(mask.type, None), [LANES if lane is None else lane for lane in lanes]
    )


def _by_interleaving(b: ir.IRBuilder, rows: Sequence[Operand]) -> list[Operand]:
    low = [lane for pair in zip(_SOURCES[:_HALF], _SOURCES[LANES:], strict=False) for lane in pair]
    high = [lane + _HALF for lane in low]
    for _ in range(4):
        pairs = zip(rows[:_HALF], rows[_HALF:], strict=True)
        rows = [_shuffled(b, x, y, order) for x, y in pairs for order in (low, high)]
    return list(rows)


def _by_groups(b: ir.IRBuilder, rows: Sequence[Operand]) -> list[Operand]:
    groups = range(0, LANES, _GROUP)
    first = [lane for g in groups for lane in (g, g + LANES, g + 1, g + 1 + LANES)]  # x0 y0 x1 y1
    second = [lane for g in groups for lane in (g, g + 1, g + LANES, g + 1 + LANES)]  # x0 x1 y0 y1
    squares = [_square(b, rows[g : g + _GROUP], first, second) for g in groups]
    even = [
        lane for g in (0, 2, 4, 6) for lane in range(g * _GROUP, (g + 1) * _GROUP)
    ]  # groups 0 2 of x, of y
    columns = [_moved(b, [square[k] for square in squares], even) for k in range(_GROUP)]
    return [columns[lane % _GROUP][lane // _GROUP] for lane in range(LANES)]


def _square(
    b: ir.IRBuilder, rows: Sequence[Operand], first: Sequence[int], second: Sequence[int]
) -> list[Operand]:
    """In each group of lanes, the transpose of 4 rows."""
    high = [lane + 2 for lane in first]
    w, x, y, z = rows
    low_pairs = _shuffled(b, w, x, first), _shuffled(b, y, z, first)  # w0 x0 w1 x1; y0 z0 y1 z1
    high_pairs = _shuffled(b, w, x, high), _shuffled(b, y, z, high)
    behind = [lane + 2 for lane in second]
    return [
        _shuffled(b, *pairs, order)
        for pairs in (low_pairs, high_pairs)
        for order in (second, behind)
    ]


def _moved(b: ir.IRBuilder, parts: Sequence[Operand], even: Sequence[int]) -> list[Operand]:
    """Vector k holds the groups k of 4 vectors."""
    odd = [lane + _GROUP for lane in even]
    w, x, y, z = parts
    evens = _shuffled(b, w, x, even), _shuffled(b, y, z, even)  # w0 w2 x0 x2; y0 y2 z0 z2
    odds = _shuffled(b, w, x, odd), _shuffled(b, y, z, odd)
    zero, two = (_shuffled(b, *evens, order) for order in (even, odd))
    one, three = (_shuffled(b, *odds, order) for order in (even, odd))
    return [zero, one, two, three]


def _shuffled(b: ir.IRBuilder, x: Operand, y: Operand, order: Sequence[int]) -> Operand:
    """Lanes of two vectors, those of the second counted on from the first's."""
    return b.shuffle_vector(x, y, _order(tuple(order)))


@cache
def _order(lanes: tuple[int, ...]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))


__all__ = ["part_of", "picked", "runs", "spread", "transposed"]
