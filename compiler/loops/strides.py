"""How an operand's place in memory depends on an axis: pure questions about a load (or an extent)
and an axis.

From the answers lanes, rows and columns of tiles are chosen (tiling.py) and axes are split and
merged (space.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .. import dim, scalar
from ..dim import Dim, Extent, Quotient, Remainder, Symbol
from ..layout import QUAD
from ..scalar import Expr
from .elements import Axis
from .ir import LANE, LANES, Load, extents_in, slope_along

FAR = 1 << 30  # elements: a distance that is not known
MOST_STEP = 4  # from lane to lane, of vectors that are made of so many neighbours by shuffles


def depends(load: Load, symbol: Symbol) -> bool:
    """Whether an operand's index depends on a symbol; computed indices may."""
    return any(
        isinstance(p, Expr) or (isinstance(p, Dim) and symbol in p.symbols()) for p in load.index
    )


def stride(load: Load, axis: Axis) -> int:
    """How far apart in memory an operand's elements lie along an axis; FAR if not evenly."""
    offset = load.buffer.offset(load.extents) if not load.index_expressions else None
    if not isinstance(offset, Dim) or takes_apart(offset, axis.symbol):
        return FAR
    rest = [(atoms, factor) for atoms, factor in offset.terms if axis.symbol in atoms]
    return sum(abs(factor) if len(atoms) == 1 else FAR for atoms, factor in rest)


def coefficient(extent: Extent, symbol: Symbol) -> Extent | None:
    """What an extent has for each step of a symbol; None if that is not the same everywhere."""
    if takes_apart(extent, symbol):
        return None
    at_zero = dim.substitute(extent, {symbol: 0})
    step = dim.substitute(extent, {symbol: 1}) - at_zero
    return step if extent == at_zero + step * Dim.of(symbol) else None


def overlaps(load: Load, along: Axis, window: Axis) -> bool:
    """Whether an operand's windows, one for each step of an axis, share what they read along an
    axis of the window."""
    if load.index_expressions:
        return False
    offset = load.buffer.offset(load.extents)
    step, own = coefficient(offset, along.symbol), coefficient(offset, window.symbol)
    if not step or not own:
        return False
    times = dim.exact_quotient(step, own)
    taps = window.extent
    return isinstance(times, int) and isinstance(taps, int) and 0 < abs(times) < taps


def lane_slope(load: Load, symbol: Symbol, split: Mapping[Symbol, Extent]) -> int | None:
    """How far apart in memory an operand's elements lie from lane to lane, if ``split`` makes lanes
    of the symbol; None if not evenly."""
    if any(_expression_depends(e, symbol) for e in load.index_expressions):
        return None
    index = tuple(0 if isinstance(p, Expr) else dim.substitute(p, split) for p in load.index)
    return slope_along(load.buffer.offset(index), LANE)


def _expression_depends(root: Expr, symbol: Symbol) -> bool:
    return any(
        symbol in dim.symbols_of(list(extents_in(node))) for node in scalar.post_order([root])
    )


def is_taken_apart(load: Load, symbol: Symbol, block: int = LANES) -> bool:
    """Whether an operand's layout splits this axis into blocks."""
    whole = Dim.of(symbol)
    return any(
        atom.divisor == block and atom.numerator == whole for atom in _divisions(load.extents)
    )


def takes_apart(extent: Extent, symbol: Symbol) -> bool:
    """Whether a quotient or a remainder of a symbol is left in an extent."""
    return isinstance(extent, Dim) and any(
        not isinstance(atom, Symbol) and symbol in Dim.of(atom).symbols()
        for atoms, _ in extent.terms
        for atom in atoms
    )


def group_size(items: Sequence[Load | Extent], axis: Axis, are_whole: bool = True) -> int | None:
    """The size of the groups in which operands read along an axis, if it is one; ``are_whole``:
    of an extent that is known, which they divide. Blocks of channels are always so."""
    extent = axis.extent
    if are_whole and isinstance(extent, Dim):
        return None
    for item in items:
        for atom in _divisions(item.extents if isinstance(item, Load) else (item,)):
            is_part = isinstance(extent, Dim) or 1 < atom.divisor < extent
            fits = extent % atom.divisor == 0 or not (are_whole or atom.divisor == LANES)
            if is_part and fits and _is_shifted(atom.numerator, axis.symbol):
                return atom.divisor
    return None


def _divisions(extents: Sequence[Extent]) -> list[Quotient | Remainder]:
    """The quotients and remainders that are factors of the extents' terms."""
    atoms = (
        a
        for extent in extents
        if isinstance(extent, Dim)
        for atoms, _ in extent.terms
        for a in atoms
    )
    return [atom for atom in atoms if isinstance(atom, Quotient | Remainder)]


def _is_shifted(extent: Extent, symbol: Symbol) -> bool:
    """Whether an extent is a symbol plus what does not depend on it."""
    rest = extent - Dim.of(symbol)
    return not (isinstance(rest, Dim) and symbol in rest.symbols())


def is_padded(load: Load, inner: Axis) -> bool:
    """Whether the operand holds zeros behind the end of a blocked axis: its last axis is the
    block itself, or what is left of its quads.
    """
    places = zip(load.index, load.buffer.shape, strict=True)
    ends = (inner.position, inner.position % QUAD)
    return load.index[-1] in ends or any(p == inner.position and e == LANES for p, e in places)


__all__ = [
    "FAR",
    "MOST_STEP",
    "coefficient",
    "depends",
    "group_size",
    "is_padded",
    "is_taken_apart",
    "lane_slope",
    "overlaps",
    "stride",
    "takes_apart",
]
