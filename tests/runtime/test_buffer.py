"""Arrays as DLTensors: what is packed is what the C structure reads."""

from __future__ import annotations

import ctypes

import numpy as np

from netloom import abi
from netloom.runtime.buffer import Tensors
from netloom.runtime.cpu import DLTensor


def test_every_field_is_in_its_place() -> None:
    arrays = [
        np.zeros((2, 3, 4), np.float32),
        np.array(7, np.int64),
        np.zeros((0, 5), np.bool_),
        np.zeros(9, np.float16),
    ]
    dtypes = ["float32", "int64", "bool", "float16"]
    tensors = Tensors(arrays, dtypes)
    assert tensors.count == len(arrays)
    found = (DLTensor * len(arrays)).from_address(tensors.pointer)
    for tensor, array, dtype in zip(found, arrays, dtypes, strict=True):
        assert tensor.data == array.ctypes.data
        assert (tensor.device.device_type, tensor.device.device_id) == (1, 0)
        assert tensor.ndim == array.ndim
        kind = tensor.dtype
        assert (kind.code, kind.bits, kind.lanes) == (*abi.DLPACK_CODES[dtype], 1)
        shape = (ctypes.c_int64 * array.ndim).from_address(tensor.shape)
        assert tuple(shape) == array.shape
        assert tensor.strides is None and tensor.byte_offset == 0
