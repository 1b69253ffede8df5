"""Program + kernel objects -> one relocatable object, to be linked into a C program with -lm -lpthread.

It defines the same symbol as a shared object exports; its other symbols are hidden. One such object fits into a program,
because two would define the same symbol. It has no record of its contents: the file is the linker's input, not code to load.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from netloom.errors import LinkError

from ...program import Program
from .host_api import build_host_object
from .link import Linker, run_linker
from .segments import lay_out
from .shared_object import build_manifest, write_objects


def relocatable_object(program: Program, kernel_objects: Sequence[bytes], features: Sequence[str] = ()) -> bytes:
    """The object's bytes; LinkError without ld or ld.lld."""
    weights = lay_out(program.constants)
    host = build_host_object(program, weights, features, build_manifest(program, features, weights), image=True)
    path = shutil.which("ld") or shutil.which("ld.lld")
    if path is None:
        raise LinkError("No linker was found: neither ld nor ld.lld.", hint="Install binutils, or write a .so file.")
    with tempfile.TemporaryDirectory(prefix="netloom-") as folder:
        objects = write_objects(Path(folder), [host, *kernel_objects], weights)
        output = Path(folder) / "program.o"
        run_linker(Linker((path,)), ["-r", "-o", str(output), *map(str, objects)])
        return output.read_bytes()
