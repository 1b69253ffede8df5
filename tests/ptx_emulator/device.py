"""A device whose kernels run in the emulator: sessions run on it from end to end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.errors import DeviceMemoryError
from netloom.runtime.cuda.device import Call

from .machine import emulate

_FIRST, _GAP = 1 << 33, 1 << 12


class EmulatedDevice:
    """``ptx``: entry name -> text. ``room``: bytes that it can hold. New memory is full of NaN."""

    name = "emulator"
    number, stream_handle = 0, 7

    def __init__(self, ptx: Mapping[str, str], room: int = 1 << 28) -> None:
        self.ptx, self.room = ptx, room
        self.memory: dict[int, npt.NDArray[np.uint8]] = {}
        self._next = _FIRST
        self.launches = self.loaded = 0
        self.waited_for: list[int] = []

    def allocate(self, size: int) -> int:
        if size + sum(data.size for data in self.memory.values()) > self.room:
            raise DeviceMemoryError(
                "the device has not enough free memory.", hint="Choose a smaller batch."
            )
        address = self._next
        self.memory[address] = np.full(max(size, 1), 0xFF, np.uint8)
        self._next += -(-(size + _GAP) // _GAP) * _GAP
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def _place(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        base = max(start for start in self.memory if start <= address)
        found = self.memory[base][address - base : address - base + size]
        assert found.size == size
        return found

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        if array.nbytes:
            self._place(address, array.nbytes)[...] = (
                np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            )

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        if array.nbytes:
            array.reshape(-1).view(np.uint8)[...] = self._place(address, array.nbytes)

    def copy(self, to: int, source: int, size: int) -> None:
        self._place(to, size)[...] = self._place(source, size)

    def wait_for(self, stream: int) -> None:
        self.waited_for.append(stream)

    def synchronize(self) -> None:
        """All is done when a call returns."""

    def load(self, name: str, cubins: Mapping[str, bytes], shared: Mapping[str, int]) -> Any:
        assert set(shared) <= set(cubins)
        assert all(data.startswith(b"\x7fELF") for data in cubins.values())
        self.loaded += 1
        return self.ptx[name]

    def unload(self, function: Any) -> None:
        self.loaded -= 1

    def capture(self, calls: Sequence[Call], after: Sequence[Sequence[int]]) -> Any:
        """Replays run the calls in another order than they come in: of those that need not wait,
        always the last.
        """
        waiting = dict(enumerate(after))
        graph = {}
        while waiting:
            number = max(
                n for n, numbers in waiting.items() if not any(m in waiting for m in numbers)
            )
            graph[number] = calls[number]
            del waiting[number]
        return graph

    def rebind(self, graph: Any, number: int, call: Call) -> None:
        assert number in graph
        graph[number] = call

    def release(self, graph: Any) -> None:
        graph.clear()

    def seconds(self, graph: Any, times: int) -> float:
        """Of the emulator: nothing that says anything about a GPU."""
        start = time.perf_counter()
        for _ in range(times):
            self.replay(graph)
        return (time.perf_counter() - start) / times

    def facts(self) -> Mapping[str, Any]:
        return {"name": self.name}

    def replay(self, graph: Any) -> None:
        memory = sorted(self.memory.items())
        for call in graph.values():
            arguments = [*call.pointers, *call.numbers, call.flag]
            emulate(
                call.function,
                call.blocks,
                call.threads,
                arguments,
                flag=len(arguments) - 1,
                memory=memory,
            )
            self.launches += 1
