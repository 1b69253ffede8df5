"""Loops -> LLVM: statements here, the rest in lowering/, the only folder that calls the IR builder
for kernels.

Each kernel becomes ``void name(i64 *words, i64 begin, i64 end)`` (compiler/program.py). Vector
loops become vectors of as many lanes; unrolled loops are copied out here, so that local buffers
with fixed indices end in registers. No fast-math flags: fma and the order of sums are what the
loops say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llvmlite import ir

from ...dim import Extent
from ...loops.ir import (
    LANE,
    LANES,
    Allocate,
    Block,
    For,
    If,
    Kernel,
    Kind,
    Let,
    Prefetch,
    Statement,
    Store,
    When,
    walk,
)
from ...scalar import Call, Expr
from .lowering.expressions import INDEX_ERROR, Expressions
from .lowering.function import Function
from .lowering.indices import Indices
from .lowering.memory import Memory
from .lowering.representation import I64, PTR
from .machine import Cpu
from .object_code import assembly_of_text, object_of_text
from .vector_math import expand_all

MOST_TURNS = 4  # of a loop between two jumps


def compile_kernels(kernels: Mapping[str, Kernel], cpu: Cpu) -> bytes:
    """One relocatable object that defines the kernels under their names."""
    return object_of_text(kernels_as_llvm(kernels, cpu), cpu.llvm_name, cpu.llvm_features)


def kernels_as_llvm(kernels: Mapping[str, Kernel], cpu: Cpu) -> str:
    """The kernels as one module of LLVM text, before LLVM's own passes."""
    module = ir.Module("kernels")
    module.triple = cpu.architecture.triple
    for name in sorted(kernels):
        _KernelEmitter(module, name, kernels[name], cpu).emit()
    return str(module)


def kernels_as_assembly(kernels: Mapping[str, Kernel], cpu: Cpu) -> str:
    """The kernels in the assembler's language."""
    return assembly_of_text(kernels_as_llvm(kernels, cpu), cpu.llvm_name, cpu.llvm_features)


class _KernelEmitter:
    """The statements of one kernel."""

    def __init__(self, module: ir.Module, name: str, kernel: Kernel, cpu: Cpu) -> None:
        self.kernel = kernel
        self.f = Function(module, name, cpu)
        self.b = self.f.b
        self.indices = Indices(self.f)
        self.memory = Memory(self.f, self.indices)
        self.expanded: dict[Store, Expr] = {}  # values without math functions

    def emit(self) -> None:
        """Adds the function to the module."""
        _, begin, end = self.f.function.args
        kernel = self.kernel
        for position, buffer in enumerate(kernel.buffers):
            self.memory.pointers[buffer] = self.b.inttoptr(self.f.word(position), PTR)
        for position, symbol in enumerate(kernel.symbols, len(kernel.buffers)):
            self.indices.values[symbol.name] = self.f.word(position)
        error = self.b.inttoptr(self.f.word(len(kernel.buffers) + len(kernel.symbols)), PTR)
        self.expressions = Expressions(self.f, self.indices, self.memory, error)
        with self.f.counted(begin, end) as item:
            self.indices.values[kernel.variable.name] = item
            self._statement(kernel.body)
        self.memory.fence()
        self.b.ret_void()

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Block(statements):
                for inner in statements:
                    self._statement(inner)
            case Allocate(buffer, body):
                self.memory.allocate(buffer)
                self._statement(body)
            case Let(variable, extent, body):
                with self.indices.bound(variable, self.indices.extent(extent)):
                    self._statement(body)
            case When(holds, body):
                with self.f.if_then(self.expressions.value(holds)):
                    self._statement(body)
            case If(conditions, body):
                self._if(conditions, body)
            case Store():
                self._store(statement)
            case Prefetch(element):
                self.expressions.prefetch(element)
            case For():
                self._for(statement)

    def _for(self, statement: For) -> None:
        match statement.kind:
            case Kind.UNROLLED:
                assert isinstance(statement.extent, int)
                for value in range(statement.extent):
                    with self.indices.copy(statement.variable, value, statement.extent):
                        self._statement(statement.body)
            case Kind.VECTOR:
                assert statement.extent == LANES and statement.variable.name == LANE.name
                self.indices.in_lanes = True
                self._statement(statement.body)
                self.indices.in_lanes = False
            case _:
                self._counted(statement)

    def _counted(self, statement: For) -> None:
        """A loop that counts at run time, unless it runs once."""
        extent = self.indices.extent(statement.extent)
        if isinstance(extent, int) and extent == 1:
            with self.indices.bound(statement.variable, 0):
                self._statement(statement.body)
            return
        with (
            self.f.counted(I64(0), self.indices.i64(extent), turns_of(statement)) as counter,
            self.indices.bound(statement.variable, counter),
        ):
            self._statement(statement.body)

    def _if(self, conditions: Sequence[Extent], body: Statement) -> None:
        flag, mask = self.indices.conditions(conditions)
        with self.indices.masked(mask, conditions, is_tail=True):
            if flag is None:
                self._statement(body)
            else:
                with self.f.if_then(flag):
                    self._statement(body)

    def _store(self, store: Store) -> None:
        if store not in self.expanded:
            self.expanded[store] = expand_all(store.value)
        value = self.expressions.value(self.expanded[store])
        if store.index_expressions:
            offset = self.expressions.offset(store, is_row=self.indices.in_lanes)
            self.memory.store_at(store.buffer, offset, value)
        else:
            self.memory.store(store, value)


def turns_of(loop: For) -> tuple[int, ...]:
    """How many turns of a loop one jump may end, the most first: several if a chain of
    multiply-adds is in it. Counting, comparing and jumping are a sixth of the instructions of a
    turn, and where a core runs two hardware threads, each gets to issue half as many. Never all
    turns: windows of three taps took longer when no loop was left of them.
    """
    is_chain = any(
        isinstance(item, Store)
        and isinstance(item.value, Call)
        and item.value.function in ("fma", "dot_bytes")
        for item in walk(loop.body)
    )
    if not (is_chain and isinstance(loop.extent, int)):
        return ()
    most = min(MOST_TURNS, loop.extent - 1)
    return tuple(count for count in range(most, 1, -1) if loop.extent % count == 0)


__all__ = ["INDEX_ERROR", "compile_kernels", "kernels_as_assembly", "kernels_as_llvm"]
