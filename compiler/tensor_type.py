"""Types of values: a dtype and a shape whose extents may be symbolic.

Text form: ``float32[N, 3, 224, 224]``; a scalar is ``float32[]``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import ml_dtypes
import numpy as np

from . import dim
from .dim import Dim, Extent, Symbol, parse_extent

MAX_RANK: Final = 16
MAX_ELEMENTS: Final = 1 << 40


class DType(enum.Enum):
    """Element types. The value is the name used in text, in the C ABI's tables and by NumPy."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    BOOL = "bool"

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype (bfloat16 is the one of ml_dtypes)."""
        dtype: np.dtype[Any] = np.dtype(
            ml_dtypes.bfloat16 if self is DType.BFLOAT16 else self.value
        )
        return dtype

    @cached_property
    def bytes(self) -> int:
        """Size of one element in bytes."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self in (DType.FLOAT16, DType.FLOAT32, DType.FLOAT64, DType.BFLOAT16)

    @property
    def is_integer(self) -> bool:
        return not self.is_float and self is not DType.BOOL

    @property
    def is_signed(self) -> bool:
        return self.is_float or self.value.startswith("int")

    @staticmethod
    def of(numpy_dtype: np.dtype[Any] | type | str) -> DType:
        """The DType of a NumPy dtype; ValueError if there is none."""
        return _of_numpy(np.dtype(numpy_dtype))


@cache
def _of_numpy(dtype: np.dtype[Any]) -> DType:
    """Kept, because NumPy makes the name anew each time."""
    return DType("bfloat16" if dtype == np.dtype(ml_dtypes.bfloat16) else dtype.name)


FLOAT16, FLOAT32, FLOAT64, BFLOAT16 = DType.FLOAT16, DType.FLOAT32, DType.FLOAT64, DType.BFLOAT16
INT8, INT16, INT32, INT64 = DType.INT8, DType.INT16, DType.INT32, DType.INT64
UINT8, UINT16, UINT32, UINT64, BOOL = (
    DType.UINT8,
    DType.UINT16,
    DType.UINT32,
    DType.UINT64,
    DType.BOOL,
)


@dataclass(frozen=True)
class TensorType:
    """dtype + shape."""

    dtype: DType
    shape: tuple[Extent, ...] = ()

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Extent:
        """Number of elements."""
        return dim.product(self.shape)

    @property
    def bytes(self) -> Extent:
        """Size in bytes of a dense tensor."""
        return self.elements * self.dtype.bytes

    @property
    def is_static(self) -> bool:
        return all(isinstance(extent, int) for extent in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape, when every extent is an int; ValueError otherwise."""
        if not all(isinstance(extent, int) for extent in self.shape):
            raise ValueError(f"{self} has symbolic extents")
        return tuple(int(extent) for extent in self.shape if isinstance(extent, int))

    def with_shape(self, shape: tuple[Extent, ...]) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def substitute(self, values: Mapping[Symbol, Extent]) -> TensorType:
        return TensorType(
            self.dtype, tuple(dim.substitute(extent, values) for extent in self.shape)
        )

    def evaluate(self, values: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers, given each symbol's value by name."""
        return tuple(dim.evaluate(extent, values) for extent in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]"


_TYPE = re.compile(r"\s*([a-z0-9]+)\[(.*)\]\s*", re.DOTALL)


def parse_type(text: str, symbols: Mapping[str, Symbol]) -> TensorType:
    """The inverse of ``str(type)``."""
    match = _TYPE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a tensor type")
    extents = split_top_level(match.group(2))
    return TensorType(
        DType(match.group(1)), tuple(parse_extent(extent, symbols) for extent in extents)
    )


def split_top_level(text: str, separator: str = ",") -> list[str]:
    """Parts of ``text`` between separators that stand outside brackets and quotes; [] for blank
    text.
    """
    parts, depth, start, quoted, skip = [], 0, 0, False, False
    for position, letter in enumerate(text):
        if skip:
            skip = False
        elif quoted:
            skip, quoted = letter == "\\", letter != '"'
        elif letter == '"':
            quoted = True
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == separator and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    last = text[start:].strip()
    return [*parts, last] if parts or last else []


def broadcast_shapes(shapes: list[tuple[Extent, ...]]) -> tuple[Extent, ...] | None:
    """The common shape under NumPy's rule, or None; symbolic extents must be equal or 1."""
    if len(set(shapes)) == 1:  # nearly always: each axis is its own
        return shapes[0]
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Extent] = []
    for axis in range(rank):
        extents = {
            shape[axis - rank + len(shape)] for shape in shapes if axis - rank + len(shape) >= 0
        } - {1}
        if len(extents) > 1:
            return None
        result.append(extents.pop() if extents else 1)
    return tuple(result)


__all__ = [name for name in dir() if name.isupper()] + [
    "DType", "Dim", "Extent", "TensorType", "broadcast_shapes", "parse_type", "split_top_level",
]  # fmt: skip
