"""The values that a row's inputs take: arrays from (domain, generator, shape, dtype, position of
the input).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netloom.compiler.tensor_type import BOOL, DType

RANGES = {
    "": (-2.0, 2.0),
    "positive": (0.1, 3.0),
    "inside": (-0.99, 0.99),
    "above": (1.01, 50.0),
    "far": (-100.0, 100.0),
    "huge": (-1e10, 1e10),
}
SPECIAL = (0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 1e-40)


def _spread(
    rng: np.random.Generator, shape: tuple[int, ...], position: int, lo: float, hi: float
) -> Any:
    """Different numbers in (lo, hi), equally far apart and in random order: kinks and ties lie
    between them.
    """
    size = int(np.prod(shape))
    steps = rng.permutation(size) + (0.4, 0.7, 0.2, 0.6, 0.3, 0.5)[position]
    return (lo + (hi - lo) * steps / max(size, 1)).reshape(shape)


def draw(
    domain: str, rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, position: int
) -> Any:
    """Values of a domain; "" is (-2, 2) for floats, [-5, 10) for integers.

    positive (0.1, 3); inside (-0.99, 0.99); above (1.01, 50); far (-100, 100); huge (-1e10, 1e10);
    halves: multiples of 1/2; zeros: one in five is 0; nan: one NaN; special: infinities, NaN,
    zeros, denormals, in every pair (special:P as at position P); wide: any integer, the dtype's
    extremes among them; index:N in [-N, N); label:N in [0, N); permutation:A: 0, 1, .. in random
    order along axis A; ascending along the last axis; boxes [.., 4, n]: low ends, then high ones.
    """
    word, _, number = domain.partition(":")
    if word in RANGES and (word or dtype.is_float):
        return _spread(rng, shape, position, *RANGES[word])
    match word:
        case "halves":
            return rng.integers(-7, 8, shape) / 2
        case "zeros":
            values = _spread(rng, shape, position, *RANGES[""])
            return np.where(rng.random(shape) < 0.2, 0.0, values)
        case "special":
            return _combined(SPECIAL, int(number or position), int(np.prod(shape))).reshape(shape)
        case "nan":
            values = _spread(rng, shape, position, *RANGES[""])
            values.flat[values.size // 2] = np.nan
            return values
        case "wide":
            return _wide(rng, shape, dtype, position)
        case "index":
            return rng.integers(-int(number), int(number), shape)
        case "label":
            return rng.integers(0, int(number), shape)
        case "ascending":
            return np.sort(rng.integers(-5, 10, shape), axis=-1)
        case "boxes":  # some are the same, some have no area
            low = rng.integers(0, 12, (*shape[:-2], 2, shape[-1])) / 4
            return np.concatenate([low, low + rng.integers(0, 9, low.shape) / 4], axis=-2)
        case "permutation":
            return rng.random(shape).argsort(axis=int(number))
        case "":
            lo, hi = (0, 2) if dtype is BOOL else (-5 if dtype.is_signed else 0, 10)
            return rng.integers(lo, hi, shape)
    raise ValueError(f"there is no domain {domain!r}")


def _combined(few: Sequence[Any], position: int, size: int) -> Any:
    """A few values in turn, such that two positions have every pair of them."""
    period = len(few) ** position
    return np.array([few[i // period % len(few)] for i in range(size)])


def _wide(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, position: int) -> Any:
    """Any integers, the first 49 of them extremes in every pair."""
    limits = np.iinfo(dtype.numpy)
    few = np.array([limits.min, limits.max, 0, 1, limits.max - 1, limits.min + 1, 7], dtype.numpy)
    values = rng.integers(limits.min, limits.max, shape, dtype.numpy, endpoint=True)
    values.flat[:49] = _combined(few, position, min(values.size, 49))
    return values
