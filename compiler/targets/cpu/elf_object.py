"""Sections and symbols -> a relocatable object for the linker, without an assembler or LLVM.

Layout: ELF-64 (System V ABI, chapter 4), little-endian. Symbols are global; nothing is relocated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from .architecture import Architecture
from .segments import Buffer

PROGBITS, NOTE, NOBITS = 1, 7, 8  # kinds of sections
WRITABLE, ALLOCATED, EXECUTABLE = 1, 2, 4  # flags of sections
DATA, FUNCTION = 1, 2  # kinds of symbols
DEFAULT, HIDDEN = 0, 2  # visibilities
_SYMTAB, _STRTAB = 2, 3
_GLOBAL = 1
_HEADER, _ROW, _SYMBOL = 64, 64, 24  # bytes


@dataclass(frozen=True)
class Section:
    """``contents``: ``size`` bytes, unless it is of kind NOBITS."""

    name: str
    kind: int
    flags: int
    size: int
    align: int
    contents: Iterable[Buffer] = ()


@dataclass(frozen=True)
class Symbol:
    """``start`` and ``size``: bytes of section number ``section``, counted from 0."""

    name: str
    kind: int
    visibility: int
    size: int
    start: int = 0
    section: int = 0


def write_object(
    file: BinaryIO,
    sections: Sequence[Section],
    symbols: Sequence[Symbol],
    architecture: Architecture,
) -> None:
    """Writes an object that defines the symbols, and needs no stack that can be executed."""
    everything = [*sections, *_tables(sections, symbols)]
    starts, rows = _places(everything)
    file.write(b"\x7fELF\x02\x01\x01" + bytes(9))
    file.write(struct.pack("<HHIQQQIHHHHHH", 1, architecture.elf_machine, 1, 0, 0, rows, 0, _HEADER,
                           0, 0, _ROW, 1 + len(everything), len(everything)))  # fmt: skip
    position = _HEADER
    for section, start in zip(everything, starts, strict=True):
        file.write(bytes(start - position))
        position = start
        for chunk in section.contents:
            file.write(chunk)
            position += len(chunk)
    file.write(bytes(rows - position) + bytes(_ROW))
    name = 1
    for section, start in zip(everything, starts, strict=True):
        # symbols: their names' section, the first one that is not local, and their size
        link, info, item = (len(sections) + 2, 1, _SYMBOL) if section.kind == _SYMTAB else (0, 0, 0)
        file.write(struct.pack("<IIQQQQIIQQ", name, section.kind, section.flags, 0, start,
                               section.size, link, info, section.align, item))  # fmt: skip
        name += len(section.name) + 1


def _tables(sections: Sequence[Section], symbols: Sequence[Symbol]) -> list[Section]:
    """What stands behind an object's own sections; the sections' names are the last."""
    rows, strings = bytes(_SYMBOL), b"\0"
    for symbol in symbols:
        kind, section = _GLOBAL << 4 | symbol.kind, 1 + symbol.section
        rows += struct.pack("<IBBHQQ", len(strings), kind, symbol.visibility, section, symbol.start,
                            symbol.size)  # fmt: skip
        strings += symbol.name.encode() + b"\0"
    tables = [
        Section(".symtab", _SYMTAB, 0, len(rows), 8, [rows]),
        Section(".strtab", _STRTAB, 0, len(strings), 1, [strings]),
        Section(".note.GNU-stack", PROGBITS, 0, 0, 1),
    ]
    last = ".shstrtab"
    names = "".join(f"\0{name}" for name in (*(s.name for s in (*sections, *tables)), last)) + "\0"
    return [*tables, Section(last, _STRTAB, 0, len(names), 1, [names.encode()])]


def _places(sections: Sequence[Section]) -> tuple[list[int], int]:
    """Where each section starts in the file, and the table of all of them."""
    starts, end = [], _HEADER
    for section in sections:
        in_file = section.kind != NOBITS
        starts.append(-(-end // section.align) * section.align if in_file else end)
        end = starts[-1] + (section.size if in_file else 0)
    return starts, -(-end // 8) * 8
