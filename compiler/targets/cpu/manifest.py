"""What a program says of itself: entries, states, levels and options, as JSON.

The hash of the program's source stands in it as blanks until the code is whole: it is all in the
manifest that depends on the weights' contents, so programs that differ in these share their tables
and what is linked of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from netloom import abi
from netloom.errors import VerificationError

from ...dim import Extent
from ...program import BoundDim, Entry, Port, Program
from .entry_plan import EntryPlan
from .features import required_features
from .segments import Weights
from .variant import Variant

_SOURCE = "source_hash"


def build_manifests(variants: Sequence[Variant], weights: Weights) -> tuple[str, ...]:
    """Each variant's metadata as JSON: sorted keys, ASCII; extents are numbers or texts such as
    "2*N + 1". They differ in ``level`` (the one in use), its ``features`` and its launches.
    The source's hash is left to ``with_source``."""
    levels = [
        {"name": variant.level, "features": list(required_features(variant.features))}
        for variant in variants
    ]
    return tuple(
        _manifest(variant.program, level, levels, weights)
        for variant, level in zip(variants, levels, strict=True)
    )


def with_source(code: bytes, manifests: Sequence[str], program: Program) -> bytes:
    """Code that holds manifests, an object or what is linked, with the hash of the program's source
    put into each; VerificationError for code that does not hold them.
    """
    source = str(program.metadata.get(_SOURCE, ""))
    for manifest in manifests:
        written = manifest.replace(_as_json(_blank(source)), _as_json(source))
        if code.count(manifest.encode()) != 1:
            raise VerificationError("A program holds each of its manifests once.")
        code = code.replace(manifest.encode(), written.encode())
    return code


def _blank(source: str) -> str:
    return "-" * len(source)


def _as_json(source: str) -> str:
    """The member; within a text its quotes would follow backslashes."""
    return json.dumps({_SOURCE: source}, separators=(",", ":"))[1:-1]


def _manifest(
    program: Program,
    level: Mapping[str, Any],
    levels: Sequence[Mapping[str, Any]],
    weights: Weights,
) -> str:
    stored = sum(
        piece.segment.size for placement in weights.placements for piece in placement.pieces
    )
    manifest: dict[str, Any] = {
        **_plain(program.metadata),
        "abi": abi.ABI_VERSION,
        "name": program.name,
        "target": "cpu",
        "training": program.is_training,
        "level": level["name"],
        "features": level["features"],
        "levels": levels,
        "dims": [{"name": s.name, "lo": s.lo, "hi": s.hi} for s in program.symbols],
        "entries": [_entry(program, entry) for entry in program.entries],
        "states": [
            {"name": s.name, "dtype": s.type.dtype.value, "shape": s.type.static_shape}
            for s in program.states
        ],
        "constant_bytes": stored,
        "weight_bytes": weights.size,
    }
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"))


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = {str(key): value for key, value in metadata.items()}
    return {**found, _SOURCE: _blank(found[_SOURCE])} if _SOURCE in found else found


def _entry(program: Program, entry: Entry) -> dict[str, Any]:
    plan = EntryPlan(program, entry)
    return {
        "name": entry.name,
        "inputs": [_port(port) for port in entry.inputs],
        "outputs": [_port(port) for port in entry.outputs],
        "launches": len(entry.launches),
        "needs_state": plan.needs_state,
        "arena_bytes": _extent(plan.arena_bytes),
        "data_dims": [
            {"name": bound.symbol.name, "most": _extent(bound.bound)}
            for bound in entry.dims
            if isinstance(bound, BoundDim)
        ],
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": port.type.dtype.value,
        "shape": [_extent(extent) for extent in port.type.shape],
    }


def _extent(extent: Extent) -> int | str:
    return extent if isinstance(extent, int) else str(extent)


__all__ = ["build_manifests", "with_source"]
