"""Programs with hand-made kernels, so that the host code is tested apart from the compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.program import (
    BufferRef,
    Entry,
    Launch,
    Port,
    Program,
    Space,
    StatePort,
    Turn,
)
from netloom.compiler.tensor_type import FLOAT32, INT32, TensorType

F32, I32, I64, PTR = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.PointerType()
N = Symbol("N", 1, 64)


class Body:
    """A kernel under construction."""

    def __init__(
        self, builder: ir.IRBuilder, words: ir.Value, begin: ir.Value, end: ir.Value
    ) -> None:
        self.builder, self.words, self.begin, self.end = builder, words, begin, end

    def pointer(self, word: int) -> ir.Value:
        address = self.builder.gep(self.words, [I64(word)], source_etype=I64)
        return self.builder.load(address, typ=PTR)

    def extent(self, word: int) -> ir.Value:
        return self.builder.load(
            self.builder.gep(self.words, [I64(word)], source_etype=I64), typ=I64
        )

    def load(self, pointer: ir.Value, index: ir.Value | int, type: ir.Type = F32) -> ir.Value:
        return self.builder.load(self._at(pointer, index, type), typ=type)

    def store(self, pointer: ir.Value, index: ir.Value | int, value: ir.Value) -> None:
        self.builder.store(value, self._at(pointer, index, value.type))

    def _at(self, pointer: ir.Value, index: ir.Value | int, type: ir.Type) -> ir.Value:
        return self.builder.gep(
            pointer, [I64(index) if isinstance(index, int) else index], source_etype=type
        )

    @contextmanager
    def loop(self, begin: ir.Value, end: ir.Value) -> Iterator[ir.Value]:
        builder = self.builder
        before, head = builder.block, builder.append_basic_block()
        body, after = builder.append_basic_block(), builder.append_basic_block()
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(begin, before)
        builder.cbranch(builder.icmp_signed("<", index, end), body, after)
        builder.position_at_end(body)
        yield index
        index.add_incoming(builder.add(index, I64(1)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)


def kernel_object(**kernels: Callable[[Body], None]) -> bytes:
    """An ELF object with these kernels."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = ir.Module()
    for name, build in kernels.items():
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, I64, I64]), name)
        builder = ir.IRBuilder(function.append_basic_block())
        build(Body(builder, *function.args))
        builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    for name in kernels:
        parsed.get_function(name).visibility = "hidden"
    machine = llvm.Target.from_default_triple().create_target_machine(
        reloc="pic", codemodel="small"
    )
    return bytes(machine.emit_object(parsed))


def _double(body: Body) -> None:
    x, y = body.pointer(0), body.pointer(1)
    with body.loop(body.begin, body.end) as item:
        value = body.load(x, item)
        body.store(y, item, body.builder.fadd(value, value))


def _affine(body: Body) -> None:
    """y[n, m] = b[m] + sum over k of x[n, k] w[k, m]; an item is a row; extents k, m."""
    x, w, b, y = (body.pointer(word) for word in range(4))
    k, m, builder = body.extent(4), body.extent(5), body.builder
    with body.loop(body.begin, body.end) as row, body.loop(I64(0), m) as column:
        at = builder.add(builder.mul(row, m), column)
        body.store(y, at, body.load(b, column))
        with body.loop(I64(0), k) as inner:
            left = body.load(x, builder.add(builder.mul(row, k), inner))
            right = body.load(w, builder.add(builder.mul(inner, m), column))
            body.store(y, at, builder.fadd(body.load(y, at), builder.fmul(left, right)))


def _update(body: Body) -> None:
    """w -= rate * dw, elementwise."""
    w, dw, rate = (body.pointer(word) for word in range(3))
    with body.loop(body.begin, body.end) as item:
        step = body.builder.fmul(body.load(rate, 0), body.load(dw, item))
        body.store(w, item, body.builder.fsub(body.load(w, item), step))


def _scale(body: Body) -> None:
    """y = w * x, elementwise."""
    w, x, y = (body.pointer(word) for word in range(3))
    with body.loop(body.begin, body.end) as item:
        body.store(y, item, body.builder.fmul(body.load(w, item), body.load(x, item)))


def _first(body: Body) -> None:
    """y[0] = w[0]."""
    body.store(body.pointer(1), 0, body.load(body.pointer(0), 0))


def _checked(body: Body) -> None:
    """y = x, and error 7 if an element is negative."""
    x, y, flag = (body.pointer(word) for word in range(3))
    with body.loop(body.begin, body.end) as item:
        value = body.load(x, item, I32)
        body.store(y, item, value)
        with body.builder.if_then(body.builder.icmp_signed("<", value, I32(0))):
            body.builder.store(I32(7), flag)


