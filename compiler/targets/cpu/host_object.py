"""A program's host code as two objects, functions and tables: out of the cache, or written
(host_api.py) and compiled.

The functions' key in the cache is the program's shape (host_shape.py). That of the tables is all
that they are written from, as text: the program without its kernels and the contents of its
constants, where these lie, and the metadata. So a program that was compiled before needs neither
LLVM nor the text of its host code, and most new ones need their tables only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from threading import Thread

from ...cache import compiler_version, default_cache
from .host_shape import HostShape, shape_of
from .llvm_version import llvm_version
from .segments import Bytes, Segment, Weights
from .variant import Variant, check_variants


def build_host_objects(
    variants: Sequence[Variant], weights: Weights, metadata: Sequence[str], image: bool
) -> tuple[bytes, bytes]:
    """Functions and tables as ELF objects; ``variants``: the lowest level first; ``metadata``: of
    each.

    ``image``: bytes of constants lie at offsets of the symbol ``nl_weights`` (a shared object);
    otherwise the offsets are addresses (in process). Raises ToolchainError for unknown features,
    ShapeError for free dims without an input.
    """
    check_variants(variants)

    def tables() -> bytes:
        from .host_api import compile_data

        return compile_data(variants, weights, metadata, image)

    is_kept = image or not weights.placements  # addresses are of no use to another process
    key = ("host tables", *_versions(), *_key(variants, weights, metadata, image))
    return _functions(shape_of(variants)), _kept(key, tables) if is_kept else tables()


@contextlib.contextmanager
def functions_ahead(variants: Sequence[Variant]) -> Iterator[None]:
    """Functions that the cache lacks are made beside what the caller does here, for the
    ``build_host_objects`` that follows: LLVM leaves the interpreter free. The variants may lack their objects.
    """
    shape = shape_of(variants)
    if default_cache().get(*_functions_key(shape)) is not None:
        yield
        return
    from . import host_api  # here, so that two threads do not import at once

    def run() -> None:
        with contextlib.suppress(Exception):  # what fails here fails again where it is asked for
            _functions(shape)

    assert host_api
    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _functions(shape: HostShape) -> bytes:
    def compile() -> bytes:
        from .host_api import compile_functions

        return compile_functions(shape)

    return _kept(_functions_key(shape), compile)


def _functions_key(shape: HostShape) -> tuple[str, ...]:
    return ("host functions", *_versions(), repr(shape))


def _versions() -> tuple[str, str]:
    return compiler_version(), llvm_version()


def _kept(key: tuple[str, ...], compile: Callable[[], bytes]) -> bytes:
    store = default_cache()
    found = store.get(*key)
    if found is None:
        found = compile()
        store.put(found, *key)
    return found


def _key(
    variants: Sequence[Variant], weights: Weights, metadata: Sequence[str], image: bool
) -> tuple[str, ...]:
    """All that decides the tables."""
    programs = [
        (v.level, v.features, v.architecture, v.program.name, v.program.symbols, v.program.entries,
         v.program.states, len(v.program.constants))
        for v in variants
    ]  # fmt: skip
    places = [
        [(_described(piece.segment), piece.offset) for piece in placement.pieces]
        for placement in weights.placements
    ]
    described = repr((places, weights.indices, weights.size))
    return (str(image), repr(programs), described, *metadata)


def _described(segment: Segment) -> int | tuple[bytes, int]:
    """What the host code knows of a segment."""
    return segment.size if isinstance(segment, Bytes) else (segment.element, segment.count)
