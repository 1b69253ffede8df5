"""What CudaDevice asks of the driver, against a stand-in for it."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.runtime.cuda.device import Call, CudaDevice
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
    assert not driver.memory and driver.contexts == 0


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
