"""The iteration space of a kernel: the axes of its output and its reduction, and its term over
them.

``iteration_space`` gives the axes as they come from the output's memory and the anchor's reduction,
rewritten by three equations that let operands be read by plain strides; tiling.py then splits off
lanes and chunks. Every rewrite gives a new space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from .. import dim, scalar
from ..dim import Extent, Symbol
from ..layout import QUAD
from ..scalar import Checked, Expr, Guarded, Index
from .dots import dot_of_words, word_buffers
from .elements import Axis, Elements
from .ir import LANE, LANES, Buffer, Load, extents_in
from .strides import depends, group_size, is_padded, is_taken_apart, takes_apart


@dataclass(frozen=True)
class Substitution:
    """Symbols -> positions, in extents and expressions."""

    values: Mapping[Symbol, Extent]

    def __call__(self, extent: Extent) -> Extent:
        return dim.substitute(extent, self.values)

    def expression(self, root: Expr) -> Expr:
        """An expression with all its indices substituted; conditions that then hold are left
        out.
        """
        return scalar.transform(root, self._made)

    def _made(self, node: Expr, new: Sequence[Expr]) -> Expr | None:
        match node:
            case Load(buffer, index):
                parts = iter(new)
                return Load(
                    buffer, tuple(next(parts) if isinstance(p, Expr) else self(p) for p in index)
                )
            case Index(extent):
                return Index(self(extent))
            case Guarded(conditions):
                reduced = (dim.reduced_condition(self(c)) for c in conditions)
                left = dim.unproved(reduced)
                return Guarded(left, new[0], new[1]) if left else new[0]
            case Checked(_, extent):
                return Checked(new[0], self(extent))
        return None


@dataclass(frozen=True, eq=False)
class Space:
    """The axes of a kernel. ``position`` and ``reduce_at`` say in base symbols where the output is
    stored and what is summed; ``steps`` then say, one after another, at which positions of finer
    loops base symbols are found."""

    elements: Elements
    pure: tuple[Axis, ...]  # of the output
    position: tuple[Extent, ...]  # physical
    reduce: tuple[Axis, ...]
    reduce_at: tuple[Extent, ...]
    reduce_guard: tuple[Extent, ...] = ()  # where terms count
    store_guard: tuple[Extent, ...] = ()  # where results are stored
    steps: tuple[Substitution, ...] = ()
    # buffers that are walked by their offsets
    flat: Mapping[Buffer, Buffer] = field(default_factory=dict)
    # buffers of bytes whose products add up in fours, as int32 numbers of four bytes
    words: Mapping[Buffer, Buffer] = field(default_factory=dict)

    # -- what is computed there --------------------------------------------------------------------

    @cached_property
    def index(self) -> tuple[Extent, ...]:
        """The output's logical index, in base symbols."""
        return self.elements.logical(self.position)

    @cached_property
    def term(self) -> Expr:
        """The anchor's term (or the stored value of a pointwise kernel), over the present loops."""
        if self.elements.compute is None:
            return self.placed(self.elements.final(self.index, None))
        term = self.elements.term(self.index, self.reduce_at)
        term = self.placed(dot_of_words(term, self.words) if self.words else term)
        if self.store_guard:
            term = self._guard_lanes(term)
        return scalar.guarded(self.reduce_guard, term, self.elements.neutral(term.dtype))

    def _guard_lanes(self, term: Expr) -> Expr:
        """Lanes behind the end of the axis read nothing; what they hold is never stored."""
        in_lanes = tuple(c for c in self.store_guard if LANE in dim.symbols_of([c]))

        def leaf(node: Expr) -> Expr | None:
            if in_lanes and isinstance(node, Load) and depends(node, LANE):
                return Guarded(in_lanes, node, scalar.literal(0, node.dtype))
            return None

        return scalar.rebuild(term, leaf)

    @cached_property
    def loads(self) -> list[Load]:
        """The operands of the term."""
        return [node for node in scalar.post_order([self.term]) if isinstance(node, Load)]

    @cached_property
    def reads(self) -> list[Load]:
        """All loads of the kernel, those of the epilogue too."""
        return [node for node in self._nodes if isinstance(node, Load)]

    @cached_property
    def guards(self) -> list[Extent]:
        """Every condition and index number of the stored value."""
        return [
            e
            for node in self._nodes
            if isinstance(node, Guarded | Index | Checked)
            for e in extents_in(node)
        ]

    @cached_property
    def _nodes(self) -> list[Expr]:
        """All that the kernel computes: the term, and the stored value over an unknown sum."""
        elements = self.elements
        if elements.compute is None:
            return scalar.post_order([elements.final(self.index, None)])
        sum_ = elements.finished(self.index, scalar.literal(0, elements.anchored.output.dtype))
        return scalar.post_order([self.term, elements.final(self.index, sum_)])

    # -- from base symbols to loops ----------------------------------------------------------------

    def placed(self, root: Expr, put: Substitution | None = None) -> Expr:
        """An expression over base symbols, over the loops that were made of them."""
        if self.flat:
            root = scalar.rebuild(root, self._flattened)
        for step in [*self.steps, *([put] if put else [])]:
            root = step.expression(root)
        return root

    def _flattened(self, node: Expr) -> Expr | None:
        if isinstance(node, Load) and node.buffer in self.flat:
            return Load(self.flat[node.buffer], (node.buffer.offset(node.extents),))
        return None

    def stored_at(self, put: Substitution) -> tuple[Buffer, tuple[Extent, ...]]:
        """The output and the place in it where a result is stored."""
        out, position = self.elements.out, self.position
        if out in self.flat:
            out, position = self.flat[out], (out.offset(position),)
        for step in [*self.steps, put]:
            position = tuple(map(step, position))
        return out, position

    @property
    def arguments(self) -> Mapping[Buffer, Buffer]:
        """The kernel's buffers that the loops see as others."""
        return {
            **self.flat,
            **{buffer: self.flat.get(word, word) for buffer, word in self.words.items()},
        }

    # -- rewrites ----------------------------------------------------------------------------------

    def replaced(
        self, old: Sequence[Axis], new: Sequence[Axis], values: Mapping[Symbol, Extent]
    ) -> Space:
        """Neighbouring axes of the output exchanged for others: the base symbols of the old are
        at these positions.
        """
        position = tuple(dim.substitute(p, values) for p in self.position)
        held = tuple(dim.substitute(c, values) for c in self.store_guard)
        return replace(
            self, pure=_exchanged(self.pure, old, new), position=position, store_guard=held
        )

    def stepped(self, axis: Axis, new: Sequence[Axis], position: Extent) -> Space:
        """From here on, an axis is found at a position of finer loops."""
        step = Substitution({axis.symbol: position})
        return replace(
            self,
            pure=_exchanged(self.pure, [axis], new) if axis in self.pure else self.pure,
            reduce=_exchanged(self.reduce, [axis], new) if axis in self.reduce else self.reduce,
            reduce_guard=tuple(map(step, self.reduce_guard)),
            store_guard=tuple(map(step, self.store_guard)),
            steps=(*self.steps, step),
        )


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
    return merge_axes(split_groups(space))


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
        reduce=(*_exchanged(space.reduce, [axis], [outer]), inner),
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
        reduce = (*_exchanged(space.reduce, [axis], [outer]), inner)
        space = replace(space, reduce=reduce, reduce_at=tuple(map(at, space.reduce_at)))
        return (has_dots and in_words(space, inner)) or space
    return space


