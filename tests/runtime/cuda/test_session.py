"""Program files for CUDA devices from end to end: written, read, and run by the session on a device
that is the emulator.

Kernels run as the PTX that their cubins are linked from; what a session does with memory, states
and free dims is its own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import netloom as nl
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret, interpret_step
from netloom.compiler.targets.cuda.compile import is_available
from netloom.compiler.targets.cuda.driver import (
    CudaOptions,
    CudaProgram,
    compile_for_cuda,
    compile_training_for_cuda,
)
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.errors import DeviceError, InputError, ProgramError, UsageError
from netloom.frontends.dsl.network import TracedGraph
from netloom.runtime.cuda.program import parse_program
from netloom.runtime.cuda.session import CudaSession, load
from tests.ptx_emulator.device import EmulatedDevice

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]


def session_of(compiled: CudaProgram) -> CudaSession:
    """The program, through its file's bytes, on the emulator."""
    ptx = {kernel.name: kernel.ptx for kernel in compiled.kernels.values()}
    return CudaSession(parse_program(compiled.as_bytes()), lambda: EmulatedDevice(ptx))


@nl.network
def small(x: nl.Symbolic) -> nl.Symbolic:
    x = nl.max_pool2d(nl.relu(nl.batch_norm(nl.conv2d(x, 16, 3, padding="same"))), 2)
    return nl.dense(nl.flatten(x), 5)


SMALL = small.graph(x=nl.tensor("N", 3, 6, 4))


@nl.network
def small_mlp(x: nl.Symbolic) -> nl.Symbolic:
    return nl.dense(nl.relu(nl.dense(x, 17)), 3)


SMALL_MLP = small_mlp.graph(x=nl.tensor("N", 12))


@pytest.fixture(scope="module")
def compiled() -> CudaProgram:
    return compile_for_cuda(SMALL.inference_form(), architectures=("sm_80",))


@pytest.fixture(scope="module")
def compiled_step() -> CudaProgram:
    step = nl.training_graph(SMALL_MLP, nl.losses.cross_entropy, nl.optimizers.SGD())
    return compile_training_for_cuda(step, SMALL_MLP.inference_form(), architectures=())


@needs_compiler
@pytest.mark.parametrize("precision", ["f32", "3xtf32"])
def test_a_network_gives_what_the_interpreter_gives(precision: str) -> None:
    graph = SMALL.inference_form()
    session = session_of(compile_for_cuda(graph, CudaOptions(precision), architectures=()))
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 6, 4)).astype(np.float32)
        (wanted,) = interpret(graph, {"x": x})
        found = session(x)
        assert found.shape == (batch, 5) and np.linalg.norm(
            found - wanted
        ) <= 2e-6 * np.linalg.norm(wanted)
    assert np.array_equal(session(x), found)  # replayed
    assert session.metadata["options"]["precision"] == precision


@needs_compiler
def test_a_file_is_the_same_twice_and_is_read_without_a_device(
    compiled: CudaProgram, tmp_path: Path
) -> None:
    compiled.save(tmp_path / "m.nlc")
    again = compile_for_cuda(SMALL.inference_form(), architectures=("sm_80",))
    assert (tmp_path / "m.nlc").read_bytes() == again.as_bytes()
    session = load(tmp_path / "m.nlc")
    assert [str(port.name) for port in session.inputs] == [
        "x"
    ] and session.program.architectures == ("sm_80",)
    assert [path.name for path in tmp_path.iterdir()] == ["m.nlc"]


@needs_compiler
def test_weights_stay_where_the_file_was_read_to(compiled: CudaProgram) -> None:
    data = compiled.as_bytes()
    file = np.frombuffer(data, np.uint8)
    assert all(np.shares_memory(file, c.array) for c in parse_program(data).constants if c.nbytes)


@needs_compiler
def test_a_place_that_cannot_be_written_is_a_usage_error(
    compiled: CudaProgram, tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "none" / "m.nlc"):
        with pytest.raises(UsageError, match="cannot be written"):
            compiled.save(path)


@needs_compiler
def test_damage_is_found(compiled: CudaProgram) -> None:
    data = compiled.as_bytes()
    rng = np.random.default_rng(0)
    for place in (0, 9, len(data) - 1, *rng.integers(0, len(data), 20).tolist()):
        wrong = bytearray(data)
        wrong[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ProgramError):
            parse_program(bytes(wrong))
    for size in (0, 7, 100, len(data) - 1):
        with pytest.raises(ProgramError):
            parse_program(data[:size])


