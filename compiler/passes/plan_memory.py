"""A graph of kernels -> launches, buffers and an arena plan: the last pass before code is emitted.

A walk over the nodes gives every value its place; ``memory/`` holds what the places are decided
with. Slots of the arena are shared by values that are never alive together. Where a concat puts
values behind each other in memory, kernels write these right into it. A reshape alone is another
name of the same memory, a slice of neighbours there one of a part of it. Results are written to
their final places where that is possible, and copied there at the end otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..data_dims import room_for
from ..dim import Dim, Extent
from ..graph import Graph, Node, Value
from ..layout import Layout
from ..ops.data_dims import data_dim_of
from ..ops.iteration import ITERATE, turn_of
from ..program import BufferRef, Entry, Port, Space
from .memory.aliases import bytes_of, find_aliases, is_renaming, pieces_of
from .memory.arena import Arena
from .memory.copies import copy_of, flat_copy
from .memory.goals import Goal, direct_goals, targets
from .memory.launches import Launches
from .memory.lifetimes import Lifetimes
from .placement import Placement, in_memory


def plan_memory(graph: Graph, name: str, placement: Placement, states: Mapping[str, int]) -> Entry:
    """One entry of the program. ``states`` numbers the program's states by name."""
    place = {value: BufferRef(Space.INPUT, p) for p, value in enumerate(graph.inputs)}
    goals = [Goal(v, BufferRef(Space.OUTPUT, p)) for p, v in enumerate(graph.outputs)]
    for state in graph.states:
        place[state.input] = BufferRef(Space.STATE, states[state.name])
        if not state.is_unchanged:
            goals.append(Goal(state.output, place[state.input], state.input))
    shared = _Shared(placement, Launches(graph, placement), Arena())
    _Planner(graph, goals, place, shared).run()
    inputs = tuple(Port(v.label, v.type) for v in graph.inputs)
    outputs = tuple(Port(n, v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True))
    launches = shared.launches
    return Entry(
        name, inputs, outputs, tuple(launches.done), tuple(shared.arena.sizes), tuple(launches.dims)
    )


@dataclass(frozen=True)
class _Shared:
    """What the graph of an entry and the bodies of its turns have in common."""

    placement: Placement
    launches: Launches
    arena: Arena

    def room(self, value: Value, label: str) -> Extent:
        """The most bytes that a value can take."""
        return room_for(bytes_of(value), self.launches.bounds, label)


