"""Weights and inputs of the networks that benchmarks/gpu.py runs: the same on both machines, from
NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PERIOD = 61  # different filters, or numbers, of a tensor of weights
RATE = 1e-3  # of training


class Periodic:
    """What draws weights, in place of a generator: PERIOD different filters, or numbers, in an
    order that differs from row to row. Normal ones add up to zero: their sum would be a part of
    every result, and where it is negative a rectifier would leave nothing of a layer."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def standard_normal(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        def draw(own: tuple[int, ...]) -> Array:
            values = self._rng.standard_normal(own, np.float32)
            return np.asarray(values - values.mean(0), np.float32)

        return self._spread(shape, draw).astype(dtype)

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> Array:
        return self._spread(shape, lambda s: self._rng.uniform(low, high, s))

    def _spread(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Array]) -> Array:
        lead = shape[:2]
        table = draw((PERIOD, *shape[2:]))
        steps = (7, 1)[: len(lead)] if len(lead) == 2 else (1,) * len(lead)
        index = sum(
            step * places for step, places in zip(steps, np.indices(lead, sparse=True), strict=True)
        )
        found: Array = table[np.asarray(index) % PERIOD]
        return found


def made(number: int, shape: tuple[int, ...]) -> Array:
    """A trained tensor's first values, by its number and shape alone; He-normal."""
    values = np.random.default_rng(number).standard_normal(shape, np.float32)
    return values * he_scale(shape)


def feeds_of(ports: Sequence[Any], repeats: int = 1) -> dict[str, Array]:
    """Inputs by name, from ports with names, dtypes and shapes; a batch has its samples ``repeats``
    times, one after all others."""
    rng = np.random.default_rng(1)
    found: dict[str, Array] = {}
    for port in ports:
        if port.name == "rate":
            found[port.name] = np.array(RATE, np.float32)
            continue
        batch, *others = port.static_shape
        shape = (batch // repeats, *others)
        drawn = (
            rng.integers(0, 10, shape)
            if port.dtype.startswith("int")
            else rng.standard_normal(shape, np.float32)
        )
        found[port.name] = np.concatenate([drawn] * repeats)
    return found


def scaled(draw: Periodic, shape: tuple[int, ...]) -> Array:
    """He-normal weights."""
    return draw.standard_normal(shape) * he_scale(shape)


def he_scale(shape: tuple[int, ...]) -> np.float32:
    """The deviation of weights behind a rectifier (He et al. 2015), from the terms of a filter's
    sums, or of a matrix's column."""
    terms = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
    return np.float32((2 / terms) ** 0.5)


__all__ = ["RATE", "Periodic", "feeds_of", "made", "scaled"]
