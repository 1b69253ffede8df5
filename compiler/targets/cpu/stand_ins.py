"""A library's table of functions -> a shared object that stands in for it while a program is linked
(link.py says why).
"""

from __future__ import annotations

from pathlib import Path

from .architecture import Architecture
from .elf_object import (
    ALLOCATED,
    DEFAULT,
    EXECUTABLE,
    FUNCTION,
    PROGBITS,
    Section,
    Symbol,
    write_object,
)
from .link import Library, Linker, run_linker, symbol_versions

_ROOM = 16  # bytes for each function


def write_stand_in(
    linker: Linker, library: Library, folder: Path, architecture: Architecture
) -> Path:
    """A shared object with the library's name and symbols; their code is never run."""
    versions = symbol_versions(library, architecture)
    stem = library.name.partition(".")[0]
    source, script, output = (folder / f"{stem}{suffix}" for suffix in (".o", ".map", ".so"))
    names = [name for names in versions.values() for name in names]
    code = Section(
        ".text",
        PROGBITS,
        ALLOCATED | EXECUTABLE,
        _ROOM * len(names),
        _ROOM,
        [bytes(_ROOM)] * len(names),
    )
    functions = [
        Symbol(name, FUNCTION, DEFAULT, _ROOM, _ROOM * place) for place, name in enumerate(names)
    ]
    with source.open("wb") as file:
        write_object(file, [code], functions, architecture)
    script.write_text(
        "".join(
            f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items()
        )
    )
    run_linker(
        linker,
        [
            "-shared",
            f"-soname={library.name}",
            f"--version-script={script}",
            "-o",
            str(output),
            str(source),
        ],
    )
    return output
