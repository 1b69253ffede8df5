"""What CudaDevice asks of the driver, against a stand-in for it."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.errors import DeviceError
from netloom.runtime.cuda.cuda_device import CudaDevice
from netloom.runtime.cuda.device import Call, fitting
from tests.runtime.cuda.stand_in import StandIn


def numbers_at(address: int, count: int) -> npt.NDArray[np.float32]:
    return np.frombuffer((ctypes.c_float * count).from_address(address), np.float32)


def scale(source: int, to: int, count: int, flag: int) -> None:
    numbers_at(to, count)[...] = numbers_at(source, count) * 2


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    pointer, number = ctypes.c_uint64, ctypes.c_int32
    found = StandIn({"scale": (scale, (pointer, pointer, number, pointer))})
    monkeypatch.setattr(importlib, "import_module", lambda name: found)
    return found


def test_memory_goes_there_and_back(driver: StandIn) -> None:
    device = CudaDevice()
    x, y = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    first, second = device.allocate(20), device.allocate(20)
    device.upload(first, x)
    device.copy(second, first, 20)
    device.download(y, second)
    assert np.array_equal(x, y)
    device.free(first)
    device.free(second)
    assert not driver.memory and driver.contexts.depth == 0


def test_each_thread_may_use_a_device(driver: StandIn) -> None:
    """The driver keeps a context for each thread; the caller's own is there again afterwards."""
    device = CudaDevice()
    assert driver.contexts.depth == 0
    with ThreadPoolExecutor(1) as pool:
        place = pool.submit(device.allocate, 12).result()
        pool.submit(device.upload, place, np.ones(3, np.float32)).result()
        y = np.zeros(3, np.float32)
        pool.submit(device.download, y, place).result()
        assert y.all() and pool.submit(lambda: driver.contexts.depth).result() == 0


def test_a_device_gives_all_back(driver: StandIn) -> None:
    device = CudaDevice()
    device.unload(device.load("scale", {"sm_90a": b""}, {}))
    assert driver.modules == 0
    stream = device.stream_handle
    del device
    gc.collect()
    assert driver.log[-2:] == [("destroy stream", stream), ("release context",)]


def test_a_graph_that_fails_is_given_back(driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    device = CudaDevice()
    function = device.load("scale", {"sm_90a": b""}, {})
    no_memory = (driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY,)
    monkeypatch.setitem(vars(driver), "cuGraphInstantiate", lambda *_: no_memory)
    with pytest.raises(DeviceError, match="not enough free memory"):
        device.capture([Call(function, 1, 256, (7, 7), (4,), 7)], [()])
    assert driver.log[-1] == ("destroy graph",)


def test_a_graph_has_the_edges_and_arguments_asked_for(driver: StandIn) -> None:
    device = CudaDevice()
    places = [device.allocate(16) for _ in range(4)]
    device.upload(places[0], np.arange(4, dtype=np.float32))
    function = device.load("scale", {"sm_80": b"", "sm_90a": b"code"}, {})
    calls = [Call(function, 3, 256, (places[i], places[i + 1]), (4,), 7) for i in range(3)]
    graph = device.capture(calls, [(), (0,), (1, 0)])
    assert [tuple(graph.nodes.index(n) for n in node.after) for node in graph.nodes] == [
        (),
        (0,),
        (1, 0),
    ]
    assert [(node.grid, node.arguments[2:]) for node in graph.nodes] == [((3, 256), (4, 7))] * 3
    device.replay(graph)
    found = np.zeros(4, np.float32)
    device.download(found, places[3])
    assert np.array_equal(found, np.arange(4) * 8)
    other = device.allocate(16)
    device.upload(other, np.ones(4, np.float32))
    device.rebind(graph, 0, Call(function, 3, 256, (other, places[1]), (4,), 7))
    device.replay(graph)
    device.download(found, places[3])
    assert np.array_equal(found, np.full(4, 8))
    device.release(graph)
    assert driver.log[-2:] == [("destroy executable",), ("destroy graph",)]


def test_shared_memory_beyond_a_blocks_own_is_asked_for(driver: StandIn) -> None:
    """Once for the kernel, and by each launch; what another architecture needs is not."""
    device = CudaDevice()
    cubins = {"sm_80": b"", "sm_90a": b"code"}
    large = device.load("scale", cubins, {"sm_90a": 98304})
    assert driver.log == [("attribute", "scale", "most dynamic shared", 98304)]
    small = device.load("scale", cubins, {"sm_80": 65536})
    assert len(driver.log) == 1
    place = device.allocate(16)
    calls = [Call(function, 1, 256, (place, place), (4,), 7) for function in (large, small)]
    assert [node.shared for node in device.capture(calls, [(), (0,)]).nodes] == [98304, 0]


def test_a_stream_is_waited_for_by_an_event(driver: StandIn) -> None:
    device = CudaDevice()
    device.wait_for(12345)
    (created, recorded, waited, destroyed) = driver.log
    assert created == ("create event", 2) and recorded[::2] == ("record", 12345)
    assert waited == ("wait", device.stream_handle, recorded[1]) and destroyed == (
        "destroy event",
        recorded[1],
    )


def test_times_are_those_of_events_around_replays(driver: StandIn) -> None:
    device = CudaDevice()
    place = device.allocate(16)
    function = device.load("scale", {"sm_90a": b""}, {})
    graph = device.capture([Call(function, 1, 256, (place, place), (4,), 7)] * 3, [(), (0,), (1,)])
    assert device.seconds(graph, 10) == pytest.approx(6e-3)
    facts = device.facts()
    assert (
        facts["name"] == "stand-in" and facts["capability"] == "9.0" and facts["driver"] == "13.0"
    )


# -- what is missing -----------------------------------------------------------------------------


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


@pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None,
    reason="cuda-bindings is not installed (netloom[cuda])",
)
def test_the_bindings_have_all_that_the_stand_in_has() -> None:
    real: Any = importlib.import_module("cuda.bindings.driver")
    names = [name for name in vars(StandIn) if name.startswith(("cu", "CU"))]
    assert len(names) > 30 and not [name for name in names if not hasattr(real, name)]
    wanted = {
        "func",
        "kernelParams",
        "sharedMemBytes",
        "gridDimX",
        "gridDimY",
        "gridDimZ",
        "blockDimX",
        "blockDimY",
        "blockDimZ",
    }
    assert wanted <= set(dir(real.CUDA_KERNEL_NODE_PARAMS()))
    assert not [
        name
        for name in vars(StandIn.CUdevice_attribute)
        if not hasattr(real.CUdevice_attribute, name)
    ]
