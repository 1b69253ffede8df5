"""The host code, entered through the C interface: results, errors, threads, states, hooks and
memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netloom import abi
from netloom.compiler import dim
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.program import Entry, Launch, Port, Program, Space
from netloom.compiler.targets.cpu.features import FEATURES, Feature
from netloom.compiler.targets.cpu.host import I64, PTR, Function
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.tensor_type import FLOAT32, INT32, TensorType
from netloom.errors import (
    CpuFeatureError,
    InputError,
    ShapeError,
    ToolchainError,
    UsageError,
    VerificationError,
)
from netloom.runtime.buffer import Tensors
from netloom.runtime.cpu import Options
from netloom.runtime.session import Session
from tests.compiler.targets.cpu import small_programs as small
from tests.compiler.targets.cpu.small_programs import N, float32, ref


def session_of(program: Program, threads: int = 1) -> Session:
    return Session.in_process(load_in_process([Variant(program, small.kernels())]), threads)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


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

    from netloom.compiler.targets.cpu.host_tables import VALUES, emit_values

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


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (
            np.zeros((3, 5), np.float32),
            r'The input "x" must be float32\[N, 4\] \(here float32\[3, 4\]\), but float32\[3, 5\] was given',
        ),
        (
            np.zeros(4, np.float32),
            r'The input "x" must be float32\[N, 4\], but float32\[4\] was given',
        ),
        (np.zeros((65, 4), np.float32), r"with N from 1 to 64, but float32\[65, 4\] was given"),
        (np.zeros((0, 4), np.float32), r"with N from 1 to 64, but float32\[0, 4\] was given"),
    ],
)
def test_wrong_shapes(x: np.ndarray, text: str) -> None:
    session = session_of(small.chain())
    with pytest.raises(InputError, match=text):
        session(x)
    assert session(random(2, 4)).shape == (2, 4)  # still usable


def test_two_inputs_must_agree_on_a_dim() -> None:
    ports = (Port("a", float32(Dim.of(N))), Port("b", float32(Dim.of(N))))
    session = session_of(small.program([Entry("run", ports, (), (), ())], symbols=[N]))
    with pytest.raises(
        InputError,
        match=r'"b" must be float32\[N\] \(here float32\[3\]\), but float32\[4\] was given',
    ):
        session(random(3), random(4))


class Raw:
    """Calls below the session's own checks."""

    def __init__(self, program: Program, **options: Any) -> None:
        self.model = session_of(program)._model
        self.api = self.model.api
        handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(1024)
        given = Options(**{"size": ctypes.sizeof(Options), **options})
        pointers = ctypes.addressof(given), ctypes.byref(handle), text, 1024
        self.code = self.api["context_create"](self.model.handle, *pointers)
        self.text, self.context = text.value.decode(), handle.value

    def run(self, inputs: Tensors | None, outputs: Tensors | None) -> tuple[int, str]:
        sides = [(t.pointer, t.count) if t else (None, 1) for t in (inputs, outputs)]
        code = self.api["run"](self.context, *sides[0], *sides[1])
        return code, self.api["last_error"](self.context).decode()

    def close(self) -> None:
        self.api["context_destroy"](self.context)


def _tensors(array: np.ndarray, change: Callable[[Any], None] = lambda tensor: None) -> Tensors:
    tensors = Tensors([array], ["float32"])
    change(tensors._kept[0][0])
    return tensors


def _set(**fields: Any) -> Callable[[Any], None]:
    def change(tensor: Any) -> None:
        for name, value in fields.items():
            setattr(tensor, name, value)

    return change


