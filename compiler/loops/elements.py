"""What a kernel reads and stores, element by element: a fused graph's element formulas, composed,
as expressions with loads.

A kernel has at most one reducing node, the *anchor*. Formulas before it are inlined into its term,
those behind it into the stored value. Layouts are composed into the loads' indices; padding lanes
of the output are stored as zeros.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from .. import scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Graph, Node, Value
from ..layout import Layout
from ..op import Compute
from ..scalar import Call, Expr, Index
from ..tensor_type import BOOL, FLOAT32, DType
from .ir import Buffer, Load, Statement, Store, guard, variable

# the element of a value that is known already
Given: TypeAlias = "Callable[[Sequence[Extent | Expr]], Expr]"


@dataclass(frozen=True)
class Axis:
    """A loop to be placed: its symbol and extent."""

    symbol: Symbol
    extent: Extent

    @staticmethod
    def of(name: str, extent: Extent) -> Axis:
        return Axis(variable(name, extent), extent)

    @property
    def name(self) -> str:
        return self.symbol.name

    @property
    def position(self) -> Dim:
        return Dim.of(self.symbol)


def compute_of(node: Node) -> Compute:
    """The element formula of a node; constants are formulas too."""
    if node.op.name == "constant":
        value = node.attrs.value
        if not value.is_splat:
            raise ValueError("only one repeated value can be part of a kernel's code")
        return Compute(
            lambda _i, _r, _read: scalar.literal(value.splat_value.item(), value.type.dtype)
        )
    assert node.op.compute is not None, f"{node.op.name} has no loops"
    return node.op.compute(
        node.attrs, [v.type for v in node.inputs], [v.type for v in node.outputs]
    )


def accumulated_in(dtype: DType) -> DType:
    """Small floats add up in float32."""
    return FLOAT32 if dtype.is_float and dtype.bytes < 4 else dtype


def neutral_of(compute: Compute, dtype: DType) -> float | int | bool:
    """Where a combination starts, as a number that the dtype can hold (-inf is the least
    integer).
    """
    value = compute.initial
    if dtype.is_float:
        return value
    return bool(value) if dtype is BOOL else _nearest_integer(value, dtype)


class Elements:
    """The formulas of one kernel. ``buffers``: those of the graph's inputs; ``compute``: the
    anchor's formula, if it has one.
    """

    def __init__(self, graph: Graph, anchor: Node | None) -> None:
        self.graph, self.anchor = graph, anchor
        (self.output,) = graph.outputs
        self.computes = {
            n: compute_of(n) for n in graph.nodes if n is not anchor or n.op.compute is not None
        }
        self.compute = self.computes.get(anchor) if anchor else None
        self.buffers: Mapping[Value, Buffer] = {
            v: _buffer(f"x{i}", v) for i, v in enumerate(graph.inputs)
        }
        self.out = _buffer("y", self.output)
        self._numbers = count()
        self._known: dict[tuple[Value, tuple[Extent | Expr, ...], Expr | None], Expr] = {}
        self._given: Mapping[Value, Given] = {}

    def with_given(self, given: Mapping[Value, Given]) -> Elements:
        """The same formulas, over values whose elements are known already."""
        found = copy.copy(self)
        found._given, found._known = given, {}
        return found

    @property
    def arguments(self) -> tuple[Buffer, ...]:
        """All buffers, the output's last."""
        return (*self.buffers.values(), self.out)

    @property
    def anchored(self) -> Node:
        """The anchor of a kernel that has one."""
        assert self.anchor is not None
        return self.anchor

    @property
    def computed(self) -> Compute:
        """The anchor's formula, of a kernel that sums."""
        assert self.compute is not None
        return self.compute

    def local_name(self, letter: str) -> str:
        """A name for a local buffer that no other has."""
        return f"{letter}{next(self._numbers)}"

    # -- reading -----------------------------------------------------------------------------------

    def element(self, value: Value, index: Sequence[Extent | Expr], sum_: Expr | None) -> Expr:
        """The element of a value; ``sum_`` stands for the anchor's result. Equal elements are
        one expression.
        """
        key = (value, tuple(index), sum_)
        if key not in self._known:
            self._known[key] = self._element(value, index, sum_)
        return self._known[key]

    def _element(self, value: Value, index: Sequence[Extent | Expr], sum_: Expr | None) -> Expr:
        if value in self._given:
            return self._given[value](index)
        node = self.graph.producers.get(value)
        if node is None:
            return self._load(value, index)
        if node is self.anchor:
            assert sum_ is not None, "the anchor's result is read inside its own term"
            return sum_
        plain = tuple(_as_extent(part) for part in index)
        return self.computes[node].term(
            plain, (), lambda k, i: self.element(node.inputs[k], list(i), sum_)
        )

    def _load(self, value: Value, index: Sequence[Extent | Expr]) -> Expr:
        buffer = self.buffers[value]
        physical = tuple(index) if value.layout is None else _physical(value.layout, index)
        return scalar.cast(Load(buffer, physical), value.dtype)

    # -- the anchor --------------------------------------------------------------------------------

    def term(self, index: tuple[Extent, ...], reduce: tuple[Extent, ...]) -> Expr:
        """What the anchor combines at an index of the output and one of its reduction."""
        return self.computed.term(self._anchor_index(index), reduce, self._anchor_reads)

    def finished(self, index: tuple[Extent, ...], sum_: Expr) -> Expr:
        """The anchor's result at an index of the output, from its sum."""
        result = scalar.cast(sum_, self.anchored.output.dtype)
        if self.computed.finish is None:
            return result
        return self.computed.finish(result, self._anchor_index(index), self._anchor_reads)

    def neutral(self, dtype: DType) -> float | int | bool:
        """Where the anchor's combination starts."""
        return neutral_of(self.computed, dtype)

    def _anchor_reads(self, operand: int, index: Sequence[Extent | Expr]) -> Expr:
        return self.element(self.anchored.inputs[operand], list(index), None)

    def _anchor_index(self, index: tuple[Extent, ...]) -> tuple[Extent, ...]:
        """Where the epilogue reads the anchor: its own shape aligned to the right of the
        output's.
        """
        shape = self.anchored.output.shape
        own = index[len(index) - len(shape) :]
        return tuple(0 if e == 1 else i for e, i in zip(shape, own, strict=True))

    # -- storing -----------------------------------------------------------------------------------

    def final(self, index: tuple[Extent, ...], sum_: Expr | None) -> Expr:
        """The stored element; zero in padding lanes."""
        value = self.element(self.output, index, sum_)
        layout = self.output.layout
        if layout is None or not layout.has_padding(self.output.shape):
            return value
        return scalar.guarded(
            [e - 1 - i for e, i in zip(self.output.shape, index, strict=True)], value
        )

    def logical(self, physical: Sequence[Extent]) -> tuple[Extent, ...]:
        """The output's logical index at a place in its memory."""
        if self.output.layout is None:
            return tuple(physical)
        return self.output.layout.logical_index(tuple(physical), self.output.type.rank)

    def store(
        self, index: tuple[Extent, ...], sum_: Expr, conditions: tuple[Extent, ...] = ()
    ) -> Statement:
        """The stored element at a logical index, from the anchor's result there; lanes outside the
        conditions are stored only as padding."""
        layout = self.output.layout
        physical = layout.physical_index(index) if layout is not None else index
        statement = Store(self.out, physical, self.final(index, sum_))
        return statement if layout is not None else guard(conditions, statement)


