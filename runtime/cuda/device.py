"""What a session asks of a device. The real one is in cuda_device.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from netloom.errors import DeviceError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Call:
    """One launch with everything known. The kernel takes pointers, int32 numbers, and the
    address of the error flag.
    """

    function: Any
    blocks: int
    threads: int
    pointers: tuple[int, ...]
    numbers: tuple[int, ...]
    flag: int


class Device(Protocol):
    """Memory by address, kernels by handle, and sequences of launches that are replayed whole."""

    @property
    def name(self) -> str: ...

    @property
    def number(self) -> int:
        """The device's place among the CUDA devices."""
        ...

    @property
    def stream_handle(self) -> int:
        """The driver's handle of the stream on which everything happens."""
        ...

    def allocate(self, size: int) -> int:
        """The address of at least ``size`` bytes, aligned to 256; DeviceMemoryError if there is not
        enough.
        """
        ...

    def free(self, address: int) -> None: ...

    def upload(self, address: int, array: Array) -> None: ...

    def download(self, array: Array, address: int) -> None:
        """Fills a contiguous array after all work before is done."""
        ...

    def copy(self, to: int, source: int, size: int) -> None:
        """Copies bytes on the device, after all work before and before all work behind it."""
        ...

    def wait_for(self, stream: int) -> None:
        """Work from now on waits for what has been given to another stream (a handle, or 1 or 2:
        legacy, per-thread default).
        """
        ...

    def synchronize(self) -> None:
        """Waits until all work is done."""
        ...

    def load(self, name: str, cubins: Mapping[str, bytes], shared: Mapping[str, int]) -> Any:
        """The kernel of that name from the cubin that fits the device; ``shared``: by architecture,
        the bytes of shared memory that its launches ask for, if any.
        """
        ...

    def unload(self, function: Any) -> None:
        """Frees what ``load`` made."""
        ...

    def capture(self, calls: Sequence[Call], after: Sequence[Sequence[int]]) -> Any:
        """The calls as one graph, in which each waits for those of the numbers in ``after``."""
        ...

    def rebind(self, graph: Any, number: int, call: Call) -> None:
        """Puts other arguments into a captured call; replays that have begun keep theirs."""
        ...

    def replay(self, graph: Any) -> None: ...

    def release(self, graph: Any) -> None:
        """Frees what ``capture`` made."""
        ...

    def seconds(self, graph: Any, times: int) -> float:
        """The mean time of a replay, of so many one after another."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What the device is: name, and what else is known of it."""
        ...


def fitting(architectures: Sequence[str], capability: tuple[int, int]) -> str:
    """The architecture whose cubin runs on a device: its own with "a", else the newest of its
    generation not above it.
    """
    major, minor = capability
    found = ""
    for name in sorted(architectures):
        number = int(name.removeprefix("sm_").removesuffix("a"))
        is_exact = name.endswith("a")
        if (is_exact and number == major * 10 + minor) or (
            not is_exact and number // 10 == major and number % 10 <= minor
        ):
            found = name
    if not found:
        raise DeviceError(f"the program holds code for {', '.join(architectures)}, but the device "
                          f"is sm_{major}{minor}.",
                          hint="Compile the model for this device's architecture.")  # fmt: skip
    return found


def free_quietly(device: Device, address: int) -> None:
    """Frees memory from a finalizer, which has nobody to report to: a context that is gone has
    taken its memory along.
    """
    with contextlib.suppress(DeviceError):
        device.free(address)