@cache
def kernels() -> list[bytes]:
    """The objects of all programs here."""
    return [
        kernel_object(double=_double, affine=_affine),
        kernel_object(update=_update, scale=_scale, first=_first, checked=_checked),
    ]


def ref(space: Space, index: int = 0) -> BufferRef:
    return BufferRef(space, index)


def float32(*shape: Extent) -> TensorType:
    return TensorType(FLOAT32, shape)


def program(
    entries: Sequence[Entry],
    constants: Sequence[Constant] = (),
    states: Sequence[StatePort] = (),
    symbols: Sequence[Symbol] = (),
    name: str = "small",
    **metadata: Any,
) -> Program:
    return Program(
        name, tuple(symbols), tuple(entries), tuple(constants), tuple(states), {}, metadata
    )


def doubling(extent: Extent = 5, name: str = "small", x: str = "x", y: str = "y") -> Program:
    """y = 2x for float32[extent, 4]."""
    type = float32(extent, 4)
    items = extent * 4
    launch = Launch("double", (ref(Space.INPUT), ref(Space.OUTPUT)), (), items)
    symbols = sorted(extent.symbols(), key=str) if isinstance(extent, Dim) else []
    return program(
        [Entry("run", (Port(x, type),), (Port(y, type),), (launch,), ())],
        symbols=symbols,
        name=name,
    )


def chain(length: int = 3, extent: Extent | None = None) -> Program:
    """y = 2^length x through arena slots, for float32[extent, 4]; N if no extent is given."""
    extent = Dim.of(N) if extent is None else extent
    type, items = float32(extent, 4), extent * 4
    refs = [
        ref(Space.INPUT),
        *(ref(Space.ARENA, slot) for slot in range(length - 1)),
        ref(Space.OUTPUT),
    ]
    launches = tuple(Launch("double", (a, b), (), items) for a, b in pairwise(refs))
    entry = Entry(
        "run", (Port("x", type),), (Port("y", type),), launches, (type.bytes,) * (length - 1)
    )
    return program([entry], symbols=[N] if isinstance(extent, Dim) else [])


def turning() -> Program:
    """y = 2^(N + 1) x for float32[N, 4]: y is doubled again in each of N turns."""
    rows, turn = Dim.of(N), Symbol("turn", 0, 63)
    (entry,) = doubling(rows).entries
    (first,) = entry.launches
    again = Launch("double", (ref(Space.OUTPUT), ref(Space.OUTPUT)), (), rows * 4)
    turns = tuple(Turn(turn, rows, rows - 1, None, is_first, 1, 2) for is_first in (True, False))
    entry = Entry("run", entry.inputs, entry.outputs, (first, again), (), turns)
    return program([entry], symbols=[N])


def dense(weights: np.ndarray, bias: Any) -> Program:
    """y = x w + b for float32[N, k]; the bias may be a splat."""
    k, m = weights.shape
    bias = bias if isinstance(bias, Constant) else Constant(bias, FLOAT32)
    rows = Dim.of(N)
    buffers = (ref(Space.INPUT), ref(Space.CONSTANT, 0), ref(Space.CONSTANT, 1), ref(Space.OUTPUT))
    launch = Launch("affine", buffers, (k, m), rows)
    entry = Entry(
        "run", (Port("x", float32(rows, k)),), (Port("y", float32(rows, m)),), (launch,), ()
    )
    return program([entry], [Constant(weights, FLOAT32), bias], symbols=[N])


def training(size: int = 6) -> Program:
    """train_step(dw, rate): first = w[0], then w -= rate dw. run(x): y = w x. w starts as 0, 1,
    2, …
    """
    vector, scalar = float32(size), float32()
    step = Entry(
        "train_step", (Port("dw", vector), Port("rate", scalar)), (Port("first", scalar),),
        (Launch("first", (ref(Space.STATE), ref(Space.OUTPUT)), (), 1),
         Launch("update", (ref(Space.STATE), ref(Space.INPUT, 0), ref(Space.INPUT, 1)), (), size)), (),
    )  # fmt: skip
    scale = Launch("scale", (ref(Space.STATE), ref(Space.INPUT), ref(Space.OUTPUT)), (), size)
    run = Entry("run", (Port("x", vector),), (Port("y", vector),), (scale,), ())
    return program(
        [step, run],
        [Constant(np.arange(size), FLOAT32)],
        [StatePort("layer.w", vector, 0)],
        name="trained",
    )


def checking(size: int = 4) -> Program:
    """y = x for int32[size]; negative elements set the error flag."""
    type = TensorType(INT32, (size,))
    launch = Launch("checked", (ref(Space.INPUT), ref(Space.OUTPUT)), (), size)
    return program([Entry("run", (Port("x", type),), (Port("y", type),), (launch,), ())])