class _Planner:
    """Walks over a graph, or over the body of turns; ``place`` has the places of the values that no
    node makes. ``within``: the place of the node that has this body, as in ``Launch.node``.
    """

    def __init__(
        self, graph: Graph, goals: Sequence[Goal], place: Mapping[Value, BufferRef],
        shared: _Shared, within: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self.graph, self.shared, self.within = graph, shared, within
        self.place = dict(place)
        self.slot_of: dict[Value, int] = {}
        placement = shared.placement
        direct = direct_goals(graph, goals)
        self.targets = targets(graph, direct)
        at_once = {*direct}
        self.copied = [goal for goal in goals if goal not in at_once]
        olds = {goal.old for goal in goals if goal.old is not None}
        self.aliases = find_aliases(graph, self.targets, olds, placement.joins_in_place)
        self.lifetimes = Lifetimes(graph, self.aliases, placement.keeps_branches_apart)

    def run(self) -> None:
        """Plans all nodes, and the copies of results that lie elsewhere."""
        for position, node in enumerate(self.graph.nodes):
            if node.op.name == "constant":
                self._keep(node)
            else:
                self._plan(node, (*self.within, position))
                self._release(node, position)
        self._copy_results()

    def _plan(self, node: Node, at: tuple[int, ...]) -> None:
        """Places for a node's results, and the launches that make them."""
        if node.op is ITERATE:
            self._iterate(node, at)
        elif alias := self.aliases.in_input(node):
            self._rename(node, *alias)
        else:
            out = self.place[node.output] = self._target(node.output)
            if is_renaming(node):
                self._launch(flat_copy(node.output), node.inputs, out, node.label)
            elif self.aliases.has_parts_in(node):
                self._join(node, out)
            else:
                self._launch(node.attrs.body, node.inputs, out, node.label, at)

    def _keep(self, node: Node) -> None:
        """A constant that is needed is one of the program's."""
        if self.lifetimes.is_used(node.output):
            number = self.shared.placement.constant(in_memory(node.output, node))
            self.place[node.output] = BufferRef(Space.CONSTANT, number)

    def _rename(self, node: Node, source: Value, first: int) -> None:
        """A result that is in memory already, from a byte of ``source`` on; so is the number of a
        data dim, which is bound by it."""
        whole = self.place[source]
        self.place[node.output] = replace(whole, offset=whole.offset + first)
        if (symbol := data_dim_of(node)) is not None:
            self.shared.launches.bind(symbol, node.attrs.bound, whole)

    def _join(self, node: Node, out: BufferRef) -> None:
        """Copies of those inputs of a concat that were not written into it."""
        for value, offset in pieces_of(node):
            if self.aliases.places.get(value) != (node.output, offset):
                part = replace(out, offset=out.offset + offset)
                self._copy(value, part, value.layout, node.label)

    def _iterate(self, node: Node, at: tuple[int, ...]) -> None:
        """What is handed on has a place that every turn reads and writes; entries are written
        where they are stacked.
        """
        attrs, turn, count = node.attrs, turn_of(node), node.attrs.handed_on
        assert turn is not None
        outs = [self._target(value) for value in node.outputs]
        self.place.update(zip(node.outputs, outs, strict=True))
        kept = outs[:count]
        for value, ref in zip(node.inputs[:count], kept, strict=True):
            self._copy(value, ref, value.layout, value.label)
        read = [*kept, *(self.place[value] for value in node.inputs[count:])]
        place = dict(zip(attrs.body.inputs, read, strict=True))
        goals = _goals_of_turn(node, outs)
        with self.shared.launches.turns(turn, attrs.count, kept[0] if attrs.has_end else None):
            body = _Planner(attrs.body, goals, place, self.shared, at)
            body.run()
        body.give_back()

    def give_back(self) -> None:
        """All slots that are still taken: a turn keeps nothing but its results."""
        arena = self.shared.arena
        for slot in sorted({*self.slot_of.values()}):
            if not arena.is_free(slot):
                arena.give_back(slot, users=0)

    def _target(self, value: Value) -> BufferRef:
        """Where a value goes: a slot is found for it, or for the whole that it is a part of,
        when first written.
        """
        if value in self.targets:
            return self.targets[value]
        whole, offset = self.aliases.whole(value)
        if whole not in self.slot_of:
            size = self.shared.room(whole, value.label)
            self.slot_of[whole] = self.shared.arena.take(size, self.lifetimes.before(value))
        return BufferRef(Space.ARENA, self.slot_of[whole], offset)

    def _release(self, node: Node, position: int) -> None:
        """Give back the slots of values that nobody reads after this node."""
        wholes = (self.aliases.whole(value)[0] for value in (*node.inputs, *node.outputs))
        for value in dict.fromkeys(wholes):
            if value in self.slot_of and self.lifetimes.ends(value, position):
                self.shared.arena.give_back(self.slot_of[value], self.lifetimes.users(value))

    def _copy_results(self) -> None:
        """Results that are new in the places of others wait apart until these have been copied."""
        written = {goal.ref for goal in self.copied}
        waiting: list[tuple[Goal, BufferRef]] = []
        for goal in self.copied:
            value, source = goal.value, self.place[goal.value]
            if source in written and source != goal.ref:
                size = self.shared.room(value, value.label)
                apart = BufferRef(Space.ARENA, self.shared.arena.new(size))
                self._copy(value, apart, value.layout, value.label)
                waiting.append((goal, apart))
        for goal in self.copied:
            if self.place[goal.value] not in written:
                self._copy(goal.value, goal.ref, None, goal.value.label)
        for goal, apart in waiting:
            self.place[goal.value] = apart
            self._copy(goal.value, goal.ref, None, goal.value.label)

    def _copy(self, value: Value, out: BufferRef, layout: Layout | None, label: str) -> None:
        self._launch(copy_of(value, layout), (value,), out, label)

    def _launch(
        self, body: Graph, inputs: Sequence[Value], out: BufferRef, label: str,
        node: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        read = [(value, self.place[value]) for value in inputs]
        self.shared.launches.add(body, read, out, label, node)


def _goals_of_turn(node: Node, outs: Sequence[BufferRef]) -> list[Goal]:
    """What a turn hands on replaces what it was handed; each entry goes behind the one before."""
    attrs, turn = node.attrs, turn_of(node)
    assert turn is not None
    goals = []
    for number, (value, ref) in enumerate(zip(attrs.body.outputs, outs, strict=True)):
        if number < attrs.handed_on:
            goals.append(Goal(value, ref, attrs.body.inputs[number]))
        else:
            entry = replace(ref, offset=ref.offset + bytes_of(value) * Dim.of(turn))
            goals.append(Goal(value, entry))
    return goals
