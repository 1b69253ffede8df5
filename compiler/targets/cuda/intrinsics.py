"""The instructions that generated kernels are written in, as Numba intrinsics: one name, one LLVM pattern.

Names carry their types: ``add_float32(a, b)``, ``load_int8(p, i)``, ``cast_int64_float32(x)``, ``tile_fma_8_132_128_8_8``.
Numba itself would widen int32 arithmetic to 64 bits and literals to float64; these never do. float16 and bfloat16 are
their bits in a uint16; a bool is a byte in memory. Sums and products round once each (never contracted); fma is explicit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from itertools import takewhile
from typing import Any, TypeAlias

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic

from ...ops.winograd import matrices
from ...tensor_type import BFLOAT16, BOOL, FLOAT16, FLOAT32, INT32, UINT32, DType
from ..cpu.lowering.representation import I8, I16, I32, I64, value_type

Operand: TypeAlias = Any
Emit: TypeAlias = Callable[..., Operand]
SHARED = 3  # LLVM's address space of a block's memory


def numba_type(dtype: DType) -> Any:
    """How a value travels through Numba."""
    if dtype in (FLOAT16, BFLOAT16):
        return types.uint16
    return types.boolean if dtype is BOOL else getattr(types, dtype.value)


def memory_type(dtype: DType) -> Any:
    """How an element lies in memory."""
    return types.uint8 if dtype is BOOL else numba_type(dtype)


def pointer_type(dtype: DType) -> Any:
    return types.CPointer(memory_type(dtype))


def llvm_type(dtype: DType) -> ir.Type:
    """The LLVM type of a value; small floats are their bits."""
    return I16 if dtype is FLOAT16 else value_type(dtype)


@cache
def intrinsic_named(name: str) -> Any:
    """The intrinsic of that name; KeyError if there is none."""
    family, _, rest = name.partition("_")
    if family in _FAMILIES:
        return _FAMILIES[family](rest)
    if name in _PLAIN:
        return _PLAIN[name]()
    function, _, dtype = name.rpartition("_")
    return _scalar(function, DType(dtype))


def _define(result: Any, arguments: Sequence[Any], emit: Emit) -> Any:
    """An intrinsic over typed positional arguments (Numba finds their number from the parameters)."""
    signature = result(*arguments)

    def lower(_context: Any, builder: Any, _signature: Any, operands: Sequence[Operand]) -> Operand:
        return emit(builder, *operands)

    def typing(*_: Any) -> Any:
        return signature, lower

    names = ["context", *(f"x{position}" for position in range(len(arguments)))]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    typing.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return intrinsic(typing)


# -- scalar functions --------------------------------------------------------------------------------------


def _scalar(function: str, dtype: DType) -> Any:
    emit = (_FLOAT if dtype.is_float else _INTEGER)[function]
    kind = numba_type(dtype)
    if function in _COMPARISONS:
        return _define(types.boolean, [kind, kind], lambda b, x, y: emit(b, dtype, x, y))
    if function == "select":
        return _define(kind, [types.boolean, kind, kind], lambda b, c, x, y: b.select(c, x, y))
    arity = 3 if function == "fma" else (2 if function in _BINARY else 1)
    return _define(kind, [kind] * arity, lambda b, *x: emit(b, dtype, *x))


def _suffix(dtype: DType) -> str:
    return "f" if dtype is FLOAT32 else "d"


def _called(b: Any, name: str, result: ir.Type, *operands: Operand) -> Operand:
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(result, [x.type for x in operands]), name)
    return b.call(function, operands)


def _assembly(b: Any, result: ir.Type, code: str, constraints: str, *operands: Operand) -> Operand:
    """One PTX instruction without side effects."""
    kind = ir.FunctionType(result, [x.type for x in operands])
    return b.asm(kind, code, constraints, list(operands), False)


def _rounded_once(operation: str) -> Emit:
    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        return _called(b, f"llvm.nvvm.{operation}.rn.{_suffix(t)}", x.type, x, y)

    return emit


def _subtract(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
    return _called(b, f"llvm.nvvm.add.rn.{_suffix(t)}", x.type, x, _negated(b, t, y))


def _negated(b: Any, _t: DType, x: Operand) -> Operand:
    return b.fsub(ir.Constant(x.type, -0.0), x)  # libNVVM's LLVM is older than fneg


def _unary_ptx(instruction: str) -> Emit:
    def emit(b: Any, t: DType, x: Operand) -> Operand:
        name = "f32" if t is FLOAT32 else "f64"
        register = "f" if t is FLOAT32 else "d"
        return _assembly(b, x.type, f"{instruction.format(name)} $0, $1;", f"={register},{register}", x)

    return emit


def _fma(b: Any, t: DType, x: Operand, y: Operand, z: Operand) -> Operand:
    return _called(b, f"llvm.fma.f{t.bytes * 8}", x.type, x, y, z)


def _float_remainder(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
    return _called(b, "__nv_fmodf" if t is FLOAT32 else "__nv_fmod", x.type, x, y)


def _extreme(order: str) -> Emit:
    """max or min of floats: a NaN in either passes."""

    def emit(b: Any, _t: DType, x: Operand, y: Operand) -> Operand:
        best = b.select(b.fcmp_ordered(order, x, y), x, y)
        return b.select(b.fcmp_unordered("uno", x, x), x, best)

    return emit


def _integer_extreme(order: str) -> Emit:
    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        return b.select(_ordered(b, t, order, x, y), x, y)

    return emit


def _ordered(b: Any, t: DType, order: str, x: Operand, y: Operand) -> Operand:
    return b.icmp_signed(order, x, y) if t.is_signed else b.icmp_unsigned(order, x, y)


def _integer_division(remainder: bool) -> Emit:
    """Never traps: x / 0 is 0, and the least integer by -1 wraps."""

    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        zero, one = ir.Constant(y.type, 0), ir.Constant(y.type, 1)
        is_zero = b.icmp_unsigned("==", y, zero)
        if not t.is_signed:
            safe = b.select(is_zero, one, y)
            return b.select(is_zero, zero, b.urem(x, safe) if remainder else b.udiv(x, safe))
        is_minus = b.icmp_signed("==", y, ir.Constant(y.type, -1))
        safe = b.select(b.or_(is_zero, is_minus), one, y)
        value = b.srem(x, safe) if remainder else b.sdiv(x, safe)
        value = b.select(is_minus, zero if remainder else b.sub(zero, x), value)
        return b.select(is_zero, zero, value)

    return emit


def _shift(right: bool) -> Emit:
    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        is_inside = b.icmp_unsigned("<", y, ir.Constant(y.type, t.bytes * 8))
        by = b.select(is_inside, y, ir.Constant(y.type, 0))
        shifted = (b.ashr(x, by) if t.is_signed else b.lshr(x, by)) if right else b.shl(x, by)
        return b.select(is_inside, shifted, ir.Constant(x.type, 0))

    return emit


def _float_sign(b: Any, _t: DType, x: Operand) -> Operand:
    zero, one, minus = (ir.Constant(x.type, v) for v in (0.0, 1.0, -1.0))
    return b.select(b.fcmp_ordered("<", x, zero), minus, b.select(b.fcmp_ordered(">", x, zero), one, x))


def _integer_sign(b: Any, t: DType, x: Operand) -> Operand:
    zero = ir.Constant(x.type, 0)
    above = b.zext(b.icmp_unsigned("!=", x, zero), x.type)
    return b.select(b.icmp_signed("<", x, zero), ir.Constant(x.type, -1), above) if t.is_signed else above


def _integer_abs(b: Any, t: DType, x: Operand) -> Operand:
    zero = ir.Constant(x.type, 0)
    return b.select(b.icmp_signed("<", x, zero), b.sub(zero, x), x) if t.is_signed else x


def _float_compare(order: str) -> Emit:
    def emit(b: Any, _t: DType, x: Operand, y: Operand) -> Operand:
        return b.fcmp_unordered("!=", x, y) if order == "!=" else b.fcmp_ordered(order, x, y)

    return emit


def _integer_compare(order: str) -> Emit:
    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        return _ordered(b, t, order, x, y)

    return emit


_COMPARISONS = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<="}
_BINARY = frozenset(("add", "sub", "mul", "div", "rem", "max", "min", "and", "or", "xor", "shift_left", "shift_right"))
_FLOAT: dict[str, Emit] = {
    "add": _rounded_once("add"),
    "sub": _subtract,
    "mul": _rounded_once("mul"),
    "div": lambda b, t, x, y: b.fdiv(x, y),
    "rem": _float_remainder,
    "fma": _fma,
    "neg": _negated,
    "abs": _unary_ptx("abs.{}"),
    "sign": _float_sign,
    "max": _extreme(">"),
    "min": _extreme("<"),
    "sqrt": _unary_ptx("sqrt.rn.{}"),
    "floor": _unary_ptx("cvt.rmi.{0}.{0}"),
    "ceil": _unary_ptx("cvt.rpi.{0}.{0}"),
    "round": _unary_ptx("cvt.rni.{0}.{0}"),
    "trunc": _unary_ptx("cvt.rzi.{0}.{0}"),
    "select": lambda b, t, c, x, y: b.select(c, x, y),
    **{name: _float_compare(sign) for name, sign in _COMPARISONS.items()},
}
_INTEGER: dict[str, Emit] = {
    "add": lambda b, t, x, y: b.add(x, y),
    "sub": lambda b, t, x, y: b.sub(x, y),
    "mul": lambda b, t, x, y: b.mul(x, y),
    "div": _integer_division(False),
    "rem": _integer_division(True),
    "neg": lambda b, t, x: b.sub(ir.Constant(x.type, 0), x),
    "abs": _integer_abs,
    "sign": _integer_sign,
    "max": _integer_extreme(">"),
    "min": _integer_extreme("<"),
    "and": lambda b, t, x, y: b.and_(x, y),
    "or": lambda b, t, x, y: b.or_(x, y),
    "xor": lambda b, t, x, y: b.xor(x, y),
    "not": lambda b, t, x: b.not_(x),
    "shift_left": _shift(False),
    "shift_right": _shift(True),
    "select": lambda b, t, c, x, y: b.select(c, x, y),
    **{name: _integer_compare(sign) for name, sign in _COMPARISONS.items()},
}


# -- conversions -------------------------------------------------------------------------------------------


def _cast(rest: str) -> Any:
    source, target = (DType(name) for name in rest.split("_"))
    return _define(numba_type(target), [numba_type(source)], lambda b, x: _converted(b, x, source, target))


def _bitcast(rest: str) -> Any:
    source, target = (DType(name) for name in rest.split("_"))
    return _define(numba_type(target), [numba_type(source)], lambda b, x: b.bitcast(x, llvm_type(target)))


def _converted(b: Any, x: Operand, source: DType, target: DType) -> Operand:
    """``Cast`` of compiler/scalar.py; small floats go through float32."""
    kind = llvm_type(target)
    match source, target:
        case _ if source is target:
            return x
        case (DType.FLOAT16, _):
            wide = _assembly(b, ir.FloatType(), "cvt.f32.f16 $0, $1;", "=f,h", x)
            return _converted(b, wide, FLOAT32, target)
        case (DType.BFLOAT16, _):
            wide = b.bitcast(b.shl(b.zext(x, I32), I32(16)), ir.FloatType())
            return _converted(b, wide, FLOAT32, target)
        case (DType.FLOAT64, DType.FLOAT16):
            return _assembly(b, I16, "cvt.rn.f16.f64 $0, $1;", "=h,d", x)
        case (_, DType.FLOAT16):
            return _assembly(b, I16, "cvt.rn.f16.f32 $0, $1;", "=h,f", _converted(b, x, source, FLOAT32))
        case (_, DType.BFLOAT16):
            return _to_bfloat16(b, _converted(b, x, source, FLOAT32))
        case (_, DType.BOOL) if source.is_float:
            return b.fcmp_unordered("!=", x, ir.Constant(x.type, 0.0))
        case (_, DType.BOOL):
            return b.icmp_unsigned("!=", x, ir.Constant(x.type, 0))
        case (DType.BOOL, _) if not target.is_float:
            return b.zext(x, kind)
        case _ if source.is_float and target.is_float:
            return b.fpext(x, kind) if source.bytes < target.bytes else b.fptrunc(x, kind)
        case _ if source.is_float:
            return _to_integer(b, x, source, target)
        case _ if target.is_float:
            return b.sitofp(x, kind) if source.is_signed and source is not BOOL else b.uitofp(x, kind)
    if source.bytes == target.bytes:
        return x
    if source.bytes > target.bytes:
        return b.trunc(x, kind)
    return b.sext(x, kind) if source.is_signed else b.zext(x, kind)


def _to_bfloat16(b: Any, x: Operand) -> Operand:
    """The upper half, rounded to nearest, halves to even; a NaN stays one."""
    bits = b.bitcast(x, I32)
    last = b.and_(b.lshr(bits, I32(16)), I32(1))
    rounded = b.add(bits, b.add(last, I32(0x7FFF)))
    quiet = b.or_(bits, I32(0x400000))
    return b.trunc(b.lshr(b.select(b.fcmp_unordered("uno", x, x), quiet, rounded), I32(16)), I16)


def _to_integer(b: Any, x: Operand, source: DType, target: DType) -> Operand:
    """Truncated and clamped; NaN gives 0."""
    wide = target if target.bytes >= 4 else (INT32 if target.is_signed else UINT32)
    name = ("s" if wide.is_signed else "u") + str(wide.bytes * 8)
    registers = ("=l" if wide.bytes == 8 else "=r") + ("," + ("f" if source is FLOAT32 else "d"))
    kind = llvm_type(wide)
    value = _assembly(b, kind, f"cvt.rzi.{name}.f{source.bytes * 8} $0, $1;", registers, x)
    value = b.select(b.fcmp_unordered("uno", x, x), ir.Constant(kind, 0), value)
    if wide is target:
        return value
    bits = target.bytes * 8
    top = (1 << (bits - 1)) - 1 if target.is_signed else (1 << bits) - 1
    value = b.select(_ordered(b, wide, ">", value, ir.Constant(kind, top)), ir.Constant(kind, top), value)
    if target.is_signed:
        low = -top - 1
        value = b.select(b.icmp_signed("<", value, ir.Constant(kind, low)), ir.Constant(kind, low), value)
    return b.trunc(value, llvm_type(target))


# -- memory ------------------------------------------------------------------------------------------------


def _element(b: Any, pointer: Operand, index: Operand) -> Operand:
    return b.gep(pointer, [b.sext(index, I64)])


def _load(rest: str) -> Any:
    """``load_DTYPE(p, i)``; ``load_if_DTYPE(p, i, condition)`` is 0 where the condition does not hold, and reads p[0] there."""
    if rest.startswith("if_"):
        return _load_if(DType(rest.removeprefix("if_")))
    dtype = DType(rest)

    def emit(b: Any, pointer: Operand, index: Operand) -> Operand:
        value = b.load(_element(b, pointer, index))
        return b.icmp_unsigned("!=", value, I8(0)) if dtype is BOOL else value

    return _define(numba_type(dtype), [pointer_type(dtype), types.int32], emit)


def _load_if(dtype: DType) -> Any:
    def emit(b: Any, pointer: Operand, index: Operand, condition: Operand) -> Operand:
        value = b.load(_element(b, pointer, b.select(condition, index, I32(0))))
        value = b.icmp_unsigned("!=", value, I8(0)) if dtype is BOOL else value
        return b.select(condition, value, ir.Constant(value.type, 0))

    return _define(numba_type(dtype), [pointer_type(dtype), types.int32, types.boolean], emit)


def _store(name: str) -> Any:
    dtype = DType(name)

    def emit(b: Any, pointer: Operand, index: Operand, value: Operand) -> Operand:
        b.store(b.zext(value, I8) if dtype is BOOL else value, _element(b, pointer, index))

    return _define(types.void, [pointer_type(dtype), types.int32, numba_type(dtype)], emit)


def _load4(rest: str) -> Any:
    """``load4_if_float32(p, i, condition)``: four neighbours in one aligned access, or zeros; reads p[0 … 3] then."""
    assert rest == "if_float32"

    def emit(b: Any, pointer: Operand, index: Operand, condition: Operand) -> Operand:
        start = _element(b, pointer, b.select(condition, index, I32(0)))
        zero = ir.Constant(ir.FloatType(), 0.0)
        return _packed(b, [b.select(condition, value, zero) for value in _vector(b, start, 0)])

    return _define(tile_type(4), [pointer_type(FLOAT32), types.int32, types.boolean], emit)


def _store4(rest: str) -> Any:
    """``store4_float32(p, i, v)``: four neighbours in one aligned access."""
    assert rest == "float32"

    def emit(b: Any, pointer: Operand, index: Operand, values: Operand) -> Operand:
        _store_vector(b, _element(b, pointer, index), _unpacked(b, values, 4))

    return _define(types.void, [pointer_type(FLOAT32), types.int32, tile_type(4)], emit)


def _store_vector(b: Any, place: Operand, values: Sequence[Operand]) -> None:
    """Neighbours of four bytes each in one aligned access."""
    vector: Operand = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
    for lane, value in enumerate(values):
        vector = b.insert_element(vector, value, I32(lane))
    b.store(vector, b.bitcast(place, ir.PointerType(vector.type)), align=4 * len(values))


def _shared(rest: str) -> Any:
    """``shared_DTYPE_COUNT()``: the block's memory (one array a name)."""
    name, count = rest.split("_")
    dtype = DType(name)

    def emit(b: Any) -> Operand:
        array = ir.ArrayType(llvm_type(dtype), int(count))
        variable = ir.GlobalVariable(b.module, array, b.module.get_unique_name("shared"), addrspace=SHARED)
        variable.linkage, variable.align = "internal", 16
        variable.initializer = ir.Constant(array, ir.Undefined)
        first = b.gep(variable, [I32(0), I32(0)])
        return b.addrspacecast(first, ir.PointerType(llvm_type(dtype)))

    return _define(pointer_type(dtype), [], emit)


