"""A program's host code as an object: out of the cache, or written (host_api.py) and compiled.

Its key in the cache is all that the host code is written from, as text: the program without its
kernels and the contents of its constants, where these lie, and the metadata. So a program that was
compiled before needs neither LLVM nor the text of its host code.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...cache import compiler_version, default_cache
from .llvm_version import llvm_version
from .segments import Bytes, Segment, Weights
from .variant import Variant, check_variants


def build_host_object(
    variants: Sequence[Variant], weights: Weights, metadata: Sequence[str], image: bool
) -> bytes:
    """The host code as an ELF object; ``variants``: the lowest level first; ``metadata``: of each.

    ``image``: bytes of constants lie at offsets of the symbol ``nl_weights`` (a shared object);
    otherwise the offsets are addresses (in process). Raises ToolchainError for unknown features,
    ShapeError for free dims without an input.
    """
    check_variants(variants)
    is_kept = image or not weights.placements  # addresses are of no use to another process
    store, key = default_cache(), _key(variants, weights, metadata, image)
    found = store.get(*key) if is_kept else None
    if found is None:
        from .host_api import compile_host_object

        found = compile_host_object(variants, weights, metadata, image)
        if is_kept:
            store.put(found, *key)
    return found


def _key(
    variants: Sequence[Variant], weights: Weights, metadata: Sequence[str], image: bool
) -> tuple[str, ...]:
    """All that decides the object's bytes."""
    programs = [
        (v.level, v.features, v.architecture, v.program.name, v.program.symbols, v.program.entries,
         v.program.states, len(v.program.constants))
        for v in variants
    ]  # fmt: skip
    places = [
        [(_described(piece.segment), piece.offset) for piece in placement.pieces]
        for placement in weights.placements
    ]
    return ("host", compiler_version(), llvm_version(), str(image), repr(programs),
            repr((places, weights.indices, weights.size)), *metadata)  # fmt: skip


def _described(segment: Segment) -> int | tuple[bytes, int]:
    """What the host code knows of a segment."""
    return segment.size if isinstance(segment, Bytes) else (segment.element, segment.count)
