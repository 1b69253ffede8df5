"""The meaning of loops: a kernel run over NumPy arrays, statement by statement.

Slow and exact: every sum in the order of the loops, fma rounded once, lanes of a vector loop
together. What the IR forbids is trapped: an index outside its buffer that no guard excludes, an
element read before this work item wrote it, an element that two work items (or two lanes) write, an
output element that nobody writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.errors import InputError, VerificationError

from .. import dim, scalar
from ..dim import Extent, Symbol
from ..op import Array
from ..scalar import SCALAR_FUNCTIONS, Bitcast, Call, Cast, Checked, Expr, Guarded, Index, Literal
from ..tensor_type import INT32
from .bindings import Bindings
from .ir import (
    LANES,
    Allocate,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Kind,
    LaneFold,
    Let,
    Load,
    Prefetch,
    Statement,
    Store,
    When,
)
from .text import print_statement

Mask = npt.NDArray[np.bool_]
UNWRITTEN = -1  # the owner of an element that no work item has written


@dataclass(frozen=True)
class Run:
    """What a kernel gave: its output in memory's shape, and how often it did what (each lane
    counts).
    """

    output: Array
    fma: int
    loads: int
    is_index_wrong: bool  # a run-time index was out of range, and 0 was used instead
    executed: Mapping[Store, int]  # how often each store ran
    lanes: Mapping[Store, int]  # how many elements it stored

    @property
    def stores(self) -> int:
        """How many elements were stored."""
        return sum(self.lanes.values())


def run_kernel(
    kernel: Kernel,
    arrays: Sequence[Array],
    symbols: Mapping[str, int] | None = None,
    order: Sequence[int] | None = None,
) -> Run:
    """Runs a kernel on its inputs (as they lie in memory, in the order of its buffers), work items
    in ``order``.

    InputError for arrays or numbers that do not fit the kernel; VerificationError where the kernel
    breaks a rule.
    """
    values = _checked_symbols(kernel, symbols or {})
    machine = _Machine(kernel, values, arrays)
    items = dim.evaluate(kernel.items, values)
    chosen = range(items) if order is None else order
    if sorted(chosen) != list(range(items)):
        raise InputError(f"the order must hold each of {items} work items once", node=kernel.name)
    with np.errstate(all="ignore"):
        for item in chosen:
            machine.run(item)
    return machine.result()


def _checked_symbols(kernel: Kernel, symbols: Mapping[str, int]) -> dict[str, int]:
    values: dict[str, int] = {}
    for symbol in kernel.symbols:
        high = dim.bounds(symbol.hi)[1] if symbol.hi is not None else None
        if (
            symbol.name not in symbols
            or symbols[symbol.name] < symbol.lo
            or (high is not None and symbols[symbol.name] > high)
        ):
            raise InputError(
                f"dim {symbol.name} needs a number in {symbol.lo}..{symbol.hi}", node=kernel.name
            )
        values[symbol.name] = symbols[symbol.name]
    return values


@dataclass
class _Memory:
    """A buffer's elements, flat, and which work item wrote each."""

    shape: tuple[int, ...]
    data: Array
    owner: npt.NDArray[np.int64] | None = None  # None: an input


@dataclass
class _Counts:
    fma: int = 0
    loads: int = 0
    executed: Counter[Store] = field(default_factory=Counter)
    lanes: Counter[Store] = field(default_factory=Counter)


