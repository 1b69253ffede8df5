"""Nodes of small constants -> their results, computed at import by the ops' NumPy references."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.op import OPS
from netloom.compiler.tensor_type import TensorType
from netloom.compiler.verify import symbols_in

MOST_FOLDED: Final = 1 << 14  # elements of a result; larger ones are left to the passes
MOST_READ: Final = 16 * MOST_FOLDED  # elements of all inputs together


def computed(
    op: str,
    attrs: Mapping[str, Any],
    types: Sequence[TensorType],
    arrays: Sequence[npt.NDArray[Any]],
) -> npt.NDArray[Any] | None:
    """The one output of an op on arrays of these types; None if it is large, of an extent that is not
    known, not the only output, or an error (which the builder reports).
    """
    record = OPS.get(op)
    if record is None or not arrays or sum(array.size for array in arrays) > MOST_READ:
        return None
    values = record.attrs(**attrs)
    try:
        results = record.infer(values, types)
    except ValueError:
        return None
    is_whole = len(results) == 1 and results[0].is_static and not symbols_in(values)
    if not is_whole or math.prod(results[0].static_shape) > MOST_FOLDED:
        return None
    with np.errstate(all="ignore"):
        (array,) = record.reference(values, arrays, results)
    return np.asarray(array)
