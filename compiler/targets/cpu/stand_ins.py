"""A library's table of functions -> a shared object that stands in for it while a program is linked
(link.py says why).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import llvmlite.binding as llvm
from llvmlite import ir

from .architecture import Architecture
from .link import Library, Linker, run_linker, symbol_versions
from .object_code import target_of


def write_stand_in(
    linker: Linker, library: Library, folder: Path, architecture: Architecture
) -> Path:
    """A shared object with the library's name and symbols, and empty functions."""
    versions = symbol_versions(library, architecture)
    stem = library.name.partition(".")[0]
    source, script, output = (folder / f"{stem}{suffix}" for suffix in (".o", ".map", ".so"))
    source.write_bytes(
        _empty_functions([name for names in versions.values() for name in names], architecture)
    )
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


def _empty_functions(names: Sequence[str], architecture: Architecture) -> bytes:
    module = ir.Module("stand_in")
    module.triple = architecture.triple
    for name in names:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), name)
        ir.IRBuilder(function.append_basic_block()).ret_void()
    machine = target_of(architecture.triple).create_target_machine(reloc="pic", codemodel="small")
    return bytes(machine.emit_object(llvm.parse_assembly(str(module))))
