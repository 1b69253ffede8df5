"""A program's host module: its tables of constants, error texts, and what every function of the
host code uses.

It serves all CPU levels of a program. What depends on the level is in tables of which a model uses
one.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from netloom import abi

from .entry_plan import EntryPlan
from .host import I32, I64, PTR, VOID, Function, Operand, Record, Struct, Word
from .host_tables import (
    ENTRY,
    LEVEL,
    Tables,
    write_dtypes,
    write_entry,
    write_states,
    write_symbols,
    write_weights,
)  # fmt: skip
from .host_types import LIBRARY, context_type, size_of
from .segments import Weights
from .variant import Variant


class HostModule:
    """The module under construction: tables first, then functions, each after those that it
    calls.
    """

    def __init__(
        self, variants: Sequence[Variant], weights: Weights, metadata: Sequence[str], image: bool
    ) -> None:
        self.variants, self.architecture = tuple(variants), variants[0].architecture
        self.program = variants[0].program  # for what the variants share
        self.weights, self.image = weights, image and weights.size > 0
        self.module = ir.Module("host")
        self.module.triple = self.architecture.triple
        self.tables = Tables(self.module)
        self.library = {
            name: ir.Function(self.module, type, name) for name, type in LIBRARY.items()
        }
        self.entries = {entry.name: position for position, entry in enumerate(self.program.entries)}
        self._write_tables(metadata)
        self.report = self._report()

    def text(self, text: str) -> ir.GlobalVariable:
        return self.tables.text(text)

    def _write_tables(self, metadata: Sequence[str]) -> None:
        tables, program = self.tables, self.program
        self.symbols = write_symbols(tables, program)
        self.dtypes = write_dtypes(tables)
        rows = [
            write_entry(tables, variant.program, entry)
            for variant in self.variants
            for entry in variant.program.entries
        ]
        self.entry_table = tables.records(ENTRY, rows)
        count = len(program.entries)
        self.levels = tables.records(
            LEVEL,
            [
                (self.text(v.level), self.text(metadata[n]), n * count)
                for n, v in enumerate(self.variants)
            ],
        )
        self.placements, self.pieces, self.expanded_bytes = write_weights(tables, self.weights)
        self.states, self.state_bytes = write_states(tables, program.states, self.weights)
        self.constant_numbers = tables.numbers(I64, self.weights.indices)
        self.plans = [  # of each entry, by level
            [
                EntryPlan(variant.program, variant.program.entries[position])
                for variant in self.variants
            ]
            for position in range(count)
        ]
        # the most dims that a run of an entry binds itself
        self.own_dims = max((len(p.entry.bounds) for plans in self.plans for p in plans), default=0)
        self.context_type = context_type(count)
        self.api_type = ir.LiteralStructType([I32, I32, *[PTR] * len(abi.FUNCTIONS)])
        self.api = ir.GlobalVariable(self.module, self.api_type, "host.api")
        self.api.linkage, self.api.global_constant = "internal", True

    def function(self, name: str, **arguments: ir.Type) -> Function:
        """A private function that returns an error code."""
        return Function(self.module, name, I32, arguments)

    def enter(self, code: Function) -> Record:
        """The context that a function works on."""
        return code["context"].record(self.context_type)

    def passes(self, code: Function, check: Function, *arguments: Operand) -> None:
        """Returns the check's code unless it is NL_OK."""
        result = code.call(check, *arguments)
        with code.if_(result.differs(0)):
            code.return_(result)

    def hold(self, code: Function, context: Record) -> None:
        """Marks the context as in use, or returns an error."""
        with code.if_(context.word.equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        busy = context.address("busy")
        held = code.builder.atomic_rmw("xchg", busy.value, ir.Constant(I64, 1), "seq_cst")
        with code.if_(Word(code, held).differs(0)):
            code.return_(abi.CODE["NL_ERROR_BUSY"])

    def allocated(self, code: Function, count: Operand, size: Operand) -> Word:
        """Zeroed memory; refuses if there is none."""
        memory = code.call(self.library["calloc"], count, size)
        with code.if_(memory.equals(0)):
            self.refuse(code, "NL_ERROR_MEMORY", "Out of memory.")
        return memory

    def allocate(self, code: Function, struct: Struct) -> Record:
        return self.allocated(code, 1, size_of(code, struct)).record(struct)

    # -- error text --------------------------------------------------------------------------------

    def print(
        self, code: Function, buffer: Word, capacity: Operand, form: str, *values: Operand
    ) -> Word:
        arguments = [code.address_of(v) if isinstance(v, ir.Value) else v for v in values]
        return code.call(
            self.library["snprintf"], buffer, capacity, code.address_of(self.text(form)), *arguments
        )

    def fail(self, context: Record, name: str, form: str, *values: Operand | ir.Value) -> None:
        """Keeps the text in the context, tells the caller's log, and returns the code."""
        code = context.code
        self.print(code, context.address("error"), abi.ERROR_CAPACITY, form, *values)
        code.call(self.report, context.word)
        code.return_(abi.CODE[name])

    def refuse(self, code: Function, name: str, form: str, *values: Operand | ir.Value) -> None:
        """Writes the text into the caller's buffer, and returns the code."""
        with code.if_(code["error"].differs(0)):
            self.print(code, code["error"], code["capacity"], form, *values)
        code.return_(abi.CODE[name])

    def _report(self) -> Function:
        code = Function(self.module, "report", VOID, {"context": PTR})
        context = self.enter(code)
        with code.if_(context["log"].to(I64).differs(0)):
            code.call(context["log"], context["user"], context.address("error"))
        code.return_()
        return code
