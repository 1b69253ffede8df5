"""What CudaDevice does with cuda-bindings themselves, over the driver of driver.c: run by
test_bindings.py in a process of its own, since the bindings load a driver once.
"""

from __future__ import annotations

import threading

import numpy as np

from netloom.errors import DeviceError
from netloom.runtime.cuda.cuda_device import CudaDevice
from netloom.runtime.cuda.device import Call


def check_memory(device: CudaDevice) -> None:
    """Copies in, across and out; a stream of another library; too much memory."""
    x, y = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    first, second = device.allocate(20), device.allocate(20)
    device.upload(first, x)
    device.copy(second, first, 20)
    device.wait_for(device.stream_handle)
    device.download(y, second)
    assert np.array_equal(x, y)
    device.free(first)
    device.free(second)
    try:
        device.allocate(1 << 41)
    except DeviceError as error:
        assert "not enough free memory" in str(error)
    else:
        raise AssertionError("memory without end")


def check_code(device: CudaDevice) -> None:
    """Code that the driver is too old for, or that is none."""
    try:
        device.load("scale", {"sm_90a": b"newer"}, {})
    except DeviceError as error:
        assert "of CUDA 13.0, does not take a kernel's code (CUDA_ERROR_INVALID_IMAGE)" in str(
            error
        )
    else:
        raise AssertionError("code of another driver was taken")


def check_graphs(device: CudaDevice) -> None:
    """Arguments, edges, other arguments for one node, shared memory above 48 KB, and times."""
    function = device.load("scale", {"sm_80": b"", "sm_90a": b"code"}, {"sm_90a": 98304})
    places = [device.allocate(16) for _ in range(5)]
    device.upload(places[0], np.arange(4, dtype=np.float32))
    device.upload(places[4], np.ones(4, np.float32))
    calls = [Call(function, 3, 256, (places[i], places[i + 1]), (4,), 7) for i in range(3)]
    graph = device.capture(calls, [(), (0,), (1, 0)])
    found = np.zeros(4, np.float32)
    device.replay(graph)
    device.download(found, places[3])
    assert found.tolist() == [0, 8, 16, 24]
    device.rebind(graph, 0, Call(function, 3, 256, (places[4], places[1]), (4,), 7))
    assert abs(device.seconds(graph, 10) - 6e-3) < 1e-9
    device.download(found, places[3])
    assert found.tolist() == [8, 8, 8, 8]
    device.release(graph)
    device.unload(function)


def check_threads(device: CudaDevice) -> None:
    """A thread has no context before it calls a device."""
    found = np.zeros(3, np.float32)

    def use() -> None:
        place = device.allocate(12)
        device.upload(place, np.ones(3, np.float32))
        device.download(found, place)
        device.free(place)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found.tolist() == [1, 1, 1]


def check_faults(device: CudaDevice) -> None:
    """After a kernel that breaks the context, every call says so."""
    graph = device.capture(
        [Call(device.load("fault", {"sm_90a": b"code"}, {}), 1, 32, (), (), 7)], [()]
    )
    for call in (lambda: device.replay(graph), device.synchronize, lambda: device.allocate(8)):
        try:
            call()
        except DeviceError as error:
            assert "CUDA_ERROR_ILLEGAL_ADDRESS" in str(error)
        else:
            raise AssertionError("a broken context goes on")


def main() -> None:
    device = CudaDevice()
    facts = device.facts()
    assert facts["name"] == device.name == "driver of a test" and facts["driver"] == "13.0"
    assert (facts["capability"], facts["multiprocessors"], facts["clock_hz"]) == (
        "9.0", 132, 1.98e9,
    )  # fmt: skip
    check_memory(device)
    check_code(device)
    check_graphs(device)
    check_threads(device)
    check_faults(device)


if __name__ == "__main__":
    main()
