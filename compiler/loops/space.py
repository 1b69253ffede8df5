"""The iteration space of a kernel: the axes of its output and its reduction, and its term over
them.

axes.py makes it, with axes by which operands are read in plain strides; tiling.py then splits off
lanes and chunks. Every rewrite gives a new space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

from .. import dim, scalar
from ..dim import Extent, Symbol
from ..scalar import Checked, Expr, Guarded, Index
from .dots import dot_of_words
from .elements import Axis, Elements
from .ir import LANE, LANES, Buffer, Load, extents_in
from .strides import depends
from .tile_conditions import is_zero, tests_lanes


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
    # buffers that are walked by their offsets, or some of whose neighbouring axes are one; of the
    # latter how many of them each axis is made of
    flat: Mapping[Buffer, Buffer] = field(default_factory=dict)
    joined: Mapping[Buffer, tuple[int, ...]] = field(default_factory=dict)
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
        """Lanes behind the end of the axis read nothing, or what is there where they are tested to
        be inside; what they hold is never stored."""
        in_lanes = tuple(c for c in self.store_guard if LANE in dim.symbols_of([c]))

        def made(node: Expr, parts: Sequence[Expr]) -> Expr | None:
            match node:
                case Guarded(conditions, Load() as load) if depends(load, LANE):
                    if tests_lanes(load, conditions):
                        return Guarded(conditions, load, parts[1])
                    if is_zero(node.otherwise):  # one test of both, for which no branch is made
                        return Guarded((*conditions, *in_lanes), load, node.otherwise)
                case Load() if depends(node, LANE):
                    return Guarded(in_lanes, node, scalar.literal(0, node.dtype))
            return None

        return scalar.transform(term, made) if in_lanes else term

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
            return Load(*self._walked(node.buffer, node.extents))
        return None

    def _walked(
        self, buffer: Buffer, index: tuple[Extent, ...]
    ) -> tuple[Buffer, tuple[Extent, ...]]:
        """The buffer as it is walked, and where an index of its own is in that."""
        if buffer not in self.flat:
            return buffer, index
        places = iter(zip(buffer.shape, index, strict=True))
        parts: list[Extent] = []
        for count in self.joined.get(buffer, (len(index),)):
            place: Extent = 0
            for extent, position in islice(places, count):
                place = place * extent + position
            parts.append(place)
        return self.flat[buffer], tuple(parts)

    def stored_at(self, put: Substitution) -> tuple[Buffer, tuple[Extent, ...]]:
        """The output and the place in it where a result is stored."""
        out, position = self._walked(self.elements.out, self.position)
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
            self, pure=exchanged(self.pure, old, new), position=position, store_guard=held
        )

    def stepped(self, axis: Axis, new: Sequence[Axis], position: Extent) -> Space:
        """From here on, an axis is found at a position of finer loops."""
        return self.placed_by({axis.symbol: position}, [axis], new)

    def placed_by(
        self, values: Mapping[Symbol, Extent], old: Sequence[Axis], new: Sequence[Axis]
    ) -> Space:
        """From here on, neighbouring axes are found at positions of other loops."""
        step = Substitution(values)
        pure, reduce = (
            exchanged(axes, old, new) if old[0] in axes else axes
            for axes in (self.pure, self.reduce)
        )
        return replace(
            self,
            pure=pure,
            reduce=reduce,
            reduce_guard=tuple(map(step, self.reduce_guard)),
            store_guard=tuple(map(step, self.store_guard)),
            steps=(*self.steps, step),
        )


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


def exchanged(axes: tuple[Axis, ...], old: Sequence[Axis], new: Sequence[Axis]) -> tuple[Axis, ...]:
    """Neighbours among axes exchanged for others."""
    place = axes.index(old[0])
    return (*axes[:place], *new, *axes[place + len(old) :])


__all__ = ["Space", "Substitution", "chunked", "exchanged", "split_lanes"]