@needs_compiler
def test_inputs_that_do_not_fit_are_named(compiled: CudaProgram) -> None:
    session = session_of(compiled)
    x = np.zeros((2, 3, 6, 4), np.float32)
    for arguments, message in (
        ({}, "input 'x' is missing"), ({"y": x}, "no input 'y'"), ({"x": x[0]}, "x"),
        ({"x": x[:, :2]}, "x"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            session(**arguments)
    with pytest.raises(InputError, match="2 were given"):
        session(x, x)


@needs_compiler
def test_an_index_out_of_range_is_an_error_once() -> None:
    b = Builder("gather")
    table, at = (
        b.input(TensorType(FLOAT32, (4, 3)), "table"),
        b.input(TensorType(INT64, (2,)), "at"),
    )
    session = session_of(
        compile_for_cuda(b.build([b("gather", table, at, axis=0)]), architectures=())
    )
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    with pytest.raises(InputError, match="index in the inputs is out of range"):
        session(values, np.array([0, 4]))
    np.testing.assert_array_equal(session(values, np.array([0, -1])), values[[0, 3]])


@needs_compiler
def test_calls_of_threads_take_turns(compiled: CudaProgram) -> None:
    """A plan has one arena, and one place for each input."""
    ptx = {kernel.name: kernel.ptx for kernel in compiled.kernels.values()}

    class Alone(EmulatedDevice):
        inside = 0

        def replay(self, graph: Any) -> None:
            self.inside += 1
            time.sleep(0.01)  # others may come now
            assert self.inside == 1
            super().replay(graph)
            self.inside -= 1

    session = CudaSession(parse_program(compiled.as_bytes()), lambda: Alone(ptx))
    inputs = np.random.default_rng(0).standard_normal((3, 1, 3, 6, 4)).astype(np.float32)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(session, inputs))
    assert all(np.array_equal(y, session(x)) for x, y in zip(inputs, found, strict=True))


# -- training --------------------------------------------------------------------------------------


def follow(
    graph: TracedGraph,
    optimizer: Any,
    shape: tuple[int, ...],
    classes: int,
    batches: tuple[int, ...],
    options: CudaOptions | None = None,
) -> None:
    """Steps on the emulator and in the interpreter: the same losses, and the same states to
    rounding.
    """
    step: Graph = nl.training_graph(graph, nl.losses.cross_entropy, optimizer)
    compiled = compile_training_for_cuda(step, graph.inference_form(), options, architectures=())
    session = session_of(compiled)
    state = session.create_state()
    states: Mapping[str, Array] = {name: state[name] for name in state.names}
    assert set(states) == {s.name for s in step.states}
    rng = np.random.default_rng(0)
    for batch in batches:
        x, labels = (
            rng.standard_normal((batch, *shape)).astype(np.float32),
            rng.integers(0, classes, batch),
        )
        (loss, correct), states = interpret_step(
            step, {"x": x, "labels": labels, "rate": np.float32(0.01)}, states
        )
        found = session.train_step(state, x=x, labels=labels, rate=np.float32(0.01))
        assert found[0] == pytest.approx(float(loss), rel=1e-5) and found[1] == correct
    for name in state.names:
        if states[name].dtype.kind == "f":
            assert np.linalg.norm(state[name] - states[name]) <= 1e-4 * np.linalg.norm(
                states[name]
            ), name
        else:
            np.testing.assert_array_equal(state[name], states[name], err_msg=name)
    logits = session.evaluate(state, x)
    (wanted,) = interpret(nl.with_states(graph, states).inference_form(), {"x": x})
    assert np.linalg.norm(logits - wanted) <= 1e-3 * np.linalg.norm(wanted)


@needs_compiler
@pytest.mark.parametrize("optimizer",
                         [nl.optimizers.SGD(momentum=0.9, nesterov=True), nl.optimizers.Adam(),
                          nl.optimizers.RMSprop()],
                         ids=lambda optimizer: type(optimizer).__name__)  # fmt: skip
def test_optimizers_follow_the_interpreter(optimizer: Any) -> None:
    follow(SMALL_MLP, optimizer, (12,), 3, (5, 5, 2))


@needs_compiler
def test_lenet_follows_the_interpreter() -> None:
    """By Winograd, and without Adam, whose first step is the sign of a gradient, however small."""
    follow(nl.zoo.lenet5(), nl.optimizers.SGD(momentum=0.9), (1, 28, 28), 10, (2,))


@needs_compiler
def test_a_step_reads_its_batch_on_the_device_and_a_states_memory_goes_with_it(
    compiled_step: CudaProgram,
) -> None:
    session = session_of(compiled_step)
    device: Any = session.resident.device
    before = len(device.memory)
    x, labels = (
        np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32),
        np.arange(5) % 3,
    )
    address = device.allocate(x.nbytes)
    device.upload(address, x)
    lying_there = SimpleNamespace(__cuda_array_interface__={
        "shape": x.shape, "typestr": "<f4", "data": (address, False), "version": 3})  # fmt: skip
    losses = []
    for given in (x, lying_there):
        state = session.create_state()
        losses.append(
            [
                float(session.train_step(state, x=given, labels=labels, rate=np.float32(0.1))[0])
                for _ in range(2)
            ]
        )
    assert losses[0] == losses[1] and losses[0][0] > losses[0][1]
    del state
    gc.collect()
    device.free(address)
    assert len(device.memory) == before  # the plans over a state go with it, too


