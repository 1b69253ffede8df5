"""TensorProto -> Constant, with every byte accounted for.

A tensor has a known dtype, a bounded shape, exactly one data field and exactly as many bytes as its
shape says. External data are read only below the folder of a model that was given by path: no
symbolic link at any step, a regular file with one hard link, offset and length inside the file.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from netloom.compiler import tensor_type as types
from netloom.compiler.constant import Constant
from netloom.compiler.tensor_type import MAX_ELEMENTS, MAX_RANK, DType
from netloom.errors import MemoryBudgetError, ModelError, UnsupportedOpError

from .large_tensors import TOKEN
from .names import printable

DTYPES: Final[dict[int, DType]] = {
    TensorProto.FLOAT: types.FLOAT32,
    TensorProto.DOUBLE: types.FLOAT64,
    TensorProto.FLOAT16: types.FLOAT16,
    TensorProto.BFLOAT16: types.BFLOAT16,
    TensorProto.INT8: types.INT8,
    TensorProto.INT16: types.INT16,
    TensorProto.INT32: types.INT32,
    TensorProto.INT64: types.INT64,
    TensorProto.UINT8: types.UINT8,
    TensorProto.UINT16: types.UINT16,
    TensorProto.UINT32: types.UINT32,
    TensorProto.UINT64: types.UINT64,
    TensorProto.BOOL: types.BOOL,
}
ONNX_DTYPES: Final = {dtype: number for number, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Narrow:
    """A dtype that constants may have, but no value of a graph: it is carried by one that holds
    all its numbers.
    """

    name: str
    bits: int
    carrier: DType
    numpy: Any  # of ml_dtypes


NARROW: Final[dict[int, Narrow]] = {
    TensorProto.INT4: Narrow("int4", 4, types.INT8, ml_dtypes.int4),
    TensorProto.UINT4: Narrow("uint4", 4, types.UINT8, ml_dtypes.uint4),
    TensorProto.INT2: Narrow("int2", 2, types.INT8, ml_dtypes.int2),
    TensorProto.UINT2: Narrow("uint2", 2, types.UINT8, ml_dtypes.uint2),
    TensorProto.FLOAT4E2M1: Narrow("float4e2m1", 4, types.FLOAT32, ml_dtypes.float4_e2m1fn),
    TensorProto.FLOAT8E4M3FN: Narrow("float8e4m3fn", 8, types.FLOAT32, ml_dtypes.float8_e4m3fn),
    TensorProto.FLOAT8E4M3FNUZ: Narrow(
        "float8e4m3fnuz", 8, types.FLOAT32, ml_dtypes.float8_e4m3fnuz
    ),
    TensorProto.FLOAT8E5M2: Narrow("float8e5m2", 8, types.FLOAT32, ml_dtypes.float8_e5m2),
    TensorProto.FLOAT8E5M2FNUZ: Narrow(
        "float8e5m2fnuz", 8, types.FLOAT32, ml_dtypes.float8_e5m2fnuz
    ),
    TensorProto.FLOAT8E8M0: Narrow("float8e8m0", 8, types.FLOAT32, ml_dtypes.float8_e8m0fnu),
}

# Where each dtype's elements may stand besides raw_data.
_TYPED_FIELD: Final = {
    types.FLOAT32: "float_data",
    types.FLOAT64: "double_data",
    types.INT64: "int64_data",
    types.UINT32: "uint64_data",
    types.UINT64: "uint64_data",
}
_FIELDS: Final = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
)


def dtype_of(number: int, what: str) -> DType:
    """The DType of an ONNX element type."""
    dtype = DTYPES.get(number)
    if dtype is None:
        known = number in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(number) if known else f"number {number}"
        kind = UnsupportedOpError if known and number else ModelError
        raise kind(f"{what} has the element type {name}, which is not supported.",
                   hint=f"Known are {', '.join(d.value for d in DTYPES.values())}.")  # fmt: skip
    return dtype


def check_shape(dims: Sequence[int], what: str) -> tuple[int, ...]:
    """A shape of ints with its rank and number of elements bounded; nothing is allocated before."""
    if len(dims) > MAX_RANK:
        raise ModelError(
            f"{what} has rank {len(dims)}; the highest is {MAX_RANK}.", hint="Reshape it."
        )
    if any(extent < 0 for extent in dims):
        raise ModelError(
            f"{what} has a negative extent: {list(dims)}.", hint="Export the model again."
        )
    if math.prod(dims) > MAX_ELEMENTS:
        raise MemoryBudgetError(f"{what} would have {math.prod(dims)} elements; the most is {MAX_ELEMENTS}.",
                                hint="Use smaller shapes.")  # fmt: skip
    return tuple(dims)


class TensorReader:
    """Reads tensors of one model; ``folder`` holds its external data, None if there can be none;
    ``apart``: raw data of tensors that hold a token instead (large_tensors.py); the files of
    external data that were read are noted in ``outside``.
    """

    def __init__(
        self, folder: Path | None, apart: Mapping[bytes, memoryview] | None = None,
        outside: set[str] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.apart = folder, apart or {}
        self.outside = set() if outside is None else outside

    def constant(self, tensor: onnx.TensorProto, what: str = "") -> Constant:
        """The tensor's contents, of narrow dtypes in their carrier. ModelError names the tensor
        and what is wrong with it.
        """
        what = what or f"the initializer {printable(tensor.name)!r}"
        narrow = NARROW.get(tensor.data_type)
        dtype = types.UINT8 if narrow else dtype_of(tensor.data_type, what)
        shape = check_shape(tensor.dims, what)
        if tensor.HasField("segment"):
            raise UnsupportedOpError(
                f"{what} is stored in segments.", hint="Save the model with whole tensors."
            )
        if narrow is not None:
            size = (-(-math.prod(shape) * narrow.bits // 8),)
            return Constant(
                _widened(self._array(tensor, dtype, size, what), narrow, shape), narrow.carrier
            )
        return Constant(self._array(tensor, dtype, shape, what))

    def _array(
        self, tensor: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], what: str
    ) -> npt.NDArray[Any]:
        if tensor.data_location == TensorProto.EXTERNAL:
            return _from_bytes(self._external(tensor, dtype, shape, what), dtype, shape)
        return _from_fields(tensor, dtype, shape, what, self.apart)

    def _external(
        self, tensor: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], what: str
    ) -> bytes:
        if tensor.HasField("raw_data") or any(len(getattr(tensor, field)) for field in _FIELDS):
            raise ModelError(
                f"{what} has both external and internal data.", hint="Export the model again."
            )
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in entries:
                raise ModelError(
                    f"{what} gives {printable(entry.key)!r} of its external data twice."
                )
            entries[entry.key] = entry.value
        if self.folder is None:
            raise ModelError(f"{what} is stored outside the model, and the model was not given by path.",
                             hint="Give the model's path, or save it as one file.")  # fmt: skip
        needed = math.prod(shape) * dtype.bytes
        offset = _number(entries.get("offset", "0"), "offset", what)
        length = _number(entries.get("length", str(needed)), "length", what)
        if length != needed:
            raise ModelError(f"{what} needs {needed} bytes, but its external data give {length}.",
                             hint="Export the model again.")  # fmt: skip
        location = entries.get("location", "")
        self.outside.add(location)
        return _read_inside(self.folder, location, offset, length, what)


def _number(text: str, key: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"{what} has the external {key} {printable(text)!r}, which is not a number.",
                         hint="Export the model again.")  # fmt: skip
    return int(text)


def _read_inside(folder: Path, location: str, offset: int, length: int, what: str) -> bytes:
    """Bytes of a file below ``folder``; every step is opened by name inside the step before,
    links refused.
    """
    path = PurePosixPath(location)
    shown = f"{what}: its external data file {printable(location)!r}"
    if (
        not location
        or "\0" in location
        or "\\" in location
        or path.is_absolute()
        or ".." in path.parts
        or not path.parts
    ):
        raise ModelError(
            f"{shown} does not lie inside the model's folder.", hint="Export the model again."
        )
    directory = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    opened: list[int] = []
    try:
        opened.append(os.open(os.path.realpath(folder), directory))
        for part in path.parts[:-1]:
            opened.append(os.open(part, directory | os.O_NOFOLLOW, dir_fd=opened[-1]))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened.append(os.open(path.parts[-1], flags, dir_fd=opened[-1]))
        return _read_regular(opened[-1], offset, length, shown)
    except OSError as error:
        raise ModelError(f"{shown} cannot be opened: {error.strerror} (links are not followed).",
                         hint="Place the file itself beside the model.") from error  # fmt: skip
    finally:
        for descriptor in reversed(opened):
            os.close(descriptor)


def _read_regular(descriptor: int, offset: int, length: int, shown: str) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(
            f"{shown} is not a regular file.", hint="Place the file itself beside the model."
        )
    if status.st_nlink != 1:
        raise ModelError(
            f"{shown} has {status.st_nlink} hard links.",
            hint="Copy it, so that it has one name only.",
        )
    if offset + length > status.st_size:
        raise ModelError(f"{shown} has {status.st_size} bytes; {length} at offset {offset} do not lie inside.",
                         hint="The file is cut short or belongs to another model.")  # fmt: skip
    parts: list[bytes] = []
    while length and (part := os.pread(descriptor, min(length, 1 << 30), offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    if length:
        raise ModelError(f"{shown} ended {length} bytes early.", hint="Is it being written?")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _from_fields(
    tensor: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], what: str,
    apart: Mapping[bytes, memoryview],
) -> npt.NDArray[Any]:  # fmt: skip
    count = math.prod(shape)
    raw = tensor.raw_data
    filled = [field for field in _FIELDS if len(getattr(tensor, field))]
    if tensor.HasField("raw_data"):
        filled += ["raw_data"] if raw or not filled else []
    if len(filled) > 1:
        raise ModelError(
            f"{what} has several data fields: {', '.join(filled)}.", hint="Keep exactly one."
        )
    if len(tensor.external_data):
        raise ModelError(
            f"{what} names external data but is not marked external.",
            hint="Export the model again.",
        )
    if not filled:
        if count:
            raise ModelError(
                f"{what} has no data, but {count} elements.",
                hint="Is the model's weight file missing?",
            )
        return np.zeros(shape, dtype.numpy)
    if filled == ["raw_data"]:
        data = apart.get(raw, raw) if len(raw) == TOKEN else raw
        if len(data) != count * dtype.bytes:
            raise ModelError(f"{what} is {dtype.value}{list(shape)}: it needs {count * dtype.bytes} bytes, but has "
                             f"{len(data)}.", hint="Export the model again.")  # fmt: skip
        return _from_bytes(data, dtype, shape)
    return _from_typed(tensor, filled[0], dtype, shape, what)


def _from_bytes(data: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if dtype is types.BOOL:
        return np.not_equal(np.frombuffer(data, np.uint8), 0).reshape(shape)
    return np.frombuffer(data, dtype.numpy.newbyteorder("<")).reshape(shape)


def _widened(data: npt.NDArray[Any], narrow: Narrow, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Bytes as numbers; of less than 8 bits, the lowest come first."""
    shifts = np.arange(0, 8, narrow.bits, dtype=np.uint8)
    numbers = (
        (data[:, None] >> shifts & np.uint8((1 << narrow.bits) - 1))
        .reshape(-1)[: math.prod(shape)]
        .reshape(shape)
    )
    if narrow.carrier is types.UINT8:
        return np.asarray(numbers)
    if narrow.carrier is types.INT8:
        sign = 1 << (narrow.bits - 1)
        return np.asarray((numbers.astype(np.int8) ^ sign) - sign)
    return np.asarray(numbers.view(narrow.numpy).astype(np.float32))


