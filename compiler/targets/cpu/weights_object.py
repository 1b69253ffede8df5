"""Objects for the linker that define where the weights are: with the weights, or with room for them.

The containers are written directly (elf_object.py), because an assembler's .incbin holds the image
twice in memory and takes seconds. Both define the hidden symbol nl_weights in their first section.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

from netloom import abi

from .architecture import Architecture
from .elf_object import (
    ALLOCATED,
    DATA,
    HIDDEN,
    NOBITS,
    NOTE,
    PROGBITS,
    WRITABLE,
    Section,
    Symbol,
    write_object,
)
from .segments import WEIGHTS_SYMBOL, Weights

ROOM, SPARE = ".nl_weights", ".note.netloom"  # sections
_LARGE = 1 << 30  # bytes of an image that goes into a large section
_LARGE_SECTION = 0x10000000  # SHF_X86_64_LARGE


def write_weights_object(file: BinaryIO, weights: Weights, architecture: Architecture) -> None:
    """An object that holds the image. On x86-64 one that would push the data out of the code's
    reach of 2 GiB goes into a large section, which GNU ld maps writable; others are read-only.
    """
    is_large = architecture.has_large_sections and weights.size >= _LARGE
    name, flags = (".lrodata", ALLOCATED | _LARGE_SECTION) if is_large else (".rodata", ALLOCATED)
    section = Section(name, PROGBITS, flags, weights.size, 64, weights.chunks())
    _write(file, [section], architecture)


def write_room(file: BinaryIO, size: int, architecture: Architecture) -> None:
    """An object with room of ``size`` bytes, as zeroed memory that a file does not hold, and a note,
    which gives the linked file a segment header to spare (weights_segment.py).
    """
    name = b"netloom\0"
    note = struct.pack("<III", len(name), 4, 1) + name + struct.pack("<I", abi.ABI_VERSION)
    sections = [
        Section(ROOM, NOBITS, ALLOCATED | WRITABLE, size, architecture.page),
        Section(SPARE, NOTE, ALLOCATED, len(note), 4, [note]),
    ]
    _write(file, sections, architecture)


def _write(file: BinaryIO, sections: Sequence[Section], architecture: Architecture) -> None:
    """An object of the sections; the symbol is all of the first one."""
    symbol = Symbol(WEIGHTS_SYMBOL, DATA, HIDDEN, sections[0].size)
    write_object(file, sections, [symbol], architecture)
