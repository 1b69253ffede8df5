"""A pointwise kernel -> how it transposes its operands, if they are contiguous along another axis
than the output (transposes, changes of layout).

Such a kernel is made in square tiles (transposed_tiles.py): 16 positions of the axis along which
operands are contiguous, the *source*, by 16 of the one along which the output is, the *target*.
Only choices are made here: the two axes, which parts of the formula are computed along the source
and transposed, and how much of both axes a work item has. They depend on shapes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import dim, scalar
from ..dim import Dim, Extent
from ..scalar import Checked, Expr, Guarded, Index
from .elements import Axis
from .ir import LANE, LANES, Load, extents_in, variable
from .plan import Machine, displaces
from .space import Space, Substitution
from .strides import MOST_STEP, lane_slope, takes_apart

SHORT, LONG = 64, 512  # elements of a work item along the shorter and the longer axis, at most
# the same where the output goes past the caches: along the source, or, where that is one tile, along
# the target
WIDE = 1024
LEAST_FILLED = 32  # elements of a tile: with fewer, empty rows and lanes cost more than they save
LEAST_STORED = 4  # neighbours, for the same reason
MOST_PARTS = 4  # that are transposed in one tile

# A part of the stored value, and the conditions under which it may be computed.
Part = tuple[Expr, tuple[Extent, ...]]


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two axes: how much of it a work item has, and whether its last tile overlaps the
    one before it."""

    axis: Axis
    chunk: Extent
    overlaps: bool

    @property
    def chunks(self) -> Extent:
        """How many chunks the axis has."""
        return dim.ceil_div(self.axis.extent, self.chunk) if isinstance(self.chunk, int) else 1


@dataclass(frozen=True, eq=False)
class Transposition:
    """A kernel over a source and a target axis: the value that it stores, and the parts of that
    which are transposed, by id."""

    space: Space
    value: Expr
    parts: Mapping[int, Part]
    source: Side
    target: Side
    bypasses_cache: bool  # the output and its operands displace each other in the last-level cache

    @property
    def sides(self) -> tuple[Side, Side]:
        """(the outer, the inner) loop over tiles: the inner one is along the longer axis, so that
        lines that a tile uses in part are used again soon and few streams run at a time. Past
        the caches it is along the source: lines are written whole, and rows are read in order."""
        if self.bypasses_cache:
            return self.target, self.source
        if _is_longer(self.source.axis, self.target.axis):
            return self.target, self.source
        return self.source, self.target

    @property
    def others(self) -> tuple[Axis, ...]:
        """The axes of the output that no tile has, those with symbolic extents first."""
        both = self.source.axis, self.target.axis
        rest = [axis for axis in self.space.pure if axis not in both]
        return tuple(sorted(rest, key=lambda axis: isinstance(axis.extent, int)))


def planned_transposition(space: Space, machine: Machine) -> Transposition | None:
    """How a kernel without an anchor is made in tiles; None if its operands are contiguous along
    the output's own axis."""
    return _Planner(space, machine).planned()


