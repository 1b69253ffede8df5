"""Program -> constant tables of its host code: ports, symbols, launches, constants, states, and one
function per entry that computes every size of that entry from the free dims (entry_plan.py says
where each value lies).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from netloom.abi import DLPACK_CODES
from netloom.errors import ShapeError, VerificationError

from ... import dim
from ...dim import Dim, Extent, Symbol
from ...program import BoundDim, Entry, Port, Program, Space, StatePort, Turn
from ...tensor_type import MAX_RANK, DType, TensorType
from .entry_plan import EntryPlan
from .host import I32, I64, PTR, VOID, Struct
from .host_extents import VALUES, emit_values
from .segments import Bytes, Fill, Weights, aligned

KERNEL = ir.FunctionType(VOID, [PTR, I64, I64])
UNBOUNDED = (1 << 63) - 1
_NAME_SHOWN = 200  # characters of a port's name in error texts

SYMBOL = Struct({"name": PTR, "lo": I64, "hi": I64})
# value: which of the values the caller gives for it; actual: that of the result (less where data
# decide it)
EXTENT = Struct({"symbol": I64, "factor": I64, "offset": I64, "value": I64, "actual": I64})
PORT = Struct(
    {
        "name": PTR,
        "type": PTR,
        "extents": PTR,
        "dtype": I32,
        "rank": I32,
        "item": I64,
        "symbolic": I64,
    }
)
LAUNCH = Struct({"kernel": KERNEL.as_pointer(), "items": I64, "words": I64})
# a dim that the run binds after the first ``launches`` launches; limit: which of the values. kind:
# DATA, FIRST_TURN or NEXT_TURN. Of a turn, count is where the byte lies that says whether it follows (-1: nowhere),
# and ``inside`` and ``behind`` are what is bound next if it follows or not, after launches
# ``first`` or ``last``.
BOUND_DIM = Struct(
    {
        name: PTR if name == "name" else I64
        for name in ("name", "symbol", "kind", "count", "limit", "launches", "first", "last",
                     "inside", "behind")
    }
)  # fmt: skip
DATA, FIRST_TURN, NEXT_TURN = range(3)
ENTRY = Struct({
    "ports": PTR, "launches": PTR, "wiring": PTR,
    "place_offsets": PTR,  # for each place in the arena, which of the values is its offset
    "compute_values": VALUES.as_pointer(),
    "input_count": I64, "output_count": I64, "launch_count": I64, "word_count": I64,
    "place_count": I64,
    # where the sections of the pool start
    "constant_base": I64, "state_base": I64, "place_base": I64, "value_base": I64,
    "error_flag": I64,
    "arena_bytes": I64,  # which of the values is the arena's size
    "needs_state": I64, "input_names": PTR, "output_names": PTR,
    "dims": PTR, "dim_count": I64,  # those that the run binds itself
})  # fmt: skip
LEVEL = Struct({"name": PTR, "metadata": PTR, "first": I64})  # first: row of its entries
# of an entry: how many 64-bit words the parts of its block in a context take
RUN_LENGTHS = Struct({"pool": I64, "words": I64, "symbols": I64, "sizes": I64})
PLACEMENT = Struct({"in_place": I64, "offset": I64, "size": I64, "first": I64, "pieces": I64})
PIECE = Struct({"is_fill": I64, "offset": I64, "size": I64, "pattern": I64})
STATE_PORT = Struct(
    {
        "name": PTR,
        "shape": PTR,
        "dtype": I32,
        "rank": I32,
        "size": I64,
        "offset": I64,
        "initial": I64,
    }
)
NAMED_DTYPE = Struct({"dtype": I32, "name": PTR})
# everything that differs between programs of one shape (host_shape.py)
HOST_DATA = Struct({
    "symbols": PTR, "symbol_count": I64,
    "own_dims": I64,  # the most that a run of an entry binds itself
    "levels": PTR, "entries": PTR, "runs": PTR,
    "most_values": I64,  # of an entry
    "weights": PTR,  # where a shared object's image of them lies; in process NULL
    "placements": PTR, "placement_count": I64, "pieces": PTR,
    "expanded_bytes": I64,  # of memory that the constants take which are not in place
    "constants": PTR, "constant_count": I64,  # which placement each has
    "states": PTR, "state_count": I64, "state_bytes": I64,
})  # fmt: skip


def dtype_word(dtype: DType) -> int:
    """A DLDataType with one lane as a little-endian number."""
    code, bits = DLPACK_CODES[dtype.value]
    return code | bits << 8 | 1 << 16


def shown(name: str) -> str:
    """A name as error texts show it: quoted, escaped, shortened."""
    return json.dumps(name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "…")


class Tables:
    """Writes constant data into a module; equal texts are shared."""

    def __init__(self, module: ir.Module) -> None:
        self.module = module
        self._texts: dict[bytes, ir.GlobalVariable] = {}

    def constant(self, value: ir.Constant, name: str | None = None) -> ir.GlobalVariable:
        name = name or f"host.table{len(self.module.globals)}"
        variable = ir.GlobalVariable(self.module, value.type, name)
        variable.linkage, variable.global_constant, variable.initializer = "internal", True, value
        return variable

    def text(self, text: str) -> ir.GlobalVariable:
        """A C string."""
        data = text.encode("utf-8", "backslashreplace") + b"\0"
        if data not in self._texts:
            self._texts[data] = self.constant(
                ir.Constant(ir.ArrayType(ir.IntType(8), len(data)), bytearray(data))
            )
        return self._texts[data]

    def numbers(self, type: ir.IntType, numbers: Sequence[int]) -> ir.GlobalVariable:
        return self.constant(ir.Constant(ir.ArrayType(type, len(numbers)), list(numbers)))

    def records(self, struct: Struct, rows: Sequence[Sequence[object]]) -> ir.GlobalVariable:
        """An array of structs; a row holds a field's number, or the global that a pointer field
        points to.
        """
        values = [_row(struct, row) for row in rows]
        return self.constant(ir.Constant(ir.ArrayType(struct.type, len(rows)), values))

    def record(self, struct: Struct, row: Sequence[object], name: str) -> ir.GlobalVariable:
        """One struct under a name."""
        return self.constant(_row(struct, row), name)


def _row(struct: Struct, row: Sequence[object]) -> ir.Constant:
    fields = [_field(v, t) for v, t in zip(row, struct.type.elements, strict=True)]
    return ir.Constant(struct.type, fields)


def _field(value: object, type: ir.Type) -> ir.Value:
    return value if isinstance(value, ir.GlobalValue) else ir.Constant(type, value)


def write_symbols(tables: Tables, program: Program) -> ir.GlobalVariable:
    rows = []
    for symbol in program.symbols:
        if isinstance(symbol.hi, Dim):
            raise VerificationError(
                f"The free dim {symbol.name} has the range end {symbol.hi}, which is no number."
            )
        rows.append(
            (tables.text(symbol.name), symbol.lo, UNBOUNDED if symbol.hi is None else symbol.hi)
        )
    return tables.records(SYMBOL, rows)


def write_dtypes(tables: Tables) -> ir.GlobalVariable:
    return tables.records(
        NAMED_DTYPE, [(dtype_word(dtype), tables.text(dtype.value)) for dtype in DType]
    )


def write_entry(tables: Tables, program: Program, entry: Entry) -> list[object]:
    """The row of ENTRY."""
    plan = EntryPlan(program, entry)
    check_symbols_bound(program, entry)
    kernels = _declare_kernels(tables.module, entry)
    launches, words = [], 0
    for launch, wires in zip(entry.launches, plan.wiring, strict=True):
        launches.append((kernels[launch.kernel], plan.value(launch.items), words))
        words += len(wires)
    ports = [_port_row(tables, plan, port, True) for port in entry.inputs]
    ports += [_port_row(tables, plan, port, False) for port in entry.outputs]
    base = plan.bases
    return [
        tables.records(PORT, ports),
        tables.records(LAUNCH, launches),
        tables.numbers(I32, [index for wires in plan.wiring for index in wires]),
        tables.numbers(I32, [plan.values[offset] for offset in plan.arena_offsets]),
        emit_values(tables.module, program, list(plan.values), tuple(entry.bounds)),
        len(entry.inputs), len(entry.outputs), len(entry.launches), words, len(plan.arena_offsets),
        base[Space.CONSTANT], base[Space.STATE], base[Space.ARENA], base["values"], base["flag"],
        plan.values[plan.arena_bytes], int(plan.needs_state),
        _names(tables, entry.inputs), _names(tables, entry.outputs),
        tables.records(BOUND_DIM, _bound_rows(tables, plan)), len(entry.dims),
    ]  # fmt: skip


def _bound_rows(tables: Tables, plan: EntryPlan) -> list[tuple[object, ...]]:
    """The rows of BOUND_DIM."""
    dims, own = plan.entry.dims, list(plan.entry.bounds)
    places = {(turn.symbol, turn.is_first): place
              for place, turn in enumerate(dims) if isinstance(turn, Turn)}  # fmt: skip
    rows: list[tuple[object, ...]] = []
    for bound in dims:
        name, symbol = tables.text(bound.symbol.name), own.index(bound.symbol)
        limit = plan.values[bound.limit]
        match bound:
            case BoundDim():
                count = plan.buffer(bound.count)
                rows.append((name, symbol, DATA, count, limit, bound.launches, 0, 0, 0, 0))
            case Turn():
                kind = FIRST_TURN if bound.is_first else NEXT_TURN
                count = -1 if bound.goes_on is None else plan.buffer(bound.goes_on)
                inside, behind = (places[bound.symbol, first] + 1 for first in (True, False))
                rows.append((name, symbol, kind, count, limit, bound.launches, bound.first,
                             bound.last, inside, behind))  # fmt: skip
    return rows


def _names(tables: Tables, ports: tuple[Port, ...]) -> ir.GlobalVariable:
    """As an error text lists them: ``: "x", "y"``, shortened."""
    text = ", ".join(shown(port.name) for port in ports[:8]) + (", …" if len(ports) > 8 else "")
    return tables.text(f": {text[: 2 * _NAME_SHOWN]}" if ports else "")


def check_symbols_bound(program: Program, entry: Entry) -> None:
    """ShapeError if the inputs' shapes do not determine a symbol that the entry uses."""
    bound = {
        binding.symbol
        for port in entry.inputs
        for binding in map(binding_of, port.type.shape)
        if binding
    }
    bound |= entry.bounds.keys()
    used = dim.symbols_of(list(EntryPlan(program, entry).values))
    if missing := sorted(symbol.name for symbol in used - bound):
        raise ShapeError(f"No input's shape determines the free dims {', '.join(missing)} of {entry.name}.",
                         hint="Give an input an axis of that extent, or fix the dim.")  # fmt: skip


