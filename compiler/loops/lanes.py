"""Which lanes of a vector loop depend on each other: one touches an element that another one
stores.

A vector loop may then be run lane by lane or all at once, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from math import gcd

from .. import dim
from ..dim import Dim, Extent, Minimum, Symbol
from ..scalar import Expr, Guarded, children
from .ir import (
    LANE,
    LANES,
    Block,
    Buffer,
    If,
    LaneFold,
    Load,
    Statement,
    Store,
    without_computed,
)


@dataclass(frozen=True)
class Conflict:
    """Two lanes may meet at an element of a buffer; certainly, or as far as is known."""

    statement: Store
    buffer: Buffer
    is_certain: bool


@dataclass(frozen=True)
class _Access:
    """An element that each lane stores or loads; ``offset`` is what the lanes' places differ by
    from the ``computed`` parts of the index, or None if that is not known when compiling.
    """

    statement: Store
    buffer: Buffer
    computed: tuple[Expr, ...]
    offset: Extent | None
    is_store: bool
    is_masked: bool  # not every lane does it


def conflicts(body: Statement) -> Iterator[Conflict]:
    """The conflicts between the lanes of a vector loop with this body."""
    stores = list(_stores(body))
    buffers = {store.buffer for store, _ in stores}
    accesses = [
        access for store, is_masked in stores for access in _accesses(store, is_masked, buffers)
    ]
    for store in (access for access in accesses if access.is_store):
        for other in accesses:
            if other.buffer is store.buffer and (meet := _meet(store, other)) is not False:
                is_certain = meet is True and not store.is_masked and not other.is_masked
                yield Conflict(other.statement, store.buffer, is_certain)


def _stores(root: Statement) -> Iterator[tuple[Store, bool]]:
    """The stores of a loop's body, and whether some lanes may skip them."""
    stack = [(root, False)]
    while stack:
        item, is_masked = stack.pop()
        match item:
            case Block(statements):
                stack += [(s, is_masked) for s in reversed(statements)]
            case If(conditions, body):
                stack.append((body, is_masked or _holdby_lane(conditions)))
            case Store():
                yield item, is_masked


def _accesses(store: Store, is_masked: bool, buffers: AbstractSet[Buffer]) -> Iterator[_Access]:
    """What a store does to some buffers."""
    offset = store.buffer.offset(without_computed(store.index))
    yield _Access(store, store.buffer, store.index_expressions, offset, True, is_masked)
    stack: list[tuple[Expr, bool]] = [(store.value, is_masked)]
    seen: set[tuple[int, bool]] = set()
    while stack:
        node, is_masked = stack.pop()
        if (id(node), is_masked) in seen:
            continue
        seen.add((id(node), is_masked))
        inner = is_masked or (isinstance(node, Guarded) and _holdby_lane(node.conditions))
        stack += [(child, inner) for child in children(node)]
        if isinstance(node, LaneFold) and node.buffer in buffers:
            yield _Access(store, node.buffer, (), None, False, is_masked)
        elif isinstance(node, Load) and node.buffer in buffers:
            offset = node.buffer.offset(without_computed(node.index))
            yield _Access(store, node.buffer, node.index_expressions, offset, False, is_masked)


def _holdby_lane(conditions: Sequence[Extent]) -> bool:
    return LANE in dim.symbols_of(list(conditions))


def _meet(left: _Access, right: _Access) -> bool | None:
    """Whether two different lanes find the same element; None if that is not known. What a store
    computes for its place is the same in all lanes.
    """
    is_known = left.computed == right.computed and (not left.computed or left.statement.is_row)
    if not is_known or left.offset is None or right.offset is None:
        return None
    first, second = by_lane(left.offset), by_lane(right.offset)
    if first is None or second is None:
        return None
    gaps = _gaps(first[0], second[0])
    apart = second[1] - first[1]
    if isinstance(apart, int):
        return apart in gaps
    step = gcd(*(factor for atoms, factor in apart.terms if atoms))
    constant = sum(factor for atoms, factor in apart.terms if not atoms)
    return None if any((gap - constant) % step == 0 for gap in gaps) else False


@lru_cache(4096)
def by_lane(offset: Extent) -> tuple[tuple[int, ...], Extent] | None:
    """An offset as a number for each lane plus what is the same in all; None if it is no such
    sum.
    """
    if isinstance(offset, int):
        return (0,) * LANES, offset
    own = Dim(
        tuple(
            (atoms, factor)
            for atoms, factor in offset.terms
            if any(LANE in Dim.of(a).symbols() for a in atoms)
        )
    )
    if own.symbols() - {LANE}:
        return None
    return tuple(dim.evaluate(own, {LANE.name: lane}) for lane in range(LANES)), offset - own


def most_step(offset: Extent) -> int | None:
    """How far apart neighbouring lanes are at most, at an offset of sums, minima and maxima; None of
    others."""
    total = 0
    for atoms, factor in () if isinstance(offset, int) else offset.terms:
        if LANE not in dim.symbols_of([Dim(((atoms, 1),))]):
            continue
        match atoms:
            case (Symbol(),):
                step: int | None = 1
            case (Minimum(left, right),):
                steps = [most_step(left), most_step(right)]
                step = max((s for s in steps if s is not None), default=0)
                step = None if None in steps else step
            case _:
                step = None
        if step is None:
            return None
        total += abs(factor) * step
    return total


@lru_cache(4096)
def _gaps(first: tuple[int, ...], second: tuple[int, ...]) -> frozenset[int]:
    """first[i] - second[j] for all i and j that differ."""
    return frozenset(a - b for i, a in enumerate(first) for j, b in enumerate(second) if i != j)


__all__ = ["Conflict", "by_lane", "conflicts", "most_step"]
