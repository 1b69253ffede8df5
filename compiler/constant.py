"""Constants: read-only arrays, compared by their contents. A splat (one value repeated) stays one
value in memory, and a ``Scaled`` array is computed by whoever reads its elements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .scaled import Scaled
from .tensor_type import DType, TensorType

SAMPLES = 64  # elements that tell most constants apart

Data: TypeAlias = "npt.NDArray[Any] | Scaled"


class Constant:
    """A read-only array. Equality and hash go by content (dtype, shape, bytes). ``data``: its
    elements as they are held.
    """

    __slots__ = ("_digest", "_hash", "data", "type")

    def __init__(self, array: npt.ArrayLike | Scaled, dtype: DType | None = None) -> None:
        self.data: Data = array if isinstance(array, Scaled) else _read_only(array, dtype)
        self.type = TensorType(DType.of(self.data.dtype), self.data.shape)
        self._digest = ""
        self._hash = 0

    @staticmethod
    def splat(value: Any, type: TensorType) -> Constant:
        """``value`` repeated over a static shape, in a few bytes of memory."""
        scalar = np.asarray(value).astype(type.dtype.numpy)
        return Constant(np.broadcast_to(scalar.reshape(()), type.static_shape))

    @property
    def array(self) -> npt.NDArray[Any]:
        """The elements; they are kept once they are computed."""
        if isinstance(self.data, Scaled):
            self.data = _read_only(self.data.computed())
        return self.data

    def moved(self, move: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Constant:
        """With the elements where a function that only moves them puts them."""
        data = self.data
        return Constant(data.moved(move) if isinstance(data, Scaled) else move(data))

    @property
    def is_splat(self) -> bool:
        """Whether one value fills the array by construction (strides of zero); contents are not
        searched.
        """
        array = self.data
        if isinstance(array, Scaled):
            return False
        return array.size > 0 and all(
            stride == 0 or extent == 1
            for stride, extent in zip(array.strides, array.shape, strict=True)
        )

    @classmethod
    def shortest(cls, array: npt.NDArray[Any]) -> Constant:
        """The array; a splat where one value fills it."""
        if array.size > 1:
            first = array.reshape(-1)[0]
            if array.tobytes() == first.tobytes() * array.size:
                return cls.splat(first, TensorType(DType.of(array.dtype), array.shape))
        return cls(array)

    @property
    def splat_value(self) -> Any:
        """The value of a splat, as a NumPy scalar; None for other constants."""
        return self.array[(0,) * self.array.ndim] if self.is_splat else None

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that identify dtype, shape and contents."""
        if not self._digest:
            content = hashlib.sha256(str(self.type).encode())
            if self.is_splat:
                content.update(b"splat" + np.asarray(self.splat_value).tobytes())
            else:
                content.update(
                    np.ascontiguousarray(self.array).view(np.uint8).data if self.array.size else b""
                )
            self._digest = content.hexdigest()[:32]
        return self._digest

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Constant)
            and hash(self) == hash(other)
            and self.digest == other.digest
        )

    def __hash__(self) -> int:
        if not self._hash:
            size = self.data.size
            places = np.linspace(0, size - 1, min(size, SAMPLES)).astype(np.int64)
            samples = self.moved(lambda array: array.flat[places]).array
            self._hash = hash((self.type, samples.tobytes())) or 1
        return self._hash

    def __repr__(self) -> str:
        return f"Constant({self.type}, {self.digest[:8]})"


def _read_only(array: npt.ArrayLike, dtype: DType | None = None) -> npt.NDArray[Any]:
    """A view of the elements, in the machine's order of bytes."""
    data: npt.NDArray[Any] = np.asarray(array, dtype.numpy if dtype else None)
    if data.dtype.byteorder == ">":
        data = data.astype(data.dtype.newbyteorder("="))
    view = data.view()
    view.flags.writeable = False
    return view
