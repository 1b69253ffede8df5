"""A linked shared object with room for the weights -> the same with the weights behind it in the
file, to be mapped read-only where the room was.

So the linker lays out everything and resolves what refers to the weights, but never reads or writes
them. The room is the last memory of the object; the segment header that the linker made for the note
beside it becomes the weights' own (weights_object.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from .elf_object import ALLOCATED, NOBITS, PROGBITS
from .weights_object import ROOM, SPARE

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # ELF-64 (System V ABI, chapters 4 and 5)
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_LOAD, _NOTE, _READABLE = 1, 4, 4


@dataclass(frozen=True)
class _Section:
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    item: int

    @property
    def end(self) -> int:
        return self.address + self.size


@dataclass(frozen=True)
class _Segment:
    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    in_file: int
    in_memory: int
    align: int

    def holds(self, section: _Section) -> bool:
        return self.address <= section.address and section.end <= self.address + self.in_memory


def with_weights_behind(linked: bytes, page: int) -> bytes | None:
    """The file up to where the weights begin, padded to a page; None where the linker laid out the
    room in a way that cannot be used, so that it has to be given the weights themselves.
    """
    header = _HEADER.unpack_from(linked)
    sections = _sections(linked, header)
    segments = [
        _Segment(*_SEGMENT.unpack_from(linked, header[5] + number * _SEGMENT.size))
        for number in range(header[10])
    ]
    if ROOM not in sections or SPARE not in sections:
        return None
    room, note = sections[ROOM], sections[SPARE]
    start = -(-len(linked) // page) * page
    new = _with_own_segment(segments, room, note, start, page)
    others = (s for name, s in sections.items() if name != ROOM and s.flags & ALLOCATED)
    if new is None or any(other.end > room.address for other in others):
        return None
    data = bytearray(linked)
    for number, segment in enumerate(new):
        _SEGMENT.pack_into(data, header[5] + number * _SEGMENT.size, *vars(segment).values())
    place = header[6] + [*sections].index(ROOM) * _SECTION.size
    row = replace(room, kind=PROGBITS, flags=ALLOCATED, offset=start)
    _SECTION.pack_into(data, place, *vars(row).values())
    return bytes(data) + bytes(start - len(data))


def _sections(data: bytes, header: tuple[int, ...]) -> dict[str, _Section]:
    """All sections in order, by name; of several with one name a number keeps them apart."""
    rows = [
        _Section(*_SECTION.unpack_from(data, header[6] + number * _SECTION.size))
        for number in range(header[12])
    ]
    names = rows[header[13]].offset
    found: dict[str, _Section] = {}
    for number, row in enumerate(rows):
        start = names + row.name
        name = data[start : data.index(b"\0", start)].decode(errors="replace")
        found[f"{name} {number}" if name in found else name] = row
    return found


def _with_own_segment(
    segments: list[_Segment], room: _Section, note: _Section, start: int, page: int
) -> list[_Segment] | None:
    """The segments with one of the room's own in place of the note's; in order of their addresses,
    as loading wants them.
    """
    loaded = [s for s in segments if s.kind == _LOAD]
    notes = [s for s in segments if s.kind == _NOTE and s.holds(note)]
    if not loaded or room.kind != NOBITS or room.address % page:
        return None
    last = max(loaded, key=lambda s: s.address)
    is_usable = last.holds(room) and last.address + last.in_file <= room.address > last.address
    if not is_usable or [(n.address, n.in_memory) for n in notes] != [(note.address, note.size)]:
        return None
    own = _Segment(_LOAD, _READABLE, start, room.address, room.address, room.size, room.size, page)
    kept = [s for s in segments if s is not notes[0]]
    place = kept.index(last)
    cut = replace(last, in_memory=room.address - last.address)
    return [*kept[:place], cut, own, *kept[place + 1 :]]