class _Machine:
    def __init__(self, kernel: Kernel, symbols: Mapping[str, int], arrays: Sequence[Array]) -> None:
        self.kernel = kernel
        # symbols and loop variables; the lane is an array
        self.bindings = Bindings(symbols)
        self.memory = {
            b: self._input(b, a)
            for b, a in zip(kernel.buffers[:-1], self._counted(arrays), strict=True)
        }
        self.out = kernel.buffers[-1]
        self.memory[self.out] = self._empty(self.out)
        self.counts = _Counts()
        self.orders: dict[int, list[Expr]] = {}
        self.item = 0
        self.in_lanes = False
        self.mask: Mask | None = None  # the lanes that run; None: all
        self.is_index_wrong = False
        self.statement: Statement = kernel.body

    def _counted(self, arrays: Sequence[Array]) -> Sequence[Array]:
        if len(arrays) != len(self.kernel.buffers) - 1:
            raise InputError(
                f"{len(arrays)} arrays for {len(self.kernel.buffers) - 1} inputs",
                node=self.kernel.name,
            )
        return arrays

    def _shape(self, buffer: Buffer) -> tuple[int, ...]:
        return tuple(dim.evaluate(e, self.bindings) for e in buffer.shape)

    def _input(self, buffer: Buffer, array: Array) -> _Memory:
        shape = self._shape(buffer)
        if array.dtype.itemsize == 1 and buffer.dtype is INT32:  # bytes that are read in words
            array = np.ascontiguousarray(array).reshape(-1).view(np.int32)
        if array.dtype != buffer.dtype.numpy or array.size != int(np.prod(shape)):
            found = f"{array.dtype}{list(array.shape)}"
            raise InputError(
                f"{buffer.name} is {buffer.dtype.value}{list(shape)}, not {found}",
                node=self.kernel.name,
            )
        return _Memory(shape, np.ascontiguousarray(array).reshape(-1))

    def _empty(self, buffer: Buffer) -> _Memory:
        shape = self._shape(buffer)
        size = int(np.prod(shape))
        return _Memory(
            shape, np.zeros(size, buffer.dtype.numpy), np.full(size, UNWRITTEN, np.int64)
        )

    def run(self, item: int) -> None:
        """One work item."""
        self.item = item
        self._bound(self.kernel.variable, item, self.kernel.body)

    def result(self) -> Run:
        memory, counts = self.memory[self.out], self.counts
        assert memory.owner is not None
        if np.any(memory.owner == UNWRITTEN):
            missing = np.unravel_index(int(np.argmax(memory.owner == UNWRITTEN)), memory.shape)
            raise VerificationError(
                f"{self.out.name}{list(map(int, missing))} is never stored", node=self.kernel.name
            )
        output = memory.data.reshape(memory.shape)
        return Run(
            output, counts.fma, counts.loads, self.is_index_wrong, counts.executed, counts.lanes
        )

    def _error(self, message: str) -> VerificationError:
        return VerificationError(
            f"{message}, in: {print_statement(self.statement)}", node=self.kernel.name
        )

    # -- statements --------------------------------------------------------------------------------

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Block(statements):
                for inner in statements:
                    self._statement(inner)
            case For(variable, extent, kind, body):
                self.statement = statement
                trips = int(self._extent(extent))
                if kind is Kind.VECTOR:
                    self.in_lanes = True
                    self._bound(variable, np.arange(trips), body)
                    self.in_lanes = False
                else:
                    for value in range(trips):
                        self._bound(variable, value, body)
            case Let(variable, extent, body):
                self.statement = statement
                self._bound(variable, self._extent(extent), body)
            case If(conditions, body):
                self.statement = statement
                saved = self.mask
                if self._enters(conditions):
                    self._statement(body)
                self.mask = saved
            case When(holds, body):
                self.statement = statement
                if self._value(holds):
                    self._statement(body)
            case Allocate(buffer, body):
                self.memory[buffer] = self._empty(buffer)
                self._statement(body)
                del self.memory[buffer]
            case Store():
                self._store(statement)
            case Prefetch(element):
                self.statement = statement
                for part in element.index:
                    _ = self._value(part) if isinstance(part, Expr) else self._extent(part)

    def _bound(self, variable: Symbol, value: Any, body: Statement) -> None:
        if variable.name in self.bindings:
            raise self._error(f"{variable.name} is bound already")
        self.bindings[variable.name] = value
        self._statement(body)
        del self.bindings[variable.name]

    def _extent(self, extent: Extent) -> Any:
        """A number, or one a lane."""
        try:
            return self.bindings.extent(extent)
        except KeyError as error:
            raise self._error(f"nothing binds {error.args[0]}") from None

    def _enters(self, conditions: Sequence[Extent]) -> bool:
        """Narrows the mask to the lanes where conditions hold; False if no lane is left."""
        for condition in conditions:
            holds = np.asarray(self._extent(condition)) >= 0
            if holds.ndim:
                self.mask = holds if self.mask is None else self.mask & holds
            elif not holds:
                return False
        return self.mask is None or bool(self.mask.any())

    @property
    def _lanes(self) -> int:
        """How many lanes run."""
        if not self.in_lanes:
            return 1
        return LANES if self.mask is None else int(self.mask.sum())

    def _store(self, store: Store) -> None:
        self.statement = store
        value = self._value(store.value)
        memory = self.memory[store.buffer]
        assert memory.owner is not None
        offset = self._offset(store.buffer, memory, store.index)
        if self.in_lanes:
            running = slice(None) if self.mask is None else self.mask
            offset = _in_each_lane(offset)[running]
            value = _in_each_lane(value)[running]
            if len(set(offset.tolist())) < len(offset):
                raise self._error("two lanes write one element")
        owners = memory.owner[offset]
        if not ((owners == self.item) | (owners == UNWRITTEN)).all():
            raise self._error("two work items write one element")
        memory.data[offset] = value
        memory.owner[offset] = self.item
        self.counts.executed[store] += 1
        self.counts.lanes[store] += self._lanes

    # -- expressions -------------------------------------------------------------------------------

    def _value(self, root: Expr) -> Any:
        """A number, or one a lane; what stands under a guard is evaluated under it."""
        if id(root) not in self.orders:
            self.orders[id(root)] = scalar.post_order([root], closed=(Guarded, Load))
        values: dict[int, Any] = {}
        for node in self.orders[id(root)]:
            values[id(node)] = self._meaning(node, values)
        return values[id(root)]

    def _meaning(self, node: Expr, values: Mapping[int, Any]) -> Any:
        """The value of a node whose arguments have theirs, by their identity."""
        match node:
            case Literal(value, dtype):
                return dtype.numpy.type(value)
            case Load():
                return self._load(node)
            case LaneFold():
                return self._folded(node)
            case Index(extent):
                return np.asarray(self._extent(extent), np.int64)
            case Guarded():
                return self._guarded(node)
            case Checked(index, extent):
                return self._checked(values[id(index)], extent)
            case Cast(argument, dtype):
                return scalar.cast_array(np.asarray(values[id(argument)]), dtype)
            case Bitcast(argument, dtype):
                return np.asarray(values[id(argument)]).view(dtype.numpy)
            case Call(function, arguments, dtype):
                result = SCALAR_FUNCTIONS[function].numpy(*(values[id(a)] for a in arguments))
                self.counts.fma += self._lanes if function == "fma" else 0
                return np.asarray(result).astype(dtype.numpy, copy=False)
        raise TypeError(f"{type(node).__name__} has no meaning in loops")

    def _load(self, load: Load) -> Any:
        memory = self.memory[load.buffer]
        offset = np.asarray(self._offset(load.buffer, memory, load.index))
        self.counts.loads += self._lanes if offset.ndim else 1
        self._require_written(load.buffer, memory, self._running(offset))
        return memory.data[offset]

    def _require_written(self, buffer: Buffer, memory: _Memory, offset: Any) -> None:
        if memory.owner is not None and not (memory.owner[offset] == self.item).all():
            raise self._error(f"{buffer.name} is read where this work item has not written")

    def _running(self, lanes: Any) -> Any:
        """The lanes that run, of a value that may be one for all."""
        return lanes[self.mask] if self.mask is not None and np.ndim(lanes) else lanes

    def _offset(self, buffer: Buffer, memory: _Memory, index: Sequence[Extent | Expr]) -> Any:
        """The element number (of each lane; 0 where a lane does not run); every part is inside
        its extent.
        """
        total: Any = 0
        for axis, (part, extent) in enumerate(zip(index, memory.shape, strict=True)):
            position = self._value(part) if isinstance(part, Expr) else self._extent(part)
            if isinstance(position, np.ndarray) and position.ndim:
                position = position if self.mask is None else np.where(self.mask, position, 0)
                running = self._running(position)
                # what is negative is then huge
                is_inside = not len(running) or bool(running.view(np.uint64).max() < extent)
            else:
                is_inside = 0 <= position < extent
            if not is_inside:
                raise self._error(
                    f"axis {axis} of {buffer.name} is {extent} long, and its index {position}"
                )
            total = total * extent + position
        return total

    def _folded(self, fold: LaneFold) -> Any:
        memory = self.memory[fold.buffer]
        start = int(self._offset(fold.buffer, memory, (*fold.index, 0)))
        lanes = slice(start, start + LANES)
        self._require_written(fold.buffer, memory, lanes)
        self.counts.loads += LANES
        value = memory.data[lanes]
        while len(value) > 1:
            half = len(value) // 2
            value = (
                SCALAR_FUNCTIONS[fold.combine]
                .numpy(value[:half], value[half:])
                .astype(fold.dtype.numpy, copy=False)
            )
        return value[0]

    def _guarded(self, node: Guarded) -> Any:
        otherwise = self._value(node.otherwise)
        outer = self.mask
        self.mask = None
        is_entered = self._enters(node.conditions)
        inner = self.mask
        self.mask = outer if inner is None else inner if outer is None else outer & inner
        value = self._value(node.value) if is_entered and self._lanes else otherwise
        self.mask = outer
        return value if inner is None or not is_entered else np.where(inner, value, otherwise)

    def _checked(self, index: Any, extent: Extent) -> Any:
        size = self._extent(extent)
        wrapped = np.where(np.asarray(index) < 0, index + size, index)
        inside = (wrapped >= 0) & (wrapped < size)
        self.is_index_wrong |= not np.all(self._running(inside))
        return np.where(inside, wrapped, 0)


def _in_each_lane(value: Any) -> Any:
    """A value that may be one for all lanes, as one a lane."""
    return value if np.ndim(value) else np.full(LANES, value)