_STRIDED = (ctypes.c_int64 * 2)(8, 1)
_COMPACT = (ctypes.c_int64 * 2)(4, 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_set(data=None), 'The input "x" has no data: its pointer is null.'),
        (
            _set(strides=ctypes.addressof(_STRIDED)),
            'The input "x" has strides; pass a compact row-major tensor.',
        ),
        (
            _set(shape=None),
            'The input "x" must be float32[5, 4], but float32 of rank 2 without a usable shape was given.',
        ),
        (
            _set(ndim=-1),
            'The input "x" must be float32[5, 4], but float32 of rank -1 without a usable shape was given.',
        ),
        (
            _set(ndim=1 << 30),
            'The input "x" must be float32[5, 4], but float32 of rank 1073741824 without a usable shape was given.',
        ),
        (
            lambda t: setattr(t.device, "device_type", 2),
            'The input "x" must be in CPU memory (device type 1), but device type 2 was given.',
        ),
        (
            lambda t: setattr(t.dtype, "lanes", 4),
            'The input "x" must be float32[5, 4], but an unknown dtype [5, 4] was given.',
        ),
        (
            _set(byte_offset=2),
            'The data of the input "x" must be aligned to its elements of 4 bytes.',
        ),
    ],
)
def test_bad_tensors(change: Callable[[Any], None], text: str) -> None:
    raw, x, y = Raw(small.doubling()), random(5, 4), np.zeros((5, 4), np.float32)
    assert raw.run(_tensors(x, change), _tensors(y)) == (abi.CODE["NL_ERROR_INPUT"], text)
    code, other = raw.run(_tensors(x), _tensors(y, change))
    assert (code, other.replace("output", "input").replace('"y"', '"x"')) == (
        abi.CODE["NL_ERROR_INPUT"],
        text,
    )
    assert raw.run(_tensors(x, _set(strides=ctypes.addressof(_COMPACT))), _tensors(y))[0] == 0
    np.testing.assert_array_equal(y, 2 * x)
    raw.close()


def test_counts_and_null_arrays() -> None:
    raw, x, y = Raw(small.doubling()), random(5, 4), random(5, 4)
    both = Tensors([x, x], ["float32"] * 2)
    assert raw.run(both, _tensors(y)) == (
        abi.CODE["NL_ERROR_INPUT"],
        'The program takes 1 inputs: "x"; 2 were given.',
    )
    assert raw.run(_tensors(x), both)[1] == 'The program gives 1 outputs: "y"; 2 were asked for.'
    assert raw.run(None, _tensors(y)) == (
        abi.CODE["NL_ERROR_ARGUMENT"],
        "The array of inputs is null.",
    )
    assert raw.run(_tensors(x), None) == (
        abi.CODE["NL_ERROR_ARGUMENT"],
        "The array of outputs is null.",
    )
    assert raw.api["run"](None, None, 0, None, 0) == abi.CODE["NL_ERROR_ARGUMENT"]
    raw.close()


def test_overlapping_outputs_are_refused() -> None:
    raw, memory = Raw(small.doubling()), np.zeros(40, np.float32)
    x, y = memory[:20].reshape(5, 4), memory[19:39].reshape(5, 4)
    assert raw.run(_tensors(x), _tensors(y)) == (
        abi.CODE["NL_ERROR_INPUT"],
        'The memory of the output "y" overlaps that of "x".',
    )
    assert raw.run(_tensors(x), _tensors(memory[20:].reshape(5, 4)))[0] == 0
    raw.close()


def test_an_index_error_flag_becomes_an_error() -> None:
    session = session_of(small.checking(), 2)
    with pytest.raises(InputError, match=r"A run-time index was out of range \(check 7\)"):
        session(np.array([1, 2, -3, 4], np.int32))
    np.testing.assert_array_equal(session(np.arange(4, dtype=np.int32)), np.arange(4))


def test_hostile_names_are_data() -> None:
    name = 'a"\n%s%n\0\x1b' + "x" * 10_000
    session = session_of(small.doubling(name=name, x=name, y="y" + name))
    with pytest.raises(InputError, match=r"a\\\"\\n%s%n\\u0000") as error:
        session.run(None, {name: np.zeros((5, 5), np.float32)})
    assert len(str(error.value)) < 1000


