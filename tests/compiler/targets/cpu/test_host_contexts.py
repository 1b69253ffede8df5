"""The host code, entered through the C interface: a context's memory, options and hooks, states of
training, and threads.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest

from netloom import abi
from netloom.compiler.dim import Dim, Symbol
from netloom.compiler.program import Entry, Launch, Port, Space
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.variant import Variant
from netloom.errors import InputError, UsageError
from netloom.runtime.buffer import Tensors
from tests.compiler.targets.cpu import small_programs as small
from tests.compiler.targets.cpu.host_calls import Raw, random, session_of, tensors
from tests.compiler.targets.cpu.small_programs import float32, ref

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
    assert raw.run(tensors(x), tensors(y))[0] == 0
    assert arena[:64].view(np.float32).tolist() == (2 * x).ravel().tolist()
    large = random(64, 4), np.zeros((64, 4), np.float32)
    assert raw.run(*map(tensors, large)) == (
        abi.CODE["NL_ERROR_MEMORY"],
        "The arena has 256 bytes, but these shapes need 2048 bytes.",
    )
    assert (
        raw.api["set_arena"](raw.context, arena.ctypes.data + 1, 200)
        == abi.CODE["NL_ERROR_ARGUMENT"]
    )
    assert raw.api["set_arena"](raw.context, None, 0) == 0
    assert raw.run(*map(tensors, large))[0] == 0
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
    assert raw.run(tensors(x), tensors(y))[0] == 0
    np.testing.assert_array_equal(y, 8 * x)
    assert calls == [5, 5, 5]
    assert raw.run(tensors(x), tensors(x[:8]))[0] == abi.CODE["NL_ERROR_INPUT"]
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
    assert view._tensors[0].data == state["layer.w"].ctypes.data
    assert view._tensors[0].data % 64 == 0
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
        entered.append(raw.run(tensors(x), tensors(y))[0])

    hook = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
    )(parallel_for)
    raw = Raw(program, threads=2, parallel_for=ctypes.cast(hook, ctypes.c_void_p).value)
    x, y = random(5, 4), np.zeros((5, 4), np.float32)
    assert raw.run(tensors(x), tensors(y))[0] == 0
    assert entered == [abi.CODE["NL_ERROR_BUSY"]]
    raw.close()