@dataclass(frozen=True)
class Binding:
    """symbol = (extent - offset) / factor."""

    symbol: Symbol
    factor: int
    offset: int


def binding_of(extent: Extent) -> Binding | None:
    """How an extent determines a symbol: None unless it is factor * symbol + offset."""
    match extent:
        case Dim(terms=(((Symbol() as symbol,), int(factor)),)):
            return Binding(symbol, factor, 0)
        case Dim(terms=(((Symbol() as symbol,), int(factor)), ((), int(offset)))):
            return Binding(symbol, factor, offset)
    return None


def _port_row(tables: Tables, plan: EntryPlan, port: Port, binds: bool) -> tuple[object, ...]:
    _check_rank(port.name, port.type)
    order = {symbol: index for index, symbol in enumerate(plan.program.symbols)}
    extents = []
    for extent in port.type.shape:
        binding = binding_of(extent) if binds else None
        where = (order[binding.symbol], binding.factor, binding.offset) if binding else (-1, 1, 0)
        extents.append((*where, plan.values[plan.room(extent)], plan.values[extent]))
    return (
        tables.text(shown(port.name)),
        tables.text(_type_text(port.type)),
        tables.records(EXTENT, extents),
        dtype_word(port.type.dtype),
        port.type.rank,
        port.type.dtype.bytes,
        int(not port.type.is_static),
    )


