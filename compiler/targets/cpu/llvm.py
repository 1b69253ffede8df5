"""Loops -> LLVM: the only file that calls the IR builder for kernels.

Each kernel becomes ``void name(i64 *words, i64 begin, i64 end)`` (compiler/program.py). Vector loops become vectors of as
many lanes; unrolled loops are copied out here, so that local buffers with fixed indices end in registers. No fast-math
flags: fma and the order of sums are what the loops say.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from llvmlite import ir

from ... import dim, scalar
from ...dim import Dim, Extent, Minimum, Quotient, Remainder, Symbol
from ...loops.build import lane_slope
from ...loops.ir import (
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
    Statement,
    Store,
)  # fmt: skip
from ...scalar import Bitcast, Call, Cast, Checked, Expr, Guarded, Index, Literal
from ...tensor_type import BFLOAT16, BOOL, FLOAT16, FLOAT32, INT64, DType
from .machine import Cpu
from .object_code import assembly_of_text, object_of_text
from .rounding import emit_rounding
from .vector_math import expand_all

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
PTR = ir.PointerType()
Operand: TypeAlias = "ir.Value"
_FIRST_LANE = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)  # in all lanes
INDEX_ERROR = 1  # stored in the error flag when a run-time index is out of range


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


def value_type(dtype: DType) -> ir.Type:
    """The LLVM type of a value (bfloat16 is kept as its bits; bool is one bit)."""
    match dtype:
        case DType.FLOAT16:
            return ir.HalfType()
        case DType.FLOAT32:
            return ir.FloatType()
        case DType.FLOAT64:
            return ir.DoubleType()
        case DType.BOOL:
            return I1
        case _:
            return ir.IntType(dtype.bytes * 8)


def memory_type(dtype: DType) -> ir.Type:
    """The LLVM type in memory (bool is a byte)."""
    return I8 if dtype is BOOL else value_type(dtype)


@dataclass(frozen=True)
class _Offset:
    """Where a load or store is in its buffer; ``slope``: the lane's coefficient, None if it has none."""

    whole: Extent
    without_lane: Extent
    slope: int | None


class _MadeInBlock:
    """Values by what they are, as long as code is added to the block in which they were made."""

    def __init__(self) -> None:
        self.block: ir.Block | None = None
        self.values: dict[Hashable, Operand] = {}

    def get(self, block: ir.Block, key: Hashable) -> Operand | None:
        if block is not self.block:
            self.block, self.values = block, {}
        return self.values.get(key)

    def put(self, block: ir.Block, key: Hashable, value: Operand) -> None:
        if block is self.block:
            self.values[key] = value

    def clear(self) -> None:
        self.values = {}


