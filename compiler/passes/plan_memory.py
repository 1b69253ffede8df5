"""A graph of kernels -> launches, buffers and an arena plan: the last pass before code is emitted.

Slots of the arena are shared by values that are never alive together. A state is updated in place where its kernel reads
each element only before writing it and nobody reads the old value later; else a copy at the end does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .. import dim
from ..constant import Constant
from ..dim import Dim, Extent
from ..graph import Builder, Graph, Node, Value
from ..loops.build import Machine, anchor_of, build_kernel
from ..loops.ir import Kernel
from ..loops.text import print_kernel
from ..program import BufferRef, Entry, Launch, Port, Space
from ..text import print_graph


@dataclass
class Placement:
    """What the entries of one program share: kernels by meaning, constants by content. ``suffix``: of kernels' names."""

    machine: Machine
    suffix: str = ""
    kernels: dict[str, Kernel] = field(default_factory=dict)
    constants: list[Constant] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    _built: dict[str, tuple[str, Kernel]] = field(default_factory=dict)
    _numbers: dict[Constant, int] = field(default_factory=dict)

    def kernel(self, body: Graph) -> tuple[str, Kernel]:
        """The kernel that does what the body says; equal kernels are one."""
        meaning = print_graph(body, labels=False)
        if meaning not in self._built:
            self._built[meaning] = self._new_kernel(body)
        return self._built[meaning]

    def _new_kernel(self, body: Graph) -> tuple[str, Kernel]:
        built = build_kernel("kernel", body, self.machine)
        text = print_kernel(built)
        if text not in self._names:
            anchor = anchor_of(body)
            kind = anchor.op.name if anchor else next((n.op.name for n in body.nodes if n.op.name != "constant"), "copy")
            name = f"f_{len(self._names)}_{kind}{self.suffix}"
            self._names[text] = name
            self.kernels[name] = built
        return self._names[text], built

    @property
    def texts(self) -> Mapping[str, str]:
        """The text of each kernel's loops, as those of a kernel called ``kernel``."""
        return {name: text for text, name in self._names.items()}

    def for_level(self, machine: Machine, suffix: str) -> Placement:
        """One for another CPU level of the same program: kernels of its own, the same constants under the same numbers."""
        return Placement(machine, suffix, constants=self.constants, _numbers=self._numbers)

    def constant(self, value: Constant) -> int:
        """The number of a constant, as it lies in memory."""
        if value not in self._numbers:
            self._numbers[value] = len(self.constants)
            self.constants.append(value)
        return self._numbers[value]


def plan_memory(graph: Graph, name: str, placement: Placement, states: Mapping[str, int]) -> Entry:
    """One entry of the program. ``states`` numbers the program's states by name."""
    return _Planner(graph, placement, states).entry(name)


