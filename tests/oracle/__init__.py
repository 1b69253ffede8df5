"""What every op means, written apart from the compiler: (arrays, attributes) -> the exact result in
float64.

Nothing here imports the compiler, so a formula that is wrong there is not wrong here too. The
sources are NumPy, SciPy, the ONNX reference evaluator where its op is the same, and definitions
spelled out index by index. A gradient op is the adjoint of its forward oracle: dx[q] = <f(e_q),
dy>. Integers and truth values are exact, in their own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .attention import ATTENTION
from .data_dims import DATA_DIMS
from .elementwise import ELEMENTWISE
from .fft import FFT
from .indexing import INDEXING
from .normalization import NORMALIZATION
from .random_numbers import RANDOM_NUMBERS
from .reductions import REDUCTIONS
from .reference import Array, is_float
from .windows import WINDOWS
from .winograd import WINOGRAD

ORACLES: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE, **REDUCTIONS, **WINDOWS, **NORMALIZATION, **INDEXING, **RANDOM_NUMBERS, **WINOGRAD, **FFT,
    **ATTENTION, **DATA_DIMS,
    "kernel": lambda x, y, body: np.maximum(x + y, 0),
}  # fmt: skip


def expected(
    name: str, inputs: Sequence[Array], attrs: Mapping[str, Any]
) -> tuple[Array, np.dtype[Any]]:
    """The result of oracle ``name``, floats in float64, and the dtype that the op must give it.

    That is the attribute ``dtype`` if there is one, else the first float input's, for float
    results; the oracle's own for others.
    """
    wide = [x.astype(np.float64) if is_float(x.dtype) else x for x in inputs]
    with np.errstate(all="ignore"):
        result = np.asarray(ORACLES[name](*wide, **attrs))
    if not is_float(result.dtype):
        return result, result.dtype
    own = (
        [np.dtype(attrs["dtype"])]
        if "dtype" in attrs
        else [x.dtype for x in inputs if is_float(x.dtype)]
    )
    return result.astype(np.float64), own[0] if own else result.dtype
