"""Philox 4x32-10, number by number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .reference import Array, Shape


def philox_block(counter: Sequence[int], key: Sequence[int]) -> tuple[int, ...]:
    """Philox-4x32-10 of one counter (Salmon et al. 2011, section 3.3): four words from four, and
    a key of two.
    """
    c, k, low = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & low, (a >> 32) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return tuple(c)


def _random_bits(key: Array, shape: Shape) -> Array:
    start = int(key[0]) + (int(key[1]) << 32)
    count = math.prod(shape)
    words: list[int] = []
    for block in range(-(-count // 4)):
        number = (start + block) % (1 << 64)
        words += philox_block((number & 0xFFFFFFFF, number >> 32, 0, 0), (int(key[2]), int(key[3])))
    return np.array(words[:count], np.uint32).reshape(shape)


def _random_uniform(key: Array, shape: Shape, dtype: Any = np.float32) -> Array:
    return np.floor(_random_bits(key, shape) / 256.0) / 2.0**24


def _random_normal(key: Array, shape: Shape, dtype: Any) -> Array:
    """Box and Muller's cosine form from the middles of 2^24 intervals."""
    first, second = np.floor(_random_bits(key, (2, *shape)) / 256.0) + 0.5
    return np.sqrt(-2 * np.log(first / 2.0**24)) * np.cos(2 * np.pi * second / 2.0**24)


def _dropout(x: Array, key: Array, rate: float) -> Array:
    return np.where(_random_uniform(key, x.shape) >= np.float32(rate), x / (1 - rate), 0)


RANDOM_NUMBERS: dict[str, Callable[..., Any]] = {
    "random_bits": _random_bits,
    "random_uniform": _random_uniform,
    "random_normal": _random_normal,
    "dropout": _dropout,
}
