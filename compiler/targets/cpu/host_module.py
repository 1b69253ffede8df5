"""The module of the host code's functions: error texts, and what every function uses.

It serves all CPU levels of a program, and all programs of its shape. What differs between these is
in the program's tables (host_data.py).
"""

from __future__ import annotations

from llvmlite import ir

from netloom import abi

from .host import I8, I32, I64, PTR, VOID, Function, Operand, Record, Struct, Word
from .host_shape import HostShape
from .host_tables import HOST_DATA, Tables, write_dtypes
from .host_types import DATA_BASE, DATA_SYMBOL, LIBRARY, context_type, size_of


class HostModule:
    """The module under construction: tables first, then functions, each after those that it
    calls.
    """

    def __init__(self, shape: HostShape) -> None:
        self.shape = shape
        self.module = ir.Module("host")
        self.module.triple = shape.architecture.triple
        self.tables = Tables(self.module)
        self.library = {
            name: ir.Function(self.module, type, name) for name, type in LIBRARY.items()
        }
        # a variable with a full address: the tables may be far away
        self.base = ir.GlobalVariable(self.module, PTR, DATA_BASE)
        self.base.initializer = ir.GlobalVariable(self.module, I8, DATA_SYMBOL)
        self.dtypes = write_dtypes(self.tables)
        self.context_type = context_type(len(shape.entries))
        self.api_type = ir.LiteralStructType([I32, I32, *[PTR] * len(abi.FUNCTIONS)])
        self.api = ir.GlobalVariable(self.module, self.api_type, "host.api")
        self.api.linkage, self.api.global_constant = "internal", True
        self.report = self._report()

    def text(self, text: str) -> ir.GlobalVariable:
        return self.tables.text(text)

    def data(self, code: Function) -> Record:
        """The program's tables."""
        return code.address_of(self.base).array(PTR)[0].record(HOST_DATA)

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
