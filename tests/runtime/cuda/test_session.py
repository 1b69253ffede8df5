"""Program files for CUDA devices from end to end: written, read, and run by the session on a device
that is the emulator.

Kernels run as the PTX that their cubins are linked from; what a session does with memory, states
and free dims is its own.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping
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
from netloom.runtime.cuda.device import CudaDevice, fitting
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
def test_a_step_reads_its_batch_on_the_device_and_a_states_memory_goes_with_it() -> None:
    step = nl.training_graph(SMALL_MLP, nl.losses.cross_entropy, nl.optimizers.SGD())
    session = session_of(
        compile_training_for_cuda(step, SMALL_MLP.inference_form(), architectures=())
    )
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
    session._drop_plans()
    del state
    gc.collect()
    device.free(address)
    assert len(device.memory) == before


@needs_compiler
def test_a_state_is_read_and_written_by_name() -> None:
    step = nl.training_graph(SMALL_MLP, nl.losses.cross_entropy, nl.optimizers.SGD())
    session = session_of(
        compile_training_for_cuda(step, SMALL_MLP.inference_form(), architectures=())
    )
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


# -- devices ---------------------------------------------------------------------------------------


def test_the_architecture_that_fits() -> None:
    names = ("sm_80", "sm_90a")
    assert [fitting(names, capability) for capability in ((8, 0), (8, 6), (9, 0))] == [
        "sm_80",
        "sm_80",
        "sm_90a",
    ]
    assert fitting(("sm_80", "sm_86", "sm_89"), (8, 7)) == "sm_86"
    for capability in ((7, 5), (10, 0), (9, 1)):
        with pytest.raises(DeviceError, match=f"the device is sm_{capability[0]}{capability[1]}"):
            fitting(names, capability)


def test_missing_bindings_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DeviceError, match="needs the package cuda-bindings"):
        CudaDevice()


class _Driver(SimpleNamespace):
    """A driver whose first call gives an error's code."""

    def __init__(self, code: str) -> None:
        names = (
            "SUCCESS",
            *(
                f"ERROR_{kind}"
                for kind in ("OUT_OF_MEMORY", "NO_DEVICE", "STUB_LIBRARY", "UNKNOWN")
            ),
        )
        results = SimpleNamespace(
            **{f"CUDA_{name}": SimpleNamespace(name=f"CUDA_{name}") for name in names}
        )
        super().__init__(CUresult=results, cuInit=lambda flags: (getattr(results, code),))


@pytest.mark.parametrize(("code", "message"), [
    ("CUDA_ERROR_NO_DEVICE", "this machine has no CUDA device"),
    ("CUDA_ERROR_STUB_LIBRARY", "this machine has no CUDA device"),
    ("CUDA_ERROR_OUT_OF_MEMORY", "not enough free memory"),
    ("CUDA_ERROR_UNKNOWN", "the CUDA driver reports CUDA_ERROR_UNKNOWN"),
])  # fmt: skip
def test_what_the_driver_reports_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: _Driver(code))
    with pytest.raises(DeviceError, match=message):
        CudaDevice()


@needs_compiler
def test_a_shape_that_needs_the_room_of_others_takes_it(compiled: CudaProgram) -> None:
    ptx = {kernel.name: kernel.ptx for kernel in compiled.kernels.values()}
    x = np.zeros((6, 3, 6, 4), np.float32)
    alone = EmulatedDevice(ptx)
    CudaSession(parse_program(compiled.as_bytes()), lambda: alone)(x)
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
