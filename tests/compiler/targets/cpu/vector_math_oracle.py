"""Vector math's oracle, and the arguments on which formulas are compared with it.

The oracle computes in extended precision (64-bit significands), 2^-11 units in the last place of a
float64. Arguments are of all exponents, and close to where formulas turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.compiler.targets.cpu.vector_math import SINE_LIMITS
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, DType

Array = npt.NDArray[Any]
Wide = np.longdouble
inf, nan = math.inf, math.nan


# -- the oracle ------------------------------------------------------------------------------------


def erf(x: Array) -> Array:
    """2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!, all terms of one sign (DLMF 7.6.2); x^2
    in two exact parts.
    """
    size = np.minimum(np.abs(x), Wide(7))
    term, total = size.copy(), size.copy()
    for n in range(1, 240):
        term = term * (2 * size * size) / (2 * n + 1)
        total += term
    head = size.astype(np.float32).astype(Wide)
    decay = np.exp(-head * head) * np.exp(-(size - head) * (size + head))
    scale = 2 / np.sqrt(Wide("3.14159265358979323846264338327950288"))
    return np.asarray(np.copysign(total * decay * scale, x))


ORACLE: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": erf, "sin": np.sin, "cos": np.cos,
    "pow": np.power,
}  # fmt: skip


def exact_values(function: str, arguments: Sequence[Array]) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(ORACLE[function](*(a.astype(Wide) for a in arguments)))


def ulp_error(result: Array, exact: Array) -> float:
    """The largest distance in spacings of the result's dtype; infinite where one is NaN or
    infinite and the other not.
    """
    info = np.finfo(result.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(result.dtype)
        exponent = np.maximum(np.frexp(exact)[1] - 1, info.minexp)
        error = np.abs(result.astype(Wide) - exact) / np.ldexp(Wide(1), exponent - info.nmant)
    same = (result == rounded) | (np.isnan(result) & np.isnan(rounded))
    ordinary = np.isfinite(result) & np.isfinite(rounded)
    return float(np.max(np.where(ordinary, error, np.where(same, 0, inf))))


# -- samples: all exponents, and where formulas turn -----------------------------------------------


def _bit_patterns(dtype: DType, count: int, random: np.random.Generator) -> Array:
    unsigned = np.uint32 if dtype is FLOAT32 else np.uint64
    return random.integers(0, np.iinfo(unsigned).max, count, dtype=unsigned, endpoint=True).view(
        dtype.numpy
    )


def _around(points: Any, dtype: DType) -> Array:
    """Points rounded to the dtype, with their neighbours, and points at small relative
    distances.
    """
    center = np.asarray(points, np.float64)
    near = np.concatenate(
        [center * (1 + sign * 2.0**-power) for sign in (-1, 1) for power in range(2, 52, 3)]
    )
    x = np.concatenate([center, near]).astype(dtype.numpy)
    return np.concatenate(
        [x, np.nextafter(x, dtype.numpy.type(inf)), np.nextafter(x, dtype.numpy.type(-inf))]
    )


def samples_of(function: str, dtype: DType) -> list[Array]:
    random = np.random.default_rng(7)
    every = _bit_patterns(dtype, 20_000, random)
    limit = {FLOAT32: 104.5, FLOAT64: 746.0}[dtype]
    if function == "pow":
        return _pow_samples(dtype, limit, random)
    small = random.uniform(-1, 1, 20_000) * 2.0 ** random.integers(-30, 1, 20_000)
    ranges = {
        "exp": [random.uniform(-limit, limit * 0.96, 40_000), small],
        "log": [
            np.exp(random.uniform(-80, 80, 20_000)),
            random.uniform(0.5, 2, 40_000),
            1 + small / 2,
        ],
        "tanh": [
            random.uniform(-22, 22, 10_000),
            random.uniform(-1, 1, 20_000),
            random.uniform(0.1, 0.3, 40_000),
            small,
        ],
        "erf": [random.uniform(-6.2, 6.2, 20_000), random.uniform(0.2, 0.3, 20_000), small],
        "sin": [
            random.uniform(-1, 1, 20_000) * SINE_LIMITS[dtype],
            random.uniform(-10, 10, 20_000),
            small,
        ],
    }
    turns = {
        "exp": np.concatenate(
            [
                np.arange(-2 * limit, 2 * limit) * math.log(2) / 2,
                [88.72284, 709.7827, -87.33655, -708.3964],
            ]
        ),
        "log": np.sqrt(2.0) ** np.arange(-40, 41),
        "tanh": np.concatenate([np.arange(1, 60) * math.log(2) / 8, [0.259, 0.2554, 9.1, 20.0]]),
        "erf": np.concatenate([np.arange(1, 30) / 5, [3.95, 5.9]]),
        "sin": np.concatenate(
            [np.arange(1, 300), np.arange(300, int(SINE_LIMITS[dtype] * 2 / math.pi), 97)]
        )
        * (math.pi / 2),
    }
    kind = "sin" if function == "cos" else function
    x = np.concatenate(
        [every, *(part.astype(dtype.numpy) for part in ranges[kind]), _around(turns[kind], dtype)]
    )
    return [x[np.abs(x) <= SINE_LIMITS[dtype]] if kind == "sin" else x]


def _pow_samples(dtype: DType, limit: float, random: np.random.Generator) -> list[Array]:
    """Bases of all sizes and close to 1, with exponents that bring the power to the whole range
    of the dtype.
    """
    spread = random.uniform(-80, 80, 20_000)
    close = (
        random.choice([-1, 1], 20_000)
        * random.uniform(0.5, 1, 20_000)
        * 2.0 ** random.integers(-20, 1, 20_000)
    )
    base = np.exp(np.concatenate([spread, close])).astype(dtype.numpy)
    logarithm = np.log(base.astype(np.float64))
    exponent = np.divide(
        random.uniform(-limit, limit, base.size),
        logarithm,
        out=np.ones(base.size),
        where=logarithm != 0,
    )
    plain = random.uniform(0, 10, 10_000), random.uniform(-5, 5, 10_000)
    whole = random.uniform(-10, 10, 10_000), np.rint(random.uniform(-30, 30, 10_000))
    unsigned = np.uint32 if dtype is FLOAT32 else np.uint64
    tiny = random.integers(1, 1 << np.finfo(dtype.numpy).nmant, 10_000, dtype=unsigned).view(
        dtype.numpy
    )
    root = np.asarray(random.uniform(-1, 1, tiny.size))
    x = np.concatenate([base, plain[0].astype(dtype.numpy), whole[0].astype(dtype.numpy), tiny])
    return [x, np.concatenate([exponent, plain[1], whole[1], root]).astype(dtype.numpy)]
