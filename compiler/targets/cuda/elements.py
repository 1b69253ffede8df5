"""A fused kernel's graph -> formulas of its elements, in row-major order: what every family of kernels starts from.

A kernel has at most one reducing node (the *anchor*). Its term, over output and reduction indices, and the stored value,
over the output's index and the finished sum, are expressions of compiler/scalar.py with loads in them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ... import scalar
from ...dim import Extent
from ...graph import Graph, Value
from ...loops.build import anchor_of
from ...loops.elements import compute_of
from ...loops.ir import Buffer, Load
from ...scalar import Argument, Expr, Index
from ...tensor_type import BOOL, FLOAT32, DType

SUM = 0  # the position of the argument that stands for the anchor's sum


class Elements:
    """The formulas of one kernel. ``buffers``: its inputs in order, then its output."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        (self.output,) = graph.outputs
        self.anchor = anchor_of(graph)
        self.computes = {node: compute_of(node) for node in graph.nodes if node.op.compute is not None or node.op.name == "constant"}
        self.compute = self.computes.get(self.anchor) if self.anchor else None  # None for Winograd's transforms
        self._inputs = {value: _buffer(f"x{place}", value) for place, value in enumerate(graph.inputs)}
        self.target = _buffer("y", self.output)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (*self._inputs.values(), self.target)

    def element(self, value: Value, index: Sequence[Extent | Expr], sum_: Expr | None) -> Expr:
        """The element of a value; ``sum_`` stands for the anchor's result."""
        node = self.graph.producers.get(value)
        if node is None:
            return Load(self._inputs[value], tuple(index))
        if node is self.anchor:
            assert sum_ is not None, "the anchor's result is read inside its own term"
            return sum_
        plain = tuple(_as_extent(part) for part in index)
        return self.computes[node].term(plain, (), lambda k, i: self.element(node.inputs[k], list(i), sum_))

    def term(self, index: tuple[Extent, ...], reduce: tuple[Extent, ...]) -> Expr:
        """What the anchor combines, in the dtype that it accumulates in."""
        anchor, compute = self.anchor, self.compute
        assert anchor is not None and compute is not None
        term = compute.term(self._anchor_index(index), reduce, lambda k, i: self.element(anchor.inputs[k], list(i), None))
        return _widened(term, accumulated_in(term.dtype))

    def stored(self, index: tuple[Extent, ...], sum_dtype: DType | None) -> Expr:
        """The output's element; ``Argument(SUM, sum_dtype)`` is the anchor's sum."""
        if self.anchor is None or self.compute is None or sum_dtype is None:
            return self.element(self.output, index, None)
        anchor = self.anchor
        result = scalar.cast(Argument(SUM, sum_dtype), anchor.output.dtype)
        if self.compute.finish is not None:
            own = self._anchor_index(index)
            result = self.compute.finish(result, own, lambda k, i: self.element(anchor.inputs[k], list(i), None))
        return self.element(self.output, index, result)

    def neutral(self, dtype: DType) -> float | int | bool:
        """Where the anchor's combination starts, as a number that the dtype can hold."""
        assert self.compute is not None
        value = self.compute.initial
        if dtype.is_float:
            return value
        return bool(value) if dtype is BOOL else _nearest_integer(value, dtype)

    def _anchor_index(self, index: tuple[Extent, ...]) -> tuple[Extent, ...]:
        """The anchor's own shape, aligned to the right of the output's."""
        assert self.anchor is not None
        shape = self.anchor.output.shape
        own = index[len(index) - len(shape) :]
        return tuple(0 if e == 1 else i for e, i in zip(shape, own, strict=True))


def accumulated_in(dtype: DType) -> DType:
    """Small floats add up in float32."""
    return FLOAT32 if dtype.is_float and dtype.bytes < 4 else dtype


def _buffer(name: str, value: Value) -> Buffer:
    assert value.layout is None, "values on a GPU are row-major"
    return Buffer(name, value.dtype, value.shape)


def _as_extent(part: Extent | Expr) -> Extent:
    if isinstance(part, Index):
        return part.extent
    if isinstance(part, Expr):
        raise ValueError("a run-time index cannot pass through another op's formula")
    return part


def _widened(term: Expr, dtype: DType) -> Expr:
    """A product of small floats as a product of float32."""
    match term:
        case _ if term.dtype is dtype:
            return term
        case scalar.Call("mul", arguments, _):
            return scalar.call("mul", *(scalar.cast(a, dtype) for a in arguments))
        case _:
            return scalar.cast(term, dtype)


def _nearest_integer(value: float, dtype: DType) -> int:
    """A number, infinite ones too, in an integer dtype's range."""
    bits = dtype.bytes * 8
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.is_signed else (0, (1 << bits) - 1)
    if value in (float("inf"), float("-inf")):
        return high if value > 0 else low
    return int(min(max(value, low), high))
