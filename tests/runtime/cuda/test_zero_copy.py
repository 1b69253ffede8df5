"""Arrays of other libraries read in place, and results that stay on the device: protocols,
lifetimes, refusals.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.targets.cuda.compile import is_available
from netloom.compiler.targets.cuda.driver import CudaProgram, compile_for_cuda
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.errors import DeviceError, InputError
from netloom.frontends.dsl.trace import tensor
from netloom.runtime.cuda import dlpack
from netloom.runtime.cuda.device_array import DeviceArray, Pool
from netloom.runtime.cuda.program import parse_program
from netloom.runtime.cuda.session import CudaSession
from tests.ptx_emulator.device import EmulatedDevice

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]


def graph() -> Graph:
    """Two outputs: x + 2 * w, and the sums of its rows, which read the first from memory."""
    b = Builder("sums")
    x, w = (
        b.input(TensorType(FLOAT32, tensor("N", 4).shape), "x"),
        b.input(TensorType(FLOAT32, (4,)), "w"),
    )
    y = b("add", x, b("mul", b.constant(np.full(4, 2, np.float32)), w))
    return b.build([y, b("reduce_sum", y, axes=(1,))], ["y", "sums"])


@pytest.fixture(scope="module")
def compiled() -> CudaProgram:
    return compile_for_cuda(graph(), architectures=())


@pytest.fixture
def device(compiled: CudaProgram) -> EmulatedDevice:
    return EmulatedDevice({kernel.name: kernel.ptx for kernel in compiled.kernels.values()})


@pytest.fixture
def session(compiled: CudaProgram, device: EmulatedDevice) -> CudaSession:
    return CudaSession(parse_program(compiled.as_bytes()), lambda: device)


X = np.arange(8, dtype=np.float32).reshape(2, 4)
W = np.array([1, 2, 3, 4], np.float32)
Y = X + 2 * W


def on_device(device: EmulatedDevice, array: Array, shift: int = 0) -> int:
    address = device.allocate(array.nbytes + shift) + shift
    device.upload(address, array)
    return address


def interface(address: int, array: Array, **changes: Any) -> SimpleNamespace:
    """An object with ``__cuda_array_interface__`` as an array's, with changes."""
    described: Mapping[str, Any] = {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (address, True),
        "version": 3,
    }
    return SimpleNamespace(__cuda_array_interface__={**described, **changes})


class Producer:
    """DLPack's producer; ``knows_versions``: as libraries of before version 1 do not."""

    def __init__(self, address: int, array: Array, knows_versions: bool, number: int = 0) -> None:
        self.address, self.array, self.knows_versions, self.number = (
            address,
            array,
            knows_versions,
            number,
        )
        self.streams: list[int] = []
        self.token = SimpleNamespace()  # what a capsule keeps alive

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.number

    def __dlpack__(self, *, stream: int, **versions: Any) -> Any:
        if versions and not self.knows_versions:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(stream)
        dtype = str(self.array.dtype)
        return dlpack.capsule(
            self.address, self.array.shape, dtype, self.number, self.token, self.knows_versions
        )


def is_kept(producer: Producer) -> bool:
    return any(producer.token is owner for *_, owner in dlpack._exported.values())


# -- inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["interface", "plain capsule", "versioned capsule", "interface, misaligned"]
)
def test_inputs_on_the_device_are_read(
    session: CudaSession, device: EmulatedDevice, kind: str
) -> None:
    """In place, so that the plan's own buffer stays untouched, but where kernels could not read
    them there."""
    is_misaligned = kind.endswith("misaligned")
    for _ in range(2):
        address = on_device(device, X, shift=4 if is_misaligned else 0)
        producer = Producer(address, X, knows_versions=kind.startswith("versioned"))
        x = producer if kind.endswith("capsule") else interface(address, X)
        y, sums = session(x, W)
        np.testing.assert_array_equal(y, Y)
        np.testing.assert_allclose(sums, Y.sum(1), rtol=1e-6)
        if kind.endswith("capsule"):
            assert producer.streams == [device.stream_handle] and not is_kept(producer)
        (plan,) = session._plans.values()
        own = np.zeros_like(X)
        device.download(own, plan.inputs[0])
        assert np.array_equal(own, X) == is_misaligned
    np.testing.assert_array_equal(session(X + 1, W)[0], Y + 1)  # and from the host again


