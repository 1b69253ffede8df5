"""What the entries of one program share, and its CPU levels: kernels by meaning, constants by
content. Equal ones are one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from ..cache import Cache
from ..constant import Constant
from ..graph import Graph, Node, Value
from ..kernel_table import KernelTable, Outline
from ..loops.build import Machine, anchor_of
from ..text import print_graph


@dataclass
class Placement:
    """What the entries of one program share: kernels by meaning, constants by content.
    ``suffix``: of kernels' names.
    """

    machine: Machine
    joins_in_place: bool = True  # whether a launch may write a part of an arena slot
    # a slot is used again only by kernels that need what came before anyway
    keeps_branches_apart: bool = False
    suffix: str = ""
    store: Cache = field(default_factory=lambda: Cache(None))  # of outlines of kernels
    constants: list[Constant] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)  # of kernels, by their loops' digest
    _built: dict[str, tuple[str, Outline]] = field(default_factory=dict)
    _numbers: dict[Constant, int] = field(default_factory=dict)

    @cached_property
    def kernels(self) -> KernelTable:
        """All kernels, by name."""
        return KernelTable(self.machine, self.store)

    def kernel(self, body: Graph) -> tuple[str, Outline]:
        """The kernel that does what the body says; equal kernels are one."""
        meaning = print_graph(body, labels=False)
        if meaning not in self._built:
            self._built[meaning] = self._new_kernel(body, meaning)
        return self._built[meaning]

    def _new_kernel(self, body: Graph, meaning: str) -> tuple[str, Outline]:
        outline = self.kernels.outline(body, meaning)
        if outline.digest not in self._names:
            anchor = anchor_of(body)
            kind = (
                anchor.op.name
                if anchor
                else next((n.op.name for n in body.nodes if n.op.name != "constant"), "copy")
            )
            name = f"f_{len(self._names)}_{kind}{self.suffix}"
            self._names[outline.digest] = name
            self.kernels.add(name, body, outline)
        return self._names[outline.digest], outline

    def for_level(self, machine: Machine, suffix: str) -> Placement:
        """One for another CPU level of the same program: kernels of its own, the same constants
        under the same numbers."""
        return Placement(machine, self.joins_in_place, self.keeps_branches_apart, suffix,
                         self.store, constants=self.constants, _numbers=self._numbers)  # fmt: skip

    def constant(self, value: Constant) -> int:
        """The number of a constant, as it lies in memory."""
        if value not in self._numbers:
            self._numbers[value] = len(self.constants)
            self.constants.append(value)
        return self._numbers[value]


def in_memory(value: Value, node: Node) -> Constant:
    """A constant as it lies in memory, in its value's layout."""
    constant: Constant = node.attrs.value
    if value.layout is None:
        return constant
    if constant.is_splat and not value.layout.has_padding(value.shape):
        shape = value.layout.physical_shape(value.shape)
        return Constant.splat(constant.splat_value, value.type.with_shape(shape))
    if value.layout.has_padding(value.shape):
        return Constant(value.layout.pack(constant.array))
    return constant.moved(value.layout.pack)
