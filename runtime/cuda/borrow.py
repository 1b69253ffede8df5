"""Arrays of other libraries on the device -> addresses that a program reads in place.

Taken is whatever offers ``__dlpack__`` for a CUDA device, or else ``__cuda_array_interface__``
(version 2 or 3). DLPack's producer makes the values ready for the device's stream; for the other
protocol the device's stream waits for the producer's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netloom.errors import InputError

from ..buffer import numpy_dtype
from ..program import PortInfo
from . import dlpack
from .device import Device
from .device_array import DeviceArray

ACCESS = 16  # bytes of a kernel's widest access, of which an address to be read must be a multiple


@dataclass(frozen=True)
class Borrowed:
    """An input on the device, compact and row-major; ``release`` must be called when it has been
    read."""

    address: int
    shape: tuple[int, ...]
    nbytes: int
    release: Callable[[], None]

    @property
    def is_aligned(self) -> bool:
        return self.address % ACCESS == 0


def is_on_device(value: Any) -> bool:
    """Whether a value says that it lies in a CUDA device's memory."""
    if isinstance(value, np.ndarray):
        return False
    kind, _ = _dlpack_device(value)
    return kind == dlpack.CUDA if kind else hasattr(value, "__cuda_array_interface__")


def borrow(value: Any, port: PortInfo, device: Device) -> Borrowed:
    """The value's address and shape; InputError if its dtype, device or order in memory is not what
    the port needs."""
    if isinstance(value, DeviceArray) and value.device is device:
        _check_dtype(port, value.dtype, value.shape)
        return _borrowed(value.address, value.shape, port, lambda: None)
    if _dlpack_device(value)[0] == dlpack.CUDA:
        return _from_dlpack(value, port, device)
    return _from_interface(value, port, device)


def _dlpack_device(value: Any) -> tuple[int, int]:
    """(kind, number), (0, 0) if the value does not say."""
    try:
        kind, number = value.__dlpack_device__()
        return int(kind), int(number)
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
        return 0, 0


# -- DLPack ----------------------------------------------------------------------------------------


def _from_dlpack(value: Any, port: PortInfo, device: Device) -> Borrowed:
    number = _dlpack_device(value)[1]
    if number != device.number:
        raise InputError(
            f'The input "{port.name}" lies on CUDA device {number}, but the program runs on '
            f"device {device.number}."
        )
    try:
        tensor = dlpack.taken(_exported(value, device.stream_handle))
    except (BufferError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f'The input "{port.name}" cannot be read by DLPack: {error}.') from error
    try:
        _check_dtype(port, tensor.dtype, tensor.shape)
        _check_compact(port, tensor.shape, tensor.strides)
    except InputError:
        tensor.delete()
        raise
    return _borrowed(tensor.address, tensor.shape, port, tensor.delete)


def _exported(value: Any, stream: int) -> Any:
    """The producer's capsule, ready for the stream; older producers do not know of versions."""
    try:
        return value.__dlpack__(stream=stream, max_version=dlpack.VERSION)
    except TypeError:
        return value.__dlpack__(stream=stream)


# -- the CUDA array interface ----------------------------------------------------------------------


def _from_interface(value: Any, port: PortInfo, device: Device) -> Borrowed:
    try:
        described: Mapping[str, Any] = value.__cuda_array_interface__
        shape = tuple(int(extent) for extent in described["shape"])
        dtype, address = np.dtype(described["typestr"]), int(described["data"][0] or 0)
        strides = described.get("strides")
        stream = described.get("stream")
        if described.get("mask") is not None:
            raise ValueError("it has a mask")
        if stream == 0:
            raise ValueError("its stream is 0, which the interface forbids")
        steps = None if strides is None else _in_elements(strides, dtype.itemsize)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f'The __cuda_array_interface__ of the input "{port.name}" cannot be read: {error}.'
        ) from error
    if dtype != numpy_dtype(port.dtype):
        raise _wrong_dtype(port, str(dtype), shape)
    _check_compact(port, shape, steps)
    if stream is not None:
        device.wait_for(int(stream))
    return _borrowed(address, shape, port, lambda: None)


def _in_elements(strides: Sequence[int], size: int) -> tuple[int, ...]:
    """Strides of bytes as strides of elements; those that are none become -1, which no compact
    array has."""
    return tuple(step // size if step % size == 0 else -1 for step in map(int, strides))


# -- both ------------------------------------------------------------------------------------------


def _borrowed(
    address: int, shape: tuple[int, ...], port: PortInfo, release: Callable[[], None]
) -> Borrowed:
    return Borrowed(
        address, shape, math.prod(shape) * int(numpy_dtype(port.dtype).itemsize), release
    )


def _check_dtype(port: PortInfo, dtype: str, shape: tuple[int, ...]) -> None:
    if dtype != port.dtype:
        raise _wrong_dtype(port, dtype, shape)


def _wrong_dtype(port: PortInfo, dtype: str, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f'The input "{port.name}" must be {port}, but {dtype}{list(shape)} was given.'
    )


def _check_compact(port: PortInfo, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    """Axes of one element, and arrays without elements, may have any stride."""
    if strides is None or 0 in shape:
        return
    compact = dlpack.compact_strides(shape)
    if any(
        extent != 1 and step != wanted
        for extent, step, wanted in zip(shape, strides, compact, strict=True)
    ):
        raise InputError(
            f'The input "{port.name}" lies on the device with the strides {list(strides)}, but '
            "must be C-contiguous.",
            hint="Make it contiguous first.",
        )
