"""A CUDA device through cuda-bindings' driver API.

``CudaDevice`` imports cuda-bindings when it is made. DeviceError says what is missing: the
bindings, the driver, a device, code for its architecture, or memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from netloom.errors import DeviceError, DeviceMemoryError

from .device import Call, fitting

Array = npt.NDArray[Any]
_OLDEST = "13.0"  # CUDA, whose drivers take what programs hold
_NOT_TAKEN = (
    "CUDA_ERROR_INVALID_IMAGE",
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
)


@dataclass(frozen=True)
class _Function:
    """A loaded kernel, and the bytes of shared memory that each of its launches asks for."""

    module: Any
    handle: Any
    shared: int


@dataclass(frozen=True)
class _Graph:
    """A captured sequence; ``graph`` stays because its nodes name those of the executable one."""

    executable: Any
    graph: Any
    nodes: tuple[Any, ...]


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _in_context(method: _Method) -> _Method:
    """The method in the device's context, whichever thread calls it: the driver keeps one context
    for each thread, which is the caller's own again afterwards.
    """

    @functools.wraps(method)
    def inside(self: CudaDevice, *arguments: Any) -> Any:
        with self._context_current():
            return method(self, *arguments)

    return cast(_Method, inside)


class CudaDevice:
    """The first CUDA device, one stream. It may be used from any thread."""

    def __init__(self) -> None:
        try:
            self._driver = importlib.import_module("cuda.bindings.driver")
        except ImportError as error:
            raise DeviceError(
                "running on a GPU needs the package cuda-bindings.", hint="Install netloom[cuda]."
            ) from error
        try:
            self._check(self._driver.cuInit(0))
        except (RuntimeError, OSError) as error:
            raise DeviceError(
                "no CUDA driver is installed.",
                hint="Install NVIDIA's driver, or compile for the cpu target.",
            ) from error
        if not self._check(self._driver.cuDeviceGetCount()):
            raise DeviceError(
                "this machine has no CUDA device.", hint="Compile for the cpu target."
            )
        self.number = 0
        self._device = number = self._check(self._driver.cuDeviceGet(self.number))
        self.name = self._check(self._driver.cuDeviceGetName(128, number)).split(b"\0")[0].decode()
        kinds = self._driver.CUdevice_attribute
        self.capability = (
            self._attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self._context = self._check(self._driver.cuDevicePrimaryCtxRetain(number))
        try:
            with self._context_current():
                self.stream = self._check(self._driver.cuStreamCreate(0))
        except BaseException:
            self._driver.cuDevicePrimaryCtxRelease(number)
            raise
        end = weakref.finalize(
            self, _let_go, self._driver, self._device, self._context, self.stream
        )
        end.atexit = False  # the driver may be gone then

    @contextlib.contextmanager
    def _context_current(self) -> Iterator[None]:
        self._check(self._driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self._check(self._driver.cuCtxPopCurrent())

    def _check(self, result: tuple[Any, ...]) -> Any:
        """A driver call's values; DeviceError by its code."""
        code, *values = result
        results = self._driver.CUresult
        if code == results.CUDA_SUCCESS:
            return values[0] if len(values) == 1 else tuple(values)
        if code == results.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceMemoryError(
                "the device has not enough free memory.", hint="Choose a smaller batch."
            )
        if code in (results.CUDA_ERROR_NO_DEVICE, results.CUDA_ERROR_STUB_LIBRARY):
            raise DeviceError(
                "this machine has no CUDA device.", hint="Compile for the cpu target."
            )
        raise DeviceError(f"the CUDA driver reports {code.name}.")

    @_in_context
    def allocate(self, size: int) -> int:
        return int(self._check(self._driver.cuMemAlloc(max(size, 1))))

    @_in_context
    def free(self, address: int) -> None:
        """Waits until nobody uses it."""
        self._check(self._driver.cuMemFree(address))

    @_in_context
    def upload(self, address: int, array: Array) -> None:
        data = np.ascontiguousarray(array)
        if data.nbytes:
            self._check(
                self._driver.cuMemcpyHtoDAsync(address, data.ctypes.data, data.nbytes, self.stream)
            )
            self.synchronize()

    @_in_context
    def download(self, array: Array, address: int) -> None:
        if array.nbytes:
            self._check(
                self._driver.cuMemcpyDtoHAsync(
                    array.ctypes.data, address, array.nbytes, self.stream
                )
            )
        self.synchronize()

    @_in_context
    def copy(self, to: int, source: int, size: int) -> None:
        if size:
            self._check(self._driver.cuMemcpyDtoDAsync(to, source, size, self.stream))

    @property
    def stream_handle(self) -> int:
        return int(self.stream)

    @_in_context
    def wait_for(self, stream: int) -> None:
        event = self._check(
            self._driver.cuEventCreate(self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        )
        try:
            self._check(self._driver.cuEventRecord(event, self._driver.CUstream(stream)))
            self._check(self._driver.cuStreamWaitEvent(self.stream, event, 0))
        finally:
            # the driver keeps it until the wait is over
            self._check(self._driver.cuEventDestroy(event))

    @_in_context
    def synchronize(self) -> None:
        self._check(self._driver.cuStreamSynchronize(self.stream))

    @_in_context
    def load(self, name: str, cubins: Mapping[str, bytes], shared: Mapping[str, int]) -> Any:
        """DeviceError, with the driver's version, if it does not take the code."""
        driver, architecture = self._driver, fitting(tuple(cubins), self.capability)
        result = driver.cuModuleLoadData(cubins[architecture])
        if result[0].name in _NOT_TAKEN:
            raise DeviceError(
                f"the driver, of CUDA {self._version()}, does not take a kernel's code "
                f"({result[0].name}).",
                hint=f"Kernels need a driver of CUDA {_OLDEST} or later.",
            )
        module = self._check(result)
        try:
            handle = self._check(driver.cuModuleGetFunction(module, name.encode()))
            size = shared.get(architecture, 0)
            if size:  # more than a block has unasked
                kind = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                self._check(driver.cuFuncSetAttribute(handle, kind, size))
        except BaseException:
            driver.cuModuleUnload(module)
            raise
        return _Function(module, handle, size)

    @_in_context
    def unload(self, function: _Function) -> None:
        self._check(self._driver.cuModuleUnload(function.module))

    @_in_context
    def capture(self, calls: Sequence[Call], after: Sequence[Sequence[int]]) -> Any:
        """Nodes and edges are given to the driver as they are: it spreads what is not ordered
        over streams of its own.
        """
        graph = self._check(self._driver.cuGraphCreate(0))
        try:
            return self._instantiated(graph, calls, after)
        except BaseException:
            self._driver.cuGraphDestroy(graph)
            raise

    def _instantiated(
        self, graph: Any, calls: Sequence[Call], after: Sequence[Sequence[int]]
    ) -> _Graph:
        nodes: list[Any] = []
        for call, numbers in zip(calls, after, strict=True):
            waited = [nodes[number] for number in numbers]
            with self._node(call) as node:
                nodes.append(
                    self._check(self._driver.cuGraphAddKernelNode(graph, waited, len(waited), node))
                )
        return _Graph(self._check(self._driver.cuGraphInstantiate(graph, 0)), graph, tuple(nodes))

    @_in_context
    def rebind(self, graph: _Graph, number: int, call: Call) -> None:
        with self._node(call) as node:
            self._check(
                self._driver.cuGraphExecKernelNodeSetParams(
                    graph.executable, graph.nodes[number], node
                )
            )

    @contextlib.contextmanager
    def _node(self, call: Call) -> Iterator[Any]:
        """The driver's record of a launch. Its arguments are packed as long as it is; the driver
        copies them.
        """
        values = [
            *map(ctypes.c_uint64, call.pointers),
            *map(ctypes.c_int32, call.numbers),
            ctypes.c_uint64(call.flag),
        ]
        packed = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        node = self._driver.CUDA_KERNEL_NODE_PARAMS()
        node.func, node.kernelParams, node.sharedMemBytes = (
            call.function.handle,
            ctypes.addressof(packed),
            call.function.shared,
        )
        node.gridDimX, node.gridDimY, node.gridDimZ = call.blocks, 1, 1
        node.blockDimX, node.blockDimY, node.blockDimZ = call.threads, 1, 1
        yield node

    @_in_context
    def replay(self, graph: _Graph) -> None:
        self._check(self._driver.cuGraphLaunch(graph.executable, self.stream))

    @_in_context
    def release(self, graph: _Graph) -> None:
        self._check(self._driver.cuGraphExecDestroy(graph.executable))
        self._check(self._driver.cuGraphDestroy(graph.graph))

    @_in_context
    def seconds(self, graph: _Graph, times: int) -> float:
        driver = self._driver
        start, end = (self._check(driver.cuEventCreate(0)) for _ in range(2))
        try:
            self.replay(graph)
            self._check(driver.cuEventRecord(start, self.stream))
            for _ in range(times):
                self.replay(graph)
            self._check(driver.cuEventRecord(end, self.stream))
            self._check(driver.cuEventSynchronize(end))
            return float(self._check(driver.cuEventElapsedTime(start, end))) * 1e-3 / times
        finally:
            for event in (start, end):
                self._check(driver.cuEventDestroy(event))

    def facts(self) -> Mapping[str, Any]:
        kinds = self._driver.CUdevice_attribute
        count = self._attribute(kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        clock = self._attribute(kinds.CU_DEVICE_ATTRIBUTE_CLOCK_RATE) * 1000
        return {"name": self.name, "capability": ".".join(map(str, self.capability)),
                "multiprocessors": count, "clock_hz": clock, "driver": self._version()}  # fmt: skip

    def _version(self) -> str:
        """The newest CUDA that the driver knows."""
        version = int(self._check(self._driver.cuDriverGetVersion()))
        return f"{version // 1000}.{version % 1000 // 10}"

    def _attribute(self, kind: Any) -> int:
        return int(self._check(self._driver.cuDeviceGetAttribute(kind, self._device)))


def _let_go(driver: Any, device: Any, context: Any, stream: Any) -> None:
    """Gives back what a device held besides memory. Codes are not looked at: a context that is
    gone has taken all along.
    """
    driver.cuCtxPushCurrent(context)
    driver.cuStreamDestroy(stream)
    driver.cuCtxPopCurrent()
    driver.cuDevicePrimaryCtxRelease(device)