class _Planner:
    def __init__(self, space: Space, machine: Machine) -> None:
        self.space, self.machine = space, machine
        self.value = space.placed(space.elements.final(space.index, None))
        self.nodes = scalar.post_order([self.value])
        self.loads = [node for node in self.nodes if isinstance(node, Load)]
        self.out = Load(*space.stored_at(Substitution({})))

    def planned(self) -> Transposition | None:
        target = next((axis for axis in self.space.pure if _slope(self.out, axis) == 1), None)
        if target is None or _filled(target) < LEAST_STORED:
            return None
        far = [load for load in self.loads if not _is_near(load, target)]
        source = self._source(far, target)
        if source is None or _filled(source) * _filled(target) < LEAST_FILLED:
            return None
        parts = self._parts(far, source)
        if not parts or len(parts) > MOST_PARTS:
            return None
        most = (LONG, SHORT) if _is_longer(source, target) else (SHORT, LONG)
        # tiles of other targets do not store whole lines
        read = dict.fromkeys(load.buffer for load in far)
        if displaces(self.out.buffer, read, self.machine) and target.extent % LANES == 0:
            is_row = isinstance(source.extent, int) and source.extent <= LANES
            along = self._side(target, WIDE) if is_row else Side(target, LANES, False)
            sides = self._side(source, WIDE), along
            return Transposition(self.space, self.value, parts, *sides, bypasses_cache=True)
        sides = self._side(source, most[0]), self._side(target, most[1])
        return Transposition(self.space, self.value, parts, *sides, bypasses_cache=False)

    def _source(self, far: Sequence[Load], target: Axis) -> Axis | None:
        """The axis along which all operands are contiguous that are not so along the target."""
        for axis in reversed(self.space.pure):
            slopes = {_slope(load, axis) for load in far}
            if axis is not target and 1 in slopes and slopes <= {0, 1}:
                return axis
        return None

    def _parts(self, far: Sequence[Load], source: Axis) -> dict[int, Part] | None:
        """The largest parts of the value that hold such operands and none that is not contiguous
        along the source; None if one stands under two sets of conditions."""
        holds_far: dict[int, bool] = {}
        fits: dict[int, bool] = {}
        are_far = set(map(id, far))
        for node in self.nodes:
            inner = scalar.children(node)
            holds_far[id(node)] = id(node) in are_far or any(
                holds_far[id(child)] for child in inner
            )
            fits[id(node)] = _fits(node, source) and all(fits[id(child)] for child in inner)
        found: dict[int, Part] = {}
        stack: list[Part] = [(self.value, ())]
        while stack:
            node, conditions = stack.pop()
            if not holds_far[id(node)]:
                continue
            if fits[id(node)]:
                if found.setdefault(id(node), (node, conditions))[1] != conditions:
                    return None
                continue
            if isinstance(node, Guarded):
                stack += [
                    (node.value, (*conditions, *node.conditions)),
                    (node.otherwise, conditions),
                ]
            else:
                stack += [(child, conditions) for child in scalar.children(node)]
        return found

    def _side(self, axis: Axis, most: int) -> Side:
        extent = axis.extent
        if not isinstance(extent, int):
            return Side(axis, most, False)
        overlaps = extent > LANES and extent % LANES != 0 and not self._is_bound_to_tiles(axis)
        chunk = _chunk(extent, most, LANES if overlaps else 1)
        return Side(axis, chunk, overlaps)

    def _is_bound_to_tiles(self, axis: Axis) -> bool:
        """Whether tiles must start at multiples of 16: an index takes the axis apart, or the
        output may lie over an operand, whose elements are then gone when they are read again."""
        offset = _offset(self.out)
        if any(load.index_expressions or _offset(load) == offset for load in self.loads):
            return True
        conditions = [
            e for node in self.nodes if isinstance(node, Guarded | Index) for e in extents_in(node)
        ]
        offsets = [_offset(load) for load in (*self.loads, self.out)]
        return any(takes_apart(extent, axis.symbol) for extent in (*offsets, *conditions))


def _offset(load: Load) -> Extent:
    return load.buffer.offset(load.extents)


def _slope(load: Load, axis: Axis) -> int | None:
    """How far apart an operand's elements lie in neighbouring lanes along an axis."""
    vector = Dim.of(variable("q", dim.ceil_div(axis.extent, LANES)))
    return lane_slope(load, axis.symbol, {axis.symbol: vector * LANES + Dim.of(LANE)})


def _is_near(load: Load, target: Axis) -> bool:
    """Whether an operand is read well along the target: element after element, or with a small
    step."""
    slope = _slope(load, target)
    return slope is not None and 0 <= slope <= MOST_STEP


def _fits(node: Expr, source: Axis) -> bool:
    """Whether a node can be computed with lanes along the source."""
    match node:
        case Load():
            return not node.index_expressions and _slope(node, source) in (0, 1)
        case Checked():
            return False
    return True


def _is_longer(axis: Axis, other: Axis) -> bool:
    return (
        isinstance(axis.extent, int)
        and isinstance(other.extent, int)
        and axis.extent > other.extent
    )


def _filled(axis: Axis) -> int:
    """How many rows or lanes of a tile an axis fills."""
    return min(axis.extent, LANES) if isinstance(axis.extent, int) else LANES


def _chunk(extent: int, most: int, least: int) -> int:
    """The elements of a chunk, at most ``most`` and whole tiles, that leave none or at least
    ``least`` for the last one; all of them if there is no such number, or if they are few."""
    if extent <= 2 * most:
        return extent
    for chunk in range(most, LANES, -LANES):
        rest = extent % chunk
        if rest == 0 or rest >= least:
            return chunk
    return extent


__all__ = ["Transposition", "Part", "Side", "planned_transposition"]
