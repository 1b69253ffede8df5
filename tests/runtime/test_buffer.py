"""Arrays as DLTensors: what is packed is what the C structure reads."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np
import pytest

from netloom import abi
from netloom.errors import InputError
from netloom.runtime import buffer
from netloom.runtime.buffer import Tensors, as_input
from netloom.runtime.cpu import DLTensor
from netloom.runtime.program import PortInfo


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


def test_tensors_of_one_shape_are_over_other_arrays_in_turn() -> None:
    """Arrays that may be written, that may not, without elements, and of a dtype that C lacks."""
    own = [np.zeros(3, np.float32), np.zeros((0, 2), np.int8)]
    fixed = np.ones(3, np.float32)
    fixed.flags.writeable = False
    tensors = Tensors(own, ["float32", "int8"])
    for first in (own[0], fixed, np.ones(3, np.float32)):
        tensors.point_to([first, own[1]])
        found = (DLTensor * 2).from_address(tensors.pointer)
        assert [t.data for t in found] == [first.ctypes.data, own[1].ctypes.data]
        assert (ctypes.c_int64 * 1).from_address(found[0].shape)[0] == 3
    halves = np.zeros(4, pytest.importorskip("ml_dtypes").bfloat16)
    shorts = Tensors([halves], ["bfloat16"])
    shorts.point_to([halves[:4]])
    assert DLTensor.from_address(shorts.pointer).data == halves.ctypes.data


def test_tensors_let_go_of_what_they_were_over() -> None:
    array = np.zeros(3, np.float32)
    tensors = Tensors([array], ["float32"])
    tensors.point_to([np.ones(3, np.float32)])
    seen = weakref.ref(array)
    del array
    assert seen() is None


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([-128, 127], "int8"),
        ([0, 255], "uint8"),
        ([2**64 - 1], "uint64"),
        ([], "int64"),
        ([[]], "bool"),
        ([True, False], "bool"),
        ([1, 2], "float16"),
        (3, "int32"),
    ],
)
def test_plain_numbers_are_what_they_say(value: Any, dtype: str) -> None:
    array = as_input(value, _port(value, dtype))
    assert array.dtype == dtype and array.tolist() == value


@pytest.mark.parametrize(
    ("value", "dtype", "wrong"),
    [
        ([1, 300], "int8", "300"),
        (-1, "uint8", "-1"),
        ([2**31], "int32", str(2**31)),
        ([2**63], "int64", str(2**63)),
        ([[-1]], "uint64", "-1"),
    ],
)
def test_plain_numbers_that_do_not_fit_are_refused(value: Any, dtype: str, wrong: str) -> None:
    with pytest.raises(InputError, match=f"{wrong} is out of the range of {dtype}"):
        as_input(value, _port(value, dtype))


@pytest.mark.parametrize(("value", "dtype"), [([0.5], "int64"), ([2**64], "uint64"), ([1], "bool")])
def test_other_kinds_of_numbers_are_refused(value: Any, dtype: str) -> None:
    with pytest.raises(InputError, match="must be"):
        as_input(value, _port(value, dtype))


def test_numbers_are_no_bits_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ml_dtypes is missing, its values are given as uint16."""
    monkeypatch.setattr(buffer, "numpy_dtype", lambda _: np.dtype(np.uint16))
    for numbers in ([1, 2], [True], [1.5]):
        with pytest.raises(InputError, match="install ml_dtypes"):
            as_input(numbers, _port(numbers, "bfloat16"))
    bits = np.array([0x3F80], np.uint16)
    assert as_input(bits, _port(bits, "bfloat16")) is bits


def _port(value: Any, dtype: str) -> PortInfo:
    return PortInfo("x", dtype, np.shape(value))
