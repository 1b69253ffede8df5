"""A stand-in for cuda.bindings.driver: host memory by address, kernels that are Python functions,
and a log of what was asked. What needs a context asserts that the thread has one.

Graphs run their nodes when they are launched, from the parameters that they hold then, each after
the nodes it depends on.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

Kernel = Callable[..., None]
OK = SimpleNamespace(name="CUDA_SUCCESS")
ATTRIBUTES = {
    "COMPUTE_CAPABILITY_MAJOR": 9,
    "COMPUTE_CAPABILITY_MINOR": 0,
    "MULTIPROCESSOR_COUNT": 132,
    "CLOCK_RATE": 1_980_000,
}


# what may be called without a context
_FREE = ("cuInit", "cuDriver", "cuDevice", "cuCtxPush", "cuCtxPop")


class Contexts(threading.local):
    """How many contexts the thread has on its stack."""

    depth = 0


@dataclass
class Node:
    """A kernel node: the function, the grid, and its arguments, copied when they were given."""

    function: Any
    grid: tuple[int, ...]
    arguments: tuple[int, ...]
    after: tuple[Node, ...]
    shared: int


@dataclass
class Graph:
    nodes: list[Node] = field(default_factory=list)


class StandIn:
    """The functions that the runtime calls; ``kernels``: name -> (function, its arguments'
    ctypes)."""

    CUresult = SimpleNamespace(
        CUDA_SUCCESS=OK,
        CUDA_ERROR_OUT_OF_MEMORY=SimpleNamespace(name="CUDA_ERROR_OUT_OF_MEMORY"),
        CUDA_ERROR_NO_DEVICE=SimpleNamespace(name="x"),
        CUDA_ERROR_STUB_LIBRARY=SimpleNamespace(name="y"),
    )
    CUdevice_attribute = SimpleNamespace(
        **{f"CU_DEVICE_ATTRIBUTE_{name}": value for name, value in ATTRIBUTES.items()}
    )
    CUfunction_attribute = SimpleNamespace(
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="most dynamic shared"
    )
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
    CUstream = int
    CUDA_KERNEL_NODE_PARAMS = SimpleNamespace

    def __init__(self, kernels: dict[str, tuple[Kernel, Sequence[Any]]]) -> None:
        self.kernels = kernels
        self.memory: dict[int, Any] = {}
        self.log: list[tuple[Any, ...]] = []
        self.clock = 0.0
        self.contexts = Contexts()
        self.modules = 0
        self.times: dict[int, float] = {}
        self._handles = 100

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cu") and not name.startswith(_FREE):
            assert self.contexts.depth > 0, name
        return super().__getattribute__(name)

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def cuInit(self, flags: int) -> Any:
        return (OK,)

    def cuDriverGetVersion(self) -> Any:
        return OK, 13000

    def cuDeviceGetCount(self) -> Any:
        return OK, 1

    def cuDeviceGet(self, number: int) -> Any:
        return OK, number

    def cuDeviceGetName(self, size: int, device: int) -> Any:
        return OK, b"stand-in\0\0"

    def cuDeviceGetAttribute(self, kind: int, device: int) -> Any:
        return OK, kind

    def cuDevicePrimaryCtxRetain(self, device: int) -> Any:
        return OK, "context"

    def cuDevicePrimaryCtxRelease(self, device: int) -> Any:
        self.log.append(("release context",))
        return (OK,)

    def cuCtxPushCurrent(self, context: Any) -> Any:
        self.contexts.depth += 1
        return (OK,)

    def cuCtxPopCurrent(self) -> Any:
        self.contexts.depth -= 1
        return OK, "context"

    def cuStreamCreate(self, flags: int) -> Any:
        return OK, self._handle()

    def cuStreamDestroy(self, stream: int) -> Any:
        self.log.append(("destroy stream", stream))
        return (OK,)

    def cuStreamSynchronize(self, stream: int) -> Any:
        self.log.append(("synchronize", stream))
        return (OK,)

    # -- memory ------------------------------------------------------------------------------------

    def cuMemAlloc(self, size: int) -> Any:
        data = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(data)] = data
        return OK, ctypes.addressof(data)

    def cuMemFree(self, address: int) -> Any:
        del self.memory[address]
        return (OK,)

    def _copied(self, to: int, source: int, size: int, stream: int) -> Any:
        ctypes.memmove(to, source, size)
        return (OK,)

    cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoDAsync = _copied

    # -- kernels and graphs ------------------------------------------------------------------------

    def cuModuleLoadData(self, cubin: bytes) -> Any:
        self.modules += 1
        return OK, cubin

    def cuModuleUnload(self, module: bytes) -> Any:
        self.modules -= 1
        return (OK,)

    def cuModuleGetFunction(self, module: bytes, name: bytes) -> Any:
        return OK, name.decode()

    def cuFuncSetAttribute(self, function: str, kind: str, value: int) -> Any:
        self.log.append(("attribute", function, kind, value))
        return (OK,)

    def cuGraphCreate(self, flags: int) -> Any:
        return OK, Graph()

    def _node(self, node: Any, after: Sequence[Node]) -> Node:
        _, types = self.kernels[node.func]
        places = (ctypes.c_void_p * len(types)).from_address(node.kernelParams)
        arguments = tuple(
            kind.from_address(place).value for kind, place in zip(types, places, strict=True)
        )
        assert (
            node.gridDimY,
            node.gridDimZ,
            node.blockDimY,
            node.blockDimZ,
        ) == (1, 1, 1, 1)
        grid = (node.gridDimX, node.blockDimX)
        return Node(node.func, grid, arguments, tuple(after), node.sharedMemBytes)

    def cuGraphAddKernelNode(
        self, graph: Graph, after: Sequence[Node], count: int, node: Any
    ) -> Any:
        assert count == len(after)
        graph.nodes.append(self._node(node, after))
        return OK, graph.nodes[-1]

    def cuGraphInstantiate(self, graph: Graph, flags: int) -> Any:
        return OK, {id(node): node for node in graph.nodes}

    def cuGraphExecKernelNodeSetParams(
        self, executable: dict[int, Node], node: Node, changed: Any
    ) -> Any:
        executable[id(node)] = self._node(changed, node.after)
        return (OK,)

    def cuGraphLaunch(self, executable: dict[int, Node], stream: int) -> Any:
        for node in executable.values():
            self.kernels[node.function][0](*node.arguments)
            self.clock += 2.0  # milliseconds
        return (OK,)

    def cuGraphExecDestroy(self, executable: Any) -> Any:
        self.log.append(("destroy executable",))
        return (OK,)

    def cuGraphDestroy(self, graph: Any) -> Any:
        self.log.append(("destroy graph",))
        return (OK,)

    # -- events ------------------------------------------------------------------------------------

    def cuEventCreate(self, flags: int) -> Any:
        self.log.append(("create event", flags))
        return OK, self._handle()

    def cuEventRecord(self, event: int, stream: int) -> Any:
        self.log.append(("record", event, stream))
        self.times[event] = self.clock
        return (OK,)

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        self.log.append(("wait", stream, event))
        return (OK,)

    def cuEventSynchronize(self, event: int) -> Any:
        return (OK,)

    def cuEventElapsedTime(self, start: int, end: int) -> Any:
        return OK, self.times[end] - self.times[start]

    def cuEventDestroy(self, event: int) -> Any:
        self.log.append(("destroy event", event))
        return (OK,)