# -- register tiles ----------------------------------------------------------------------------------------


def tile_type(count: int) -> Any:
    """``count`` float32 accumulators in registers."""
    return types.UniTuple(types.float32, count)


def _unpacked(b: Any, tile: Operand, count: int) -> list[Operand]:
    return [b.extract_value(tile, position) for position in range(count)]


def _packed(b: Any, values: Sequence[Operand]) -> Operand:
    tile: Operand = ir.Constant(ir.ArrayType(values[0].type, len(values)), ir.Undefined)
    for position, value in enumerate(values):
        tile = b.insert_value(tile, value, position)
    return tile


def _vector(b: Any, pointer: Operand, offset: int, width: int = 4) -> list[Operand]:
    """``width`` neighbouring float32 in one access."""
    kind = ir.VectorType(ir.FloatType(), width)
    value = b.load(b.bitcast(b.gep(pointer, [I64(offset)]), ir.PointerType(kind)), align=4 * width)
    return [b.extract_element(value, I32(lane)) for lane in range(width)]


def _tile(rest: str) -> Any:
    operation, *numbers = rest.split("_")
    makers: dict[str, Callable[..., Any]] = {"zero": _tile_zero, "add": _tile_add, "fma": _tile_fma, "stage": _tile_stage}
    return makers[operation](*map(int, numbers))