def test_missing_features_are_an_error_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    disabled = Feature(
        1, 0, 2, 0, 1 << 62
    )  # the processor has it, but the operating system does not save its registers
    # a leaf past the last, where some processors repeat another leaf
    beyond = Feature(0x70000000, 0, 0, 0)
    for imagined in (disabled, beyond):
        monkeypatch.setitem(FEATURES, "imagined", imagined)
        with pytest.raises(
            CpuFeatureError, match="needs the CPU feature imagined, which this machine lacks"
        ):
            Session.in_process(
                load_in_process([Variant(small.doubling(), small.kernels(), ["sse2", "imagined"])])
            )


def test_features_of_this_machine_are_found() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {word for line in lines if line.startswith("flags") for word in line.split()}
    names = {
        "avx2": "avx2",
        "fma": "fma",
        "sse4.2": "sse4_2",
        "avx512f": "avx512f",
        "avx512vnni": "avx512_vnni",
        "bmi2": "bmi2",
        "lzcnt": "abm",
        "f16c": "f16c",
        "avx512bf16": "avx512_bf16",
        "amx-tile": "amx_tile",
        "movbe": "movbe",
    }
    for name, flag in names.items():
        program = load_in_process([Variant(small.doubling(), small.kernels(), [name])])
        if flag in flags:
            assert Session.in_process(program)(random(5, 4)).shape == (5, 4)
        else:
            with pytest.raises(CpuFeatureError):
                Session.in_process(program)


def test_what_the_host_cannot_build_is_refused() -> None:
    with pytest.raises(
        ToolchainError, match=r"The CPU features warp-drive are unknown\. Known are"
    ):
        load_in_process([Variant(small.doubling(), small.kernels(), ["warp-drive"])])
    entry = small.doubling().entries[0]
    with pytest.raises(VerificationError, match="cannot be named 'free'"):
        load_in_process(
            [Variant(small.program([Entry("run", (), (), (Launch("free", (), (), 1),), ())]), [])]
        )
    with pytest.raises(VerificationError, match="no entry dance"):
        load_in_process(
            [Variant(small.program([Entry("dance", entry.inputs, entry.outputs, (), ())]), [])]
        )


# -- memory and options ----------------------------------------------------------------------------


def _aligned(size: int) -> np.ndarray:
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


def test_arena_bytes_and_the_callers_arena() -> None:
    program = small.chain(3)  # two slots of 16 N bytes
    session = session_of(program)
    assert [session.arena_bytes(N=n) for n in (1, 4, 5, 64)] == [128, 128, 256, 2048]
    for dims in ({"N": 0}, {"N": 65}):
        with pytest.raises(InputError, match="out of their ranges"):
            session.arena_bytes(**dims)
    arena = _aligned(256)
    raw = Raw(program, arena=arena.ctypes.data, arena_bytes=256)
    x, y = random(4, 4), np.zeros((4, 4), np.float32)
    assert raw.run(_tensors(x), _tensors(y))[0] == 0
    assert arena[:64].view(np.float32).tolist() == (2 * x).ravel().tolist()
    large = random(64, 4), np.zeros((64, 4), np.float32)
    assert raw.run(*map(_tensors, large)) == (
        abi.CODE["NL_ERROR_MEMORY"],
        "The arena has 256 bytes, but these shapes need 2048 bytes.",
    )
    assert (
        raw.api["set_arena"](raw.context, arena.ctypes.data + 1, 200)
        == abi.CODE["NL_ERROR_ARGUMENT"]
    )
    assert raw.api["set_arena"](raw.context, None, 0) == 0
    assert raw.run(*map(_tensors, large))[0] == 0
    np.testing.assert_array_equal(large[1], 8 * large[0])
    raw.close()