def _from_typed(
    tensor: onnx.TensorProto, field: str, dtype: DType, shape: tuple[int, ...], what: str
) -> npt.NDArray[Any]:
    expected = _TYPED_FIELD.get(dtype, "int32_data")
    items = getattr(tensor, field)
    if field != expected:
        raise ModelError(
            f"{what} is {dtype.value}, but its data stand in {field}.",
            hint=f"Use {expected} or raw_data.",
        )
    if len(items) != math.prod(shape):
        raise ModelError(f"{what} is {dtype.value}{list(shape)}: it needs {math.prod(shape)} elements, but has "
                         f"{len(items)}.", hint="Export the model again.")  # fmt: skip
    wide = np.array(items)
    if dtype in (types.FLOAT16, types.BFLOAT16):  # bit patterns
        return _within(wide, 0, 0xFFFF, what).astype(np.uint16).view(dtype.numpy).reshape(shape)
    if dtype is types.BOOL:
        return np.asarray(wide != 0).reshape(shape)
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        wide = _within(wide, int(info.min), int(info.max), what)
    return wide.astype(dtype.numpy).reshape(shape)


def _within(values: npt.NDArray[Any], low: int, high: int, what: str) -> npt.NDArray[Any]:
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        raise ModelError(f"{what} has elements outside {low}..{high}, which its dtype cannot hold.",
                         hint="Export the model again.")  # fmt: skip
    return values
