"""A kernel's formulas -> its iteration space: axes split and merged until operands are read by
plain strides.

Axes are split where an operand's layout takes them apart (blocks, quads, groups), and neighbours
become one that every operand walks as one, free dims too. Each rewrite is an equation, and gives a
new space over the same elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise

from .. import dim
from ..dim import Dim, Extent, Symbol
from ..layout import QUAD
from .dots import word_buffers
from .elements import Axis, Elements
from .ir import LANE, LANES, Buffer
from .lanes import by_lane
from .space import Space, Substitution, exchanged
from .strides import coefficient, depends, group_size, is_padded, is_taken_apart, takes_apart


def iteration_space(elements: Elements, has_dots: bool = False) -> Space:
    """The space of a kernel, its axes split and merged until operands are read by plain strides.
    ``has_dots``: the target has code for ``dot_bytes``."""
    pure = tuple(Axis.of(f"p{i}", e) for i, e in enumerate(elements.out.shape))
    extents = elements.compute.reduce if elements.compute else ()
    reduce = tuple(Axis.of(f"r{i}", e) for i, e in enumerate(extents))
    space = Space(
        elements, pure, tuple(a.position for a in pure), reduce, tuple(a.position for a in reduce)
    )
    space = split_quads(split_blocked_reductions(space), has_dots)
    return merge_free_axes(merge_axes(split_groups(space)))


def split_blocked_reductions(space: Space) -> Space:
    """c = 16 (c // 16) + c % 16 wherever an operand's layout takes the axis apart."""
    for place, axis in enumerate(space.reduce):
        if any(is_taken_apart(load, axis.symbol) for load in space.loads):
            space = _split_blocks(space, place, axis)
    return space


def _split_blocks(space: Space, place: int, axis: Axis) -> Space:
    outer = Axis.of(f"{axis.name}b", dim.ceil_div(axis.extent, LANES))
    inner = Axis.of(f"{axis.name}i", LANES)
    at = outer.position * LANES + inner.position
    space = replace(
        space,
        reduce=(*exchanged(space.reduce, [axis], [outer]), inner),
        reduce_at=(*space.reduce_at[:place], at, *space.reduce_at[place + 1 :]),
    )
    unpadded = [
        load for load in space.loads if depends(load, inner.symbol) and not is_padded(load, inner)
    ]
    if not unpadded or axis.extent % LANES == 0:
        return space
    return replace(space, reduce_guard=(*space.reduce_guard, axis.extent - 1 - at))


def split_quads(space: Space, has_dots: bool) -> Space:
    """k = 4 (k // 4) + k % 4 wherever an operand's layout takes the axis apart so; the four
    products are then one ``dot_bytes``, where they are of bytes that lie next to each other."""
    for axis in space.reduce:
        if not any(is_taken_apart(load, axis.symbol, QUAD) for load in space.loads):
            continue
        outer = Axis.of(f"{axis.name}q", dim.ceil_div(axis.extent, QUAD))
        inner = Axis.of(f"{axis.name}d", QUAD)
        at = Substitution({axis.symbol: outer.position * QUAD + inner.position})
        reduce = (*exchanged(space.reduce, [axis], [outer]), inner)
        space = replace(space, reduce=reduce, reduce_at=tuple(map(at, space.reduce_at)))
        return (has_dots and in_words(space, inner)) or space
    return space


def split_groups(space: Space) -> Space:
    """o = g (o // g) + o % g wherever an operand reads by group: within a group, its index is
    then constant. Of sums, the last group need not be whole: what it lacks is not stored.
    """
    for axis in space.pure:
        size = group_size([*space.reads, *space.guards], axis, space.elements.compute is None)
        if size is None or (axis is space.pure[-1] and is_picked(space, axis)):
            continue
        count = dim.ceil_div(axis.extent, size)
        outer, inner = Axis.of(f"{axis.name}g", count), Axis.of(f"{axis.name}m", size)
        at = outer.position * size + inner.position
        space = space.replaced([axis], [outer, inner], {axis.symbol: at})
        if axis.extent % size != 0:
            space = replace(space, store_guard=(*space.store_guard, axis.extent - 1 - at))
    return space


def is_picked(space: Space, axis: Axis) -> bool:
    """Whether lanes along the output's last axis find what they read within a few vectors, each at
    a known place (two lanes at one element, in an image of twice the size): the groups of the axis
    are then in the lanes."""
    if space.elements.compute is not None or any(load.index_expressions for load in space.reads):
        return False
    vectors = Axis.of("q", dim.ceil_div(axis.extent, LANES))
    lanes = {axis.symbol: vectors.position * LANES + Dim.of(LANE)}
    offsets = (load.buffer.offset(load.extents) for load in space.reads)
    found = [by_lane(dim.substitute(offset, lanes)) for offset in offsets]
    return all(
        places is not None and 0 < max(places[0]) - min(places[0]) < LANES for places in found
    )


def in_words(space: Space, inner: Axis) -> Space | None:
    """The space without the innermost axis of quads: buffers of bytes are read as int32 numbers;
    None if the term is no product of bytes that lie so."""
    if space.reduce_guard or space.elements.computed.combine != "add":
        return None
    words = word_buffers(space.elements.term(space.index, space.reduce_at), inner)
    read = [load.buffer for load in space.reads]
    if words is None or any(read.count(buffer) > 1 for buffer in words):
        return None
    first = Substitution({inner.symbol: 0})
    reduce_at = tuple(map(first, space.reduce_at))
    return replace(space, reduce=space.reduce[:-1], reduce_at=reduce_at, words=words)


def merge_axes(space: Space) -> Space:
    """i, j -> e i + j: neighbouring axes that every operand walks as one become one: fewer
    tails, longer vectors.
    """
    for place in range(len(space.pure) - 2, -1, -1):
        first, second = space.pure[place : place + 2]
        if (
            not (isinstance(first.extent, int) and isinstance(second.extent, int))
            or min(first.extent, second.extent) < 2
        ):
            continue
        merged, values = _as_one(first, second)
        if not _is_torn(space, merged, values):
            space = _flattened(space.replaced([first, second], [merged], values))
    return space


def join_axes(space: Space, first: Axis, second: Axis) -> tuple[Space, Axis]:
    """The space with two neighbouring axes of known extent as one, also where operands do not walk
    them as one, and that axis."""
    merged, values = _as_one(first, second)
    return _flattened(space.replaced([first, second], [merged], values)), merged


def _as_one(first: Axis, second: Axis) -> tuple[Axis, dict[Symbol, Extent]]:
    """i, j -> e i + j: the axis of these, and where it has each."""
    assert isinstance(first.extent, int) and isinstance(second.extent, int)
    merged = Axis.of(first.name + second.name, first.extent * second.extent)
    return merged, {
        first.symbol: merged.position // second.extent,
        second.symbol: merged.position % second.extent,
    }


def _is_torn(space: Space, merged: Axis, values: Mapping[Symbol, Extent]) -> bool:
    """Whether an operand does not walk two axes as one."""
    if any(load.index_expressions for load in space.reads):
        return True
    return any(takes_apart(dim.substitute(e, values), merged.symbol) for e in _places(space))


def merge_free_axes(space: Space) -> Space:
    """The same for axes of the output, and of a sum, that are free dims. Nothing can be divided by
    these: the first position is 0 then, and the last one runs along all, which is the same offset
    if each step of an axis is as far as all steps of the next one."""
    known = all(isinstance(axis.extent, int) for axis in (*space.pure, *space.reduce))
    if known or any(load.index_expressions for load in space.reads):
        return space
    places = _places(space)
    runs = [*_runs(space.pure, places), *_runs(space.reduce, places)]
    if runs and not space.flat:
        space = _joined(space, runs)
    for run in runs:
        merged = Axis.of(
            "".join(axis.name for axis in run), dim.product([axis.extent for axis in run])
        )
        values: dict[Symbol, Extent] = {axis.symbol: 0 for axis in run}
        values[run[-1].symbol] = merged.position
        space = space.placed_by(values, run, [merged])
    return space


def _runs(axes: Sequence[Axis], places: Sequence[Extent]) -> list[list[Axis]]:
    """The neighbours among axes, some of them free dims, that all places walk as one."""
    runs: list[list[Axis]] = []
    for axis in axes:
        if runs and _is_walked_on(runs[-1][-1], axis, places):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return [run for run in runs if len(run) > 1]


def _is_walked_on(first: Axis, second: Axis, places: Sequence[Extent]) -> bool:
    """Whether each step of an axis is as far as all steps of the next one, which is free or it."""
    if isinstance(first.extent, int) and isinstance(second.extent, int):
        return False
    steps = ((coefficient(e, first.symbol), coefficient(e, second.symbol)) for e in places)
    return all(
        far is not None and near is not None and far == near * second.extent for far, near in steps
    )


def _joined(space: Space, runs: Sequence[Sequence[Axis]]) -> Space:
    """The axes of buffers that runs of axes walk as one become one axis of them."""
    accesses = [(load.buffer, load.extents) for load in space.reads]
    accesses.append((space.elements.out, space.position))
    cuts: dict[Buffer, set[int]] = {}  # where an axis of a buffer stays apart from the one before
    for buffer, index in accesses:
        apart = cuts.setdefault(buffer, {*range(len(index) + 1)})
        for run in runs:
            symbols = {axis.symbol for axis in run}
            found = [k for k, part in enumerate(index) if symbols & dim.symbols_of([part])]
            if found:
                apart.difference_update(range(found[0] + 1, found[-1] + 1))
    joined = {buffer: _differences(sorted(apart)) for buffer, apart in cuts.items()}
    flat: dict[Buffer, Buffer] = {}
    for buffer, counts in joined.items():
        extents = iter(buffer.shape)
        shape = tuple(dim.product(list(islice(extents, count))) for count in counts)
        flat[buffer] = Buffer(buffer.name, buffer.dtype, shape)
    return replace(space, flat=flat, joined=joined)


def _differences(numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(b - a for a, b in pairwise(numbers))


def _places(space: Space) -> list[Extent]:
    """Every place that a kernel reads or stores at, by its offset, and every number it tests."""
    offsets = [load.buffer.offset(load.extents) for load in space.reads]
    return [*offsets, space.elements.out.offset(space.position), *space.guards, *space.store_guard]


def _flattened(space: Space) -> Space:
    """The output and all that is read are walked by their offsets."""
    buffers = {load.buffer for load in space.reads}.difference(space.flat.values())
    flat = {
        buffer: Buffer(buffer.name, buffer.dtype, (dim.product(buffer.shape),))
        for buffer in buffers | {space.elements.out}
    }
    return replace(space, flat={**space.flat, **flat})


__all__ = ["iteration_space", "join_axes"]