def test_an_arena_that_cannot_be_had_is_a_memory_error() -> None:
    extent = Dim.of(Symbol("M", 1, None))
    type = float32(extent)
    launches = (
        Launch("double", (ref(Space.INPUT), ref(Space.ARENA)), (), 1),
        Launch("double", (ref(Space.ARENA), ref(Space.OUTPUT)), (), 1),
    )
    entry = Entry(
        "run", (Port("x", type),), (Port("y", float32(1)),), launches, (extent * (1 << 44),)
    )
    session = session_of(small.program([entry], symbols=sorted(extent.symbols(), key=str)))
    with pytest.raises(
        MemoryError,
        match="211106232532992 bytes of memory for intermediate results could not be allocated",
    ):
        session(random(12))
    with pytest.raises(MemoryError, match="more memory than 64 bits can count"):
        session(random(600_000))


def test_hooks() -> None:
    log: list[str] = []
    calls: list[int] = []
    memory = _aligned(4096)
    shares = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)

    def parallel_for(user: int, body: int, argument: int, count: int) -> None:
        calls.append(count)
        for index in reversed(range(count)):
            shares(body)(argument, index)

    hooks = {
        "parallel_for": ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
        )(parallel_for),
        "alloc": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(
            lambda user, size: memory.ctypes.data
        ),
        "free": ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
            lambda user, address: log.append("freed")
        ),
        "log": ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)(
            lambda user, text: log.append(text.decode())
        ),
    }
    addresses = {name: ctypes.cast(hook, ctypes.c_void_p).value for name, hook in hooks.items()}
    raw = Raw(small.chain(3), threads=5, **addresses)
    x, y = random(9, 4), np.zeros((9, 4), np.float32)
    assert raw.run(_tensors(x), _tensors(y))[0] == 0
    np.testing.assert_array_equal(y, 8 * x)
    assert calls == [5, 5, 5]
    assert raw.run(_tensors(x), _tensors(x[:8]))[0] == abi.CODE["NL_ERROR_INPUT"]
    raw.close()
    assert log == [
        'The output "y" must be float32[N, 4] (here float32[9, 4]), but float32[8, 4] was given.',
        "freed",
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 8}, "nl_options.size must be at least 64, but is 8."),
        ({"threads": -1}, "The number of threads must not be negative, but is -1."),
        ({"arena": 4097}, "The arena must be aligned to 64 bytes."),
        ({"alloc": 1}, "The options alloc and free go together."),
    ],
)
def test_bad_options(options: dict[str, int], text: str) -> None:
    raw = Raw(small.doubling(), **options)
    assert (raw.code, raw.text) == (abi.CODE["NL_ERROR_ARGUMENT"], text)


def test_the_table_knows_its_version_only() -> None:
    program = load_in_process([Variant(small.doubling(), small.kernels())])
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(program.api_address)
    assert get_api(abi.ABI_VERSION)
    assert not get_api(abi.ABI_VERSION + 1)
    assert not get_api(0)