@needs_compiler
def test_a_state_is_read_and_written_by_name(compiled_step: CudaProgram) -> None:
    session = session_of(compiled_step)
    state = session.create_state()
    name = next(name for name in state.names if state[name].ndim == 2)
    state[name] = np.ones_like(state[name])
    assert (state[name] == 1).all()
    with pytest.raises(InputError, match="has the shape"):
        state[name] = np.ones(3)
    with pytest.raises(UsageError, match="no tensor 'none'"):
        state["none"]
    with pytest.raises(UsageError, match="no train_step"):
        session_of(compile_for_cuda(SMALL_MLP.inference_form(), architectures=())).create_state()


@needs_compiler
def test_a_state_takes_the_room_of_plans(compiled_step: CudaProgram) -> None:
    session = session_of(compiled_step)
    state = session.create_state()
    x, labels = np.zeros((5, 12), np.float32), np.arange(5) % 3
    session.train_step(state, x=x, labels=labels, rate=np.float32(0.1))
    device: Any = session.resident.device
    device.room = sum(data.size for data in device.memory.values())
    assert session.create_state().names == state.names and not session._plans


# -- memory ----------------------------------------------------------------------------------------


@needs_compiler
def test_a_shape_that_needs_the_room_of_others_takes_it(compiled: CudaProgram) -> None:
    ptx = {kernel.name: kernel.ptx for kernel in compiled.kernels.values()}
    x = np.zeros((6, 3, 6, 4), np.float32)
    alone = EmulatedDevice(ptx)
    held = CudaSession(parse_program(compiled.as_bytes()), lambda: alone)
    assert held(x).shape == (6, 5)
    room = sum(data.size for data in alone.memory.values())
    session = CudaSession(parse_program(compiled.as_bytes()), lambda: EmulatedDevice(ptx, room))
    for batch in (1, 2, 6, 1):
        assert session(x[:batch]).shape == (batch, 5)
    assert [plan.shapes for plan in session._plans.values()] == [((1, 5),)]


@needs_compiler
def test_too_little_memory_is_one_clear_error(compiled: CudaProgram) -> None:
    ptx = {kernel.name: kernel.ptx for kernel in compiled.kernels.values()}
    session = CudaSession(
        parse_program(compiled.as_bytes()), lambda: EmulatedDevice(ptx, room=1 << 14)
    )
    with pytest.raises(DeviceError, match="not enough free memory"):
        session(np.zeros((64, 3, 6, 4), np.float32))


class Failing(EmulatedDevice):
    captures = 0  # that work

    def capture(self, calls: Any, after: Any) -> Any:
        self.captures -= 1
        if self.captures < 0:
            raise DeviceError("the CUDA driver reports CUDA_ERROR_UNKNOWN.")
        return super().capture(calls, after)


@needs_compiler
def test_only_a_lack_of_room_costs_other_plans(compiled: CudaProgram) -> None:
    device = Failing({kernel.name: kernel.ptx for kernel in compiled.kernels.values()})
    session = CudaSession(parse_program(compiled.as_bytes()), lambda: device)
    device.captures = 1
    x = np.zeros((2, 3, 6, 4), np.float32)
    session(x)
    with pytest.raises(DeviceError, match="CUDA_ERROR_UNKNOWN"):
        session(x[:1])
    assert device.captures == -1 and [plan.shapes for plan in session._plans.values()] == [
        ((2, 5),)
    ]
    session(x)


@needs_compiler
def test_a_session_leaves_nothing_on_its_device(compiled: CudaProgram) -> None:
    """When it is closed, when nobody has it any more, and when a plan or the program fails."""
    ptx = {kernel.name: kernel.ptx for kernel in compiled.kernels.values()}
    x = np.zeros((2, 3, 6, 4), np.float32)

    device = Failing(ptx)
    session = CudaSession(parse_program(compiled.as_bytes()), lambda: device)
    loaded = len(session.resident.functions)
    before = len(device.memory)
    assert before and device.loaded == loaded
    with pytest.raises(DeviceError, match="CUDA_ERROR_UNKNOWN"):
        session(x)
    assert len(device.memory) == before
    device.captures = 2
    for end in ("closed", "forgotten"):
        session(x)
        assert len(device.memory) > before and device.loaded == loaded
        if end == "closed":
            session.close()
        else:
            del session
            gc.collect()
        assert not device.memory and not device.loaded
    small = Failing(ptx, room=sum(c.nbytes for c in parse_program(compiled.as_bytes()).constants))
    with pytest.raises(DeviceError, match="not enough free memory"):
        CudaSession(parse_program(compiled.as_bytes()), lambda: small)(x)
    assert not small.memory and not small.loaded
