"""Results that stay on the device: row-major arrays with ``__dlpack__`` and
``__cuda_array_interface__``.

An array owns its memory, which nothing overwrites as long as the array, or a view that another
library made of it, is alive. Its values are there when it is: no stream has to wait for them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.errors import DeviceMemoryError

from ..buffer import numpy_dtype
from . import dlpack
from .device import Device, free_quietly

_MOST_KEPT = 16  # free buffers of a pool


@dataclass
class _Use:
    """Whether another library may have seen the memory, which it may use on streams that are not
    ours."""

    is_shared: bool = False


class Pool:
    """Buffers of results: those that were given back are used again, for the same size."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._free: list[tuple[int, int]] = []  # (bytes, address)
        self._is_open = True

    def take(self, size: int) -> int:
        """The address of a buffer; DeviceMemoryError if there is no memory for it."""
        for place, (bytes_, address) in enumerate(self._free):
            if bytes_ == size:
                del self._free[place]
                return address
        try:
            return self.device.allocate(size)
        except DeviceMemoryError:
            if not self._free:
                raise
            self.drain()
            return self.device.allocate(size)

    def give_back(self, address: int, size: int, use: _Use) -> None:
        """Keeps the buffer for later. One that others saw is freed, which waits until the device
        has done what they asked of it."""
        if self._is_open and not use.is_shared and len(self._free) < _MOST_KEPT:
            self._free.append((size, address))
        else:
            free_quietly(self.device, address)

    def close(self) -> None:
        """Frees what is not in use, and from now on what is given back."""
        self._is_open = False
        self.drain()

    def drain(self) -> None:
        """Frees what is not in use."""
        while self._free:
            self.device.free(self._free.pop()[1])


class DeviceArray:
    """An array on the device. ``dtype`` is the port's, as text."""

    def __init__(self, pool: Pool, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype, self.device = shape, dtype, pool.device
        self.nbytes = math.prod(shape) * int(numpy_dtype(dtype).itemsize)
        self.address = pool.take(self.nbytes)
        self._use = _Use()
        weakref.finalize(self, pool.give_back, self.address, self.nbytes, self._use).atexit = False

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}[{', '.join(map(str, self.shape))}] on {self.device.name})"

    def numpy(self) -> npt.NDArray[Any]:
        """A copy in the host's memory."""
        array = np.empty(self.shape, numpy_dtype(self.dtype))
        self.device.download(array, self.address)
        return array

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]:
        """Version 3. ``stream`` is None: the values are there, so that nobody has to wait. It has
        no name for bfloat16."""
        if self.dtype == "bfloat16":
            raise AttributeError(
                "the CUDA array interface has no type for bfloat16; use __dlpack__."
            )
        self._use.is_shared = True
        return {
            "shape": self.shape,
            "typestr": numpy_dtype(self.dtype).str,
            "data": (self.address if self.nbytes else 0, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """(kDLCUDA, the device's number)."""
        return dlpack.CUDA, self.device.number

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of the array in place, on whatever stream it will be used; BufferError for a
        copy or another device."""
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(
                "a DeviceArray is exported in place, without a copy and on its own device."
            )
        if stream == 0:
            raise ValueError(
                "DLPack leaves open which stream 0 is: give 1 for the legacy default stream."
            )
        self._use.is_shared = True
        is_versioned = max_version is not None and max_version[0] >= 1
        return dlpack.capsule(
            self.address, self.shape, self.dtype, self.device.number, self, is_versioned
        )