def widened(term: Expr, dtype: DType) -> Expr:
    """A term in the dtype that it adds up in; a product of small floats as a product of float32."""
    match term:
        case _ if term.dtype is dtype:
            return term
        case Call("mul", arguments, _):
            return scalar.call("mul", *(scalar.cast(a, dtype) for a in arguments))
        case _:
            return scalar.cast(term, dtype)


def _buffer(name: str, value: Value) -> Buffer:
    shape = value.layout.physical_shape(value.shape) if value.layout else value.shape
    return Buffer(name, value.dtype, shape)


def _physical(layout: Layout, index: Sequence[Extent | Expr]) -> tuple[Extent | Expr, ...]:
    """The place of an element; run-time indices are for axes that the layout takes whole."""
    whole = {part.axis for part in layout.parts if part.divisor == 1 and not part.modulus}
    known = tuple(0 if axis in whole else _as_extent(at) for axis, at in enumerate(index))
    return tuple(
        index[part.axis] if part.axis in whole else at
        for part, at in zip(layout.parts, layout.physical_index(known), strict=True)
    )


def _as_extent(part: Extent | Expr) -> Extent:
    if isinstance(part, Index):
        return part.extent
    if isinstance(part, Expr):
        raise ValueError("a run-time index cannot pass through another op's formula")
    return part


def _nearest_integer(value: float, dtype: DType) -> int:
    """A number, infinite ones too, in an integer dtype's range."""
    bits = dtype.bytes * 8
    low, high = (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.is_signed else (0, (1 << bits) - 1)
    )
    if value in (float("inf"), float("-inf")):
        return high if value > 0 else low
    return int(min(max(value, low), high))


__all__ = ["Axis", "Elements", "Given", "accumulated_in", "compute_of", "neutral_of", "widened"]
