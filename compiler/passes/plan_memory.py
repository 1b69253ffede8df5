"""A graph of kernels -> launches, buffers and an arena plan: the last pass before code is emitted.

Slots of the arena are shared by values that are never alive together. Where a concat puts values
behind each other in memory, kernels write these right into it. A reshape alone is another name of
the same memory, a slice of neighbours there one of a part of it. A state is updated in place where
its kernel reads each element only before writing it and nobody reads the old value later; else a
copy at the end does it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from netloom.errors import VerificationError

from .. import dim
from ..data_dims import bounds_of, room_for
from ..dim import Dim, Extent
from ..graph import Graph, Node, Value
from ..ops.data_dims import data_dim_of
from ..ops.iteration import ITERATE, turn_of
from ..program import BoundDim, BufferRef, Entry, Launch, Port, Space, Turn
from .aliases import bytes_of, is_renaming, parts_of_concats, pieces_of, taken_pieces
from .bind_dims import own_names, substitute_symbols
from .copies import copy_of, flat_copy
from .placement import Placement, in_memory
from .slice_starts import without_starts


def plan_memory(graph: Graph, name: str, placement: Placement, states: Mapping[str, int]) -> Entry:
    """One entry of the program. ``states`` numbers the program's states by name."""
    place = {value: BufferRef(Space.INPUT, p) for p, value in enumerate(graph.inputs)}
    goals = [Goal(v, BufferRef(Space.OUTPUT, p)) for p, v in enumerate(graph.outputs)]
    for state in graph.states:
        place[state.input] = BufferRef(Space.STATE, states[state.name])
        if not state.is_unchanged:
            goals.append(Goal(state.output, place[state.input], state.input))
    planner = _Planner(graph, placement, goals, place)
    planner.run()
    inputs = tuple(Port(v.label, v.type) for v in graph.inputs)
    outputs = tuple(Port(n, v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True))
    return Entry(
        name, inputs, outputs, tuple(planner.launches), tuple(planner.slots), tuple(planner.dims)
    )


@dataclass(frozen=True)
class Goal:
    """A result and the place that it goes to; ``old``: what that place holds before."""

    value: Value
    ref: BufferRef
    old: Value | None = None


