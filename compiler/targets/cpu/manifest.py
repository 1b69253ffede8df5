"""What a program says of itself: entries, states, levels and options, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from netloom import abi

from ...dim import Extent
from ...program import BoundDim, Entry, Port, Program
from .entry_plan import EntryPlan
from .features import required_features
from .segments import Weights
from .variant import Variant


def build_manifests(variants: Sequence[Variant], weights: Weights) -> tuple[str, ...]:
    """Each variant's metadata as JSON: sorted keys, ASCII; extents are numbers or texts such as
    "2*N + 1". They differ in ``level`` (the one in use), its ``features`` and its launches."""
    levels = [
        {"name": variant.level, "features": list(required_features(variant.features))}
        for variant in variants
    ]
    return tuple(
        _manifest(variant.program, level, levels, weights)
        for variant, level in zip(variants, levels, strict=True)
    )


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
    return {str(key): value for key, value in metadata.items()}


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


__all__ = ["build_manifests"]
