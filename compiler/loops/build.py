"""A fused kernel's graph -> loops: its element formulas composed with layouts, tiled for vector registers.

A kernel holds at most one reducing node (a convolution, a matmul, a sum: the *anchor*); all others are pointwise and
are inlined, before the anchor into its term, after it into its epilogue. The anchor's loops are tiled so that a block
of accumulators stays in registers: ``rows`` x ``columns`` vectors of 16 lanes. Which axis gives lanes, rows and columns is
read off the operands' indices, so matmuls, convolutions in every layout and all their gradients share this one file.

Guarantees: the number of work items and the order of every sum depend on shapes only; no chain of float32 additions
is longer than ``CHAIN`` terms (longer reductions add partial sums).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from .. import dim, scalar
from ..dim import Dim, Extent, Quotient, Remainder, Symbol
from ..graph import Graph, Node, Value
from ..op import Compute
from ..scalar import Call, Expr, Guarded, Index
from ..tensor_type import BOOL, DType
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kernel,
    Kind,
    LaneFold,
    Let,
    Load,
    Statement,
    Store,
    block,
    guard,
    loop,
    variable,
    walk,
)  # fmt: skip
from .winograd import SCHEDULES

CHAIN = 512  # longest chain of additions into one accumulator
ENOUGH_ROWS = 12  # positions of an axis that fill the rows of a tile
FAR = 1 << 30  # elements: a distance that is not known
TOTALS = 2048  # vectors of results that a work item keeps while it goes through the terms of long sums
LEAST_ITEMS = 8  # that such a kernel keeps
ITEM_WORK = 1 << 14  # multiply-adds or elements that one work item should hold at least
FOLD_WORK = 8  # instructions that adding the lanes of one vector costs
SYMBOLIC_TERMS = 1 << 12  # of a sum whose length is a free dim
LINEAR_CHUNK = 256  # vectors in one work item of a kernel over contiguous memory


@dataclass(frozen=True)
class Machine:
    """What tiling needs to know of a CPU: how many 16-lane float32 vectors its registers hold."""

    vectors: int = 32


@dataclass(frozen=True)
class Axis:
    """A loop to be placed: its symbol and extent."""

    symbol: Symbol
    extent: Extent

    @staticmethod
    def of(name: str, extent: Extent) -> Axis:
        return Axis(variable(name, extent), extent)

    @property
    def position(self) -> Dim:
        return Dim.of(self.symbol)


def build_kernel(name: str, graph: Graph, machine: Machine) -> Kernel:
    """The loops of a kernel's graph (one output; buffers are the graph's inputs, then its output)."""
    return KernelBuilder(graph, machine).build(name)


def has_loops(node: Node) -> bool:
    """Whether code can be made for a node: it has an element formula, or loops of its own."""
    return node.op.compute is not None or node.op.name in SCHEDULES


def is_anchor(node: Node) -> bool:
    """Whether a node decides a kernel's loops: it reduces, or has loops of its own."""
    return node.op.name in SCHEDULES or bool(compute_of(node).reduce)


def anchor_of(graph: Graph) -> Node | None:
    """The one node that decides the loops, if any."""
    found = [node for node in graph.nodes if is_anchor(node)]
    if len(found) > 1:
        raise ValueError(f"a kernel cannot hold two reductions: {found}")
    return found[0] if found else None


def compute_of(node: Node) -> Compute:
    """The element formula of a node; constants are formulas too."""
    if node.op.name == "constant":
        value = node.attrs.value
        if not value.is_splat:
            raise ValueError("only one repeated value can be part of a kernel's code")
        return Compute(lambda _i, _r, _read: scalar.literal(value.splat_value.item(), value.type.dtype))
    assert node.op.compute is not None, f"{node.op.name} has no loops"
    return node.op.compute(node.attrs, [v.type for v in node.inputs], [v.type for v in node.outputs])