def split_groups(space: Space) -> Space:
    """o = g (o // g) + o % g wherever an operand reads by group: within a group, its index is
    then constant. Of sums, the last group need not be whole: what it lacks is not stored.
    """
    for axis in space.pure:
        size = group_size([*space.reads, *space.guards], axis, space.elements.compute is None)
        if size is None:
            continue
        count = dim.ceil_div(axis.extent, size)
        outer, inner = Axis.of(f"{axis.name}g", count), Axis.of(f"{axis.name}m", size)
        at = outer.position * size + inner.position
        space = space.replaced([axis], [outer, inner], {axis.symbol: at})
        if axis.extent % size != 0:
            space = replace(space, store_guard=(*space.store_guard, axis.extent - 1 - at))
    return space


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
        merged = Axis.of(first.name + second.name, first.extent * second.extent)
        values = {
            first.symbol: merged.position // second.extent,
            second.symbol: merged.position % second.extent,
        }
        if not _is_torn(space, merged, values):
            space = _flattened(space.replaced([first, second], [merged], values), space.reads)
    return space


def _is_torn(space: Space, merged: Axis, values: Mapping[Symbol, Extent]) -> bool:
    """Whether an operand does not walk two axes as one."""
    if any(load.index_expressions for load in space.reads):
        return True
    offsets = [load.buffer.offset(load.extents) for load in space.reads]
    offsets += [space.elements.out.offset(space.position), *space.guards, *space.store_guard]
    return any(takes_apart(dim.substitute(e, values), merged.symbol) for e in offsets)


def _flattened(space: Space, reads: Sequence[Load]) -> Space:
    """The output and all that is read are walked by their offsets."""
    buffers = {load.buffer for load in reads}.difference(space.flat.values()) | {space.elements.out}
    flat = {
        buffer: Buffer(buffer.name, buffer.dtype, (dim.product(buffer.shape),))
        for buffer in buffers
    }
    return replace(space, flat={**space.flat, **flat})


def split_lanes(space: Space, axis: Axis) -> Space:
    """p = 16 v + l: lanes of an axis; behind its end they read and store nothing."""
    outer = (
        Axis.of(f"{axis.name}v", dim.ceil_div(axis.extent, LANES)) if axis.extent != LANES else None
    )
    lane = Axis(LANE, LANES)
    at = outer.position * LANES + lane.position if outer else lane.position
    is_reduced = axis in space.reduce
    space = space.stepped(axis, [outer] if outer else [], at)
    if axis.extent % LANES == 0:
        return space
    condition = axis.extent - 1 - at
    if is_reduced:
        return replace(space, reduce_guard=(*space.reduce_guard, condition))
    return replace(space, store_guard=(*space.store_guard, condition))


def chunked(space: Space, axis: Axis, chunk: int) -> tuple[Space, Axis, Axis]:
    """p = e c + k: an axis as chunks and positions within a chunk."""
    assert isinstance(axis.extent, int)
    outer = Axis.of(f"{axis.name}c", -(-axis.extent // chunk))
    inner = Axis.of(f"{axis.name}k", dim.minimum(chunk, axis.extent - outer.position * chunk))
    return (
        space.stepped(axis, [outer, inner], outer.position * chunk + inner.position),
        outer,
        inner,
    )


def _exchanged(
    axes: tuple[Axis, ...], old: Sequence[Axis], new: Sequence[Axis]
) -> tuple[Axis, ...]:
    """Neighbours among axes exchanged for others."""
    place = axes.index(old[0])
    return (*axes[:place], *new, *axes[place + len(old) :])


__all__ = ["Space", "Substitution", "chunked", "iteration_space", "split_lanes"]
