"""A program's code for one CPU level or several -> one relocatable object, to be linked into a C
program with -lm -lpthread.

It defines the same symbol as a shared object exports; its other symbols are hidden. One such object
fits into a program, because two would define the same symbol. It has no record of its contents: the
file is the linker's input, not code to load. The objects are joined here, section by section, so
that code for another architecture needs no linker of that architecture.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from netloom.errors import LinkError

from .host_object import build_host_objects
from .manifest import build_manifests, with_source
from .segments import lay_out
from .variant import Variant
from .weights_object import write_weights_object

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # ELF-64 (System V ABI, chapter 4), little-endian
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_SYMTAB, _STRTAB, _RELA, _NOBITS, _ADDRSIG = 2, 3, 4, 8, 0x6FFF4C03
_RESERVED = 0xFF00  # section numbers from here on mean something else
# one at the end says it for all; the other names the producer
_DROPPED = {".note.GNU-stack", ".comment"}


def relocatable_object(variants: Sequence[Variant]) -> bytes:
    """The object's bytes; LinkError for two definitions of one symbol."""
    weights = lay_out(variants[0].program.constants)
    manifests = build_manifests(variants, weights)
    functions, blank = build_host_objects(variants, weights, manifests, image=True)
    tables = with_source(blank, manifests, variants[0].program)
    objects = [functions, tables, *(data for variant in variants for data in variant.objects)]
    if weights.size:
        image = io.BytesIO()
        write_weights_object(image, weights, variants[0].architecture)
        objects.append(image.getvalue())
    return join_objects(objects, variants[0].architecture.elf_machine)


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    flags: int
    data: bytes | memoryview
    size: int
    link: int
    info: int
    align: int
    item: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    info: int
    other: int
    section: int
    value: int
    size: int

    @property
    def is_local(self) -> bool:
        return self.info >> 4 == 0


@dataclass
class _Joined:
    """What has been taken over. Local symbols come before the shared ones; the first is none at
    all.
    """

    sections: list[_Section] = field(default_factory=list)  # number 1 and up
    relocations: list[tuple[_Section, int, list[tuple[int, _Symbol | str, int, int]]]] = field(
        default_factory=list
    )
    local: list[_Symbol] = field(default_factory=lambda: [_Symbol("", 0, 0, 0, 0, 0)])
    shared: dict[str, _Symbol] = field(default_factory=dict)


def join_objects(objects: Sequence[bytes], machine: int) -> bytes:
    """One relocatable ELF object with the sections of all, in order; undefined symbols find the
    others' definitions.
    """
    joined = _Joined()
    for data in objects:
        _take_over(joined, data)
    if len(joined.sections) + len(joined.relocations) + 8 > _RESERVED:
        raise LinkError(
            "the program has too many sections for an object.", hint="Write a .so file."
        )
    return _written(joined, machine)


def _read(data: bytes) -> tuple[list[_Section], list[_Symbol]]:
    header = _HEADER.unpack_from(data)
    rows = [
        _SECTION.unpack_from(data, header[6] + number * _SECTION.size)
        for number in range(header[12])
    ]
    names = rows[header[13]][4]
    sections = [
        _Section(_text(data, names + row[0]), row[1], row[2],
                 b"" if row[1] == _NOBITS else memoryview(data)[row[4] : row[4] + row[5]],
                 row[5], row[6], row[7], row[8], row[9])
        for row in rows
    ]  # fmt: skip
    table = next(section for section in sections if section.kind == _SYMTAB)
    strings = bytes(sections[table.link].data)
    return sections, [
        _Symbol(_text(strings, name), *rest) for name, *rest in _SYMBOL.iter_unpack(table.data)
    ]


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


