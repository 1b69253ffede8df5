"""What the functions of a program's host code are written from; all else is in the program's tables
(host_data.py), so programs of one shape share the object of their functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .architecture import Architecture
from .entry_plan import EntryPlan
from .features import required_features
from .variant import Variant


@dataclass(frozen=True)
class HostShape:
    """``levels``: each CPU level's name and the features that it is checked for, the lowest first."""

    architecture: Architecture
    levels: tuple[tuple[str, tuple[str, ...]], ...]
    entries: tuple[str, ...]
    is_training: bool
    run_needs_state: bool


def shape_of(variants: Sequence[Variant]) -> HostShape:
    """The shape of a program's host code; ToolchainError for unknown features."""
    program = variants[0].program  # for what the variants share
    return HostShape(
        variants[0].architecture,
        tuple((v.level, required_features(v.features)) for v in variants),
        tuple(entry.name for entry in program.entries),
        program.is_training,
        any(e.name == "run" and EntryPlan(program, e).needs_state for e in program.entries),
    )
