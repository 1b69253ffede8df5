"""DLPack's capsules by ctypes: a tensor in device memory -> a capsule, and a capsule -> the tensor
in it.

Both forms of capsule are made and read: "dltensor", and "dltensor_versioned" for consumers and
producers of version 1. What a capsule refers to lives until its deleter is called, by its consumer
or, if nobody took it, by its destructor. Source: DLPack 1.1, dlpack.h and "Python Specification for
DLPack".
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from netloom import abi

from ..cpu import DLTensor

CUDA: Final = 2  # kDLCUDA
VERSION: Final = (1, 1)
_PLAIN, _VERSIONED = b"dltensor", b"dltensor_versioned"
_USED: Final = {_PLAIN: b"used_dltensor", _VERSIONED: b"used_dltensor_versioned"}
_DTYPES: Final = {code: name for name, code in abi.DLPACK_CODES.items()}


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


_DELETER: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_set_name = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)
# Capsules by address, not as objects: a destructor must not hold a reference to what is being
# destroyed.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_exported: dict[
    int, tuple[Any, ...]
] = {}  # by the address of a managed tensor: itself and all that it refers to


# -- out -------------------------------------------------------------------------------------------


def capsule(
    address: int, shape: Sequence[int], dtype: str, device: int, owner: object, is_versioned: bool
) -> Any:
    """A capsule of a compact tensor on CUDA device number ``device``; ``owner`` is kept until the
    deleter is called."""
    extents, strides = (
        (ctypes.c_int64 * len(shape))(*shape),
        (ctypes.c_int64 * len(shape))(*compact_strides(shape)),
    )
    managed = _ManagedVersioned(*VERSION) if is_versioned else _Managed()
    managed.deleter = ctypes.cast(_DELETE, ctypes.c_void_p)
    tensor = managed.tensor
    tensor.data, tensor.ndim = address, len(shape)
    tensor.device.device_type, tensor.device.device_id = CUDA, device
    (tensor.dtype.code, tensor.dtype.bits), tensor.dtype.lanes = abi.DLPACK_CODES[dtype], 1
    tensor.shape, tensor.strides = ctypes.addressof(extents), ctypes.addressof(strides)
    place = ctypes.addressof(managed)
    _exported[place] = managed, extents, strides, owner
    return _new(
        place, _VERSIONED if is_versioned else _PLAIN, ctypes.cast(_DESTROY, ctypes.c_void_p)
    )


def compact_strides(shape: Sequence[int]) -> list[int]:
    """Of row-major elements without gaps."""
    strides, step = [0] * len(shape), 1
    for axis in range(len(shape) - 1, -1, -1):
        strides[axis] = step
        step *= shape[axis]
    return strides


def _delete(place: int) -> None:
    _exported.pop(place, None)


def _destroy(holder: int) -> None:
    """A capsule goes: if nobody took what is in it, that goes too."""
    for name in (_PLAIN, _VERSIONED):
        if _is_valid(holder, name):
            _delete(_pointer(holder, name))


_DELETE: Final = _DELETER(_delete)  # they must outlive every capsule
_DESTROY: Final = _DELETER(_destroy)


# -- in --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """What a capsule held. ``strides`` are in elements, None for compact ones; ``delete`` must be
    called once."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    device: tuple[int, int]
    _place: int
    _deleter: int | None

    def delete(self) -> None:
        """Tells the producer that the tensor is not needed any more."""
        if self._deleter:
            _DELETER(self._deleter)(self._place)


def taken(holder: Any) -> Tensor:
    """Takes the tensor out of a capsule; ValueError if there is none, or one of another major
    version or dtype."""
    address = id(holder)
    name = next((name for name in _USED if _is_valid(address, name)), None)
    if name is None:
        raise ValueError("it gave no capsule that holds a tensor")
    place = _pointer(address, name)
    managed: Any = (_ManagedVersioned if name == _VERSIONED else _Managed).from_address(place)
    if name == _VERSIONED and managed.major != VERSION[0]:
        raise ValueError(f"its DLPack version is {managed.major}.{managed.minor}")
    tensor = managed.tensor
    dtype = _DTYPES.get((tensor.dtype.code, tensor.dtype.bits)) if tensor.dtype.lanes == 1 else None
    if dtype is None:
        raise ValueError(
            f"its elements are of DLPack's type {tensor.dtype.code}, {tensor.dtype.bits} bits"
        )
    found = Tensor(
        (tensor.data or 0) + tensor.byte_offset,
        _numbers(tensor.shape, tensor.ndim) or (),
        _numbers(tensor.strides, tensor.ndim),
        dtype,
        (tensor.device.device_type, tensor.device.device_id),
        place,
        managed.deleter,
    )
    _set_name(holder, _USED[name])
    return found


def _numbers(place: int | None, count: int) -> tuple[int, ...] | None:
    return tuple((ctypes.c_int64 * count).from_address(place)) if place else None
