"""Shapes of results: whether anybody could hold them, and how messages show them."""

from __future__ import annotations

from collections.abc import Sequence

from netloom.compiler.dim import Extent
from netloom.compiler.tensor_type import MAX_ELEMENTS, MAX_RANK, TensorType
from netloom.errors import MemoryBudgetError, ShapeError


def check_size(type: TensorType) -> None:
    """Refuse tensors that nobody could hold, before anything is sized from them."""
    if type.rank > MAX_RANK:
        raise ShapeError(f"a result has rank {type.rank}; the highest is {MAX_RANK}.")
    elements = type.elements
    if isinstance(elements, int) and elements > MAX_ELEMENTS:
        raise MemoryBudgetError(f"a result would have {elements} elements; the most is {MAX_ELEMENTS}.",
                                hint="Use smaller shapes.")  # fmt: skip
    if isinstance(elements, int) and elements < 0:
        raise ShapeError(f"a result would have the shape {type}.")


def numbers(extents: Sequence[Extent]) -> tuple[int, ...] | None:
    """The extents as ints, None if one is symbolic."""
    found = tuple(extent for extent in extents if isinstance(extent, int))
    return found if len(found) == len(extents) else None


def listed(shape: Sequence[Extent]) -> str:
    """A shape as messages show it: ``[n, 3, 224]``."""
    return f"[{', '.join(map(str, shape))}]"
