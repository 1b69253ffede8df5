"""The host code, entered through the C interface: what programs compute, and the sizes that free
dims give them.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.program import Entry, Launch, Port, Space
from netloom.compiler.targets.cpu.host import I64, PTR, Function
from netloom.compiler.tensor_type import FLOAT32, INT32, TensorType
from netloom.errors import InputError, ShapeError
from tests.compiler.targets.cpu import small_programs as small
from tests.compiler.targets.cpu.host_calls import random, session_of
from tests.compiler.targets.cpu.small_programs import N, float32, ref

# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_static_and_symbolic_programs(threads: int) -> None:
    static, symbolic = session_of(small.doubling(), threads), session_of(small.chain(5), threads)
    x = random(5, 4)
    np.testing.assert_array_equal(static(x), 2 * x)
    for rows in (1, 64, 3, 7):
        x = random(rows, 4)
        np.testing.assert_array_equal(symbolic(x), 32 * x)


def test_many_runs_on_threads_that_sleep_between() -> None:
    session = session_of(small.chain(9), 3)
    x = random(16, 4)
    run = session.bind(x=x)
    for turn in range(300):
        x[0, 0] = turn
        run()
        np.testing.assert_array_equal(run.outputs["y"], 512 * x)


@pytest.mark.parametrize("bias", ["bytes", "splat", "zero splat", "mixed"])
def test_constants(bias: str) -> None:
    m = 3000
    mixed = np.concatenate([np.full(1500, 2.0), np.arange(1500)]).astype(np.float32)
    value = {
        "bytes": Constant(np.arange(m), FLOAT32),
        "splat": Constant.splat(-1.25, TensorType(FLOAT32, (m,))),
        "zero splat": Constant.splat(0, TensorType(FLOAT32, (m,))),
        "mixed": Constant(mixed),
    }[bias]
    weights = np.random.default_rng(1).integers(-3, 4, (4, m)).astype(np.float32)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    y = session_of(small.dense(weights, value))(x)
    np.testing.assert_array_equal(y, x @ weights + np.asarray(value.array))


def test_odd_fill_lengths_and_element_sizes() -> None:
    """A fill whose bytes are no multiple of 8, of each element size, arrives whole."""
    for dtype, count in ((np.uint8, 4099), (np.int16, 2051), (np.float32, 1027), (np.float64, 600)):
        array = np.full(count, 3, dtype)
        constants = [Constant(np.concatenate([array, [5]]).astype(dtype))]
        size = -(-constants[0].array.nbytes // 4)
        launch = Launch("checked", (ref(Space.CONSTANT), ref(Space.OUTPUT)), (), size)
        out = TensorType(INT32, (size,))
        y = session_of(
            small.program([Entry("run", (), (Port("y", out),), (launch,), ())], constants)
        )()
        assert y.tobytes()[: constants[0].array.nbytes] == constants[0].array.tobytes()


def test_an_input_may_be_empty() -> None:
    symbol = Symbol("M", 0, 10)
    session = session_of(small.doubling(Dim.of(symbol)), 2)
    assert session(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_scalars_and_several_outputs() -> None:
    launches = (
        Launch("double", (ref(Space.INPUT), ref(Space.OUTPUT, 0)), (), 1),
        Launch("double", (ref(Space.OUTPUT, 0), ref(Space.OUTPUT, 1)), (), 1),
    )
    ports = (Port("a", float32()), Port("b", float32()))
    session = session_of(
        small.program([Entry("run", (Port("x", float32()),), ports, launches, ())])
    )
    assert [float(value) for value in session(1.5)] == [3.0, 6.0]


# -- sizes -----------------------------------------------------------------------------------------


def _values(
    extents: list[Extent], symbols: tuple[Symbol, ...], numbers: dict[str, int]
) -> tuple[bool, list[int]]:
    """Evaluates extents by the host's own code."""
    import llvmlite.binding as llvm
    from llvmlite import ir

    from netloom.compiler.targets.cpu.host_extents import VALUES, emit_values

    module = ir.Module()
    values = emit_values(module, small.program([], symbols=symbols), extents)
    outer = Function(module, "outer", I64, {"symbols": PTR, "values": PTR}, exported=True)
    outer.return_(outer.call(values, outer["symbols"], outer["values"]).unsigned(I64))
    assert values.function_type == VALUES
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    given = (ctypes.c_int64 * 8)(*(numbers[symbol.name] for symbol in symbols))
    result = (ctypes.c_int64 * len(extents))()
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(
        engine.get_function_address("outer")
    )
    return bool(call(ctypes.addressof(given), ctypes.addressof(result))), list(result)


