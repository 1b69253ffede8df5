"""The rules of loops/ir.py, checked on a kernel: a broken one is a defect in netloom, and the
message names the statement.

Every symbol is bound, and none again inside its own scope; dtypes agree; local buffers and the
output are stored before they are loaded, the output is stored and inputs are not; vector loops have
LANES trips and hold stores under conditions only; unrolled loops and local buffers have constant
extents. Indices lie inside their buffers, symbols inside the ranges they claim, and no lane touches
an element that another lane of its loop stores: where that is refuted it is an error, and
where it is neither proved nor refuted it is returned as an open obligation.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from netloom.errors import VerificationError

from .. import dim
from ..dim import Dim, Extent, Symbol
from ..scalar import (
    Checked,
    Expr,
    Guarded,
    Index,
    children,
)
from ..tensor_type import BOOL, INT64
from .dtypes import dtype_fault
from .ir import (
    LANE,
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
    expressions_in,
    extents_in,
    walk,
)  # fmt: skip
from .lanes import conflicts
from .scope import Binding, Scope
from .text import print_statement


@dataclass(frozen=True)
class Obligation:
    """What must hold where a statement runs, and is not proved to; mostly that an extent is >=
    0.
    """

    statement: Statement
    reason: str
    extent: Extent | None = None

    def __str__(self) -> str:
        claim = "" if self.extent is None else f": {self.extent} >= 0"
        return f"{self.reason}{claim} is not proved in: {print_statement(self.statement)}"


def verify_kernel(kernel: Kernel) -> tuple[Obligation, ...]:
    """What could not be proved about a kernel's indices; VerificationError if it breaks a rule."""
    checker = _Checker(kernel)
    checker.run()
    return tuple(checker.open)


@dataclass(frozen=True)
class _Place:
    """Where a statement stands: its scope, the buffers that can be named, and whether a vector
    loop is around it.
    """

    scope: Scope
    buffers: frozenset[Buffer]
    in_lanes: bool = False