def _tile_zero(count: int) -> Any:
    return _define(tile_type(count), [], lambda b: ir.Constant(ir.ArrayType(ir.FloatType(), count), [0.0] * count))


def _tile_add(count: int) -> Any:
    def emit(b: Any, x: Operand, y: Operand) -> Operand:
        pairs = zip(_unpacked(b, x, count), _unpacked(b, y, count), strict=True)
        return _packed(b, [_rounded_once("add")(b, FLOAT32, left, right) for left, right in pairs])

    return _define(tile_type(count), [tile_type(count)] * 2, emit)


def _tile_fma(depth: int, left_stride: int, right_stride: int, rows: int, columns: int) -> Any:
    """tile += the products of ``depth`` k-slices in shared memory: fragments of four lie a quarter tile apart.

    ``tile_fma(tile, left, right)``: left[k, row] and right[k, column] of this thread's first fragment.
    """
    pointer = pointer_type(FLOAT32)
    row_step, column_step = _fragment_step(left_stride, rows), _fragment_step(right_stride, columns)

    def emit(b: Any, tile: Operand, left: Operand, right: Operand) -> Operand:
        sums = _unpacked(b, tile, rows * columns)
        for k in range(depth):
            a = [v for f in range(rows // 4) for v in _vector(b, left, k * left_stride + f * row_step)]
            w = [v for f in range(columns // 4) for v in _vector(b, right, k * right_stride + f * column_step)]
            for i in range(rows):
                for j in range(columns):
                    sums[i * columns + j] = _fma(b, FLOAT32, a[i], w[j], sums[i * columns + j])
        return _packed(b, sums)

    return _define(tile_type(rows * columns), [tile_type(rows * columns), pointer, pointer], emit)


def _fragment_step(stride: int, count: int) -> int:
    """How far apart a thread's fragments of four lie in a k-slice, whose stride has 4 elements of padding."""
    return (stride - 4) * 4 // count


def _tile_stage(rows: int, columns: int, first: int, count: int, row_stride: int, column_step: int) -> Any:
    """``tile_stage(tile, target)``: rows first … first + count of the tile to shared memory, fragments as in tile_fma."""

    def emit(b: Any, tile: Operand, target: Operand) -> Operand:
        values = _unpacked(b, tile, rows * columns)
        for i in range(count):
            for f in range(columns // 4):
                start = (first + i) * columns + 4 * f
                _store_vector(b, b.gep(target, [I64(i * row_stride + f * column_step)]), values[start : start + 4])

    return _define(types.void, [tile_type(rows * columns), pointer_type(FLOAT32)], emit)


# -- tensor cores ------------------------------------------------------------------------------------------
#
# Slices lie [row, k] in words of four bytes: a float32, or two bfloat16. mma.sync.m16n8 takes 8 words of k of 16 rows and 8
# columns; ldmatrix brings four matrices of 8 rows of 4 words, each lane naming a row (PTX ISA 8.0, sections 9.7.13.4 and 5).

_MMA = {"tf32": "m16n8k8.row.col.f32.tf32.tf32.f32", "bf16": "m16n8k16.row.col.f32.bf16.bf16.f32"}
TF32_HALF, TF32_MASK = 0x1000, 0xFFFFE000  # half of the last bit that tensor cores read, and all that they read


def _mma(rest: str) -> Any:
    head, *numbers = rest.split("_")
    if head == "stage":
        return _mma_stage(*map(int, numbers))
    return _mma_tile(head, *map(int, numbers))


def _mma_tile(engine: str, stride: int, steps: int, down: int, across: int) -> Any:
    """tile += left * right' over ``steps`` times 8 words of k, for a warp's down x across fragments of m16n8.

    ``mma(tile, left, right)``: this lane's rows of the first matrices. 3xtf32 adds the small products first.
    """
    pointer = pointer_type(FLOAT32)

    def emit(b: Any, tile: Operand, left: Operand, right: Operand) -> Operand:
        sums = _unpacked(b, tile, down * across * 4)
        left, right = (_shared_address(b, place) for place in (left, right))
        for step in range(steps):
            a = [_ldmatrix(b, left, 4 * (i * 16 * stride + step * 8)) for i in range(down)]
            pairs = [_ldmatrix(b, right, 4 * (j * 16 * stride + step * 8)) for j in range(across // 2)]
            w = [pair[half : half + 2] for pair in pairs for half in (0, 2)]
            for x, y in _passes(b, engine, a, w):
                for i in range(down):
                    for j in range(across):
                        at = 4 * (i * across + j)
                        sums[at : at + 4] = _multiplied(b, _MMA[engine.removeprefix("3x")], sums[at : at + 4], x[i], y[j])
        return _packed(b, sums)

    return _define(tile_type(down * across * 4), [tile_type(down * across * 4), pointer, pointer], emit)


Fragments: TypeAlias = list[list[Operand]]


def _passes(b: Any, engine: str, a: Fragments, w: Fragments) -> list[tuple[Fragments, Fragments]]:
    """What is multiplied: the operands themselves, or low x high, high x low and high x high parts."""
    if engine != "3xtf32":
        return [(a, w)]
    (a_high, a_low), (w_high, w_low) = (_split(b, side) for side in (a, w))
    return [(a_low, w_high), (a_high, w_low), (a_high, w_high)]


def _split(b: Any, side: Fragments) -> tuple[Fragments, Fragments]:
    """Each number as what a tensor core reads of it, rounded, and the exact rest."""
    high = [[b.and_(b.add(x, I32(TF32_HALF)), I32(TF32_MASK)) for x in part] for part in side]
    low = [[b.bitcast(_subtract(b, FLOAT32, b.bitcast(x, ir.FloatType()), b.bitcast(h, ir.FloatType())), I32)
            for x, h in zip(*parts, strict=True)] for parts in zip(side, high, strict=True)]  # fmt: skip
    return high, low


def _shared_address(b: Any, pointer: Operand) -> Operand:
    """A generic pointer into shared memory as PTX's 32-bit address."""
    return b.ptrtoint(b.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, SHARED)), I32)


def _ldmatrix(b: Any, address: Operand, offset: int) -> list[Operand]:
    """Four matrices of 8 x 4 words: each lane gets one word of each."""
    kind = ir.FunctionType(ir.LiteralStructType([I32] * 4), [I32])
    code = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];"
    found = b.asm(kind, code, "=r,=r,=r,=r,r,~{memory}", [b.add(address, I32(offset))], True)
    return [b.extract_value(found, place) for place in range(4)]


def _multiplied(b: Any, shape: str, sums: list[Operand], a: list[Operand], w: list[Operand]) -> list[Operand]:
    """One mma.sync; all 32 lanes take part."""
    kind = ir.FunctionType(ir.LiteralStructType([ir.FloatType()] * 4), [I32] * 6 + [ir.FloatType()] * 4)
    code = f"mma.sync.aligned.{shape} {{$0, $1, $2, $3}}, {{$4, $5, $6, $7}}, {{$8, $9}}, {{$10, $11, $12, $13}};"
    found = b.asm(kind, code, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", [*a, *w, *sums], True)
    return [b.extract_value(found, place) for place in range(4)]


def _mma_stage(down: int, across: int, part: int, columns: int) -> Any:
    """``mma_stage(tile, target)``: the part-th 16 rows of a warp's tile to memory of ``columns`` words a row."""

    def emit(b: Any, tile: Operand, target: Operand) -> Operand:
        values = _unpacked(b, tile, down * across * 4)
        for j in range(across):
            at = 4 * (part * across + j)
            for half in (0, 1):
                _store_vector(b, b.gep(target, [I64(half * 8 * columns + 8 * j)]), values[at + 2 * half : at + 2 * half + 2])

    return _define(types.void, [tile_type(down * across * 4), pointer_type(FLOAT32)], emit)


def _keep(name: str) -> Any:
    """``keep_ENGINE(p, i, x)``: an operand as the engine reads it, at the i-th place of its kind."""

    def emit(b: Any, pointer: Operand, index: Operand, value: Operand) -> Operand:
        kept = _kept(b, name, value)
        b.store(kept, _element(b, b.bitcast(pointer, ir.PointerType(kept.type)), index))

    return _define(types.void, [pointer_type(FLOAT32), types.int32, types.float32], emit)


def _keep4(name: str) -> Any:
    """``keep4_ENGINE(p, i, v)``: four neighbours in one aligned access."""

    def emit(b: Any, pointer: Operand, index: Operand, values: Operand) -> Operand:
        kept = [_kept(b, name, value) for value in _unpacked(b, values, 4)]
        place = _element(b, b.bitcast(pointer, ir.PointerType(kept[0].type)), index)
        if name == "bfloat16":
            wide = [b.zext(value, I32) for value in kept]
            words = [b.or_(low, b.shl(high, I32(16))) for low, high in zip(wide[::2], wide[1::2], strict=True)]
            _store_vector(b, b.bitcast(place, ir.PointerType(I32)), words)
        else:
            _store_vector(b, place, kept)

    return _define(types.void, [pointer_type(FLOAT32), types.int32, tile_type(4)], emit)


def _kept(b: Any, name: str, value: Operand) -> Operand:
    match name:
        case "tf32":
            rounded = b.bitcast(b.add(b.bitcast(value, I32), I32(TF32_HALF)), ir.FloatType())
            return b.select(b.fcmp_unordered("uno", value, value), value, rounded)
        case "bfloat16":
            return _to_bfloat16(b, value)
    return value


# -- Winograd's transforms ---------------------------------------------------------------------------------


_MATRICES: dict[str, Callable[..., Any]] = {  # of A', G and B'
    "input": lambda a, g, b: b,
    "output": lambda a, g, b: a,
    "gradient": lambda a, g, b: a.T,
    "filter": lambda a, g, b: g,
    "back": lambda a, g, b: g.T,
}


def _transform(rest: str) -> Any:
    """``transform_input4t3x4t3_float32(x00, x01, ...)``: a tile by rows -> down x tile x across' by rows, with the matrices
    of 4 outputs and 3 taps along both axes."""
    name, dtype = rest.split("_")
    which = "".join(takewhile(str.isalpha, name))
    axes = name.removeprefix(which).split("x")
    down, across = (_MATRICES[which](*matrices(*map(int, axis.split("t")))) for axis in axes)
    (rows, size), (columns, width) = down.shape, across.shape
    kind = DType(dtype)
    element = numba_type(kind)

    def emit(b: Any, *x: Operand) -> Operand:
        lines = [[_combination(b, kind, row, x[j::width]) for j in range(width)] for row in down]
        return _packed(b, [_combination(b, kind, row, line) for line in lines for row in across])

    return _define(types.UniTuple(element, rows * columns), [element] * (size * width), emit)


def _combination(b: Any, t: DType, coefficients: Sequence[float], values: Sequence[Operand]) -> Operand:
    """sum of coefficient * value, without the zeros; what needs no product comes first."""
    pairs = [(float(c), v) for c, v in zip(coefficients, values, strict=True) if c]
    pairs.sort(key=lambda pair: (abs(pair[0]) != 1, pair[0] < 0))
    (first, total), *others = pairs
    if first != 1:
        total = _FLOAT["neg"](b, t, total) if first == -1 else _FLOAT["mul"](b, t, total, ir.Constant(total.type, first))
    for coefficient, value in others:
        match coefficient:
            case 1.0:
                total = _FLOAT["add"](b, t, total, value)
            case -1.0:
                total = _FLOAT["sub"](b, t, total, value)
            case _:
                total = _fma(b, t, value, ir.Constant(value.type, coefficient), total)
    return total


# -- threads and indices -----------------------------------------------------------------------------------


def _special(register: str) -> Callable[[], Any]:
    return lambda: _define(types.int32, [], lambda b: _called(b, f"llvm.nvvm.read.ptx.sreg.{register}", I32))


def _barrier() -> Any:
    return _define(types.void, [], lambda b: _called(b, "llvm.nvvm.barrier0", ir.VoidType()) and None)


def _index(emit: Emit) -> Callable[[], Any]:
    return lambda: _define(types.int32, [types.int32] * 2, emit)


def _flag(emit: Emit, arguments: int, kind: Any) -> Callable[[], Any]:
    return lambda: _define(types.boolean, [kind] * arguments, emit)


def _floor_quotient(b: Any, x: Operand, y: Operand) -> Operand:
    quotient = b.sdiv(x, y)
    rest = b.sub(x, b.mul(quotient, y))
    return b.add(quotient, b.sext(b.icmp_signed("<", rest, I32(0)), I32))


def _floor_remainder(b: Any, x: Operand, y: Operand) -> Operand:
    rest = b.srem(x, y)
    return b.select(b.icmp_signed("<", rest, I32(0)), b.add(rest, y), rest)


def _wrapped() -> Any:
    """A run-time index counted from the end where it is negative."""
    def emit(b: Any, index: Operand, extent: Operand) -> Operand:
        return b.select(b.icmp_signed("<", index, I64(0)), b.add(index, b.sext(extent, I64)), index)

    return _define(types.int64, [types.int64, types.int32], emit)


def _within() -> Any:
    def emit(b: Any, index: Operand, extent: Operand) -> Operand:
        return b.icmp_unsigned("<", index, b.sext(extent, I64))

    return _define(types.boolean, [types.int64, types.int32], emit)


def _at() -> Any:
    """``at(p, i)``: the pointer i float32 further."""
    pointer = pointer_type(FLOAT32)
    return _define(pointer, [pointer, types.int32], _element)


_FAMILIES: dict[str, Callable[[str], Any]] = {
    "cast": _cast, "bitcast": _bitcast, "load": _load, "store": _store, "shared": _shared, "tile": _tile,
    "transform": _transform, "load4": _load4, "store4": _store4, "keep": _keep, "keep4": _keep4, "mma": _mma,
}  # fmt: skip
_PLAIN: dict[str, Callable[[], Any]] = {
    "thread": _special("tid.x"),
    "block": _special("ctaid.x"),
    "barrier": _barrier,
    "at": _at,
    "plus": _index(lambda b, x, y: b.add(x, y, flags=["nsw"])),
    "minus": _index(lambda b, x, y: b.sub(x, y, flags=["nsw"])),
    "times": _index(lambda b, x, y: b.mul(x, y, flags=["nsw"])),
    "quotient": _index(lambda b, x, y: b.udiv(x, y)),
    "remainder": _index(lambda b, x, y: b.urem(x, y)),
    "floor_quotient": _index(_floor_quotient),
    "floor_remainder": _index(_floor_remainder),
    "lesser": _index(lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y)),
    "below": _flag(lambda b, x, y: b.icmp_signed("<", x, y), 2, types.int32),
    "inside": _flag(lambda b, x: b.icmp_signed(">=", x, I32(0)), 1, types.int32),
    "both": _flag(lambda b, x, y: b.and_(x, y), 2, types.boolean),
    "wrapped": _wrapped,
    "within": _within,
}  # fmt: skip
__all__ = ["intrinsic_named", "memory_type", "numba_type", "pointer_type"]