class _KernelEmitter:
    def __init__(self, module: ir.Module, name: str, kernel: Kernel, cpu: Cpu) -> None:
        self.module, self.kernel, self.cpu = module, kernel, cpu
        function_type = ir.FunctionType(ir.VoidType(), [PTR, I64, I64])
        self.function = ir.Function(module, function_type, name)
        self.function.storage_class = "default"
        self.function.attributes.add("nounwind")
        self.function.append_basic_block("entry")
        self.b = ir.IRBuilder(self.function.entry_basic_block)
        self.integers: dict[str, Any] = {}  # loop variables and symbols: int or i64
        self.pointers: dict[Buffer, Operand] = {}
        self.in_lanes = False  # inside a vector loop
        self.mask: Operand | None = None  # lanes that run, in a vector loop
        self.is_tail = False  # the mask is an end of an axis: lane 0 runs
        # What copies of an unrolled body have in common, found once:
        self.expanded: dict[Store, Expr] = {}
        self.orders: dict[Expr, list[Expr]] = {}
        self.literals: dict[Literal, ir.Constant] = {}
        self.splats: dict[int, tuple[ir.Constant, ir.Constant]] = {}  # by the id of the first, which stays alive so
        self.offsets: dict[tuple[Buffer, tuple[Extent | Expr, ...]], _Offset] = {}
        self.made = _MadeInBlock()
        self.made_of_locals = _MadeInBlock()
        self.numbers = _MadeInBlock()

    def emit(self) -> None:
        words, begin, end = self.function.args
        kernel = self.kernel
        for position, buffer in enumerate(kernel.buffers):
            bits = self._word(words, position)
            self.pointers[buffer] = self.b.inttoptr(bits, PTR)
        for position, symbol in enumerate(kernel.symbols, len(kernel.buffers)):
            self.integers[symbol.name] = self._word(words, position)
        self.error = self.b.inttoptr(self._word(words, len(kernel.buffers) + len(kernel.symbols)), PTR)
        with self._counted(begin, end) as item:
            self.integers[kernel.variable.name] = item
            self.statement(kernel.body)
        self.b.ret_void()

    def _word(self, words: Operand, position: int) -> Operand:
        return self.b.load(self.b.gep(words, [I64(position)], source_etype=I64), typ=I64)

    @contextmanager
    def _counted(self, begin: Operand, end: Operand) -> Iterator[Operand]:
        """for (i = begin; i < end; i++)"""
        before = self.b.block
        head = self.function.append_basic_block("head")
        body = self.function.append_basic_block("body")
        after = self.function.append_basic_block("after")
        self.b.cbranch(self.b.icmp_signed("<", begin, end), head, after)
        self.b.position_at_end(head)
        counter = self.b.phi(I64)
        counter.add_incoming(begin, before)
        self.b.branch(body)
        self.b.position_at_end(body)
        yield counter
        following = self.b.add(counter, I64(1), flags=["nsw"])
        counter.add_incoming(following, self.b.block)
        self.b.cbranch(self.b.icmp_signed("<", following, end), head, after)
        self.b.position_at_end(after)

    # -- statements --------------------------------------------------------------------------------------

    def statement(self, statement: Statement) -> None:
        match statement:
            case Block(statements):
                for inner in statements:
                    self.statement(inner)
            case Allocate(buffer, body):
                self._allocate(buffer)
                self.statement(body)
            case Let(variable, extent, body):
                with self._bound(variable, self.extent(extent)):
                    self.statement(body)
            case If(conditions, body):
                self._if(conditions, body)
            case Store():
                self._store(statement)
            case For():
                self._for(statement)

    @contextmanager
    def _bound(self, variable: Symbol, value: Any) -> Iterator[None]:
        saved = self.integers.get(variable.name)
        self.integers[variable.name] = value
        yield
        if saved is None:
            del self.integers[variable.name]
        else:
            self.integers[variable.name] = saved

    def _for(self, statement: For) -> None:
        match statement.kind:
            case Kind.UNROLLED:
                assert isinstance(statement.extent, int)
                for value in range(statement.extent):
                    with self._bound(statement.variable, value):
                        self.statement(statement.body)
            case Kind.VECTOR:
                assert statement.extent == LANES and statement.variable.name == LANE.name
                self.in_lanes = True
                self.statement(statement.body)
                self.in_lanes = False
            case _:
                extent = self.extent(statement.extent)
                if extent == 1 and isinstance(extent, int):
                    with self._bound(statement.variable, 0):
                        self.statement(statement.body)
                    return
                with self._counted(I64(0), self._i64(extent)) as counter, self._bound(statement.variable, counter):
                    self.statement(statement.body)

    def _if(self, conditions: Sequence[Extent], body: Statement) -> None:
        flag, mask = self._conditions(conditions)
        saved = self.mask, self.is_tail
        if mask is not None:
            self.mask, self.is_tail = self._and(self.mask, mask), True
        if flag is None:
            self.statement(body)
        else:
            with self.b.if_then(flag):
                self.statement(body)
        self.mask, self.is_tail = saved

    def _conditions(self, conditions: Sequence[Extent]) -> tuple[Operand | None, Operand | None]:
        """(a bit for all lanes or None if always true, a mask by lane or None)."""
        flag: Operand | None = None
        mask: Operand | None = None
        for condition in conditions:
            value = self.extent(condition)
            if isinstance(value, int):
                if value < 0:
                    flag = I1(0)
                continue
            zero = ir.Constant(value.type, None) if isinstance(value.type, ir.VectorType) else I64(0)
            bit = self.b.icmp_signed(">=", value, zero)
            if isinstance(value.type, ir.VectorType):
                mask = self._and(mask, bit)
            else:
                flag = self._and(flag, bit)
        return flag, mask

    def _and(self, left: Operand | None, right: Operand | None) -> Operand | None:
        if left is None or right is None:
            return right if left is None else left
        return self.b.and_(left, right)

    def _allocate(self, buffer: Buffer) -> None:
        elements = dim.product(buffer.shape)
        assert isinstance(elements, int), "a local buffer has a constant size"
        with self.b.goto_entry_block():
            array = self.b.alloca(ir.ArrayType(memory_type(buffer.dtype), elements))
            array.align = 64
            array.type = PTR  # opaque, like all other pointers here
            self.pointers[buffer] = array

    # -- extents -----------------------------------------------------------------------------------------

    def _i64(self, value: Any) -> Operand:
        return I64(value) if isinstance(value, int) else value

    def extent(self, extent: Extent) -> Any:
        """An int, an i64, or (with the lane in it) a vector of i64."""
        if isinstance(extent, int):
            return extent
        constant = 0
        total: Any = None
        for atoms, factor in extent.terms:
            term: Any = factor
            for atom in atoms:
                term = self._times(term, self._atom(atom))
            if isinstance(term, int):
                constant += term
            else:
                total = term if total is None else self._plus(total, term)
        if total is None:
            return constant
        return total if constant == 0 else self._plus(total, constant)

    def _plus(self, left: Any, right: Any) -> Any:
        left, right = self._matched(left, right)
        return self.b.add(left, right, flags=["nsw"])

    def _times(self, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            return left * right
        if isinstance(left, int) and left == 1:
            return right
        left, right = self._matched(left, right)
        return self.b.mul(left, right, flags=["nsw"])

    def _matched(self, left: Any, right: Any) -> tuple[Any, Any]:
        left, right = self._i64(left), self._i64(right)
        if isinstance(left.type, ir.VectorType) != isinstance(right.type, ir.VectorType):
            left, right = self._vector(left), self._vector(right)
        return left, right

    def _atom(self, atom: dim.Atom) -> Any:
        match atom:
            case Symbol(name):
                if name == LANE.name and self.in_lanes and name not in self.integers:
                    return ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
                return self.integers[name]
            case Quotient(numerator, divisor):
                return self._divided(numerator, divisor, False)
            case Remainder(numerator, divisor):
                return self._divided(numerator, divisor, True)
            case Minimum(left, right):
                a, b = self.extent(left), self.extent(right)
                if isinstance(a, int) and isinstance(b, int):
                    return min(a, b)
                a, b = self._matched(a, b)
                return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def _divided(self, numerator: Dim, divisor: int, remainder: bool) -> Any:
        value = self.extent(numerator)
        if isinstance(value, int):
            return value % divisor if remainder else value // divisor
        constant = ir.Constant(value.type, [divisor] * LANES if isinstance(value.type, ir.VectorType) else divisor)
        if dim.is_nonnegative(numerator):
            return self.b.urem(value, constant) if remainder else self.b.udiv(value, constant)
        quotient = self.b.sdiv(value, constant)
        rest = self.b.sub(value, self.b.mul(quotient, constant))
        zero = ir.Constant(value.type, None) if isinstance(value.type, ir.VectorType) else I64(0)
        is_below = self.b.icmp_signed("<", rest, zero)
        if remainder:
            return self.b.select(is_below, self.b.add(rest, constant), rest)
        return self.b.add(quotient, self.b.sext(is_below, value.type))

    # -- memory ------------------------------------------------------------------------------------------

    def _vector(self, value: Operand) -> Operand:
        """A scalar in all lanes."""
        if isinstance(value.type, ir.VectorType):
            return value
        if isinstance(value, ir.Constant):
            kind = ir.VectorType(value.type, LANES)
            if id(value) not in self.splats:
                self.splats[id(value)] = value, ir.Constant(kind, [value] * LANES)
            return self.splats[id(value)][1]
        found = self.numbers.get(self.b.block, value)
        if found is None:
            undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
            one = self.b.insert_element(undefined, value, I32(0))
            found = self.b.shuffle_vector(one, undefined, _FIRST_LANE)
            self.numbers.put(self.b.block, value, found)
        return found

    def _address(self, buffer: Buffer, offset: Extent) -> Operand:
        """base + variable part, then + constant: copies of an unrolled body share the first sum."""
        item = ("address", buffer, offset)
        return self._once(self.numbers, item, [offset], lambda: self._pointer(buffer, self.extent(offset)))

    def _pointer(self, buffer: Buffer, value: Any) -> Operand:
        kind = memory_type(buffer.dtype)
        base = self.pointers[buffer]
        if isinstance(value, int):
            return self.b.gep(base, [I64(value)], source_etype=kind) if value else base
        return self.b.gep(base, [value], source_etype=kind)

    def _offset(self, buffer: Buffer, index: tuple[Extent | Expr, ...]) -> _Offset:
        if (buffer, index) not in self.offsets:
            whole = buffer.offset(tuple(part for part in index if not isinstance(part, Expr)))
            self.offsets[buffer, index] = _Offset(whole, dim.substitute(whole, {LANE: 0}), lane_slope(whole))
        return self.offsets[buffer, index]

    def _load(self, load: Load) -> Operand:
        if load.index_expressions:
            return self._load_computed(load)
        offset = self._offset(load.buffer, load.index)
        made = self.made_of_locals if load.buffer.is_local else self.made
        return self._once(made, (load.buffer, offset.whole), [offset.whole], lambda: self._load_at(load.buffer, offset))

    def _once(self, made: _MadeInBlock, item: Hashable, extents: Sequence[Extent], make: Callable[[], Operand]) -> Operand:
        """A leaf's value: if this block holds it already, for the same values of its extents' symbols, that one."""
        symbols = sorted(dim.symbols_of(list(extents)), key=lambda s: s.name)
        where = tuple((s.name, _identity(self.integers.get(s.name))) for s in symbols)
        key = (item, where, _identity(self.mask), self.is_tail)
        found = made.get(self.b.block, key)
        if found is None:
            found = make()
            made.put(self.b.block, key, found)
        return found

    def _load_at(self, buffer: Buffer, offset: _Offset) -> Operand:
        slope = offset.slope if self.in_lanes else 0
        if slope == 0:
            return self._from_memory(buffer, self._uniform_load(buffer, offset.without_lane))
        if slope == 1:
            return self._from_memory(buffer, self._vector_load(buffer, offset.without_lane))
        return self._from_memory(buffer, self._gathered(buffer, self.extent(offset.whole)))

    def _uniform_load(self, buffer: Buffer, offset: Extent) -> Operand:
        kind = memory_type(buffer.dtype)
        if self.mask is None or self.is_tail or buffer.is_local:
            return self.b.load(self._address(buffer, offset), typ=kind)
        some = self.b.icmp_unsigned("!=", self.b.bitcast(self.mask, I16), I16(0))
        return self._lazily(some, lambda: self.b.load(self._address(buffer, offset), typ=kind), kind)

    def _lazily(self, flag: Operand, make: Callable[[], Operand], kind: ir.Type, otherwise: Operand | None = None) -> Operand:
        """The value made under the flag, else ``otherwise`` (zero)."""
        before = self.b.block
        with self.b.if_then(flag):
            value = make()
            inside = self.b.block
        phi = self.b.phi(kind)
        phi.add_incoming(value, inside)
        phi.add_incoming(otherwise if otherwise is not None else ir.Constant(kind, None), before)
        return phi

    def _vector_load(self, buffer: Buffer, offset: Extent) -> Operand:
        kind = ir.VectorType(memory_type(buffer.dtype), LANES)
        address = self._address(buffer, offset)
        if self.mask is None or buffer.is_local:
            return self.b.load(address, align=64 if buffer.is_local else buffer.dtype.bytes, typ=kind)
        function = self._intrinsic(f"llvm.masked.load.{_suffix(kind)}.p0", kind, [PTR, I32, self.mask.type, kind])
        return self.b.call(function, [address, I32(buffer.dtype.bytes), self.mask, ir.Constant(kind, None)])

    def _gathered(self, buffer: Buffer, offsets: Operand) -> Operand:
        """Lane by lane; lanes that do not run read nothing."""
        element = memory_type(buffer.dtype)
        kind = ir.VectorType(element, LANES)
        result: Operand = ir.Constant(kind, None)
        offsets = self._vector(self._i64(offsets))
        for lane in range(LANES):
            at = self.b.extract_element(offsets, I32(lane))

            def one(at: Operand = at) -> Operand:
                return self.b.load(self._pointer(buffer, at), typ=element)

            if self.mask is None:
                value = one()
            else:
                value = self._lazily(self.b.extract_element(self.mask, I32(lane)), one, element)
            result = self.b.insert_element(result, value, I32(lane))
        return result

    def _load_computed(self, load: Load) -> Operand:
        """A load whose index was computed at run time (and checked)."""
        total: Any = 0
        for size, part in zip(load.buffer.shape, load.index, strict=True):
            total = self._sum(self._product(total, self.extent(size)),
                              self.expression(part) if isinstance(part, Expr) else self.extent(part))  # fmt: skip
        if not isinstance(total, int) and isinstance(total.type, ir.VectorType):
            return self._from_memory(load.buffer, self._gathered(load.buffer, total))
        value = self.b.load(self._pointer(load.buffer, total), typ=memory_type(load.buffer.dtype))
        return self._from_memory(load.buffer, value)

    def _sum(self, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            return left + right
        return self._plus(left, right)

    def _product(self, left: Any, right: Any) -> Any:
        return self._times(left, right)

    def _from_memory(self, buffer: Buffer, value: Operand) -> Operand:
        if buffer.dtype is not BOOL:
            return value
        return self.b.icmp_unsigned("!=", value, ir.Constant(value.type, None))

    def _store(self, store: Store) -> None:
        buffer = store.buffer
        if store not in self.expanded:
            self.expanded[store] = expand_all(store.value)
        value = self.expression(self.expanded[store])
        if buffer.dtype is BOOL:
            value = self.b.zext(value, _like(value, I8))
        offset = self._offset(buffer, store.index)
        if not self.in_lanes:
            self.b.store(value, self._address(buffer, offset.whole))
        elif offset.slope == 1:
            self._vector_store(buffer, offset.without_lane, self._vector(value))
        else:
            self._scattered(buffer, self.extent(offset.whole), self._vector(value))
        if buffer.is_local:
            self.made_of_locals.clear()
        else:
            self.made.clear()  # an output may lie where an input does

    def _vector_store(self, buffer: Buffer, offset: Extent, value: Operand) -> None:
        address = self._address(buffer, offset)
        if self.mask is None or buffer.is_local:
            self.b.store(value, address, align=64 if buffer.is_local else buffer.dtype.bytes)
            return
        kind = value.type
        function = self._intrinsic(f"llvm.masked.store.{_suffix(kind)}.p0", ir.VoidType(), [kind, PTR, I32, self.mask.type])
        self.b.call(function, [value, address, I32(buffer.dtype.bytes), self.mask])

    def _scattered(self, buffer: Buffer, offsets: Any, value: Operand) -> None:
        offsets = self._vector(self._i64(offsets))
        for lane in range(LANES):
            at = self.b.extract_element(offsets, I32(lane))
            element = self.b.extract_element(value, I32(lane))
            if self.mask is None:
                self.b.store(element, self._pointer(buffer, at))
                continue
            with self.b.if_then(self.b.extract_element(self.mask, I32(lane))):
                self.b.store(element, self._pointer(buffer, at))

    def _intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
        found = self.module.globals.get(name)
        return found if found is not None else ir.Function(self.module, ir.FunctionType(result, arguments), name)

    # -- expressions -------------------------------------------------------------------------------------

    def expression(self, root: Expr) -> Operand:
        """The value of an expression; values under a guard are made under it."""
        values: dict[int, Operand] = {}
        if root not in self.orders:
            self.orders[root] = _eager_order(root)
        for node in self.orders[root]:
            match node:
                case Literal(value, dtype):
                    if node not in self.literals:
                        self.literals[node] = _literal(value, dtype)
                    result: Operand = self.literals[node]
                case Load():
                    result = self._load(node)
                case Index(extent):
                    result = self._once(self.numbers, ("index", extent), [extent], partial(self._index, extent))
                case Guarded():
                    result = self._guarded(node)
                case Checked(index, extent):
                    result = self._checked(values[id(index)], extent)
                case LaneFold():
                    item = ("fold", node.buffer, node.index, node.combine)
                    result = self._once(self.made_of_locals, item, node.index, partial(self._folded, node))
                case Cast(argument, dtype):
                    result = self._cast(values[id(argument)], argument.dtype, dtype)
                case Bitcast(argument, dtype):
                    operand = values[id(argument)]
                    result = self.b.bitcast(operand, _like(operand, value_type(dtype)))
                case Call(function, arguments, dtype):
                    result = self._call(function, [values[id(a)] for a in arguments], arguments, dtype)
                case _:
                    raise TypeError(f"no code for {type(node).__name__}")
            values[id(node)] = result
        return values[id(root)]

    def _index(self, extent: Extent) -> Operand:
        return self._i64(self.extent(extent))

    def _guarded(self, node: Guarded) -> Operand:
        flag, mask = self._conditions(node.conditions)
        otherwise = self.expression(node.otherwise)

        def inside() -> Operand:
            if mask is None:
                return self.expression(node.value)
            saved = self.mask, self.is_tail
            self.mask, self.is_tail = self._and(self.mask, mask), False
            value = self.expression(node.value)
            self.mask, self.is_tail = saved
            return self.b.select(mask, self._vector(value), self._vector(otherwise))

        if flag is None:
            return inside()
        before = self.b.block
        with self.b.if_then(flag):
            value = inside()
            last = self.b.block
        if isinstance(value.type, ir.VectorType) and not isinstance(otherwise.type, ir.VectorType):
            with self.b.goto_block(before):
                otherwise = self._vector(otherwise)
        phi = self.b.phi(value.type)
        phi.add_incoming(value, last)
        phi.add_incoming(otherwise, before)
        return phi

    def _checked(self, index: Operand, extent: Extent) -> Operand:
        """A safe index; the error flag is set if it was not."""
        size = self._i64(self.extent(extent))
        index, size = self._matched(index, size)
        zero = ir.Constant(index.type, None) if isinstance(index.type, ir.VectorType) else I64(0)
        wrapped = self.b.select(self.b.icmp_signed("<", index, zero), self.b.add(index, size), index)
        is_inside = self.b.icmp_unsigned("<", wrapped, size)
        bad = self.b.not_(is_inside)
        if isinstance(bad.type, ir.VectorType):
            bad = self._and(bad, self.mask) if self.mask is not None else bad
            bad = self.b.icmp_unsigned("!=", self.b.bitcast(bad, I16), I16(0))
        with self.b.if_then(bad, likely=False):
            self.b.store(I32(INDEX_ERROR), self.error)
        return self.b.select(is_inside, wrapped, zero)

    def _folded(self, node: LaneFold) -> Operand:
        kind = ir.VectorType(memory_type(node.buffer.dtype), LANES)
        address = self._address(node.buffer, node.buffer.offset((*node.index, 0)))
        value = self.b.load(address, align=64, typ=kind)
        width = LANES // 2
        while width:  # each half in a vector of its own: LLVM 22.1 takes wrong lanes where whole vectors are kept
            undefined = ir.Constant(value.type, ir.Undefined)
            order = ir.VectorType(I32, width)
            low = self.b.shuffle_vector(value, undefined, ir.Constant(order, list(range(width))))
            high = self.b.shuffle_vector(value, undefined, ir.Constant(order, list(range(width, 2 * width))))
            value = self._primitive(node.combine, [low, high], node.dtype)
            width //= 2
        return self.b.extract_element(value, I32(0))

    def _cast(self, value: Operand, source: DType, target: DType) -> Operand:
        if source is target:
            return value
        if BFLOAT16 in (source, target):
            return self._cast_bfloat16(value, source, target)
        if FLOAT16 in (source, target) and "f16c" not in self.cpu.required:
            return self._cast_float16(value, source, target)
        kind = _like(value, value_type(target))
        if target is BOOL:
            zero = ir.Constant(value.type, None)
            return self.b.fcmp_unordered("!=", value, zero) if source.is_float else self.b.icmp_unsigned("!=", value, zero)
        if source is DType.FLOAT16 and target.bytes == 8 and target.is_float:
            return self._cast(self._cast(value, source, FLOAT32), FLOAT32, target)  # in one step it is a library call
        if target is DType.FLOAT16 and source.bytes == 8 and source.is_float:
            return self.b.fptrunc(self._rounded_to_odd(value), kind)
        if source.is_float and target.is_float:
            return self.b.fpext(value, kind) if source.bytes < target.bytes else self.b.fptrunc(value, kind)
        if source.is_float:
            name = "llvm.fptosi.sat" if target.is_signed else "llvm.fptoui.sat"
            function = self._intrinsic(f"{name}.{_suffix(kind)}.{_suffix(value.type)}", kind, [value.type])
            return self.b.call(function, [value])
        if target.is_float:
            return self.b.sitofp(value, kind) if source.is_signed else self.b.uitofp(value, kind)
        if source is BOOL:
            return self.b.zext(value, kind)
        if source.bytes == target.bytes:
            return value
        if source.bytes > target.bytes:
            return self.b.trunc(value, kind)
        return self.b.sext(value, kind) if source.is_signed else self.b.zext(value, kind)

    def _rounded_to_odd(self, value: Operand) -> Operand:
        """float64 -> float32 such that rounding once more, to float16, is right (Boldo and Melquiond 2008)."""
        near = self.b.fptrunc(value, _like(value, ir.FloatType()))
        back = self.b.fpext(near, value.type)
        bits = self.b.bitcast(near, _like(value, I32))
        above = self.b.fcmp_ordered(">", self.unary("llvm.fabs", back), self.unary("llvm.fabs", value))
        towards_zero = self.b.sub(bits, self.b.zext(above, bits.type))
        odd = self.b.or_(towards_zero, _constant(value, I32, 1))
        chosen = self.b.select(self.b.fcmp_ordered("!=", back, value), odd, bits)
        return self.b.bitcast(chosen, near.type)

    def _cast_bfloat16(self, value: Operand, source: DType, target: DType) -> Operand:
        """bfloat16 is the upper half of a float32, rounded to nearest, halves to even; a NaN stays one."""
        if source is BFLOAT16:
            wide = self.b.shl(self.b.zext(value, _like(value, I32)), _constant(value, I32, 16))
            return self._cast(self.b.bitcast(wide, _like(value, ir.FloatType())), FLOAT32, target)
        single = self._cast(value, source, FLOAT32)
        bits = self.b.bitcast(single, _like(value, I32))
        last = self.b.and_(self.b.lshr(bits, _constant(value, I32, 16)), _constant(value, I32, 1))
        rounded = self.b.add(bits, self.b.add(last, _constant(value, I32, 0x7FFF)))
        quiet = self.b.or_(bits, _constant(value, I32, 0x400000))
        chosen = self.b.select(self.b.fcmp_unordered("uno", single, single), quiet, rounded)
        return self.b.trunc(self.b.lshr(chosen, _constant(value, I32, 16)), _like(value, I16))

    def _cast_float16(self, value: Operand, source: DType, target: DType) -> Operand:
        """float16 on CPUs without conversions of it, which would be library calls: its exponent and fraction are moved to
        where float32 has them, and a product or sum in float32 rounds to nearest, halves to even, denormals too."""
        if source is FLOAT16:
            return self._cast(self._widened_float16(value), FLOAT32, target)
        if source.is_float and source.bytes == 8:
            return self._narrowed_float16(self._rounded_to_odd(value))
        return self._narrowed_float16(self._cast(value, source, FLOAT32))

    def _widened_float16(self, value: Operand) -> Operand:
        i32, single = _like(value, I32), _like(value, ir.FloatType())
        bits = self.b.zext(self.b.bitcast(value, _like(value, I16)), i32)
        magnitude = self.b.and_(bits, _constant(value, I32, 0x7FFF))
        shifted = self.b.shl(magnitude, _constant(value, I32, 13))
        scaled = self.b.fmul(self.b.bitcast(shifted, single), _constant(value, ir.FloatType(), 2.0**112))
        is_finite = self.b.icmp_unsigned("<", magnitude, _constant(value, I32, 0x7C00))
        special = self.b.or_(shifted, _constant(value, I32, 0x7F800000))
        whole = self.b.select(is_finite, self.b.bitcast(scaled, i32), special)
        sign = self.b.shl(self.b.and_(bits, _constant(value, I32, 0x8000)), _constant(value, I32, 16))
        return self.b.bitcast(self.b.or_(whole, sign), single)

    def _narrowed_float16(self, value: Operand) -> Operand:
        i32, single = _like(value, I32), _like(value, ir.FloatType())
        bits = self.b.bitcast(value, i32)
        magnitude = self.b.and_(bits, _constant(value, I32, 0x7FFFFFFF))
        # A power of two that is 2^13 times the last place of the result: added, it leaves the rounded digits at the end.
        exponent = self.b.and_(magnitude, _constant(value, I32, 0x7F800000))
        least = _constant(value, I32, 113 << 23)
        exponent = self.b.select(self.b.icmp_unsigned("<", exponent, least), least, exponent)
        unit = self.b.add(exponent, _constant(value, I32, 13 << 23))
        total = self.b.fadd(self.b.bitcast(magnitude, single), self.b.bitcast(unit, single))
        digits = self.b.sub(self.b.bitcast(total, i32), unit)
        biased = self.b.lshr(self.b.sub(exponent, least), _constant(value, I32, 13))
        finite = self.b.add(digits, biased)
        is_large = self.b.icmp_unsigned(">=", magnitude, _constant(value, I32, 0x477FF000))
        is_nan = self.b.icmp_unsigned(">", magnitude, _constant(value, I32, 0x7F800000))
        special = self.b.select(is_nan, _constant(value, I32, 0x7E00), _constant(value, I32, 0x7C00))
        whole = self.b.select(is_large, special, finite)
        sign = self.b.and_(self.b.lshr(bits, _constant(value, I32, 16)), _constant(value, I32, 0x8000))
        return self.b.bitcast(self.b.trunc(self.b.or_(whole, sign), _like(value, I16)), _like(value, ir.HalfType()))

    def _call(self, function: str, values: list[Operand], arguments: Sequence[Expr], dtype: DType) -> Operand:
        if any(isinstance(v.type, ir.VectorType) for v in values):
            values = [self._vector(v) for v in values]
        source = arguments[-1].dtype
        if source.is_float and source.bytes < 4 and function != "select":
            wide = [self._cast(v, a.dtype, FLOAT32) for v, a in zip(values, arguments, strict=True)]
            result = self._primitive(function, wide, FLOAT32)
            return result if dtype is BOOL else self._cast(result, FLOAT32, dtype)
        return self._primitive(function, values, source)

    def _primitive(self, function: str, values: list[Operand], dtype: DType) -> Operand:
        """A scalar function on operands of one dtype."""
        emit = (_FLOAT if dtype.is_float else _INTEGER).get(function)
        if emit is None:
            raise TypeError(f"no code for {function} of {dtype.value}")
        return emit(self, dtype, *values)

    def unary(self, name: str, x: Operand) -> Operand:
        """A unary LLVM intrinsic that is one instruction."""
        return self.b.call(self._intrinsic(f"{name}.{_suffix(x.type)}", x.type, [x.type]), [x])

    def rounded(self, direction: str, x: Operand) -> Operand:
        """floor, ceil, trunc or roundeven."""
        return self.unary(f"llvm.{direction}", x) if self.cpu.has_rounding else emit_rounding(self.b, direction, x)

    def fma(self, x: Operand, y: Operand, z: Operand) -> Operand:
        """One rounding where the CPU has fma; else a product and a sum (llvm.fma would call a library)."""
        if not self.cpu.has_fma:
            return self.b.fadd(self.b.fmul(x, y), z)
        return self.b.call(self._intrinsic(f"llvm.fma.{_suffix(x.type)}", x.type, [x.type] * 3), [x, y, z])


def _identity(value: Any) -> Hashable:
    """What tells operands apart; numbers are equal by value."""
    return value if value is None or isinstance(value, int) else (id(value),)


def _eager_order(root: Expr) -> list[Expr]:
    """Post-order that does not enter guards."""
    seen: set[int] = set()
    order: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, is_ready = stack.pop()
        if is_ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if not isinstance(node, Guarded | Load):
                stack += [(child, False) for child in reversed(scalar.children(node))]
    return order


def _like(value: Operand, element: ir.Type) -> ir.Type:
    return ir.VectorType(element, LANES) if isinstance(value.type, ir.VectorType) else element


def _constant(value: Operand, element: ir.Type, number: int | float) -> ir.Constant:
    if isinstance(value.type, ir.VectorType):
        return ir.Constant(ir.VectorType(element, LANES), [number] * LANES)
    return ir.Constant(element, number)


def _suffix(kind: ir.Type) -> str:
    """How intrinsics name a type."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_suffix(kind.element)}"
    if isinstance(kind, ir.IntType):
        return f"i{kind.width}"
    return {"half": "f16", "float": "f32", "double": "f64"}[str(kind)]


def _literal(value: float | int | bool, dtype: DType) -> ir.Constant:
    if dtype is BFLOAT16:
        import numpy as np

        return ir.Constant(I16, int(np.asarray(value, dtype.numpy).view(np.uint16)))
    if dtype.is_float:
        return ir.Constant(value_type(dtype), float(value))
    return ir.Constant(value_type(dtype), int(value))


Emit: TypeAlias = Callable[..., Operand]


def _compare(ordered: str) -> tuple[Emit, Emit]:
    def of_floats(e: _KernelEmitter, _t: DType, x: Operand, y: Operand) -> Operand:
        return e.b.fcmp_unordered("!=", x, y) if ordered == "!=" else e.b.fcmp_ordered(ordered, x, y)

    def of_integers(e: _KernelEmitter, t: DType, x: Operand, y: Operand) -> Operand:
        return e.b.icmp_signed(ordered, x, y) if t.is_signed else e.b.icmp_unsigned(ordered, x, y)

    return of_floats, of_integers


def _extreme(order: str) -> Emit:
    """max or min of floats: a NaN in either passes."""

    def emit(e: _KernelEmitter, _t: DType, x: Operand, y: Operand) -> Operand:
        best = e.b.select(e.b.fcmp_ordered(order, x, y), x, y)
        return e.b.select(e.b.fcmp_unordered("uno", x, x), x, best)

    return emit


def _integer_extreme(order: str) -> Emit:
    def emit(e: _KernelEmitter, t: DType, x: Operand, y: Operand) -> Operand:
        less = e.b.icmp_signed(order, x, y) if t.is_signed else e.b.icmp_unsigned(order, x, y)
        return e.b.select(less, x, y)

    return emit


def _integer_division(remainder: bool) -> Emit:
    """Never traps: x / 0 is 0, and the least integer by -1 wraps."""

    def emit(e: _KernelEmitter, t: DType, x: Operand, y: Operand) -> Operand:
        zero = ir.Constant(y.type, None)
        one = _constant(y, y.type.element if isinstance(y.type, ir.VectorType) else y.type, 1)
        is_zero = e.b.icmp_unsigned("==", y, zero)
        if not t.is_signed:
            safe = e.b.select(is_zero, one, y)
            value = e.b.urem(x, safe) if remainder else e.b.udiv(x, safe)
            return e.b.select(is_zero, zero, value)
        minus = e.b.icmp_signed("==", y, _constant(y, one.type.element if isinstance(y.type, ir.VectorType) else y.type, -1))
        safe = e.b.select(e.b.or_(is_zero, minus), one, y)
        value = e.b.srem(x, safe) if remainder else e.b.sdiv(x, safe)
        value = e.b.select(minus, zero if remainder else e.b.sub(zero, x), value)
        return e.b.select(is_zero, zero, value)

    return emit


def _shift(right: bool) -> Emit:
    def emit(e: _KernelEmitter, t: DType, x: Operand, y: Operand) -> Operand:
        element = x.type.element if isinstance(x.type, ir.VectorType) else x.type
        is_inside = e.b.icmp_unsigned("<", y, _constant(y, element, t.bytes * 8))
        by = e.b.select(is_inside, y, ir.Constant(y.type, None))
        shifted = (e.b.ashr(x, by) if t.is_signed else e.b.lshr(x, by)) if right else e.b.shl(x, by)
        return e.b.select(is_inside, shifted, ir.Constant(x.type, None))

    return emit


def _float_sign(e: _KernelEmitter, _t: DType, x: Operand) -> Operand:
    zero = ir.Constant(x.type, None)
    one = _constant(x, x.type.element if isinstance(x.type, ir.VectorType) else x.type, 1)
    above = e.b.select(e.b.fcmp_ordered(">", x, zero), one, x)
    below = e.b.select(e.b.fcmp_ordered("<", x, zero), e.b.fneg(one), above)
    return below


def _integer_sign(e: _KernelEmitter, t: DType, x: Operand) -> Operand:
    zero = ir.Constant(x.type, None)
    element = x.type.element if isinstance(x.type, ir.VectorType) else x.type
    above = e.b.zext(e.b.icmp_unsigned("!=", x, zero), x.type)
    if not t.is_signed:
        return above
    return e.b.select(e.b.icmp_signed("<", x, zero), _constant(x, element, -1), above)


def _integer_abs(e: _KernelEmitter, t: DType, x: Operand) -> Operand:
    zero = ir.Constant(x.type, None)
    return e.b.select(e.b.icmp_signed("<", x, zero), e.b.sub(zero, x), x) if t.is_signed else x


def _float_rem(e: _KernelEmitter, t: DType, x: Operand, y: Operand) -> Operand:
    """fmod, lane by lane through the library."""
    element = value_type(t)
    function = e._intrinsic("fmodf" if t.bytes == 4 else "fmod", element, [element, element])
    if not isinstance(x.type, ir.VectorType):
        return e.b.call(function, [x, y])
    result = x
    for lane in range(LANES):
        one = e.b.call(function, [e.b.extract_element(v, I32(lane)) for v in (x, y)])
        result = e.b.insert_element(result, one, I32(lane))
    return result


def _select(e: _KernelEmitter, _t: DType, c: Operand, x: Operand, y: Operand) -> Operand:
    return e.b.select(c, x, y)


_COMPARISONS = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<="}
_FLOAT: dict[str, Emit] = {
    "add": lambda e, t, x, y: e.b.fadd(x, y),
    "sub": lambda e, t, x, y: e.b.fsub(x, y),
    "mul": lambda e, t, x, y: e.b.fmul(x, y),
    "div": lambda e, t, x, y: e.b.fdiv(x, y),
    "rem": _float_rem,
    "fma": lambda e, t, x, y, z: e.fma(x, y, z),
    "neg": lambda e, t, x: e.b.fneg(x),
    "abs": lambda e, t, x: e.unary("llvm.fabs", x),
    "sign": _float_sign,
    "max": _extreme(">"),
    "min": _extreme("<"),
    "sqrt": lambda e, t, x: e.unary("llvm.sqrt", x),
    "floor": lambda e, t, x: e.rounded("floor", x),
    "ceil": lambda e, t, x: e.rounded("ceil", x),
    "round": lambda e, t, x: e.rounded("roundeven", x),
    "trunc": lambda e, t, x: e.rounded("trunc", x),
    "select": _select,
    **{name: _compare(sign)[0] for name, sign in _COMPARISONS.items()},
}
_INTEGER: dict[str, Emit] = {
    "add": lambda e, t, x, y: e.b.add(x, y),
    "sub": lambda e, t, x, y: e.b.sub(x, y),
    "mul": lambda e, t, x, y: e.b.mul(x, y),
    "div": _integer_division(False),
    "rem": _integer_division(True),
    "neg": lambda e, t, x: e.b.sub(ir.Constant(x.type, None), x),
    "abs": _integer_abs,
    "sign": _integer_sign,
    "max": _integer_extreme(">"),
    "min": _integer_extreme("<"),
    "and": lambda e, t, x, y: e.b.and_(x, y),
    "or": lambda e, t, x, y: e.b.or_(x, y),
    "xor": lambda e, t, x, y: e.b.xor(x, y),
    "not": lambda e, t, x: e.b.not_(x),
    "shift_left": _shift(False),
    "shift_right": _shift(True),
    "select": _select,
    **{name: _compare(sign)[1] for name, sign in _COMPARISONS.items()},
}
__all__ = ["INT64", "compile_kernels", "memory_type", "value_type"]