class _Checker:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.open: list[Obligation] = []
        self.statement: Statement = kernel.body
        self.touched: set[Buffer] = set()  # stored by a statement so far, if that runs
        # what was found right in a scope, or noted as open
        self.seen: set[tuple[Scope, Hashable]] = set()

    def run(self) -> None:
        kernel = self.kernel
        scope = Scope()
        for symbol in kernel.symbols:
            self._require(
                symbol.name not in scope.bindings, f"two symbols are called {symbol.name}"
            )
            scope = scope.bound(Binding(symbol))
        names = [buffer.name for buffer in kernel.buffers]
        self._require(len(set(names)) == len(names), f"two buffers have one name: {names}")
        self._require(
            not any(buffer.is_local for buffer in kernel.buffers), "an argument is a local buffer"
        )
        for extent in (kernel.items, *(e for buffer in kernel.buffers for e in buffer.shape)):
            self._symbols_bound(extent, scope)
        item = Symbol(kernel.variable.name, 0, kernel.items - 1)
        scope = self._bind(scope, Binding(item, kernel.items, is_loop=True, is_item=True))
        self._claim(scope, kernel.variable)
        place = _Place(scope, frozenset(kernel.buffers))
        self._run(kernel.body, place, frozenset(kernel.buffers[:-1]))
        output = kernel.buffers[-1]
        stores = [s for s in walk(kernel.body) if isinstance(s, Store) and s.buffer is output]
        self._require(bool(stores) or 0 in output.shape, "the output is never stored")

    # -- statements --------------------------------------------------------------------------------

    def _run(
        self, statement: Statement, place: _Place, stored: frozenset[Buffer]
    ) -> frozenset[Buffer]:
        """Checks a statement; ``stored`` are the buffers that hold something before it, the
        result those after it.
        """
        self.statement = statement
        if not isinstance(statement, Store):
            for extent in extents_in(statement):
                self._extent(extent, place.scope)
        match statement:
            case Block(statements):
                return self._block(statements, place, stored)
            case For():
                return self._loop(statement, place, stored)
            case Let(variable, extent, body):
                self._require(not place.in_lanes, "a let inside a vector loop")
                scope = self._bind(place.scope, Binding(variable, extent))
                least, most = variable.lo, variable.hi
                self._prove(extent - least, place.scope, f"{variable.name} is at least {least}")
                if most is not None:
                    self._prove(most - extent, place.scope, f"{variable.name} is at most {most}")
                return self._run(body, _Place(scope, place.buffers, place.in_lanes), stored)
            case If(conditions):
                made = self._branch(statement, place, stored)
                return made if self._runs_first_lane(conditions, place) else stored
            case When(holds, body):
                self._require(not place.in_lanes, "a when inside a vector loop")
                self._require(holds.dtype is BOOL, f"when a {holds.dtype.value} holds")
                self._expression(holds, place, stored)
                self._run(body, place, stored)
                return stored
            case Allocate(buffer, body):
                self._allocate(buffer, place)
                return self._run(
                    body, _Place(place.scope, place.buffers | {buffer}), stored - {buffer}
                ) - {buffer}
            case Store():
                return self._store(statement, place, stored)
            case Prefetch(element):
                self._prefetch(element, place, stored)
                return stored

    def _block(
        self, statements: Sequence[Statement], place: _Place, stored: frozenset[Buffer]
    ) -> frozenset[Buffer]:
        """Statements in order; of two branches on opposite conditions one runs."""
        before: tuple[Extent, frozenset[Buffer]] | None = None
        for statement in statements:
            match statement:
                case If((condition,), _):
                    made = self._branch(statement, place, stored)
                    if self._runs_first_lane((condition,), place):
                        stored |= made
                    elif before is not None and before[0] + condition == -1:
                        stored |= before[1] & made
                    before = (condition, made)
                case _:
                    before, stored = None, self._run(statement, place, stored)
        return stored

    def _branch(self, branch: If, place: _Place, stored: frozenset[Buffer]) -> frozenset[Buffer]:
        """What is stored if the branch runs."""
        self.statement = branch
        for extent in extents_in(branch):
            self._extent(extent, place.scope)
        inside = _Place(place.scope.under(branch.conditions), place.buffers, place.in_lanes)
        return self._run(branch.body, inside, stored)

    def _runs_first_lane(self, conditions: Sequence[Extent], place: _Place) -> bool:
        """Whether some lane runs always, as in a vector of fewer elements than lanes."""
        return place.in_lanes and all(
            place.scope.proves(dim.substitute(condition, {LANE: 0})) for condition in conditions
        )

    def _loop(self, loop: For, place: _Place, stored: frozenset[Buffer]) -> frozenset[Buffer]:
        match loop.kind:
            case Kind.PARALLEL:
                self._require(False, "a parallel loop inside a kernel")
            case Kind.UNROLLED:
                self._require(
                    isinstance(loop.extent, int), "an unrolled loop has a constant extent"
                )
            case Kind.VECTOR:
                self._require(loop.extent == LANES, f"a vector loop has {LANES} trips")
                self._require(
                    loop.variable == LANE,
                    f"the variable of a vector loop is {LANE.name}, one of {LANES}",
                )
        self._require(not place.in_lanes, "a vector loop is the innermost one")
        scope = self._bind(
            place.scope,
            Binding(Symbol(loop.variable.name, 0, loop.extent - 1), loop.extent, is_loop=True),
        )
        self._claim(scope, loop.variable)
        inner = self._run(loop.body, _Place(scope, place.buffers, loop.kind is Kind.VECTOR), stored)
        if loop.kind is Kind.VECTOR:
            self._independent_lanes(loop.body)
        return inner if place.scope.proves(loop.extent - 1) else stored

    def _independent_lanes(self, body: Statement) -> None:
        for conflict in conflicts(body):
            self.statement = conflict.statement
            name = conflict.buffer.name
            self._require(
                not conflict.is_certain,
                f"a lane touches an element of {name} that another one stores",
            )
            self._leave_open(f"no lane touches an element of {name} that another one stores")

    def _bind(self, scope: Scope, binding: Binding) -> Scope:
        name = binding.symbol.name
        self._require(name not in scope.bindings, f"{name} is bound already")
        return scope.bound(binding)

    def _allocate(self, buffer: Buffer, place: _Place) -> None:
        self._require(not place.in_lanes, "a local buffer inside a vector loop")
        self._require(buffer.is_local, f"{buffer.name} is not a local buffer")
        self._require(
            all(isinstance(e, int) for e in buffer.shape), f"{buffer.name} has a constant shape"
        )
        self._require(
            buffer.name not in {b.name for b in place.buffers},
            f"there is a buffer {buffer.name} already",
        )

    def _store(self, store: Store, place: _Place, stored: frozenset[Buffer]) -> frozenset[Buffer]:
        buffer = store.buffer
        self._require(buffer in place.buffers, f"{buffer.name} is not known here")
        self._require(
            buffer.is_local or buffer is self.kernel.buffers[-1],
            f"the input {buffer.name} is stored",
        )
        self._require(
            store.value.dtype is buffer.dtype,
            f"{store.value.dtype.value} is stored in {buffer.dtype.value}",
        )
        self._require(
            not (store.bypasses_cache and buffer.is_local), f"{buffer.name} is local, and streamed"
        )
        self._require(
            not (store.index_expressions and place.in_lanes) or store.is_row,
            f"lanes store at computed places of {buffer.name}, and not in a row",
        )
        self._index(buffer, store.index, place.scope)
        for expression in expressions_in(store):
            self._expression(expression, place, stored)
        self.touched.add(buffer)
        return stored | {buffer}

    def _prefetch(self, element: Load, place: _Place, stored: frozenset[Buffer]) -> None:
        """Its own index may lie outside the buffer; loads in it may not."""
        buffer = element.buffer
        self._require(not place.in_lanes, "a prefetch inside a vector loop")
        self._require(buffer in place.buffers, f"{buffer.name} is not known here")
        self._require(not buffer.is_local, f"{buffer.name} is local, and prefetched")
        self._ranks(buffer, element.index)
        for part in element.index_expressions:
            self._require(part.dtype is INT64, f"an index is {part.dtype.value}")
            self._expression(part, place, stored)

    # -- expressions -------------------------------------------------------------------------------

    def _expression(self, root: Expr, place: _Place, stored: frozenset[Buffer]) -> None:
        """Every node under the conditions of the guards around it."""
        stack: list[tuple[Expr, Scope]] = [(root, place.scope)]
        seen: set[tuple[int, Scope]] = set()
        while stack:
            node, scope = stack.pop()
            if (id(node), scope) in seen:
                continue
            seen.add((id(node), scope))
            match node:
                case Guarded(conditions, value, otherwise):
                    for condition in conditions:
                        self._extent(condition, scope)
                    stack += [(value, scope.under(conditions)), (otherwise, scope)]
                case Load(buffer, index):
                    self._loaded(buffer, place, stored)
                    self._index(buffer, index, scope)
                case LaneFold(buffer, index, _):
                    self._loaded(buffer, place, stored)
                    self._require(
                        buffer.is_local and bool(buffer.shape) and buffer.shape[-1] == LANES,
                        f"{buffer.name} is no vector",
                    )
                    self._index(buffer, (*index, 0), scope)
                case Index(extent) | Checked(extent=extent):
                    self._extent(extent, scope)
            fault = dtype_fault(node)
            self._require(fault is None, fault or "")
            if not isinstance(node, Guarded):
                stack += [(child, scope) for child in children(node)]

    def _loaded(self, buffer: Buffer, place: _Place, stored: frozenset[Buffer]) -> None:
        self._require(buffer in place.buffers, f"{buffer.name} is not known here")
        if buffer in stored:
            return
        # loops over rows of any length may be empty, those that load and those that stored before
        may_hold = buffer in self.touched and not buffer.is_local and bool(self.kernel.symbols)
        self._require(may_hold, f"{buffer.name} is loaded before it is stored")
        self._leave_open(f"{buffer.name} is stored before it is loaded")

    # -- extents -----------------------------------------------------------------------------------

    def _index(self, buffer: Buffer, index: tuple[Extent | Expr, ...], scope: Scope) -> None:
        if (scope, (buffer, index)) in self.seen:
            return
        self.seen.add((scope, (buffer, index)))
        self._ranks(buffer, index)
        for axis, (part, extent) in enumerate(zip(index, buffer.shape, strict=True)):
            where = f"axis {axis} of {buffer.name}"
            match part:
                case Checked(extent=room):
                    self._prove(extent - room, scope, f"{where} is checked against its extent")
                case Expr() if not isinstance(part, Index):
                    self._require(part.dtype is INT64, f"{where} is indexed by {part.dtype.value}")
                    self._leave_open(f"{where} is inside {extent}")
                case _:
                    position = part.extent if isinstance(part, Index) else part
                    assert not isinstance(position, Expr)
                    self._extent(position, scope)
                    self._prove(position, scope, f"{where} is at least 0")
                    self._prove(extent - 1 - position, scope, f"{where} is inside {extent}")

    def _ranks(self, buffer: Buffer, index: tuple[Extent | Expr, ...]) -> None:
        self._require(
            len(index) == len(buffer.shape),
            f"{len(index)} indices into {buffer.name}, of rank {len(buffer.shape)}",
        )

    def _extent(self, extent: Extent, scope: Scope) -> None:
        """Its symbols are bound, and inside the ranges that it claims for them."""
        if isinstance(extent, int) or (scope, extent) in self.seen:
            return
        self.seen.add((scope, extent))
        for symbol in self._symbols_bound(extent, scope):
            self._claim(scope, symbol)

    def _symbols_bound(self, extent: Extent, scope: Scope) -> frozenset[Symbol]:
        symbols = dim.symbols_of([extent])
        for symbol in symbols:
            self._require(symbol.name in scope.bindings, f"nothing binds {symbol.name} in {extent}")
        return symbols

    def _claim(self, scope: Scope, symbol: Symbol) -> None:
        """A symbol's range holds here."""
        bound = scope.bindings[symbol.name].symbol
        if bound == symbol:
            return
        value = Dim.of(bound)
        self._prove(value - symbol.lo, scope, f"{symbol.name} is at least {symbol.lo}")
        if symbol.hi is not None:
            self._prove(
                scope.canonical(symbol.hi) - value, scope, f"{symbol.name} is at most {symbol.hi}"
            )

    def _prove(self, extent: Extent, scope: Scope, reason: str) -> None:
        """extent >= 0: proved, refuted (an error), or open."""
        if scope.proves(extent):
            return
        refuted = scope.counterexample(extent)
        if refuted is not None:
            at = ", ".join(f"{name} = {value}" for name, value in refuted.items())
            self._require(False, f"not so: {reason}. At {at or 'any place'} {extent} is negative")
        self._leave_open(reason, extent)

    def _leave_open(self, reason: str, extent: Extent | None = None) -> None:
        self.open.append(Obligation(self.statement, reason, extent))

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise VerificationError(
                f"{message}, in: {print_statement(self.statement)}", node=self.kernel.name
            )
