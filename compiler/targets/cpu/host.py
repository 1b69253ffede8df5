"""A small structured layer over llvmlite, in which the program's host code is written: typed struct
fields, if, while and calls. It maps Python expressions over ``Word`` (a machine word) and
``Record`` (a struct in memory) to LLVM instructions, and guarantees that every load and store goes
through a declared field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
VOID = ir.VoidType()
PTR = ir.PointerType()

Operand: TypeAlias = "Word | int"


class Struct:
    """A struct type: field names in memory order. A field is a scalar type, an array type or
    another Struct.
    """

    def __init__(self, fields: Mapping[str, ir.Type | Struct]) -> None:
        self.fields = dict(fields)
        self.index = {name: position for position, name in enumerate(fields)}
        self.type = ir.LiteralStructType([_llvm(field) for field in fields.values()])


def _llvm(field: ir.Type | Struct) -> ir.Type:
    return field.type if isinstance(field, Struct) else field


def _binary(instruction: str) -> Callable[[Word, Operand], Word]:
    def emit(left: Word, right: Operand) -> Word:
        build = getattr(left.code.builder, instruction)
        return Word(left.code, build(left.value, left.code.operand(right, left.value.type)))

    return emit


def _compare(sign: str) -> Callable[[Word, Operand], Word]:
    def emit(left: Word, right: Operand) -> Word:
        operand = left.code.operand(right, left.value.type)
        return Word(left.code, left.code.builder.icmp_signed(sign, left.value, operand))

    return emit


@dataclass(frozen=True)
class Word:
    """An integer or a pointer in a function."""

    code: Function
    value: ir.Value

    __add__, __sub__, __mul__ = _binary("add"), _binary("sub"), _binary("mul")
    __floordiv__, __mod__ = _binary("sdiv"), _binary("srem")  # truncating, as in C
    __and__, __or__ = _binary("and_"), _binary("or_")
    __lt__, __le__, __gt__, __ge__ = _compare("<"), _compare("<="), _compare(">"), _compare(">=")
    equals, differs = _compare("=="), _compare("!=")

    def to(self, type: ir.Type) -> Word:
        """Sign-extended or truncated; an address as an integer, or back."""
        builder, source = self.code.builder, self.value.type
        if isinstance(source, ir.PointerType) or isinstance(type, ir.PointerType):
            convert = (
                builder.bitcast
                if source == type
                else builder.inttoptr
                if type == PTR
                else builder.ptrtoint
            )
            return Word(self.code, convert(self.value, type))
        return Word(
            self.code,
            (builder.sext if type.width > source.width else builder.trunc)(self.value, type),
        )

    def unsigned(self, type: ir.Type) -> Word:
        """Zero-extended."""
        return Word(self.code, self.code.builder.zext(self.value, type))

    def offset(self, bytes: Operand) -> Word:
        """The address that many bytes further on."""
        distance = self.code.operand(bytes, I64)
        return Word(self.code, self.code.builder.gep(self.value, [distance], source_etype=I8))

    def array(self, type: ir.Type) -> Array:
        """The address as that of elements."""
        return Array(self.code, self.value, type)

    def record(self, struct: Struct, index: Operand = 0) -> Record:
        """The address as that of struct number index of an array of structs."""
        position = self.code.operand(index, I64)
        return Record(
            self.code,
            self.code.builder.gep(self.value, [position], source_etype=struct.type),
            struct,
        )


@dataclass(frozen=True)
class Array:
    """Elements of one type in memory."""

    code: Function
    value: ir.Value
    type: ir.Type

    def address(self, index: Operand) -> Word:
        position = self.code.operand(index, I64)
        return Word(
            self.code, self.code.builder.gep(self.value, [position], source_etype=self.type)
        )

    def __getitem__(self, index: Operand) -> Word:
        return Word(self.code, self.code.builder.load(self.address(index).value, typ=self.type))

    def __setitem__(self, index: Operand, value: Operand) -> None:
        self.code.builder.store(self.code.operand(value, self.type), self.address(index).value)


@dataclass(frozen=True)
class Record:
    """A struct in memory: ``record["field"]`` reads, and assignment writes."""

    code: Function
    value: ir.Value
    struct: Struct

    @property
    def word(self) -> Word:
        return Word(self.code, self.value)

    def address(self, field: str) -> Word:
        path = [ir.Constant(I32, 0), ir.Constant(I32, self.struct.index[field])]
        return Word(
            self.code, self.code.builder.gep(self.value, path, source_etype=self.struct.type)
        )

    def inner(self, field: str) -> Record:
        struct = self.struct.fields[field]
        assert isinstance(struct, Struct)
        return Record(self.code, self.address(field).value, struct)

    def __getitem__(self, field: str) -> Word:
        return Word(
            self.code,
            self.code.builder.load(self.address(field).value, typ=_llvm(self.struct.fields[field])),
        )

    def __setitem__(self, field: str, value: Operand) -> None:
        operand = self.code.operand(value, _llvm(self.struct.fields[field]))
        self.code.builder.store(operand, self.address(field).value)


class Function:
    """A function under construction; statements are added in program order."""

    def __init__(
        self,
        module: ir.Module,
        name: str,
        result: ir.Type,
        arguments: Mapping[str, ir.Type],
        *,
        exported: bool = False,
    ) -> None:
        self.module, self.result = module, result
        type = ir.FunctionType(result, list(arguments.values()))
        self.function = ir.Function(module, type, name if exported else f"host.{name}")
        self.function.linkage = "" if exported else "internal"
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self._arguments = {
            name: Word(self, a) for name, a in zip(arguments, self.function.args, strict=True)
        }

    def __getitem__(self, argument: str) -> Word:
        return self._arguments[argument]

    def operand(self, value: Operand, type: ir.Type) -> ir.Value:
        if isinstance(value, Word):
            return value.value
        return ir.Constant(type, None if type == PTR else value)

    def word(self, value: int, type: ir.Type = I64) -> Word:
        return Word(self, self.operand(value, type))

    def address_of(self, value: ir.Value) -> Word:
        """A variable's or function's address."""
        if not isinstance(value, ir.Function):
            value.type = PTR  # llvmlite still gives the pointer that it points to a type
        return Word(self, value)

    def null(self) -> Word:
        return self.word(0, PTR)

    def allocate(self, type: ir.Type) -> Word:
        """Room on the stack, one per call of the function (also within loops)."""
        with self.builder.goto_entry_block():
            return self.address_of(self.builder.alloca(type))

    def allocate_here(self, type: ir.Type, count: Word) -> Word:
        """Room on the stack for so many elements, until the function returns."""
        return self.address_of(self.builder.alloca(type, count.value))

    def variable(self, type: ir.Type, initial: Operand = 0) -> Array:
        """A variable: ``v[0]``."""
        cell = self.allocate(type).array(type)
        cell[0] = initial
        return cell

    def call(self, callee: Function | Word | ir.Function, *arguments: Operand) -> Word:
        """Calls a function, or (a Word) what a field of function pointer type holds."""
        match callee:
            case Function():
                function: ir.Value = callee.function
            case Word():
                function = callee.value
            case _:
                function = callee
        # further arguments: those of "..."
        types = [*function.function_type.args, *[I64] * len(arguments)]
        values = [
            self.operand(argument, type) for argument, type in zip(arguments, types, strict=False)
        ]
        return Word(self, self.builder.call(function, values))

    def select(self, condition: Word, yes: Operand, no: Operand, type: ir.Type = I64) -> Word:
        return Word(
            self,
            self.builder.select(condition.value, self.operand(yes, type), self.operand(no, type)),
        )

    @contextmanager
    def if_(self, condition: Word) -> Iterator[None]:
        with self.builder.if_then(condition.value):
            yield

    @contextmanager
    def while_(self, condition: Callable[[], Word]) -> Iterator[None]:
        head, body, end = (
            self.builder.append_basic_block(name) for name in ("head", "body", "end")
        )
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(condition().value, body, end)
        self.builder.position_at_end(body)
        yield
        if not self.builder.block.is_terminated:
            self.builder.branch(head)
        self.builder.position_at_end(end)

    @contextmanager
    def loop(self, count: Operand) -> Iterator[Word]:
        """The body for each index from 0 to count - 1."""
        index = self.variable(I64)
        with self.while_(lambda: index[0] < count):
            yield index[0]
            index[0] = index[0] + 1

    def return_(self, value: Operand | None = None) -> None:
        if value is None:
            self.builder.ret_void()
        else:
            self.builder.ret(self.operand(value, self.result))
