"""Conditions on indices: extents that must be >= 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .atoms import Atom
from .polynomial import Dim, Extent
from .ranges import is_nonnegative


def inside(index: Sequence[Extent], shape: Sequence[Extent]) -> tuple[Extent, ...]:
    """Conditions (extent >= 0) that hold where an index lies inside a shape."""
    return tuple(
        condition
        for i, extent in zip(index, shape, strict=True)
        for condition in (i, extent - 1 - i)
    )


def unproved(conditions: Iterable[Extent]) -> tuple[Extent, ...]:
    """Those conditions (extent >= 0) that the ranges of their symbols do not prove."""
    return tuple(condition for condition in conditions if not is_nonnegative(condition))


def reduced_condition(extent: Extent) -> Extent:
    """An extent that is >= 0 exactly where the given one is, without terms too small to matter: 16
    p + l - 64 with 0 <= l < 16 becomes p - 4.
    """
    if isinstance(extent, int):
        return extent
    known = _atoms(extent)
    steps = {abs(factor) for atoms, factor in extent.terms if atoms} - {1}
    for step in sorted(steps, reverse=True):
        quotient = extent // step
        if isinstance(quotient, int) or _atoms(quotient) < known:
            return reduced_condition(quotient)
    return extent


def _atoms(extent: Dim) -> set[Atom]:
    return {atom for atoms, _ in extent.terms for atom in atoms}