def test_the_producers_stream_is_waited_for(session: CudaSession, device: EmulatedDevice) -> None:
    address = on_device(device, X)
    for stream in (None, 1, 2, 12345):
        session(interface(address, X, stream=stream), W)
    session(
        SimpleNamespace(
            __cuda_array_interface__={
                k: v for k, v in interface(address, X).__cuda_array_interface__.items()
            }
        ),
        W,
    )
    assert device.waited_for == [1, 2, 12345]


def test_results_of_one_call_are_inputs_of_the_next(session: CudaSession) -> None:
    y, sums = session.run_on_device(X, W)
    again, _ = session.run_on_device(x=y, w=interface(y.address, W))  # w: the first row of y
    np.testing.assert_array_equal(again.numpy(), Y + 2 * Y[0])
    np.testing.assert_array_equal(y.numpy(), Y)
    assert sums.shape == (2,) and "float32[2, 4] on emulator" in repr(y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (8, 4)[1:]}, "must be float32"),
        ({"typestr": "<f8"}, r"float64\[2, 4\] was given"),
        ({"strides": (4, 8)}, "must be C-contiguous"),
        ({"strides": (17, 4)}, "must be C-contiguous"),
        ({"mask": object()}, "it has a mask"),
        ({"stream": 0}, "its stream is 0"),
        ({"data": None}, "cannot be read"),
        ({"shape": "ab"}, "cannot be read"),
    ],
)
def test_interfaces_that_do_not_fit_are_refused(
    session: CudaSession, changes: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        session(interface(1 << 20, X, **changes), W)


def test_compact_strides_may_be_given(session: CudaSession, device: EmulatedDevice) -> None:
    np.testing.assert_array_equal(
        session(interface(on_device(device, X), X, strides=(16, 4)), W)[0], Y
    )
    one = X[:1]
    np.testing.assert_array_equal(
        session(interface(on_device(device, one), one, strides=(999, 4)), W)[0], Y[:1]
    )


def test_capsules_that_do_not_fit_are_refused_and_given_back(
    session: CudaSession, device: EmulatedDevice
) -> None:
    address = on_device(device, X.astype(np.float64))
    for producer, message in (
        (Producer(address, X.astype(np.float64), True), r"float64\[2, 4\] was given"),
        (
            Producer(address, X, True, number=3),
            "lies on CUDA device 3, but the program runs on device 0",
        ),
        (Producer(address, X[0], True), "must be float32"),
    ):
        with pytest.raises(InputError, match=message):
            session(producer, W)
        assert not is_kept(producer)

    class Refusing(Producer):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("it requires a gradient")

    with pytest.raises(InputError, match="cannot be read by DLPack: it requires a gradient"):
        session(Refusing(address, X, True), W)


def test_an_input_is_kept_until_it_was_read(
    session: CudaSession, device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer, seen = Producer(on_device(device, X), X, True), []
    replay = device.replay
    monkeypatch.setattr(
        device, "replay", lambda graph: (seen.append(is_kept(producer)), replay(graph))
    )
    session.run_on_device(producer, W)
    assert seen == [True] and not is_kept(producer)


# -- outputs ---------------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """DLTensor, as dlpack.h has it."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class _Plain(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (
        ("tensor", _Tensor),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


def consumed(capsule: Any, name: bytes) -> Any:
    """The managed tensor in a capsule, which is marked as used, as a consumer does."""
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_SetName", ctypes.pythonapi)
    )
    managed = (_Versioned if name == b"dltensor_versioned" else _Plain).from_address(
        get(capsule, name)
    )
    used = {b"dltensor_versioned": b"used_dltensor_versioned", b"dltensor": b"used_dltensor"}[name]
    rename(capsule, used)
    return managed


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (None, b"dltensor"),
        ((0, 8), b"dltensor"),
        ((1, 0), b"dltensor_versioned"),
        ((2, 0), b"dltensor_versioned"),
    ],
)
def test_a_capsule_keeps_the_result(
    session: CudaSession, device: EmulatedDevice, version: tuple[int, int] | None, name: bytes
) -> None:
    y, _ = session.run_on_device(X, W)
    capsule = y.__dlpack__(stream=1, max_version=version)
    managed = consumed(capsule, name)
    tensor = managed.tensor
    assert (tensor.device_type, tensor.device_id, tensor.ndim) == (
        2,
        0,
        2,
    ) and tensor.data + tensor.byte_offset == y.address
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 32, 1)
    assert (tensor.shape[:2], tensor.strides[:2]) == ([2, 4], [4, 1])
    if version and version[0] >= 1:
        assert managed.major == 1 and managed.flags == 0
    address = y.address
    del y, capsule
    gc.collect()
    for _ in range(3):  # nobody writes there meanwhile
        session.run_on_device(X + 1, W)
        session(X + 1, W)
    kept = np.zeros_like(Y)
    device.download(kept, address)
    np.testing.assert_array_equal(kept, Y)
    managed.deleter(ctypes.addressof(managed))
    assert (
        address not in device.memory
    )  # freed, for others saw it: their streams may still be reading