def test_kernels_and_host_stay_within_their_buffers() -> None:
    """Input and output end where a page that may not be touched begins."""
    session, libc = session_of(small.chain(4), 2), ctypes.CDLL(None)
    arrays, maps = [], []
    for _ in range(2):
        memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        whole = np.frombuffer(memory, np.uint8)
        assert (
            libc.mprotect(ctypes.c_void_p(whole.ctypes.data + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
        )
        arrays.append(whole[mmap.PAGESIZE - 7 * 16 : mmap.PAGESIZE].view(np.float32).reshape(7, 4))
        maps.append(memory)
    x, y = arrays
    x[...] = random(7, 4)
    session.bind(x=x, y=y)()
    np.testing.assert_array_equal(y, 16 * x)


# -- states ----------------------------------------------------------------------------------------


def test_training() -> None:
    session = session_of(small.training(), 2)
    state, x = session.create_state(), np.ones(6, np.float32)
    assert state.names == ("layer.w",)
    np.testing.assert_array_equal(state["layer.w"], np.arange(6))
    (first,) = session.train_step(state, dw=x, rate=0.5)
    assert float(first) == 0
    other = state.copy()
    (first,) = session.train_step(state, x, 0.25)
    assert float(first) == -0.5
    np.testing.assert_array_equal(session.evaluate(state, x), np.arange(6) - 0.75)
    np.testing.assert_array_equal(session.evaluate(other, x), np.arange(6) - 0.5)
    assert (state.step, other.step) == (2, 1)
    state.step = 40
    state["layer.w"] = np.zeros(6)
    np.testing.assert_array_equal(session.evaluate(state, x), np.zeros(6))
    assert state.step == 40
    with pytest.raises(InputError, match=r'"layer\.w" has the shape \[6\], but \[2\] was given'):
        state["layer.w"] = np.zeros(2)
    with pytest.raises(UsageError, match=r'no tensor "v"; it has "layer\.w"'):
        state["v"]


def test_a_view_keeps_the_state_alive() -> None:
    view = session_of(small.training()).create_state()["layer.w"]
    np.testing.assert_array_equal(view, np.arange(6))


def test_training_builds_and_inference_builds_say_what_they_are() -> None:
    training, inference = session_of(small.training()), session_of(small.doubling())
    with pytest.raises(UsageError, match="was built for training: call evaluate with a state"):
        training(np.ones(6, np.float32))
    with pytest.raises(UsageError, match="was built for inference only: it has no state"):
        inference.create_state()
    with pytest.raises(
        UsageError, match=r'no train_step; it has "run"\. Compile the model for training'
    ):
        inference.train_step(training.create_state())
    with pytest.raises(UsageError, match="The state belongs to another model"):
        session_of(small.training()).evaluate(training.create_state(), np.ones(6, np.float32))


def test_parameters_by_index_and_name() -> None:
    session = session_of(small.training())
    api, model, state = session._model.api, session._model.handle, session.create_state()
    view = Tensors([np.zeros(1, np.float32)], ["float32"])
    assert api["parameter_count"](model) == 1
    assert api["parameter_name"](model, 0) == b"layer.w"
    assert api["parameter_name"](model, 1) is None
    assert api["parameter_by_name"](state.handle, b"layer.w", view.pointer) == 0
    assert view._kept[0][0].data == state["layer.w"].ctypes.data
    assert view._kept[0][0].data % 64 == 0
    for wrong in (b"w", b"layer.w2"):
        assert (
            api["parameter_by_name"](state.handle, wrong, view.pointer)
            == abi.CODE["NL_ERROR_ARGUMENT"]
        )
    for index in (-1, 1):
        assert api["parameter"](state.handle, index, view.pointer) == abi.CODE["NL_ERROR_ARGUMENT"]


# -- threads ---------------------------------------------------------------------------------------


def test_fork_falls_back_to_one_thread() -> None:
    session = session_of(small.chain(5), 3)
    x = random(11, 4)
    expected = session(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(session(x), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(session(x), expected)


def test_threads_end_with_their_context() -> None:
    before = len(os.listdir("/proc/self/task"))
    session = session_of(small.chain(3), 4)
    session(random(9, 4))
    assert len(os.listdir("/proc/self/task")) == before + 3
    del session
    assert len(os.listdir("/proc/self/task")) == before


def test_a_context_in_use_is_refused() -> None:
    entered = []
    program = small.doubling()

    def parallel_for(user: int, body: int, argument: int, count: int) -> None:
        entered.append(raw.run(_tensors(x), _tensors(y))[0])

    hook = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
    )(parallel_for)
    raw = Raw(program, threads=2, parallel_for=ctypes.cast(hook, ctypes.c_void_p).value)
    x, y = random(5, 4), np.zeros((5, 4), np.float32)
    assert raw.run(_tensors(x), _tensors(y))[0] == 0
    assert entered == [abi.CODE["NL_ERROR_BUSY"]]
    raw.close()
