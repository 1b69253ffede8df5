"""Numbers, arrays and dtypes that are given beside symbolic values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from netloom.compiler.tensor_type import DType
from netloom.errors import UsageError


def dtype_of(given: object) -> DType:
    """A dtype by its name, or NumPy's; UsageError if there is none."""
    try:
        if isinstance(given, DType | str):
            return DType(given)
        return DType.of(given)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        known = ", ".join(d.value for d in DType)
        raise UsageError(f"{given!r} is not a dtype.", hint=f"Known dtypes: {known}.") from error


def array_of(given: npt.ArrayLike, dtype: DType | None) -> npt.NDArray[np.generic]:
    """A number or an array as one of the dtype; UsageError where that would lose more than digits
    of a float.
    """
    array = np.asarray(given)
    if array.dtype.kind not in "biuf" and array.dtype != DType.BFLOAT16.numpy:
        raise UsageError(f"{given!r} holds no real numbers, and is no symbolic value.")
    if dtype is None or dtype.is_float:
        return array
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype.numpy)
    if not np.array_equal(cast, array):
        raise UsageError(
            f"{given!r} is not {dtype.value} without loss.",
            hint='Cast the symbolic value first, as nl.cast(x, "float32").',
        )
    return cast


__all__ = ["array_of", "dtype_of"]