def _type_text(type: TensorType) -> str:
    text = str(type)
    return text if len(text) <= _NAME_SHOWN else text[:_NAME_SHOWN] + "…"


def _check_rank(name: str, type: TensorType) -> None:
    if type.rank > MAX_RANK:
        raise ShapeError(
            f"{shown(name)} has rank {type.rank}; programs take ranks up to {MAX_RANK}."
        )


def _declare_kernels(module: ir.Module, entry: Entry) -> dict[str, ir.Function]:
    names = dict.fromkeys(launch.kernel for launch in entry.launches)
    return {name: module.globals.get(name) or ir.Function(module, KERNEL, name) for name in names}


def write_weights(
    tables: Tables, weights: Weights
) -> tuple[ir.GlobalVariable, ir.GlobalVariable, int]:
    """(placements, pieces, bytes of memory that the expanded constants take)."""
    placements: list[Sequence[object]] = []
    pieces: list[Sequence[object]] = []
    memory = 0
    for placement in weights.placements:
        offset = (
            (placement.pieces[0].offset if placement.pieces else 0)
            if placement.in_place
            else memory
        )
        placements.append(
            (int(placement.in_place), offset, placement.size, len(pieces), len(placement.pieces))
        )
        if placement.in_place:
            continue
        memory += aligned(placement.size)
        for piece in placement.pieces:
            match piece.segment:
                case Fill() as fill:
                    pieces.append((1, 0, fill.size, fill.pattern - (fill.pattern >> 63 << 64)))
                case Bytes() as data:
                    pieces.append((0, piece.offset, data.size, 0))
    return tables.records(PLACEMENT, placements), tables.records(PIECE, pieces), memory


def write_states(
    tables: Tables, states: tuple[StatePort, ...], weights: Weights
) -> tuple[ir.GlobalVariable, int]:
    """(table, bytes of one state)."""
    rows, offset = [], 0
    for state in states:
        _check_rank(state.name, state.type)
        shape = state.type.static_shape
        size = math.prod(shape) * state.type.dtype.bytes
        rows.append((tables.text(state.name), tables.numbers(I64, shape), dtype_word(state.type.dtype), len(shape),
                     size, offset, weights.indices[state.initial]))  # fmt: skip
        offset += aligned(size)
    return tables.records(STATE_PORT, rows), offset
