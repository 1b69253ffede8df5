"""Launches with the bytes that they read and write -> which launches each must wait for.

The edges are the fewest that keep every hazard in the launches' order: a read after a write, a
write after a read and a write after a write of overlapping bytes. Whatever they leave open may run
at once, so branches of a network overlap.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Bytes: TypeAlias = "tuple[int, int]"  # first address, and the one behind the last


@dataclass(frozen=True)
class Access:
    """What one launch touches."""

    reads: tuple[Bytes, ...]
    writes: tuple[Bytes, ...]


@dataclass
class _History:
    """Who used some bytes: the last launch that wrote them, and those that read them since."""

    writer: int | None = None
    readers: list[int] = field(default_factory=list)


def predecessors(accesses: Sequence[Access]) -> tuple[tuple[int, ...], ...]:
    """For each launch those before it that it must wait for, the latest first; none that another
    one waits for already."""
    overlaps = _overlaps(piece for access in accesses for piece in (*access.reads, *access.writes))
    histories = {piece: _History() for piece in overlaps}
    behind: list[int] = []  # of each launch: a bit for every launch that is over when it begins
    found = []
    for number, access in enumerate(accesses):
        kept, over = _latest(_hazards(access, overlaps, histories), behind)
        behind.append(over)
        found.append(kept)
        _note(number, access, histories)
    return tuple(found)


def _overlaps(pieces: Iterable[Bytes]) -> dict[Bytes, tuple[Bytes, ...]]:
    """The pieces that share a byte with each, itself among them; those without bytes share none."""
    ordered = sorted({piece for piece in pieces if piece[0] < piece[1]})
    longest = max((end - start for start, end in ordered), default=0)
    starts = [start for start, _ in ordered]

    def near(start: int, end: int) -> tuple[Bytes, ...]:
        candidates = ordered[bisect_left(starts, start - longest) : bisect_left(starts, end)]
        return tuple(other for other in candidates if other[1] > start)

    return {piece: near(*piece) for piece in ordered}


def _hazards(
    access: Access, overlaps: Mapping[Bytes, tuple[Bytes, ...]], histories: Mapping[Bytes, _History]
) -> set[int]:
    """Launches whose accesses must come before this one's."""
    found: set[int | None] = set()
    for piece in access.reads:
        found |= {histories[other].writer for other in overlaps.get(piece, ())}
    for piece in access.writes:
        for other in overlaps.get(piece, ()):
            found |= {histories[other].writer, *histories[other].readers}
    return {number for number in found if number is not None}


def _latest(hazards: Iterable[int], behind: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Those of the hazards that do not wait for each other, and all that is over after them, as
    bits."""
    kept, over = [], 0
    for number in sorted(hazards, reverse=True):
        if not over >> number & 1:
            kept.append(number)
            over |= behind[number] | 1 << number
    return tuple(kept), over


def _note(number: int, access: Access, histories: Mapping[Bytes, _History]) -> None:
    """A later hazard with what was read or written before the write is one with the write, too."""
    for piece in access.reads:
        if piece in histories:
            histories[piece].readers.append(number)
    for piece in access.writes:
        if piece in histories:
            histories[piece].writer, histories[piece].readers = number, []
