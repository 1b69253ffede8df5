"""A program's code for one CPU level or several -> one shared object and its header.

The file appears whole or not at all, depends on libc, libm and pthread only, exports one symbol,
and has the same bytes for the same input. Its last 64 bytes (netloom/abi.py) record its size and
digest, which loading and ``verify`` check.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from netloom import abi

from ...cache import compiler_version, default_cache
from ...constant import Data
from .architecture import Architecture
from .header import model_header
from .host_object import build_host_objects
from .link import find_linker, link_shared_object
from .manifest import build_manifests, with_source
from .recorded_file import write_recorded
from .segments import ByteArray, Weights, lay_out
from .variant import Variant
from .weights_object import write_room, write_weights_object
from .weights_segment import with_weights_behind
from .whole_files import check_writable, replace_program

_BLOCK = 1 << 20  # bytes that are read at a time


def write_shared_object(variants: Sequence[Variant], path: Path) -> bytes:
    """Writes ``path`` and, beside it, the header of the same name with the suffix .h; the lowest
    level comes first. Returns the digest that the trailer records.

    Raises UsageError if the place cannot be written (before any work), LinkError without a linker,
    ToolchainError for unknown features.
    """
    check_writable(path)
    program, architecture = variants[0].program, variants[0].architecture
    weights = lay_out(program.constants)
    manifests = build_manifests(variants, weights)
    host = build_host_objects(variants, weights, manifests, image=True)
    kernels = [data for variant in variants for data in variant.objects]

    def finish(code: bytes) -> bytes:
        return with_source(code, manifests, program)

    def write(library: Path) -> bytes:
        with tempfile.TemporaryDirectory(prefix="netloom-") as folder:
            size, contents = _contents(host, kernels, finish, weights, architecture, Path(folder))
            return write_recorded(library, contents, size)

    return replace_program(path, write, model_header(program))


def _contents(
    host: tuple[bytes, bytes], kernels: Sequence[bytes], finish: Callable[[bytes], bytes], weights: Weights,
    architecture: Architecture, folder: Path,
) -> tuple[int, Iterator[Data]]:  # fmt: skip
    """The size of the linked file, and its contents from front to back; ``host``: functions and
    tables; ``finish`` completes code that holds the tables; ``folder`` is private room for temporary files.
    """
    functions, tables = host
    code = finish(_linked([functions, tables, *kernels], weights.size, architecture, folder))
    front = with_weights_behind(code, architecture.page) if weights.size else code
    if front is not None:
        start = np.frombuffer(front, np.uint8)
        return start.size + weights.size, chain([start], weights.parts())
    files = _write_objects(folder, [functions, finish(tables), *kernels])
    files.append(folder / "weights.o")
    with files[-1].open("wb") as file:
        write_weights_object(file, weights, architecture)
    whole = folder / "whole.so"
    link_shared_object(files, whole, folder, architecture)
    return whole.stat().st_size, _blocks(whole)


def _blocks(path: Path) -> Iterator[ByteArray]:
    """The bytes of a file."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield np.frombuffer(block, np.uint8)


def _linked(objects: Sequence[bytes], room: int, architecture: Architecture, folder: Path) -> bytes:
    """The objects, linked, with room for ``room`` bytes of weights; kept for the next compile of a
    program with the same code.
    """
    store, linker = default_cache(), find_linker(architecture)
    digests = [hashlib.sha256(data).hexdigest() for data in objects]
    key = ("linked", compiler_version(), abi.ENTRY_POINT, str(abi.ABI_VERSION), *linker.identity,
           architecture.name, str(room), *digests)  # fmt: skip
    found = store.get(*key)
    if found is None:
        files = _write_objects(folder, objects)
        if room:
            files.append(folder / "room.o")
            with files[-1].open("wb") as file:
                write_room(file, room, architecture)
        link_shared_object(files, folder / "linked.so", folder, architecture)
        found = (folder / "linked.so").read_bytes()
        store.put(found, *key)
        store.trim()
    return found


def _write_objects(folder: Path, objects: Sequence[bytes]) -> list[Path]:
    paths = []
    for number, data in enumerate(objects):
        paths.append(folder / f"object{number}.o")
        paths[-1].write_bytes(data)
    return paths