class _Planner:
    def __init__(self, graph: Graph, placement: Placement, states: Mapping[str, int]) -> None:
        self.graph, self.placement = graph, placement
        self.place: dict[Value, BufferRef] = {}
        self.slots: list[Extent] = []
        self.free: list[int] = []
        self.launches: list[Launch] = []
        self.copies: list[tuple[Value, BufferRef]] = []
        for position, value in enumerate(graph.inputs):
            self.place[value] = BufferRef(Space.INPUT, position)
        for state in graph.states:
            self.place[state.input] = BufferRef(Space.STATE, states[state.name])
        self.last_use = {value: len(graph.nodes) for value in graph.results}
        for position, node in enumerate(graph.nodes):
            for value in node.inputs:
                self.last_use.setdefault(value, 0)
                self.last_use[value] = max(self.last_use[value], position)
        self.targets = self._targets(states)

    def _targets(self, states: Mapping[str, int]) -> dict[Value, BufferRef]:
        """Values that kernels may write to their final place; for all other results a copy is noted."""
        found: dict[Value, BufferRef] = {}
        made = {v for node in self.graph.nodes if node.op.name == "kernel" for v in node.outputs}
        for position, value in enumerate(self.graph.outputs):
            ref = BufferRef(Space.OUTPUT, position)
            if value in made and value not in found:
                found[value] = ref
            else:
                self.copies.append((value, ref))
        for state in self.graph.states:
            if state.is_unchanged:
                continue
            ref = BufferRef(Space.STATE, states[state.name])
            if state.output in made and state.output not in found and self._in_place(state.input, state.output):
                found[state.output] = ref
            else:
                self.copies.append((state.output, ref))
        return found

    def _in_place(self, old: Value, new: Value) -> bool:
        """Whether ``new`` may overwrite ``old``: nobody reads the old value later, its kernel only at the same element."""
        node = self.graph.producers[new]
        position = self.graph.nodes.index(node)
        if any(self.graph.nodes.index(user) > position for user in self.graph.users.get(old, ())):
            return False
        if old in self.graph.results:
            return False
        if old not in node.inputs:
            return True
        body = node.attrs.body
        return all(inner.op.is_elementwise or inner.op.name == "constant" for inner in body.nodes) and all(
            value.shape in (new.shape, ()) for value in body.inputs
        )

    def entry(self, name: str) -> Entry:
        for position, node in enumerate(self.graph.nodes):
            if node.op.name == "constant":
                if node.output in self.last_use:
                    self.place[node.output] = BufferRef(Space.CONSTANT, self.placement.constant(_in_memory(node.output, node)))
                continue
            self._launch(node, node.attrs.body, node.inputs, self._target(node.output), node.label)
            self._release(position, node)
        for value, ref in self.copies:
            self._launch(None, _copy(value), (value,), ref, value.label)
        inputs = tuple(Port(v.label, v.type) for v in self.graph.inputs)
        outputs = tuple(Port(n, v.type) for n, v in zip(self.graph.output_names, self.graph.outputs, strict=True))
        return Entry(name, inputs, outputs, tuple(self.launches), tuple(self.slots))

    def _launch(self, node: Node | None, body: Graph, inputs: tuple[Value, ...], out: BufferRef, label: str) -> None:
        name, kernel = self.placement.kernel(body)
        refs = (*(self.place[value] for value in inputs), out)
        if node is not None:
            self.place[node.output] = out
        self.launches.append(Launch(name, refs, tuple(Dim.of(s) for s in kernel.symbols), kernel.items, label))

    def _target(self, value: Value) -> BufferRef:
        return self.targets[value] if value in self.targets else BufferRef(Space.ARENA, self._slot(_bytes(value)))

    def _slot(self, size: Extent) -> int:
        """A free slot with the least waste, made larger if need be; else a new one."""
        if not self.free:
            self.slots.append(size)
            return len(self.slots) - 1
        wanted = _nominal(size)
        best = min(self.free, key=lambda slot: (abs(_nominal(self.slots[slot]) - wanted), slot))
        self.free.remove(best)
        if size != self.slots[best]:
            self.slots[best] = dim.maximum(self.slots[best], size)
        return best

    def _release(self, position: int, node: Node) -> None:
        """Give back the slots of values that nobody reads after this node."""
        for value in dict.fromkeys((*node.inputs, *node.outputs)):
            ref = self.place[value]
            if ref.space is Space.ARENA and self.last_use.get(value, position) <= position:
                self.free.append(ref.index)


def _bytes(value: Value) -> Extent:
    shape = value.layout.physical_shape(value.shape) if value.layout else value.shape
    return dim.product(shape) * value.dtype.bytes


def _nominal(size: Extent) -> int:
    """A size for comparing slots, with every free dim at 16."""
    return dim.evaluate(size, {s.name: 16 for s in dim.symbols_of([size])})


def _copy(value: Value) -> Graph:
    b = Builder("copy")
    x = Value(value.type, "x0", value.layout)
    b.inputs.append(x)
    return b.build([b("reorder", x, layout=None)])


def _in_memory(value: Value, node: Node) -> Constant:
    """A constant as it lies in memory, in its value's layout."""
    constant: Constant = node.attrs.value
    if value.layout is None:
        return constant
    if constant.is_splat and not value.layout.has_padding(value.shape):
        shape = value.layout.physical_shape(value.shape)
        return Constant.splat(constant.splat_value, value.type.with_shape(shape))
    return Constant(value.layout.pack(constant.array))