def test_a_capsule_that_nobody_takes_gives_its_memory_back(
    session: CudaSession, device: EmulatedDevice
) -> None:
    y, _ = session.run_on_device(X, W)
    address, capsule = y.address, y.__dlpack__()
    del y
    gc.collect()
    assert address in device.memory
    del capsule
    gc.collect()
    assert address not in device.memory


def test_the_interface_of_a_result(session: CudaSession, device: EmulatedDevice) -> None:
    y, _ = session.run_on_device(X, W)
    assert y.__cuda_array_interface__ == {
        "shape": (2, 4),
        "typestr": "<f4",
        "data": (y.address, False),
        "strides": None,
        "stream": None,
        "version": 3,
    }
    assert y.__dlpack_device__() == (2, 0)
    empty = DeviceArray(Pool(device), (0, 4), "float32")
    assert empty.__cuda_array_interface__["data"][0] == 0 and empty.numpy().shape == (0, 4)
    for arguments, error in (
        ({"copy": True}, BufferError),
        ({"dl_device": (1, 0)}, BufferError),
        ({"stream": 0}, ValueError),
    ):
        with pytest.raises(error):
            y.__dlpack__(**arguments)
    assert y.__dlpack__(dl_device=(2, 0), copy=False, stream=-1) is not None


def test_results_have_buffers_of_their_own_which_are_used_again(
    session: CudaSession, device: EmulatedDevice
) -> None:
    first, _ = session.run_on_device(X, W)
    second, _ = session.run_on_device(X + 1, W)
    assert first.address != second.address
    np.testing.assert_array_equal(first.numpy(), Y)
    np.testing.assert_array_equal(second.numpy(), Y + 1)
    free = first.address
    count = len(device.memory)
    del first
    gc.collect()
    third, _ = session.run_on_device(X + 2, W)
    assert third.address == free and len(device.memory) == count
    np.testing.assert_array_equal(second.numpy(), Y + 1)


def test_results_outlive_their_session(session: CudaSession, device: EmulatedDevice) -> None:
    y, sums = session.run_on_device(X, W)
    del sums
    session.close()
    np.testing.assert_array_equal(y.numpy(), Y)
    assert list(device.memory) == [y.address]
    del y
    gc.collect()
    assert not device.memory


def test_an_index_out_of_range_is_an_error_on_the_device_too() -> None:
    b = Builder("gather")
    table, at = (
        b.input(TensorType(FLOAT32, (4, 3)), "table"),
        b.input(TensorType(INT64, (2,)), "at"),
    )
    compiled = compile_for_cuda(b.build([b("gather", table, at, axis=0)]), architectures=())
    device = EmulatedDevice({kernel.name: kernel.ptx for kernel in compiled.kernels.values()})
    session = CudaSession(parse_program(compiled.as_bytes()), lambda: device)
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    with pytest.raises(InputError, match="index in the inputs is out of range"):
        session.run_on_device(values, np.array([0, 4]))
    found = session.run_on_device(values, np.array([3, 1]))
    np.testing.assert_array_equal(found.numpy(), values[[3, 1]])


def test_a_pool_gives_its_free_buffers_up_before_it_refuses() -> None:
    device = EmulatedDevice({}, room=100)
    pool = Pool(device)
    kept = DeviceArray(pool, (10,), "float32")
    del kept
    gc.collect()
    assert len(device.memory) == 1
    large = DeviceArray(pool, (20,), "float32")
    assert list(device.memory) == [large.address]
    with pytest.raises(DeviceError, match="not enough free memory"):
        DeviceArray(pool, (20,), "float32")