class KernelBuilder:
    def __init__(self, graph: Graph, machine: Machine) -> None:
        self.graph, self.machine = graph, machine
        (self.output,) = graph.outputs
        self.anchor = anchor_of(graph)
        self.computes = {node: compute_of(node) for node in graph.nodes if node.op.name not in SCHEDULES}
        self.buffers = {v: _buffer(f"x{i}", v) for i, v in enumerate(graph.inputs)}
        self.out = _buffer("y", self.output)
        self.flat: dict[Buffer, Buffer] = {}  # buffers that the loops walk by their offsets
        self.fresh = count()

    # -- element formulas --------------------------------------------------------------------------------

    def element(self, value: Value, index: Sequence[Extent | Expr], sum_: Expr | None) -> Expr:
        """The element of a value; ``sum_`` stands for the anchor's result."""
        node = self.graph.producers.get(value)
        if node is None:
            return self._load(value, index)
        if node is self.anchor:
            assert sum_ is not None, "the anchor's result is read inside its own term"
            return sum_
        plain = tuple(_as_extent(part) for part in index)
        return self.computes[node].term(plain, (), lambda k, i: self.element(node.inputs[k], list(i), sum_))

    def _load(self, value: Value, index: Sequence[Extent | Expr]) -> Expr:
        buffer = self.buffers[value]
        if value.layout is not None:
            physical: tuple[Extent | Expr, ...] = value.layout.physical_index(tuple(_as_extent(p) for p in index))
        else:
            physical = tuple(index)
        return scalar.cast(Load(buffer, physical), value.dtype)

    def final(self, index: tuple[Extent, ...], sum_: Expr | None) -> Expr:
        """The stored element; zero in padding lanes."""
        value = self.element(self.output, index, sum_)
        layout = self.output.layout
        if layout is None or not layout.has_padding(self.output.shape):
            return value
        inside = tuple(e - 1 - i for e, i in zip(self.output.shape, index, strict=True))
        open_ = tuple(c for c in inside if not dim.is_nonnegative(c))
        return Guarded(open_, value, scalar.literal(0, value.dtype)) if open_ else value

    def logical(self, physical: Sequence[Extent]) -> tuple[Extent, ...]:
        if self.output.layout is None:
            return tuple(physical)
        return self.output.layout.logical_index(tuple(physical), self.output.type.rank)

    # -- the kernel --------------------------------------------------------------------------------------

    def build(self, name: str) -> Kernel:
        item = Symbol("w", 0, None)
        items, body = self._loops(item)
        buffers = tuple(self.flat.get(b, b) for b in (*self.buffers.values(), self.out))
        symbols = dim.symbols_of([e for b in buffers for e in b.shape] + [items]) | _free_symbols(body, item)
        return Kernel(name, buffers, tuple(sorted(symbols, key=lambda s: s.name)), items, item, body)

    def _loops(self, item: Symbol) -> tuple[Extent, Statement]:
        if self.anchor is not None and self.anchor.op.name in SCHEDULES:
            return SCHEDULES[self.anchor.op.name](self, item)
        linear = None if self.anchor else self._linear(item)
        return linear if linear is not None else self._tiled(item)

    @property
    def anchored(self) -> Node:
        """The anchor of a kernel that has one."""
        assert self.anchor is not None
        return self.anchor

    def local_name(self, letter: str) -> str:
        """A name for a local buffer that no other has."""
        return f"{letter}{next(self.fresh)}"

    def store(self, index: tuple[Extent, ...], sum_: Expr, conditions: tuple[Extent, ...] = ()) -> Statement:
        """The stored element at a logical index, from the anchor's result there; lanes outside the conditions are
        stored only as padding."""
        layout = self.output.layout
        physical = layout.physical_index(index) if layout is not None else index
        statement = Store(self.out, physical, self.final(index, sum_))
        return statement if layout is not None else guard(conditions, statement)

    def _linear(self, item: Symbol) -> tuple[Extent, Statement] | None:
        """Loops over contiguous memory, if every operand is read exactly where the output is written (or is one number)."""
        axes = [Axis.of(f"p{i}", e) for i, e in enumerate(self.out.shape)]
        position = tuple(axis.position for axis in axes)
        value = self.final(self.logical(position), None)
        for node in scalar.post_order([value]):
            if isinstance(node, Index | Guarded | scalar.Checked):
                return None
            if isinstance(node, Load) and not self._is_aligned(node, position):
                return None
        total = dim.product(self.out.shape)
        flat = {b: Buffer(b.name, b.dtype, (dim.product(b.shape),)) for b in (*self.buffers.values(), self.out)}
        self.buffers = {v: flat[b] for v, b in self.buffers.items()}
        self.out = flat[self.out]
        chunk = LINEAR_CHUNK * LANES
        lane = variable("l", LANES)

        def store(start: Extent, condition: tuple[Extent, ...]) -> Statement:
            at = start + Dim.of(lane)

            def flatten(node: Expr) -> Expr | None:
                if not isinstance(node, Load):
                    return None
                is_one = dim.product(node.buffer.shape) == 1
                return Load(flat[node.buffer], ((0 if is_one else at),))

            assignment = Store(self.out, (at,), scalar.rebuild(value, flatten))
            return loop(lane, LANES, guard(condition, assignment), Kind.VECTOR)

        base = Dim.of(item) * chunk
        vectors = Axis.of("v", dim.minimum(LINEAR_CHUNK, (total - base) // LANES))
        at = base + vectors.position * LANES
        whole = loop(vectors.symbol, vectors.extent, store(at, ()))
        rest = base + vectors.extent * LANES
        tail_room = total - 1 - rest - Dim.of(lane)
        if isinstance(total, int) and total % LANES == 0:
            return dim.ceil_div(total, chunk), whole
        return dim.ceil_div(total, chunk), block(whole, store(rest, (tail_room, base + (chunk - 1) - rest - Dim.of(lane))))

    def _is_aligned(self, load: Load, position: tuple[Extent, ...]) -> bool:
        is_one = dim.product(load.buffer.shape) == 1
        return is_one or (load.buffer.shape == self.out.shape and load.index == position)

    def _tiled(self, item: Symbol) -> tuple[Extent, Statement]:
        tiling = _Tiling(self)
        self.flat = tiling.flat
        return tiling.items, tiling.statement(item)


def _buffer(name: str, value: Value) -> Buffer:
    shape = value.layout.physical_shape(value.shape) if value.layout else value.shape
    return Buffer(name, value.dtype, shape)


def _as_extent(part: Extent | Expr) -> Extent:
    if isinstance(part, Index):
        return part.extent
    if isinstance(part, Expr):
        raise ValueError("a run-time index cannot pass through another op's formula")
    return part


def _free_symbols(body: Statement, item: Symbol) -> frozenset[Symbol]:
    """Symbols that no loop binds: the free dims of the model."""
    bound = {item.name}
    found: set[Symbol] = set()
    for statement in walk(body):
        extents, expressions = _parts(statement)
        if hasattr(statement, "variable"):
            bound.add(statement.variable.name)
        for node in scalar.post_order(expressions):
            extents += _extents_of(node)
        for extent in extents:
            if isinstance(extent, Dim):
                found |= extent.symbols()
    return frozenset(symbol for symbol in found if symbol.name not in bound)


def _parts(statement: Statement) -> tuple[list[Extent], list[Expr]]:
    match statement:
        case Store(_, index, value):
            return list(index), [value]
        case _:
            extents = [statement.extent] if hasattr(statement, "extent") else []
            return extents + list(getattr(statement, "conditions", ())), []


def _extents_of(node: Expr) -> list[Extent]:
    match node:
        case Load(_, index):
            return [p for p in index if not isinstance(p, Expr)]
        case LaneFold(_, index, _):
            return list(index)
        case Guarded(conditions, _, _):
            return list(conditions)
        case Index(extent):
            return [extent]
        case scalar.Checked(_, extent):
            return [extent]
    return []


@dataclass
class _Plan:
    """Which axes give lanes, rows and columns, and how many."""

    lane: Axis | None = None
    lane_reduces: bool = False
    rows: Axis | None = None
    row_count: int = 1
    columns: Axis | None = None
    column_count: int = 1
    serial: list[Axis] = field(default_factory=list)  # pure axes that run inside an item


class _Tiling:
    """The tiled loops of one kernel."""

    def __init__(self, builder: KernelBuilder) -> None:
        self.b = builder
        self.pure = [Axis.of(f"p{i}", e) for i, e in enumerate(builder.out.shape)]
        self.position: list[Extent] = [axis.position for axis in self.pure]  # physical, in loop symbols
        self.compute = builder.computes[builder.anchor] if builder.anchor else None
        extents = self.compute.reduce if self.compute else ()
        self.reduce = [Axis.of(f"r{i}", e) for i, e in enumerate(extents)]
        self.reduce_at: list[Extent] = [axis.position for axis in self.reduce]
        self.reduce_guard: list[Extent] = []
        self.store_guard: list[Extent] = []
        self.steps: list[_Substitution] = []  # base positions -> loops, one after another
        self.flat: dict[Buffer, Buffer] = {}  # buffers that are walked by their offsets
        self.present_term: Expr | None = None
        self.known_values: tuple[Expr | None, list[Extent], list[Expr]] | None = None  # for a term and positions
        self._split_blocked_reductions()
        self._split_groups()
        self._merge_axes()
        self.plan = _Plan()
        self._choose_lanes()
        self._choose_tile()
        self._choose_items()

    # -- the term and its operands -----------------------------------------------------------------------

    def _term(self) -> Expr:
        """The anchor's term at the present positions (or the stored value of a pointwise kernel)."""
        if self.present_term is None:
            self.present_term = self._present_term()
        return self.present_term

    def _present_term(self) -> Expr:
        index = self.b.logical(self.position)
        if self.compute is None or self.b.anchor is None:
            return self._placed(self.b.final(index, None))
        node = self.b.anchor
        own = self._anchor_index(index)
        term = self.compute.term(own, tuple(self.reduce_at), lambda k, i: self.b.element(node.inputs[k], list(i), None))
        term = self._placed(term)
        if self.store_guard:
            term = self._guard_lanes(term)
        guards = tuple(g for g in self.reduce_guard if not dim.is_nonnegative(g))
        if not guards:
            return term
        return Guarded(guards, term, scalar.literal(_limited(self._neutral(), term.dtype), term.dtype))

    def _placed(self, root: Expr, put: _Substitution | None = None) -> Expr:
        """An expression over base positions, over the loops that were made of them."""
        if self.flat:
            root = scalar.rebuild(root, self._flattened)
        for step in [*self.steps, *([put] if put else [])]:
            root = step.expression(root)
        return root

    def _flattened(self, node: Expr) -> Expr | None:
        if isinstance(node, Load) and node.buffer in self.flat:
            return Load(self.flat[node.buffer], (node.buffer.offset(node.extents),))
        return None

    def _stored_at(self, put: _Substitution) -> tuple[Buffer, tuple[Extent, ...]]:
        out, position = self.b.out, tuple(self.position)
        if out in self.flat:
            out, position = self.flat[out], (out.offset(position),)
        for step in [*self.steps, put]:
            position = tuple(map(step, position))
        return out, position

    def _anchor_index(self, index: tuple[Extent, ...]) -> tuple[Extent, ...]:
        """Where the epilogue reads the anchor: its own shape aligned to the right of the output's."""
        assert self.b.anchor is not None
        shape = self.b.anchor.output.shape
        own = index[len(index) - len(shape) :]
        return tuple(0 if e == 1 else i for e, i in zip(shape, own, strict=True))

    def _guard_lanes(self, term: Expr) -> Expr:
        """Lanes behind the end of the axis read nothing; what they hold is never stored."""

        def leaf(node: Expr) -> Expr | None:
            if isinstance(node, Load) and _depends(node, LANE):
                return Guarded(tuple(self.store_guard), node, scalar.literal(0, node.dtype))
            return None

        return scalar.rebuild(term, leaf)

    def _neutral(self) -> float:
        assert self.compute is not None
        return self.compute.initial

    def _loads(self) -> list[Load]:
        return [node for node in scalar.post_order([self._term()]) if isinstance(node, Load)]

    def _split_blocked_reductions(self) -> None:
        """c -> c/16 * 16 + c%16 wherever an operand's layout takes the axis apart."""
        for place in range(len(self.reduce_at)):
            symbol = self.reduce[place].symbol
            blocked = [load for load in self._loads() if _is_taken_apart(load, symbol)]
            if not blocked:
                continue
            extent = self.reduce[place].extent
            outer = Axis.of(f"{symbol.name}b", dim.ceil_div(extent, LANES))
            inner = Axis.of(f"{symbol.name}i", LANES)
            self.reduce_at[place] = outer.position * LANES + inner.position
            self.present_term = None
            others = [load for load in self._loads() if _depends(load, inner.symbol) and not _is_padded(load, inner)]
            if others and extent % LANES != 0:
                self.reduce_guard.append(extent - 1 - self.reduce_at[place])
            self.reduce[place] = Axis(outer.symbol, outer.extent)
            self.reduce.append(inner)
            self.present_term = None

    def _split_groups(self) -> None:
        """o -> (o / g) * g + o % g wherever an operand reads by group: within a group, its index is then constant."""
        for axis in list(self.pure):
            size = _group_size([*self._reads(), *self._guards()], axis)
            if size is None or not isinstance(axis.extent, int):
                continue
            outer, inner = Axis.of(f"{axis.symbol.name}g", axis.extent // size), Axis.of(f"{axis.symbol.name}m", size)
            self._replace(axis, outer.position * size + inner.position)
            place = self.pure.index(axis)
            self.pure[place : place + 1] = [outer, inner]

    def _merge_axes(self) -> None:
        """Neighbouring axes that every operand walks as one become one: fewer tails, longer vectors."""
        for place in range(len(self.pure) - 2, -1, -1):
            first, second = self.pure[place : place + 2]
            if not (isinstance(first.extent, int) and isinstance(second.extent, int)) or min(first.extent, second.extent) < 2:
                continue
            merged = Axis.of(f"{first.symbol.name}{second.symbol.name}", first.extent * second.extent)
            values = {first.symbol: merged.position // second.extent, second.symbol: merged.position % second.extent}
            reads = self._reads()
            offsets = [load.buffer.offset(load.extents) for load in reads if not load.index_expressions]
            offsets += [self.b.out.offset(tuple(self.position)), *self._guards()]
            is_torn = any(_takes_apart(dim.substitute(e, values), merged.symbol) for e in offsets)
            if is_torn or any(load.index_expressions for load in reads):
                continue
            self._replace(first, values[first.symbol])
            self._replace(second, values[second.symbol])
            self.pure[place : place + 2] = [merged]
            for buffer in {load.buffer for load in reads}.difference(self.flat.values()) | {self.b.out}:
                self.flat[buffer] = Buffer(buffer.name, buffer.dtype, (dim.product(buffer.shape),))

    def _reads(self) -> list[Load]:
        """All loads of the kernel, those of the epilogue too."""
        return [node for node in scalar.post_order(self._values()) if isinstance(node, Load)]

    def _guards(self) -> list[Extent]:
        """Every condition and index number of the stored value."""
        nodes = scalar.post_order(self._values())
        return [e for node in nodes if isinstance(node, Guarded | Index | scalar.Checked) for e in _extents_of(node)]

    def _values(self) -> list[Expr]:
        """The term, and the stored value over an unknown sum: all that the kernel reads."""
        term = None if self.compute is None else self._term()
        if self.known_values is None or self.known_values[0] is not term or self.known_values[1] != self.position:
            self.known_values = term, list(self.position), self._found_values()
        return self.known_values[2]

    def _found_values(self) -> list[Expr]:
        index = self.b.logical(self.position)
        if self.compute is None or self.b.anchor is None:
            return [self.b.final(index, None)]
        anchor = self.b.anchor
        sum_: Expr = scalar.literal(0, anchor.output.dtype)
        if self.compute.finish is not None:
            own = self._anchor_index(index)
            sum_ = self.compute.finish(sum_, own, lambda k, i: self.b.element(anchor.inputs[k], list(i), None))
        return [self._term(), self.b.final(index, sum_)]

    def _replace(self, axis: Axis, position: Extent) -> None:
        self.position = [dim.substitute(p, {axis.symbol: position}) for p in self.position]
        self.present_term = None

    def _step(self, axis: Axis, position: Extent) -> None:
        """From here on, an axis is found at a position of finer loops."""
        step = _Substitution({axis.symbol: position})
        self.steps.append(step)
        self.reduce_guard = [step(g) for g in self.reduce_guard]
        self.store_guard = [step(g) for g in self.store_guard]
        self.present_term = None

    # -- choices -----------------------------------------------------------------------------------------

    def _choose_lanes(self) -> None:
        """The axis whose lanes cost least: contiguous or absent in every operand, and long enough."""
        best, cost = None, 1.0  # one lane at a time costs 1 an element
        loads = self._loads()
        candidates = [(axis, False) for axis in reversed(self.pure)] + [(axis, True) for axis in reversed(self.reduce)]
        for axis, reduces in candidates:
            if isinstance(axis.extent, int) and axis.extent < 4:
                continue
            found = self._lane_cost(axis, reduces, loads)
            if found < cost - 1e-9:
                best, cost = (axis, reduces), found
        if best is None:
            return
        axis, reduces = best
        self.plan.lane_reduces = reduces
        self._split_lanes(axis, reduces)

    def _lane_cost(self, axis: Axis, reduces: bool, loads: list[Load]) -> float:
        filled = 1.0
        if isinstance(axis.extent, int):
            filled = axis.extent / (-(-axis.extent // LANES) * LANES)
        cost = 0.0
        split = {axis.symbol: Dim.of(variable("q", dim.ceil_div(axis.extent, LANES))) * LANES + Dim.of(LANE)}
        for load in loads:
            slope = _slope(load, axis.symbol, split)
            if slope is None or slope not in (0, 1):
                cost += 1.0
            else:
                cost += (0.1 if slope == 0 else 0.2) / LANES
        if not reduces:
            place = self.pure.index(axis)
            stride = dim.product(self.b.out.shape[place + 1 :])
            cost += 0.2 / LANES if stride == 1 else 1.0
        else:
            terms = dim.product([a.extent for a in self.reduce])
            cost += 0.2 / LANES
            cost *= 1 + FOLD_WORK * LANES / (max(terms, 1) if isinstance(terms, int) else SYMBOLIC_TERMS)
        return cost / (1 + len(loads)) / filled

    def _split_lanes(self, axis: Axis, reduces: bool) -> None:
        lane = Axis(LANE, LANES)
        self.plan.lane = lane
        if axis.extent == LANES:
            outer_position: Extent = 0
            outer = None
        else:
            outer = Axis.of(f"{axis.symbol.name}v", dim.ceil_div(axis.extent, LANES))
            outer_position = outer.position * LANES
        at = outer_position + lane.position
        condition = axis.extent - 1 - at
        self._step(axis, at)
        target = self.reduce if reduces else self.pure
        place = target.index(axis)
        target[place : place + 1] = [outer] if outer else []
        if axis.extent % LANES != 0:
            (self.reduce_guard if reduces else self.store_guard).append(condition)
            self.present_term = None

    def _choose_tile(self) -> None:
        """Rows reuse the vectors, columns reuse the broadcasts; both fit the registers."""
        if self.compute is None or self.plan.lane is None:
            return
        loads = self._loads()
        vectors = [load for load in loads if _depends(load, LANE)]
        scalars = [load for load in loads if not _depends(load, LANE)]
        if self.plan.lane_reduces:
            vectors, scalars = vectors[:1], vectors[1:]
        if not vectors or not scalars:
            return
        row = _nearest([a for a in self.pure if not any(_depends(v, a.symbol) for v in vectors)], scalars)
        column = _largest(a for a in self.pure if a is not row and not any(_depends(s, a.symbol) for s in scalars))
        rows, columns = self._tile_counts(row, column)
        if row is not None and rows > 1:
            self.plan.rows, self.plan.row_count = row, rows
        if column is not None and columns > 1:
            self.plan.columns, self.plan.column_count = column, columns

    def _tile_counts(self, row: Axis | None, column: Axis | None) -> tuple[int, int]:
        """The counts with the most products a load, among those that fit and waste least at the end of an axis."""
        room = self.b.machine.vectors
        if self.b.out.dtype.bytes > 4:
            room //= 2
        best, best_score = (1, 1), -1.0
        for columns in range(1, 9):
            if columns > 1 and (column is None or not _at_most(columns, column.extent)):
                break
            for rows in range(1, 29):
                if rows > 1 and (row is None or not _at_most(rows, row.extent)):
                    break
                held = rows * columns
                if held + columns + 1 > room and held > 1:
                    break
                score = min(held, 12) / 12 * held / (held + 0.6 * columns + 0.6 * rows)
                score *= _filled(row, rows) * _filled(column, columns)
                if score > best_score + 1e-9:
                    best, best_score = (rows, columns), score
        return best

    def _choose_items(self) -> None:
        """Work items: tiles of the outer axes; inner axes run inside an item until it holds enough work."""
        counts: dict[Symbol, int] = {}
        if self.plan.rows:
            counts[self.plan.rows.symbol] = self.plan.row_count
        if self.plan.columns:
            counts[self.plan.columns.symbol] = self.plan.column_count
        self.counts = counts
        order = sorted(self.pure, key=self._item_order)
        work: Extent = LANES if self.plan.lane is not None else 1
        for axis in self.reduce:
            work = work * (axis.extent if isinstance(axis.extent, int) else 16)
        for amount in counts.values():
            work = work * amount
        inner: list[Axis] = []
        while order and not isinstance(order[-1].extent, Dim) and isinstance(work, int) and work < ITEM_WORK:
            axis = order.pop()
            chunk = _divisor(axis.extent, -(-ITEM_WORK // max(work, 1)))
            if axis.symbol not in counts and isinstance(axis.extent, int) and axis.extent >= 2 * chunk:
                outer, axis = self._chunked(axis, chunk)
                order.append(outer)
                inner.insert(0, axis)
                break
            inner.insert(0, axis)
            work = work * dim.ceil_div(axis.extent, counts.get(axis.symbol, 1))
        inner = self._kept(order, inner)
        symbolic = [a for a in order if isinstance(a.extent, Dim)]
        for axis in symbolic[1:]:  # only the outermost axis of the items may have a symbolic extent
            order.remove(axis)
            inner.insert(0, axis)
        self.outer, self.inner = order, inner
        self.items = dim.product([self._tiles(axis) for axis in self.outer])

    def _kept(self, order: list[Axis], inner: list[Axis]) -> list[Axis]:
        """The axes inside an item; a long sum takes more of them, as far as its totals fit TOTALS and items are left: each
        chunk of the terms is then read once for many results."""
        is_summed = self.compute is not None and self.plan.lane is not None and not self.plan.lane_reduces
        if inner or not is_summed or not self._chains(_Substitution({}))[0]:
            return inner
        room = TOTALS
        for axis in order:
            room //= self.counts.get(axis.symbol, 1)
        while order and isinstance(extent := order[-1].extent, int):
            axis = order.pop()
            size = self.counts.get(axis.symbol, 1)
            room *= size
            items = dim.product([self._tiles(a) for a in order])
            chunk = min(room, extent // -(-LEAST_ITEMS // items) if isinstance(items, int) else extent)
            if chunk < extent and (size > 1 or chunk < 2):
                order.append(axis)
                break
            if chunk < extent:
                outer, axis = self._chunked(axis, _divisor(extent, chunk))
                order.append(outer)
            inner.insert(0, axis)
            if chunk < extent:
                break
            room //= extent
        return inner

    def _chunked(self, axis: Axis, chunk: int) -> tuple[Axis, Axis]:
        """An axis as chunks and positions within a chunk."""
        assert isinstance(axis.extent, int)
        outer = Axis.of(f"{axis.symbol.name}c", -(-axis.extent // chunk))
        inner = Axis.of(f"{axis.symbol.name}k", dim.minimum(chunk, axis.extent - outer.position * chunk))
        self._step(axis, outer.position * chunk + inner.position)
        return outer, inner

    def _item_order(self, axis: Axis) -> tuple[int, int]:
        """Outermost what both operands walk; innermost what only the smaller operand walks: it stays in the cache."""
        if isinstance(axis.extent, Dim):
            return (-1, 0)
        rank = {self.plan.columns.symbol: 4 if self._is_swept_by_columns() else 1} if self.plan.columns else {}
        if self.plan.rows:
            rank[self.plan.rows.symbol] = 3
        place = self.pure.index(axis)
        first = bool(self.b.out.shape) and place == 0
        return (rank.get(axis.symbol, 0 if first else 2), place)

    def _is_swept_by_columns(self) -> bool:
        """Whether the operand that columns walk is smaller than the one that rows walk."""
        loads = self._loads()
        vectors = [load for load in loads if _depends(load, LANE)]
        scalars = [load for load in loads if not _depends(load, LANE)]
        return self._walked(vectors, scalars) < self._walked(scalars, vectors)

    def _walked(self, loads: Sequence[Load], others: Sequence[Load]) -> int:
        """Elements of one operand that the loops walk where the other does not change."""
        total = 1
        for axis in self.pure:
            own, other = (any(_depends(load, axis.symbol) for load in group) for group in (loads, others))
            if own and not other and isinstance(axis.extent, int):
                total *= axis.extent
        return total

    def _tiles(self, axis: Axis) -> Extent:
        return dim.ceil_div(axis.extent, self.counts.get(axis.symbol, 1))

    # -- statements --------------------------------------------------------------------------------------

    def statement(self, item: Symbol) -> Statement:
        """Decode the work item, run the inner axes, and in the middle the tile."""
        fixed: dict[Symbol, Extent] = {}
        lets: list[tuple[Symbol, Extent]] = []
        rest: Extent = Dim.of(item)
        for place in range(len(self.outer) - 1, -1, -1):
            axis, tiles = self.outer[place], self._tiles(self.outer[place])
            symbol = variable(axis.symbol.name, tiles)
            if place == 0:
                lets.append((symbol, rest))
            else:
                assert isinstance(tiles, int)
                lets.append((symbol, rest % tiles))
                rest = rest // tiles
        body = self._axes(list(self.outer), fixed, self._item)
        for symbol, extent in lets:
            body = Let(symbol, extent, body)
        return body

    def _axes(self, axes: list[Axis], fixed: dict[Symbol, Extent], end: _Body, is_item: bool = True) -> Statement:
        """Bind one axis after another: those of items by condition, others by loops."""
        if not axes:
            return end(fixed)
        return self._bound(axes[0], is_item, fixed, lambda f: self._axes(axes[1:], f, end, is_item))

    def _item(self, fixed: dict[Symbol, Extent]) -> Statement:
        """What one work item does: one tile after another, or, of long sums, one chunk of terms after another."""
        split = _Substitution({})
        if self.compute is None or not self.inner or self.plan.lane_reduces or not (chunks := self._chains(split)[0]):
            return self._axes(self.inner, fixed, self._tile, is_item=False)
        counts = [self.counts.get(axis.symbol, 1) for axis in self.outer]
        tiled = [variable(f"{axis.symbol.name}u", size) for axis, size in zip(self.outer, counts, strict=True) if size > 1]
        extents = [_constant(axis.extent) for axis in self.inner] + [int(str(symbol.hi)) + 1 for symbol in tiled]
        lanes = [LANES] if self.plan.lane else []
        totals = Buffer(self.b.local_name("t"), self._sum_dtype(), tuple(extents + lanes), is_local=True)

        def at(values: dict[Symbol, Extent]) -> tuple[Extent, ...]:
            units = [Dim.of(symbol) for symbol in tiled]
            return (*(values[axis.symbol] for axis in self.inner), *units, *([Dim.of(LANE)] if lanes else []))

        def clear(values: dict[Symbol, Extent]) -> Statement:
            return self._clear(totals, at(values))

        def add(values: dict[Symbol, Extent]) -> Statement:
            return self._part(_Substitution({**values, **split.values}), totals, at(values))

        def finish(values: dict[Symbol, Extent]) -> Statement:
            return self._finished(_Substitution({**values, **split.values}), totals, at(values))

        first, middle, last = (self._axes(self.inner, fixed, end, is_item=False) for end in (clear, add, finish))
        for axis in reversed(chunks):
            middle = loop(axis.symbol, axis.extent, middle)
        return Allocate(totals, block(first, middle, last))

    def _bound(
        self, axis: Axis, is_item: bool, fixed: dict[Symbol, Extent], then: Callable[[dict[Symbol, Extent]], Statement]
    ) -> Statement:
        size = self.counts.get(axis.symbol, 1)
        name = axis.symbol.name
        if size == 1:
            symbol = variable(name, axis.extent)
            body = then({**fixed, axis.symbol: Dim.of(symbol)})
            return body if is_item else loop(symbol, axis.extent, body)
        full = axis.extent // size
        whole = variable(name, full)
        unit = variable(f"{name}u", size)
        main = then({**fixed, axis.symbol: Dim.of(whole) * size + Dim.of(unit)})
        statements = [] if full == 0 else [guard((full - 1 - Dim.of(variable(name, self._tiles(axis))),), main)
                                           if is_item else loop(whole, full, main)]  # fmt: skip
        remainder = axis.extent % size
        if remainder != 0:
            statements.append(self._remainder(axis, is_item, full, remainder, fixed, then))
        return block(*statements)

    def _remainder(
        self, axis: Axis, is_item: bool, full: Extent, remainder: Extent, fixed: dict[Symbol, Extent],
        then: Callable[[dict[Symbol, Extent]], Statement],
    ) -> Statement:  # fmt: skip
        """The tile at the end of an axis: smaller if its size is known, else one row at a time."""
        size, name = self.counts[axis.symbol], axis.symbol.name
        base = full * size
        if isinstance(remainder, int):
            unit: Extent = 0 if remainder == 1 else Dim.of(variable(f"{name}u", remainder))
            saved, self.counts = self.counts, {**self.counts, axis.symbol: remainder}
            body = then({**fixed, axis.symbol: base + unit})
            self.counts = saved
        else:
            single = variable(f"{name}t", remainder)
            saved, self.counts = self.counts, {**self.counts, axis.symbol: 1}
            body = loop(single, remainder, then({**fixed, axis.symbol: base + Dim.of(single)}))
            self.counts = saved
        if not is_item or full == 0:
            return body
        last = Dim.of(variable(name, self._tiles(axis)))
        return guard((last - full,), body)

    def _tile(self, fixed: dict[Symbol, Extent]) -> Statement:
        """One register tile: clear, accumulate, finish."""
        put = _Substitution(fixed)
        if self.compute is None:
            return self._stored(put, None)
        rows, columns = self._units()
        dtype = self._sum_dtype()
        shape = tuple([e for _, e in (*rows, *columns)] + ([LANES] if self.plan.lane else []))
        total = Buffer(self.b.local_name("t"), dtype, shape or (1,), is_local=True)
        loops, inner = self._chains(put)
        at = tuple([Dim.of(s) for s, _ in (*rows, *columns)] + ([Dim.of(LANE)] if self.plan.lane else [])) or (0,)
        if not loops:
            work = block(self._clear(total, at), self._accumulate(total, at, inner, put))
        else:
            step = self._part(put, total, at)
            for axis in reversed(loops):
                step = loop(axis.symbol, axis.extent, step)
            work = block(self._clear(total, at), step)
        return Allocate(total, block(work, self._finished(put, total, at)))

    def _part(self, put: _Substitution, total: Buffer, at: tuple[Extent, ...]) -> Statement:
        """Adds the sums of one chunk of terms, made in registers, to the totals of a tile."""
        rows, columns = self._units()
        _, inner = self._chains(_Substitution({}))
        shape = tuple([e for _, e in (*rows, *columns)] + ([LANES] if self.plan.lane else []))
        place = tuple([Dim.of(s) for s, _ in (*rows, *columns)] + ([Dim.of(LANE)] if self.plan.lane else [])) or (0,)
        partial = Buffer(self.b.local_name("a"), total.dtype, shape or (1,), is_local=True)
        merge = self._each(Store(total, at, self._combined(Load(total, at), Load(partial, place))))
        return Allocate(partial, block(self._clear(partial, place), self._accumulate(partial, place, inner, put), merge))

    def _units(self) -> tuple[list[tuple[Symbol, int]], list[tuple[Symbol, int]]]:
        """The unrolled row and column loops of the present tile."""
        result = []
        for axis in (self.plan.rows, self.plan.columns):
            size = self.counts.get(axis.symbol, 1) if axis else 1
            result.append([(variable(f"{axis.symbol.name}u", size), size)] if axis and size > 1 else [])
        return result[0], result[1]

    def _each(self, body: Statement, lanes: bool = True) -> Statement:
        """A statement for every accumulator of the tile."""
        rows, columns = self._units()
        if lanes and self.plan.lane is not None:
            body = loop(LANE, LANES, body, Kind.VECTOR)
        for symbol, size in reversed([*rows, *columns]):
            body = loop(symbol, size, body, Kind.UNROLLED)
        return body

    def _sum_dtype(self) -> DType:
        """Accumulate small floats in float32."""
        dtype = self._term().dtype
        from ..tensor_type import FLOAT32  # noqa: PLC0415

        return FLOAT32 if dtype.is_float and dtype.bytes < 4 else dtype

    def _clear(self, buffer: Buffer, at: tuple[Extent, ...]) -> Statement:
        return self._each(Store(buffer, at, scalar.literal(_limited(self._neutral(), buffer.dtype), buffer.dtype)))

    def _combined(self, left: Expr, right: Expr) -> Expr:
        assert self.compute is not None
        return scalar.call(self.compute.combine, left, right)

    def _accumulate(self, buffer: Buffer, at: tuple[Extent, ...], axes: list[Axis], put: _Substitution) -> Statement:
        assert self.compute is not None
        term = _widened(put.expression(self._term()), buffer.dtype)
        present = Load(buffer, at)
        match term:
            case Call("mul", (left, right), dtype) if self.compute.combine == "add" and dtype.is_float:
                value: Expr = scalar.call("fma", left, right, present)
            case Guarded(conditions, Call("mul", (left, right), dtype), _) if (
                self.compute.combine == "add" and dtype.is_float
            ):
                zero = scalar.literal(0, dtype)
                value = scalar.call("fma", Guarded(conditions, left, zero), Guarded(conditions, right, zero), present)
            case _:
                value = self._combined(present, term)
        tested = _outer_conditions(value, [s for s, _ in (*self._units()[0], *self._units()[1])])
        body = self._each(Store(buffer, at, _without(value, tested)))
        for place in range(len(axes), -1, -1):
            inner = {axis.symbol for axis in axes[place:]}
            here = [c for c in tested if not inner & c.symbols() and (place == 0 or axes[place - 1].symbol in c.symbols())]
            body = guard(tuple(here), body)
            if place:
                body = loop(axes[place - 1].symbol, axes[place - 1].extent, body)
        return body

    def _chains(self, put: _Substitution) -> tuple[list[Axis], list[Axis]]:
        """Reduction loops (outer, inner) with at most CHAIN terms inside; an axis may be taken apart for it."""
        assert self.compute is not None
        if self.compute.combine != "add" or not self._sum_dtype().is_float:
            return [], self.reduce
        total = dim.product([a.extent for a in self.reduce])
        if isinstance(total, int) and total <= CHAIN:
            return [], self.reduce
        inner: list[Axis] = []
        length = 1
        axes = list(self.reduce)
        while axes and isinstance(axes[-1].extent, int) and length * axes[-1].extent <= CHAIN:
            axis = axes.pop()
            inner.insert(0, axis)
            length *= int(axis.extent) if isinstance(axis.extent, int) else 1
        if axes and (step := CHAIN // length) > 1:
            axis = axes.pop()
            step = _divisor(axis.extent, step)
            outer = Axis.of(f"{axis.symbol.name}o", dim.ceil_div(axis.extent, step))
            part = Axis.of(f"{axis.symbol.name}i", dim.minimum(step, axis.extent - outer.position * step))
            put.add({axis.symbol: outer.position * step + part.position})
            axes.append(outer)
            inner.insert(0, part)
        return axes, inner

    def _finished(self, put: _Substitution, total: Buffer, at: tuple[Extent, ...]) -> Statement:
        assert self.compute is not None and self.b.anchor is not None
        if self.plan.lane_reduces:
            sum_: Expr = LaneFold(total, at[:-1], self.compute.combine)
        else:
            sum_ = Load(total, at)
        anchor = self.b.anchor
        result = scalar.cast(sum_, anchor.output.dtype)
        index = self._anchor_index(self.b.logical(self.position))
        if self.compute.finish is not None:
            result = self.compute.finish(result, index, lambda k, i: self.b.element(anchor.inputs[k], list(i), None))
        return self._stored(put, result)

    def _stored(self, put: _Substitution, sum_: Expr | None) -> Statement:
        value = self._placed(self.b.final(self.b.logical(self.position), sum_), put)
        conditions = tuple(put(g) for g in self.store_guard)
        out, position = self._stored_at(put)
        return self._each(guard(conditions, Store(out, position, value)), lanes=not self.plan.lane_reduces)


_Body: TypeAlias = Callable[[dict[Symbol, Extent]], Statement]  # of axes whose positions are given


def _constant(extent: Extent) -> int:
    """The most that an extent can be."""
    high = dim.bounds(extent)[1]
    assert high is not None
    return high


class _Substitution:
    """Symbols -> positions, in extents and expressions."""

    def __init__(self, values: Mapping[Symbol, Extent]) -> None:
        self.values = dict(values)

    def add(self, values: Mapping[Symbol, Extent]) -> None:
        self.values.update(values)

    def __call__(self, extent: Extent) -> Extent:
        return dim.substitute(extent, self.values)

    def expression(self, root: Expr) -> Expr:
        """An expression with all its indices substituted."""
        return scalar.transform(root, self._made)

    def _made(self, node: Expr, new: Sequence[Expr]) -> Expr | None:
        match node:
            case Load(buffer, index):
                parts = iter(new)
                return Load(buffer, tuple(next(parts) if isinstance(p, Expr) else self(p) for p in index))
            case Index(extent):
                return Index(self(extent))
            case Guarded(conditions):
                reduced = (dim.reduced_condition(self(c)) for c in conditions)
                left = tuple(c for c in reduced if not dim.is_nonnegative(c))
                return Guarded(left, new[0], new[1]) if left else new[0]
            case scalar.Checked(_, extent):
                return scalar.Checked(new[0], self(extent))
        return None


def _outer_conditions(value: Expr, units: Sequence[Symbol]) -> list[Dim]:
    """The conditions of a term's guards that are the same for a whole tile: without one of them the term adds nothing."""
    inside = {LANE, *units}
    match value:
        case Call("fma", (Guarded(conditions), _, _), _):
            return [c for c in conditions if isinstance(c, Dim) and not inside & c.symbols()]
    return []


def _without(value: Expr, tested: Sequence[Dim]) -> Expr:
    """A term whose guards leave out conditions that are tested around it."""

    def opened(part: Expr) -> Expr:
        if not isinstance(part, Guarded):
            return part
        left = tuple(c for c in part.conditions if c not in tested)
        return Guarded(left, part.value, part.otherwise) if left else part.value

    match value:
        case Call("fma", (left, right, present)) if tested:
            return scalar.call("fma", opened(left), opened(right), present)
    return value


def _widened(term: Expr, dtype: DType) -> Expr:
    """A product of small floats as a product of float32."""
    if term.dtype is dtype:
        return term
    if isinstance(term, Call) and term.function == "mul":
        return scalar.call("mul", *(scalar.cast(a, dtype) for a in term.arguments))
    return scalar.cast(term, dtype)


def _limited(value: float, dtype: DType) -> float | int | bool:
    """An initial value that the dtype can hold (-inf is the least integer)."""
    if dtype.is_float:
        return value
    if dtype is BOOL:
        return bool(value)
    import numpy as np  # noqa: PLC0415

    info = np.iinfo(dtype.numpy)
    return int(min(max(value, float(info.min)), float(info.max))) if abs(value) != float("inf") else (
        int(info.min) if value < 0 else int(info.max))  # fmt: skip


def _divisor(extent: Extent, most: int) -> int:
    """The largest divisor of the extent up to ``most``, if it is at least half of it; else ``most``."""
    if isinstance(extent, int):
        for step in range(most, most // 2, -1):
            if extent % step == 0:
                return step
    return most


def _largest(axes: Iterator[Axis]) -> Axis | None:
    found = sorted(axes, key=lambda a: -(a.extent if isinstance(a.extent, int) else 64))
    return found[0] if found and found[0].extent != 1 else None


def _nearest(axes: Sequence[Axis], loads: Sequence[Load]) -> Axis | None:
    """The axis along which operands lie closest together, of those long enough for a tile; else the longest."""
    long = [axis for axis in axes if isinstance(axis.extent, int) and axis.extent >= ENOUGH_ROWS]
    return min(long, key=lambda axis: sum(_stride(load, axis) for load in loads)) if long else _largest(iter(axes))


def _stride(load: Load, axis: Axis) -> int:
    """How far apart in memory an operand's elements lie along an axis; far if not evenly."""
    offset = load.buffer.offset(load.extents) if not load.index_expressions else None
    if not isinstance(offset, Dim) or _takes_apart(offset, axis.symbol):
        return FAR
    rest = [(atoms, factor) for atoms, factor in offset.terms if axis.symbol in atoms]
    return sum(abs(factor) if len(atoms) == 1 else FAR for atoms, factor in rest)


def _at_most(size: int, extent: Extent) -> bool:
    return isinstance(extent, Dim) or size <= extent


def _filled(axis: Axis | None, size: int) -> float:
    """The part of the last tile that is used."""
    if axis is None or not isinstance(axis.extent, int):
        return 1.0
    return axis.extent / (-(-axis.extent // size) * size)


def _depends(load: Load, symbol: Symbol) -> bool:
    return any(isinstance(p, Expr) or (isinstance(p, Dim) and symbol in p.symbols()) for p in load.index)


def _is_taken_apart(load: Load, symbol: Symbol) -> bool:
    """Whether an operand's layout splits this axis into blocks of LANES."""
    for part in load.index:
        if isinstance(part, Dim):
            for atoms, _ in part.terms:
                for atom in atoms:
                    if isinstance(atom, Quotient | Remainder) and atom.divisor == LANES and atom.numerator == Dim.of(symbol):
                        return True
    return False


def _group_size(items: Sequence[Load | Extent], axis: Axis) -> int | None:
    """The size of the groups in which operands read along an axis, if it is one."""
    for item in items:
        for part in item.index if isinstance(item, Load) else (item,):
            if isinstance(part, Dim):
                for atom in (a for atoms, _ in part.terms for a in atoms):
                    if isinstance(atom, Quotient | Remainder) and _is_shifted(atom.numerator, axis.symbol) and (
                        isinstance(axis.extent, int) and 1 < atom.divisor < axis.extent and axis.extent % atom.divisor == 0
                    ):
                        return atom.divisor
    return None


def _is_shifted(extent: Extent, symbol: Symbol) -> bool:
    """Whether an extent is a symbol plus what does not depend on it."""
    rest = extent - Dim.of(symbol)
    return not (isinstance(rest, Dim) and symbol in rest.symbols())


def _takes_apart(extent: Extent, symbol: Symbol) -> bool:
    """Whether a quotient or a remainder of a symbol is left in an extent."""
    return isinstance(extent, Dim) and any(
        not isinstance(atom, Symbol) and symbol in Dim.of(atom).symbols() for atoms, _ in extent.terms for atom in atoms
    )


def _is_padded(load: Load, inner: Axis) -> bool:
    """Whether the operand holds zeros behind the end of a blocked axis: its last axis is the block itself."""
    return load.index[-1] == inner.position or any(p == inner.position and e == LANES for p, e in
                                                   zip(load.index, load.buffer.shape, strict=True))  # fmt: skip


def _slope(load: Load, symbol: Symbol, split: Mapping[Symbol, Extent]) -> int | None:
    """How far apart in memory an operand's elements lie from lane to lane; None if not evenly."""
    if load.index_expressions:
        return None if any(_expression_depends(e, symbol) for e in load.index_expressions) else 0
    index = tuple(dim.substitute(p, split) for p in load.index if not isinstance(p, Expr))
    return lane_slope(load.buffer.offset(index))


def _expression_depends(root: Expr, symbol: Symbol) -> bool:
    return any(isinstance(e, Dim) and symbol in e.symbols() for node in scalar.post_order([root]) for e in _extents_of(node))


def lane_slope(offset: Extent) -> int | None:
    """The coefficient of the lane in an offset; None if it is not a constant."""
    if isinstance(offset, int):
        return 0
    slope = 0
    for atoms, factor in offset.terms:
        if atoms == (LANE,):
            slope = factor
        elif any(LANE in Dim.of(atom).symbols() for atom in atoms):
            return None
    return slope