def test_every_kind_of_extent() -> None:
    n, m = Symbol("N", 0, None), Symbol("M", 0, None)
    a, b = Dim.of(n), Dim.of(m)
    extents: list[Extent] = [
        7,
        -3,
        a,
        a * b * 3 - 5,
        (a - 7) // 4,
        (a - 7) % 4,
        dim.ceil_div(a * b, 64) * 64,
        dim.minimum(a, b),
        dim.maximum(a - b, 0),
        ((a // 2) % 3) * b,
        dim.minimum((a * a) // 3, b % 7),
    ]
    for numbers in ({"N": 0, "M": 0}, {"N": 1, "M": 5}, {"N": 13, "M": 4}, {"N": 1000, "M": 999}):
        overflow, values = _values(extents, (n, m), numbers)
        assert not overflow
        assert values == [dim.evaluate(extent, numbers) for extent in extents]


def test_thousands_of_sizes_are_short_code() -> None:
    """Terms are computed once, and overflows are no chain, on which LLVM's time is a square."""
    from llvmlite import ir

    from netloom.compiler.targets.cpu.host_extents import emit_values

    n, m = Symbol("N", 0, None), Symbol("M", 0, None)
    a, b = Dim.of(n), Dim.of(m)
    extents: list[Extent] = [a * b * 3 + a * i + j for i in range(64) for j in range(64)]
    values = emit_values(ir.Module(), small.program([], symbols=(n, m)), extents)
    depths: dict[object, int] = {}
    for instruction in values.blocks[0].instructions:
        depth = max((depths.get(operand, 0) for operand in instruction.operands), default=0)
        depths[instruction] = depth + (instruction.opname == "or")
    called = sum(instruction.opname == "call" for instruction in values.blocks[0].instructions)
    assert called <= 2 + 62 + 2 * len(extents)  # a * b, its triple, the others' terms, the sums
    assert 12 <= max(depths.values()) <= 2 * 13


def test_overflow_is_noticed() -> None:
    n = Symbol("N", 0, None)
    square = Dim.of(n) * Dim.of(n)
    assert not _values([square], (n,), {"N": 3_037_000_499})[0]
    assert _values([square], (n,), {"N": 3_037_000_500})[0]
    assert _values([Dim.of(n) + 1], (n,), {"N": (1 << 63) - 1})[0]


def test_linear_extents_bind_symbols() -> None:
    extent = Dim.of(N) * 2 + 1
    session = session_of(small.doubling(extent))
    assert session(random(7, 4)).shape == (7, 4)
    with pytest.raises(
        InputError, match=r'"x" must be float32\[2\*N \+ 1, 4\], but float32\[8, 4\] was given'
    ):
        session(random(8, 4))


def test_free_dims_that_no_input_determines_are_refused() -> None:
    type = float32(Dim.of(N) * Dim.of(N))
    entry = Entry("run", (Port("x", type),), (), (), ())
    with pytest.raises(ShapeError, match="No input's shape determines the free dims N of run"):
        session_of(small.program([entry], symbols=[N]))


def test_outputs_cannot_have_negative_extents() -> None:
    ports = (Port("x", float32(Dim.of(N))),), (Port("y", float32(Dim.of(N) - 5)),)
    launch = Launch("double", (ref(Space.INPUT), ref(Space.OUTPUT)), (), Dim.of(N) - 5)
    session = session_of(small.program([Entry("run", *ports, (launch,), ())], symbols=[N]))
    x = random(7)
    np.testing.assert_array_equal(session(x), 2 * x[:2])
    assert session(x[:5]).shape == (0,)
    with pytest.raises(
        InputError,
        match='Axis 0 of the output "y" would have -2 elements: the inputs are too small',
    ):
        session(x[:3])
