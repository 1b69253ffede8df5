"""Objects for the linker that define where the weights are: with the weights, or with room for them.

The containers are written directly, because an assembler's .incbin holds the image twice in memory
and takes seconds. Layout: ELF-64 (System V ABI, chapter 4), little-endian; both define the hidden
symbol nl_weights in their first section.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from netloom import abi

from .architecture import Architecture
from .segments import WEIGHTS_SYMBOL, Buffer, Weights

ROOM, NOTE = ".nl_weights", ".note.netloom"  # sections
PROGBITS, NOTE_KIND, NOBITS = 1, 7, 8  # kinds of sections
WRITABLE, ALLOCATED = 1, 2  # flags of sections
_LARGE = 1 << 30  # bytes of an image that goes into a large section
_SYMTAB, _STRTAB = 2, 3
_LARGE_SECTION = 0x10000000  # SHF_X86_64_LARGE
_HEADER = 64


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    flags: int
    size: int
    align: int
    contents: Iterable[Buffer] = ()


def write_weights_object(file: BinaryIO, weights: Weights, architecture: Architecture) -> None:
    """An object that holds the image. On x86-64 one that would push the data out of the code's
    reach of 2 GiB goes into a large section, which GNU ld maps writable; others are read-only.
    """
    is_large = architecture.has_large_sections and weights.size >= _LARGE
    name, flags = (".lrodata", ALLOCATED | _LARGE_SECTION) if is_large else (".rodata", ALLOCATED)
    section = _Section(name, PROGBITS, flags, weights.size, 64, weights.chunks())
    _write(file, [section], architecture)


def write_room(file: BinaryIO, size: int, architecture: Architecture) -> None:
    """An object with room of ``size`` bytes, as zeroed memory that a file does not hold, and a note,
    which gives the linked file a segment header to spare (weights_segment.py).
    """
    name = b"netloom\0"
    note = struct.pack("<III", len(name), 4, 1) + name + struct.pack("<I", abi.ABI_VERSION)
    sections = [
        _Section(ROOM, NOBITS, ALLOCATED | WRITABLE, size, architecture.page),
        _Section(NOTE, NOTE_KIND, ALLOCATED, len(note), 4, [note]),
    ]
    _write(file, sections, architecture)


def _write(file: BinaryIO, sections: Sequence[_Section], architecture: Architecture) -> None:
    """A relocatable object of the sections; the symbol is all of the first one."""
    strings = b"\0" + WEIGHTS_SYMBOL.encode() + b"\0"
    symbol = struct.pack("<IBBHQQ", 1, 0x11, 2, 1, 0, sections[0].size)  # global object, hidden
    names = [*(s.name for s in sections), ".symtab", ".strtab", ".shstrtab", ".note.GNU-stack"]
    table = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    everything = [
        *sections,
        _Section(".symtab", _SYMTAB, 0, 24 + len(symbol), 8, [bytes(24), symbol]),
        _Section(".strtab", _STRTAB, 0, len(strings), 1, [strings]),
        _Section(".shstrtab", _STRTAB, 0, len(table), 1, [table]),
        _Section(".note.GNU-stack", PROGBITS, 0, 0, 1),
    ]
    starts, end = [], _HEADER
    for section in everything:
        starts.append(-(-end // section.align) * section.align if section.kind != NOBITS else end)
        end = starts[-1] + (section.size if section.kind != NOBITS else 0)
    rows = -(-end // 8) * 8
    file.write(b"\x7fELF\x02\x01\x01" + bytes(9))
    file.write(struct.pack("<HHIQQQIHHHHHH", 1, architecture.elf_machine, 1, 0, 0, rows, 0, _HEADER,
                           0, 0, 64, 1 + len(everything), len(everything) - 1))  # fmt: skip
    position = _HEADER
    for section, start in zip(everything, starts, strict=True):
        file.write(bytes(start - position))
        position = start
        for chunk in section.contents:
            file.write(chunk)
            position += len(chunk)
    file.write(bytes(rows - position) + bytes(64))
    place = 1
    for section, start in zip(everything, starts, strict=True):
        link, info, item = (len(sections) + 2, 1, 24) if section.kind == _SYMTAB else (0, 0, 0)
        file.write(struct.pack("<IIQQQQIIQQ", place, section.kind, section.flags, 0, start,
                               section.size, link, info, section.align, item))  # fmt: skip
        place += len(section.name) + 1