def _take_over(joined: _Joined, data: bytes) -> None:
    sections, symbols = _read(data)
    numbers = {0: 0}
    for number, section in enumerate(sections):
        if section.kind in (0, _SYMTAB, _STRTAB, _RELA, _ADDRSIG) or section.name in _DROPPED:
            continue
        joined.sections.append(section)
        numbers[number] = len(joined.sections)
    final: list[_Symbol | str] = [joined.local[0]]
    for symbol in symbols[1:]:
        place = symbol.section if symbol.section >= _RESERVED else numbers.get(symbol.section)
        if place is None:  # of a section that was dropped
            final.append(joined.local[0])
            continue
        moved = replace(symbol, section=place)
        if symbol.is_local:
            joined.local.append(moved)
            final.append(moved)
        else:
            _unite(joined, moved)
            final.append(symbol.name)
    for section in sections:
        if section.kind == _RELA and section.info in numbers:
            rows = [
                (at, final[info >> 32], info & 0xFFFFFFFF, addend)
                for at, info, addend in _RELOCATION.iter_unpack(section.data)
            ]
            joined.relocations.append((section, numbers[section.info], rows))


def _unite(joined: _Joined, symbol: _Symbol) -> None:
    """A definition replaces an undefined symbol; the strictest visibility stays."""
    former = joined.shared.get(symbol.name)
    if former is None:
        joined.shared[symbol.name] = symbol
        return
    if former.section and symbol.section:
        raise LinkError(f"Two objects define the symbol {symbol.name[:100]!r}.")
    kept = former if former.section else symbol
    seen = [other for other in (former.other, symbol.other) if other]
    # hidden is 2, protected 3
    joined.shared[symbol.name] = replace(kept, other=min(seen, default=0))


def _written(joined: _Joined, machine: int) -> bytes:
    symbols = [*joined.local, *joined.shared.values()]
    number_of: dict[int | str, int] = {
        id(symbol): number for number, symbol in enumerate(joined.local)
    }
    number_of |= {name: len(joined.local) + number for number, name in enumerate(joined.shared)}
    strings = _Strings()
    table = b"".join(
        _SYMBOL.pack(strings.place(s.name), s.info, s.other, s.section, s.value, s.size)
        for s in symbols
    )
    count = len(joined.sections)
    symtab = count + len(joined.relocations) + 1
    sections = [*joined.sections]
    for section, target, rows in joined.relocations:
        packed = b"".join(
            _RELOCATION.pack(
                place, number_of[s if isinstance(s, str) else id(s)] << 32 | kind, addend
            )
            for place, s, kind, addend in rows
        )
        sections.append(replace(section, data=packed, size=len(packed), link=symtab, info=target))
    sections.append(
        _Section(
            ".symtab", _SYMTAB, 0, table, len(table), symtab + 1, len(joined.local), 8, _SYMBOL.size
        )
    )
    sections.append(_Section(".strtab", _STRTAB, 0, strings.data, len(strings.data), 0, 0, 1, 0))
    sections.append(_Section(".note.GNU-stack", 1, 0, b"", 0, 0, 0, 1, 0))
    return _laid_out(sections, machine)


class _Strings:
    """A table of strings, each once."""

    def __init__(self) -> None:
        self.data = b"\0"
        self._places = {"": 0}

    def place(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self._places[text]


def _laid_out(sections: Sequence[_Section], machine: int) -> bytes:
    """The file: header, contents, names, table of sections."""
    names = _Strings()
    body, rows = bytearray(_HEADER.size), [bytes(_SECTION.size)]
    for section in (*sections, _Section(".shstrtab", _STRTAB, 0, b"", 0, 0, 0, 1, 0)):
        name = names.place(section.name)
        body += bytes(-len(body) % max(1, section.align))
        data = names.data if section.name == ".shstrtab" else section.data
        size = section.size if section.kind == _NOBITS else len(data)
        rows.append(_SECTION.pack(name, section.kind, section.flags, 0, len(body), size,
                                  section.link, section.info,
                                  section.align, section.item))  # fmt: skip
        body += data
    body += bytes(-len(body) % 8)
    header = (
        b"\x7fELF\x02\x01\x01" + bytes(9),
        1,
        machine,
        1,
        0,
        0,
        len(body),
        0,
        64,
        0,
        0,
        64,
        len(rows),
        len(rows) - 1,
    )
    body[: _HEADER.size] = _HEADER.pack(*header)
    body += b"".join(rows)
    return bytes(body)
