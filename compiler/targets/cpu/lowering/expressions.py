"""Scalar expressions over loads -> values, scalars or vectors. What stands under a guard is made
under it.

Floats smaller than float32 compute in float32 and round once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from llvmlite import ir

from .... import dim, scalar
from ....dim import Extent
from ....loops.ir import LANE, LANES, LaneFold, Load, Store, slope_along
from ....loops.tile_conditions import is_zero
from ....scalar import Bitcast, Call, Cast, Checked, Expr, Guarded, Index, Literal
from ....tensor_type import BOOL, FLOAT32, FLOAT64, DType
from ..vector_math import scaling
from .casts import cast
from .function import Function
from .indices import Indices
from .memory import Memory
from .primitives import primitive
from .quotients import divided
from .representation import (
    I1,
    I16,
    I32,
    Operand,
    Undefined,
    constant,
    is_vector,
    like,
    literal,
    suffix,
    value_type,
    zero_of,
)

INDEX_ERROR = 1  # stored in the error flag when a run-time index is out of range


class Expressions:
    """Values of expressions, where the indices and the memory stand. ``error`` points to the
    kernel's error flag.
    """

    def __init__(self, f: Function, indices: Indices, memory: Memory, error: Operand) -> None:
        self.f, self.b, self.indices, self.memory, self.error = f, f.b, indices, memory, error
        # What copies of an unrolled body have in common, found once:
        self.orders: dict[Expr, list[Expr]] = {}
        self.literals: dict[Literal, ir.Constant] = {}

    def value(self, root: Expr) -> Operand:
        """The value of an expression."""
        values: dict[int, Operand] = {}
        if root not in self.orders:
            self.orders[root] = scalar.post_order([root], closed=(Guarded, Load))
        for node in self.orders[root]:
            values[id(node)] = self._scaled(node, values) or self._value(
                node, [values.get(id(child)) for child in scalar.children(node)]
            )
        return values[id(root)]

    def _scaled(self, node: Expr, values: Mapping[int, Operand]) -> Operand | None:
        """A product with a power of two, where the CPU has an instruction for it."""
        found = scaling(node) if self.f.cpu.has_scaling and node.dtype is FLOAT32 else None
        if found is None or not is_vector(values[id(found[0])]):
            return None
        x, total, magic = values[id(found[0])], values[id(found[1])], found[2]
        return self.f.scaled(x, self.b.fsub(total, constant(x, ir.FloatType(), magic)))

    def _value(self, node: Expr, inner: Sequence[Any]) -> Operand:
        """A node's value from those of its sub-expressions; guards and loads make theirs
        themselves.
        """
        match node:
            case Literal(value, dtype):
                if node not in self.literals:
                    self.literals[node] = literal(value, dtype)
                return self.literals[node]
            case Load():
                return self._loaded(node) if node.index_expressions else self.memory.load(node)
            case Index(extent):
                return self.indices.number(("index", extent), extent, partial(self._number, extent))
            case Guarded():
                return self._guarded(node)
            case Checked(_, extent):
                return self._checked(inner[0], extent)
            case LaneFold(buffer, index, combine):
                item = ("fold", buffer, index, combine)
                return self.indices.once(
                    self.memory.made_of_locals, item, index, partial(self._folded, node)
                )
            case Cast(argument, dtype):
                return cast(self.f, inner[0], argument.dtype, dtype)
            case Bitcast(_, dtype):
                return self.b.bitcast(inner[0], like(inner[0], value_type(dtype)))
            case Call(function, arguments, dtype):
                return self._call(function, list(inner), arguments, dtype)
        raise TypeError(f"no code for {type(node).__name__}")

    def _number(self, extent: Extent) -> Operand:
        return self.indices.i64(self.indices.extent(extent))

    def _call(
        self, function: str, values: list[Operand], arguments: Sequence[Expr], dtype: DType
    ) -> Operand:
        source = arguments[-1].dtype
        if any(map(is_vector, values)):
            if function == "div" and source in (FLOAT32, FLOAT64) and not is_vector(values[1]):
                return divided(self.f, source, *values)
            values = [self.f.vector(v) for v in values]
        if source.is_float and source.bytes < 4 and function != "select":
            wide = [
                cast(self.f, v, a.dtype, FLOAT32) for v, a in zip(values, arguments, strict=True)
            ]
            result = primitive(self.f, function, wide, FLOAT32)
            return result if dtype is BOOL else cast(self.f, result, FLOAT32, dtype)
        return primitive(self.f, function, values, source)

    def _loaded(self, load: Load) -> Operand:
        """A load whose index was computed at run time (and checked): neighbours as one vector where
        all lanes share what was computed."""
        made = [self.value(part) if isinstance(part, Expr) else part for part in load.index]
        first = load.buffer.offset(
            tuple(0 if isinstance(part, Expr) else part for part in load.index)
        )
        is_row = (
            self.indices.in_lanes
            and slope_along(first, LANE) == 1
            and not any(isinstance(part, ir.Value) and is_vector(part) for part in made)
        )
        offset = self._offset(load, made, is_row)
        flag = self._has_places(load)
        with nullcontext() if flag is None else self.indices.reading_if(flag):
            return self.memory.load_at(load.buffer, offset, is_row)

    def _has_places(self, load: Load) -> Operand | None:
        """Whether an axis with a computed index has elements (``_checked`` gives 0 where it has
        none); None: it is known that it has."""
        checked = [n for n in scalar.post_order(load.index_expressions) if isinstance(n, Checked)]
        empty = [n.extent for n in checked if (dim.bounds(n.extent)[0] or 0) <= 0]
        return self.indices.conditions([extent - 1 for extent in empty])[0]

    def _offset(self, element: Load | Store, made: Sequence[Any], is_row: bool) -> Any:
        """The element number at an index whose computed parts are made; ``is_row``: that of the
        first lane."""
        offset: Any = 0
        for size, part in zip(element.buffer.shape, made, strict=True):
            offset = self.indices.times(offset, self.indices.extent(size))
            if not isinstance(part, ir.Value):
                at = dim.substitute(part, {LANE: 0}) if is_row else part
                part = self.indices.extent(at)
            offset = self.indices.plus(offset, part)
        return offset

    def prefetch(self, element: Load) -> None:
        """A hint that an element, the same in all lanes, is read soon."""
        if not element.index_expressions:
            self.memory.prefetch(element.buffer, element.buffer.offset(element.extents))
            return
        self.memory.prefetch_at(element.buffer, self.offset(element))

    def offset(self, element: Load | Store, is_row: bool = False) -> Any:
        """The element number of what a load reads or a store writes; ``is_row``: in the first
        lane."""
        made = [self.value(part) if isinstance(part, Expr) else part for part in element.index]
        return self._offset(element, made, is_row)

    def _guarded(self, node: Guarded) -> Operand:
        flag, mask = self.indices.conditions(node.conditions)
        otherwise = self.value(node.otherwise)
        is_load = _is_load_or_zero(node)

        def inside() -> Operand:
            with self.indices.masked(mask, node.conditions, is_tail=False):
                value = self.value(node.value)
            if mask is None or (is_load and is_vector(value)):  # lanes that do not run are zero
                return value
            return self.b.select(mask, self.f.vector(value), self.f.vector(otherwise))

        if flag is None:
            return inside()
        if is_load:
            with self.indices.reading_if(flag):
                return inside()
        before = self.b.block
        with self.f.if_then(flag):
            value = inside()
            value = self.f.vector(value) if is_vector(otherwise) else value
            last = self.b.block
        if is_vector(value) and not is_vector(otherwise):
            with self.b.goto_block(before):
                otherwise = self.f.vector(otherwise)
        phi = self.b.phi(value.type)
        phi.add_incoming(value, last)
        phi.add_incoming(otherwise, before)
        return phi

    def _checked(self, index: Operand, extent: Extent) -> Operand:
        """A safe index; the error flag is set if it was not."""
        index, size = self.indices.matched(index, self.indices.extent(extent))
        zero = zero_of(index)
        wrapped = self.b.select(
            self.b.icmp_signed("<", index, zero), self.b.add(index, size), index
        )
        is_inside = self.b.icmp_unsigned("<", wrapped, size)
        bad = self.b.not_(is_inside)
        if is_vector(bad):
            bad = self.f.both(bad, self.indices.mask)
            bad = self.b.icmp_unsigned("!=", self.b.bitcast(bad, I16), I16(0))
        with self.f.if_then(bad, likely=False):
            self.b.store(I32(INDEX_ERROR), self.error)
        return self.b.select(is_inside, wrapped, zero)

    def _folded(self, node: LaneFold) -> Operand:
        """The halves of a vector combined, and theirs, to the last lane; of truth values at once."""
        value = self.memory.vector(node)
        if node.combine == "or" and node.dtype is BOOL:
            holds = self.b.icmp_unsigned("!=", value, zero_of(value))
            name = f"llvm.vector.reduce.or.{suffix(holds.type)}"
            return self.b.call(self.f.intrinsic(name, I1, [holds.type]), [holds])
        width = LANES // 2
        # each half in a vector of its own: LLVM 22.1 takes wrong lanes where whole vectors are kept
        while width:
            undefined = Undefined(value.type)
            order = ir.VectorType(I32, width)
            low = self.b.shuffle_vector(value, undefined, ir.Constant(order, list(range(width))))
            high = self.b.shuffle_vector(
                value, undefined, ir.Constant(order, list(range(width, 2 * width)))
            )
            value = primitive(self.f, node.combine, [low, high], node.dtype)
            width //= 2
        return self.b.extract_element(value, I32(0))


def _is_load_or_zero(node: Guarded) -> bool:
    """Whether no branch is needed: a load can read a zero elsewhere."""
    value, otherwise = node.value, node.otherwise
    return (
        isinstance(value, Load)
        and not value.index_expressions
        and not value.buffer.is_local
        and is_zero(otherwise)
    )


__all__ = ["INDEX_ERROR", "Expressions"]
