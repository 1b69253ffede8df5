"""Values of a caller -> arrays that a program can read in place, and arrays -> DLTensors.

Inputs may be NumPy arrays of any strides, byte order and alignment, anything with ``__dlpack__``,
or plain numbers and lists. An array's dtype is never changed silently.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import struct
from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom import abi
from netloom.errors import InputError

from .cpu import DLTensor
from .program import PortInfo

Array: TypeAlias = npt.NDArray[Any]
LINE = 64  # bytes of a cache line, and of the widest store
PAGE = 4096


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a port's dtype; bfloat16 is that of ml_dtypes, or uint16 where that is
    not installed.
    """
    dtype: Any = name
    if name == "bfloat16":
        found = importlib.util.find_spec("ml_dtypes")
        dtype = importlib.import_module("ml_dtypes").bfloat16 if found else np.uint16
    result: np.dtype[Any] = np.dtype(dtype)
    return result


def empty(shape: Sequence[int], port: PortInfo) -> Array:
    """An array for a port's values, large ones at the start of a cache line: there each vector is
    stored into one line, elsewhere into two. The largest begin with a page, as NumPy's own do: a
    CPU may take a load for one of what was just stored whole pages away, and wait.
    """
    dtype = numpy_dtype(port.dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < 16 * LINE:
        return np.empty(shape, dtype)
    room = PAGE if size >= 16 * PAGE else LINE
    memory = np.empty(size + room, np.uint8)
    first = -_address(memory) % room
    return memory[first : first + size].view(dtype).reshape(shape)


def blank(shape: Sequence[int], dtype: str) -> Array:
    """An array of a shape, without memory for its elements."""
    return np.broadcast_to(np.zeros((), numpy_dtype(dtype)), shape)


def as_input(value: Any, port: PortInfo) -> Array:
    """The value as a native, aligned, row-major array of the port's dtype (a copy only where it
    must be).
    """
    dtype = numpy_dtype(port.dtype)
    array = value if isinstance(value, np.ndarray) else _converted(value, port, dtype)
    if array.dtype != dtype:
        if array.dtype.newbyteorder("=") != dtype:
            raise InputError(
                f'The input "{port.name}" must be {port}, but {array.dtype}{list(array.shape)} was given.'
            )
        array = array.astype(dtype)
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, dtype, order="C", copy=True, subok=False)


def _converted(value: Any, port: PortInfo, dtype: np.dtype[Any]) -> Array:
    if value is None:
        raise InputError(f'The input "{port.name}" must be {port}, but None was given.')
    try:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        array = np.asarray(value)
        return array if hasattr(value, "dtype") else _from_numbers(array, port, dtype)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise InputError(
            f'The input "{port.name}" must be {port}, but a {type(value).__name__} was given: {error}.'
        ) from error


def _from_numbers(array: Array, port: PortInfo, dtype: np.dtype[Any]) -> Array:
    """An array that NumPy made of plain numbers, as a port's dtype: whole numbers stay what they
    are. ValueError where one does not fit, TypeError for other kinds of numbers, and where uint16
    stands for the bits of bfloat16.
    """
    is_whole = array.dtype.kind in "iu" and dtype.kind in "iu"
    if port.dtype == "bfloat16" and dtype.kind == "u" and array.size:
        raise TypeError("numbers are no bits of bfloat16; install ml_dtypes")
    converted = array.astype(dtype, casting="unsafe" if is_whole or not array.size else "same_kind")
    if is_whole and not np.array_equal(converted, array):
        wrong = array[converted != array].flat[0]
        raise ValueError(f"{wrong} is out of the range of {dtype}")
    return converted


def check_bindable(name: str, value: Any, port: PortInfo, writable: bool) -> Array:
    """The array itself, if a program can use it in place for every call; InputError otherwise."""
    dtype = numpy_dtype(port.dtype)
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        given = (
            f"{value.dtype}{list(value.shape)}"
            if isinstance(value, np.ndarray)
            else f"a {type(value).__name__}"
        )
        raise InputError(
            f'The buffer for "{name}" must be a NumPy array {port}, but {given} was given.'
        )
    if not (value.flags.c_contiguous and value.flags.aligned):
        raise InputError(f'The buffer for "{name}" must be row-major, without gaps, and aligned.')
    if writable and not value.flags.writeable:
        raise InputError(f'The buffer for "{name}" is read-only.')
    return value


# a DLTensor as DLPack has it: data, device, ndim, dtype, shape, strides, offset; packed whole, for
# ctypes makes an object for each field of a field
_FIELDS = struct.Struct("@PiiiBBHPPQ")
_POINTER = struct.Struct("@P")  # the first of them


class Tensors:
    """A C array of DLTensors over NumPy arrays, which it keeps alive until it is over others."""

    __slots__ = ("_arrays", "_extents", "_places", "_shapes", "_tensors", "count", "pointer")

    def __init__(self, arrays: Sequence[Array], dtypes: Sequence[str]) -> None:
        tensors = (DLTensor * len(arrays))()
        extents = [extent for array in arrays for extent in array.shape]
        shapes = (ctypes.c_int64 * len(extents))(*extents)
        places = range(0, len(arrays) * _FIELDS.size, _FIELDS.size)
        shape = ctypes.addressof(shapes)
        for place, array, dtype in zip(places, arrays, dtypes, strict=True):
            code, bits = abi.DLPACK_CODES[dtype]
            fields = (_address(array), 1, 0, array.ndim, code, bits, 1, shape, 0, 0)
            _FIELDS.pack_into(tensors, place, *fields)
            shape += 8 * array.ndim
        self.pointer = ctypes.addressof(tensors)
        self.count = len(arrays)
        self._tensors, self._places, self._arrays = tensors, places, arrays
        self._shapes, self._extents = shapes, extents

    def point_to(self, arrays: Sequence[Array]) -> None:
        """Over other arrays of the same dtypes and shapes, which the caller keeps alive."""
        self._arrays = ()
        for place, array in zip(self._places, arrays, strict=True):
            _POINTER.pack_into(self._tensors, place, _address(array))

    def reset_shapes(self) -> None:
        """The arrays' own shapes again: a program writes actual extents over those that data
        decide.
        """
        self._shapes[:] = self._extents

    def filled(self, arrays: Sequence[Array]) -> list[Array]:
        """The arrays, those that it is over, as far as a program has filled them: elements lie one
        after another from the first on.
        """
        extents = iter(self._shapes)
        return [_first(array, tuple(islice(extents, array.ndim))) for array in arrays]


def blank_tensors(count: int) -> tuple[Any, list[Any]]:
    """DLTensors without data, and their shapes, for a program to fill in."""
    tensors = (DLTensor * count)()
    shapes = [(ctypes.c_int64 * abi.MAX_RANK)() for _ in range(count)]
    for tensor, shape in zip(tensors, shapes, strict=True):
        tensor.shape = ctypes.addressof(shape)
    return tensors, shapes


def _address(array: Array) -> int:
    """Where an array's first element is. ``from_buffer`` takes a fourth of the time of NumPy's own
    description, but wants an array that may be written and has elements, of a dtype that C knows.
    """
    try:
        return ctypes.addressof(ctypes.c_byte.from_buffer(array.data))
    except (TypeError, ValueError, BufferError):
        data: int = array.__array_interface__["data"][0]
        return data


def _first(array: Array, shape: tuple[int, ...]) -> Array:
    """The first elements of an array, in a shape."""
    if array.shape == shape:
        return array
    return array.reshape(-1)[: math.prod(shape)].reshape(shape)