class _Planner:
    """Plans a graph, or the body of turns in the graph of ``outer``, whose arena it shares;
    ``within``: the place of the node that has this body, as in ``Launch.node``.
    """

    def __init__(
        self, graph: Graph, placement: Placement, goals: Sequence[Goal],
        place: Mapping[Value, BufferRef], outer: _Planner | None = None,
        within: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self.graph, self.placement, self.within = graph, placement, within
        self.place = dict(place)
        self.slot_of: dict[Value, int] = {}
        if outer is None:
            self._begin()
        else:
            self._share(outer)
        self.behind = _ancestors(graph) if placement.keeps_branches_apart else {}
        self.positions = {node: position for position, node in enumerate(graph.nodes)}
        self.last_use = {value: len(graph.nodes) for value in graph.results}
        for position, node in enumerate(graph.nodes):
            for value in node.inputs:
                self.last_use.setdefault(value, 0)
                self.last_use[value] = max(self.last_use[value], position)
        self.olds = {goal.old for goal in goals if goal.old is not None}
        self.copies: list[tuple[Value, BufferRef]] = []
        self.targets = self._targets(goals)
        kept = {*graph.results, *self.targets}
        self.parts = parts_of_concats(graph, kept) if placement.joins_in_place else {}
        self.parts |= self._renamed()
        self.taken = taken_pieces(graph, kept, self.parts) if placement.joins_in_place else {}
        self.parts |= self.taken
        for value in self.parts:
            whole, _ = self._whole(value)
            self.last_use[whole] = max(self.last_use[whole], self.last_use.get(value, 0))

    def _begin(self) -> None:
        """What the whole entry has."""
        self.bounds = bounds_of(self.graph)  # of dims that runs bind
        self.dims: list[BoundDim | Turn] = []
        renamed = own_names((*self.graph.symbols, *self.bounds))
        self.own_names = {symbol: Dim.of(own) for symbol, own in renamed.items()}
        # of kernels' symbols
        self.meanings = {own: Dim.of(symbol) for symbol, own in renamed.items()}
        self.slots: list[Extent] = []
        self.free: list[int] = []
        # of a free slot: who wrote and read what it held, as bits of nodes' positions
        self.users_of: dict[int, int] = {}
        self.launches: list[Launch] = []

    def _share(self, outer: _Planner) -> None:
        self.bounds, self.dims = outer.bounds, outer.dims
        self.own_names, self.meanings = outer.own_names, outer.meanings
        self.slots, self.free, self.users_of = outer.slots, outer.free, outer.users_of
        self.launches = outer.launches

    def _targets(self, goals: Sequence[Goal]) -> dict[Value, BufferRef]:
        """Values that kernels may write to their final place; for all other results a copy is
        noted.
        """
        found: dict[Value, BufferRef] = {}
        made = {v for node in self.graph.nodes if node.op.name == "kernel" for v in node.outputs}
        for goal in goals:
            value, old = goal.value, goal.old
            is_free = value in made and value not in found
            if is_free and (old is None or self._in_place(old, value)):
                found[value] = goal.ref
            else:
                self.copies.append((value, goal.ref))
        for node in reversed(self.graph.nodes):  # what is renamed last is made there at once
            if is_renaming(node) and node.output in found and self._is_made_for(node, made, found):
                found[node.inputs[0]] = found.pop(node.output)
        return found

    def _is_made_for(
        self, node: Node, made: Collection[Value], found: Mapping[Value, BufferRef]
    ) -> bool:
        """Whether what a node renames has no other place, and the new name replaces no state."""
        (source,) = node.inputs
        is_free = source in made and source not in found and source not in self.graph.results
        return is_free and found[node.output].space is Space.OUTPUT

    def _renamed(self) -> dict[Value, tuple[Value, int]]:
        """The outputs of reshapes that are left to memory, each the first byte of its input. The
        memory of what is written anew may change.
        """
        found: dict[Value, tuple[Value, int]] = {}
        for node in self.graph.nodes:
            is_dim = data_dim_of(node) is not None
            if not is_dim and not is_renaming(node):
                continue
            if node.output in self.targets or node.output in self.parts:
                continue
            (source,) = node.inputs
            if is_dim or source not in self.olds:
                found[node.output] = (source, 0)
        return found

    def _in_place(self, old: Value, new: Value) -> bool:
        """Whether ``new`` may overwrite ``old``: nobody reads the old value later, its kernel
        only at the same element.
        """
        node = self.graph.producers[new]
        position = self.graph.nodes.index(node)
        users = self.graph.users.get(old, ())
        if any(self.graph.nodes.index(user) > position for user in users):
            return False
        if any(data_dim_of(user) is not None for user in users):  # its value lies there too
            return False
        if old in self.graph.results:
            return False
        if old not in node.inputs:
            return True
        body = node.attrs.body
        return all(
            inner.op.is_elementwise or inner.op.name == "constant" for inner in body.nodes
        ) and all(value.shape in (new.shape, ()) for value in body.inputs)

    def run(self) -> None:
        """Plans all nodes, and the copies of results that lie elsewhere."""
        for position, node in enumerate(self.graph.nodes):
            if node.op.name == "constant":
                if node.output in self.last_use:
                    self.place[node.output] = BufferRef(
                        Space.CONSTANT, self.placement.constant(in_memory(node.output, node))
                    )
                continue
            if data_dim_of(node) is not None:
                self._bind(node)
            elif node.op is ITERATE:
                self._iterate(position, node)
            elif is_renaming(node):
                self._rename(node)
            elif node.output in self.taken:
                self._take(node.output)
            elif self._is_joined(node):
                self._join(node)
            else:
                self.place[node.output] = self._target(node.output)
                at, out = (*self.within, position), self.place[node.output]
                self._launch(at, node.attrs.body, node.inputs, out, node.label)
            self._release(position, node)
        self._copy_results()

    def _copy_results(self) -> None:
        """Results that are new in the places of others wait apart until these have been copied."""
        late: list[tuple[Value, BufferRef, BufferRef]] = []
        written = {ref for _, ref in self.copies}
        for value, ref in self.copies:
            source = self.place[value]
            if source in written and source != ref:
                apart = self._new_slot(value)
                self._launch((), copy_of(value, value.layout), (value,), apart, value.label)
                late.append((value, apart, ref))
        for value, ref in self.copies:
            if self.place[value] not in written:
                self._launch((), copy_of(value, None), (value,), ref, value.label)
        for value, apart, ref in late:
            self.place[value] = apart
            self._launch((), copy_of(value, None), (value,), ref, value.label)

    def _new_slot(self, value: Value) -> BufferRef:
        self.slots.append(room_for(bytes_of(value), self.bounds, value.label))
        return BufferRef(Space.ARENA, len(self.slots) - 1)

    def _iterate(self, position: int, node: Node) -> None:
        """What is handed on has a place that every turn reads and writes; entries are written
        where they are stacked.
        """
        attrs, body, turn = node.attrs, node.attrs.body, turn_of(node)
        assert turn is not None
        for value in node.outputs:
            self.place[value] = self._target(value)
        refs = [self.place[value] for value in node.outputs]
        for value, ref in zip(node.inputs[: attrs.handed_on], refs, strict=False):
            self._launch((), copy_of(value, value.layout), (value,), ref, value.label)
        place = dict(zip(body.inputs, refs[: attrs.handed_on], strict=False))
        for inside, value in list(zip(body.inputs, node.inputs, strict=True))[attrs.handed_on :]:
            place[inside] = self.place[value]
        goals = [Goal(v, place[old], old) for v, old in zip(body.outputs, body.inputs, strict=False)
                 ][: attrs.handed_on]  # fmt: skip
        for value, ref in list(zip(body.outputs, refs, strict=True))[attrs.handed_on :]:
            at = BufferRef(ref.space, ref.index, ref.offset + bytes_of(value) * Dim.of(turn))
            goals.append(Goal(value, at))
        goes_on = refs[0] if attrs.has_end else None
        entered, first = len(self.dims), len(self.launches)
        before = Turn(turn, attrs.count, self.bounds[turn], goes_on, True, first, first)
        self.dims.append(before)
        inner = _Planner(body, self.placement, goals, place, self, (*self.within, position))
        inner.run()
        inner.give_back()
        before = replace(before, last=len(self.launches))
        self.dims[entered] = before
        self.dims.append(replace(before, is_first=False))

    def give_back(self) -> None:
        """All slots that are still taken: a turn keeps nothing but its results."""
        for slot in sorted({*self.slot_of.values()} - {*self.free}):
            self.free.append(slot)
            self.users_of[slot] = 0

    def _bind(self, node: Node) -> None:
        """A data dim has its value from here on; launches that need it come later."""
        symbol, (count,) = data_dim_of(node), node.inputs
        assert symbol is not None
        self.place[node.output] = self.place[count]
        limit, bound = node.attrs.bound, self.bounds[symbol]
        done = len(self.launches)
        self.dims.append(BoundDim(symbol, limit, bound, self.place[count], done))

    def _launch(
        self, node: tuple[int, ...], body: Graph, inputs: tuple[Value, ...], out: BufferRef, label: str
    ) -> None:  # fmt: skip
        places = [self.place[value] for value in inputs]
        body, firsts = without_starts(body, lambda number: self._may_move(inputs[number]))
        name, outline = self.placement.kernel(
            substitute_symbols(body, self.own_names) if self.own_names else body
        )
        moved = (
            replace(ref, offset=ref.offset + first * value.dtype.bytes)
            for ref, first, value in zip(places, firsts, inputs, strict=True)
        )
        refs = (*moved, out)
        extents = tuple(self.meanings.get(symbol, Dim.of(symbol)) for symbol in outline.symbols)
        items = dim.substitute(outline.items, self.meanings)
        early = dim.symbols_of([*extents, items]) & self.bounds.keys() - {
            d.symbol for d in self.dims
        }
        if early:
            raise VerificationError(
                f"a launch reads {sorted(map(str, early))} too early", node=label
            )
        self.launches.append(Launch(name, refs, extents, items, label, node))

    def _may_move(self, value: Value) -> bool:
        """Whether what a kernel reads may begin at any element of its slot."""
        is_known = dim.symbols_of(value.shape).isdisjoint(self.bounds)
        in_arena = self.place[value].space is Space.ARENA
        return self.placement.joins_in_place and in_arena and is_known

    def _rename(self, node: Node) -> None:
        """The place of the input, or a copy where that cannot be."""
        (source,) = node.inputs
        if self.parts.get(node.output) == (source, 0):
            self.place[node.output] = self.place[source]
            return
        self.place[node.output] = self._target(node.output)
        self._launch((), flat_copy(node.output), (source,), self.place[node.output], node.label)

    def _take(self, value: Value) -> None:
        """A part of what is in memory already."""
        source, first = self.taken[value]
        whole = self.place[source]
        self.place[value] = replace(whole, offset=whole.offset + first)

    def _is_joined(self, node: Node) -> bool:
        """Whether a concat's inputs, or some of them, already lie in its output."""
        return any(self.parts.get(value, (None, 0))[0] is node.output for value in node.inputs)

    def _join(self, node: Node) -> None:
        """Copy those inputs of a concat that do not."""
        out = self.place[node.output] = self._target(node.output)
        for value, offset in pieces_of(node):
            if self.parts.get(value) != (node.output, offset):
                part = BufferRef(out.space, out.index, out.offset + offset)
                self._launch((), copy_of(value, value.layout), (value,), part, node.label)

    def _target(self, value: Value) -> BufferRef:
        """Where a value goes: a slot is found for it, or for the whole that it is a part of,
        when first written.
        """
        if value in self.targets:
            return self.targets[value]
        whole, offset = self._whole(value)
        if whole not in self.slot_of:
            room = room_for(bytes_of(whole), self.bounds, value.label)
            self.slot_of[whole] = self._slot(room, value)
        return BufferRef(Space.ARENA, self.slot_of[whole], offset)

    def _whole(self, value: Value) -> tuple[Value, int]:
        """The value that has a slot of its own and holds this one, and where it does."""
        offset = 0
        while value in self.parts:
            value, more = self.parts[value]
            offset += more
        return value, offset

    def _slot(self, size: Extent, value: Value) -> int:
        """A free slot with the least waste, made larger if need be; else a new one."""
        before = self.behind.get(value, -1)
        fitting = [slot for slot in self.free if not self.users_of[slot] & ~before]
        if not fitting:
            self.slots.append(size)
            return len(self.slots) - 1
        wanted = _nominal(size)
        best = min(fitting, key=lambda slot: (abs(_nominal(self.slots[slot]) - wanted), slot))
        self.free.remove(best)
        if size != self.slots[best]:
            self.slots[best] = dim.maximum(self.slots[best], size)
        return best

    def _release(self, position: int, node: Node) -> None:
        """Give back the slots of values that nobody reads after this node."""
        for value in dict.fromkeys(
            self._whole(value)[0] for value in (*node.inputs, *node.outputs)
        ):
            if value in self.slot_of and self.last_use.get(value, position) <= position:
                self.free.append(self.slot_of[value])
                self.users_of[self.slot_of[value]] = self._users(value) if self.behind else 0

    def _users(self, value: Value) -> int:
        """The nodes that write and read a value or a part of it, as bits."""
        held = [value, *(part for part in self.parts if self._whole(part)[0] is value)]
        nodes = {
            node for v in held for node in (self.graph.producers[v], *self.graph.users.get(v, ()))
        }
        return sum(1 << self.positions[node] for node in nodes)


def _ancestors(graph: Graph) -> dict[Value, int]:
    """All nodes that a value needs, its own not among them, as bits of their positions."""
    found: dict[Value, int] = {}
    own: dict[Value, int] = {}
    for position, node in enumerate(graph.nodes):
        before = 0
        for value in node.inputs:
            before |= found.get(value, 0) | own.get(value, 0)
        for value in node.outputs:
            found[value], own[value] = before, 1 << position
    return found


def _nominal(size: Extent) -> int:
    """A size for comparing slots, with every free dim at 16."""
    return dim.evaluate(size, {s.name: 16 for s in dim.symbols_of([size])})
