"""The stages of convolution by discrete Fourier transforms, from sums of waves."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from .reference import Array, Shape
from .windows import is_inside
from .winograd import grouped


def _waves(m: Shape, taps: Shape) -> Array:
    """e^(-2 pi i (k y / n0 + l x / n1)) [frequencies, n0, n1]: those with a conjugate elsewhere
    and then the real ones.
    """
    n = [a + b - 1 for a, b in zip(m, taps, strict=True)]
    real = [p for p in np.ndindex(*n) if all(2 * k % e == 0 for k, e in zip(p, n, strict=True))]
    edges = {(k, l) for k, l in np.ndindex(*n) if 2 * k % n[0] == 0 and 0 < l < n[1] - l}
    inner = [(k, l) for k, l in np.ndindex(*n) if 0 < k < n[0] - k]
    places = [*inner, *sorted(edges), *real]
    return np.array(
        [
            np.exp(-2j * np.pi * (k * np.arange(n[0])[:, None] / n[0] + l * np.arange(n[1]) / n[1]))
            for k, l in places
        ]
    )


def _real(m: Shape, taps: Shape) -> int:
    """How many of the waves are real: the last ones."""
    return math.prod(min(a + b - 1, 2) for a, b in zip(m, taps, strict=True))


def _planes(spectrum: Array, real: int, weights: tuple[tuple[float, float], ...]) -> Array:
    """For every complex frequency three sums of its real and imaginary part, then the real
    frequencies.
    """
    half = spectrum[: len(spectrum) - real]
    triples = [a * z.real + b * z.imag for z in half for a, b in weights]
    return np.array([*triples, *spectrum[len(half) :].real])


# (a, b, a + b) and (d - c, c + d, c)
_LEFT, _RIGHT = ((1, 0), (0, 1), (1, 1)), ((-1, 1), (1, 1), (1, 0))


def _input(x: Array, m: Shape, taps: Shape, lo: Shape, counts: Shape, groups: int) -> Array:
    waves = _waves(m, taps)
    found = np.zeros((len(waves), len(x), *counts, x.shape[1]), complex)
    for ty, tx, i, j in product(*map(range, counts), *map(range, waves.shape[1:])):
        q = (ty * m[0] + i - lo[0], tx * m[1] + j - lo[1])
        if is_inside(q, x.shape[2:]):
            found[:, :, ty, tx] += np.multiply.outer(
                waves[:, i, j], x[(slice(None), slice(None), *q)]
            )
    entries = _planes(found, _real(m, taps), _LEFT)
    return grouped(entries[:, None], groups)


def _conjugate(tiles: Array, m: Shape, taps: Shape) -> Array:
    """Conjugate spectra of [.., i, j], scaled for the way back, as entries [E, ..]."""
    waves, real = _waves(m, taps), _real(m, taps)
    spectrum = np.einsum(
        "fij,...ij->f...", waves.conj()[:, : tiles.shape[-2], : tiles.shape[-1]], tiles
    )
    scale = np.where(np.arange(len(waves)) < len(waves) - real, 2, 1) / waves[0].size
    return _planes(spectrum * scale.reshape(-1, *[1] * (spectrum.ndim - 1)), real, _RIGHT)


def _back(products: Array, m: Shape, taps: Shape, kept: Shape) -> Array:
    """The first numbers of tiles [.., i, j] from products [E, ..]."""
    waves, real = _waves(m, taps)[:, : kept[0], : kept[1]], _real(m, taps)
    count = len(waves) - real
    p, q, both = (products[place : 3 * count : 3] for place in range(3))
    spectrum = np.concatenate([(both - q) + 1j * (both + p), products[3 * count :]])
    return np.einsum("fij,f...->...ij", waves.conj(), spectrum).real


def _output(products: Array, m: Shape, taps: Shape, shape: Shape) -> Array:
    n, o, height, width = shape
    counts = (-(-height // m[0]), -(-width // m[1]))
    tiles = _back(products.swapaxes(1, 2).reshape(len(products), n, *counts, o), m, taps, m)
    y = np.zeros(shape)
    for h, w in product(range(height), range(width)):
        y[:, :, h, w] = tiles[:, h // m[0], w // m[1], :, h % m[0], w % m[1]]
    return y


def _output_gradient(dy: Array, m: Shape, taps: Shape, groups: int) -> Array:
    n, o, height, width = dy.shape
    tiles = np.zeros((n, -(-height // m[0]), -(-width // m[1]), o, *m))
    for h, w in product(range(height), range(width)):
        tiles[:, h // m[0], w // m[1], :, h % m[0], w % m[1]] = dy[:, :, h, w]
    return grouped(_conjugate(tiles, m, taps)[:, None], groups)


def _filter(w: Array, m: Shape, taps: Shape, groups: int, is_flipped: bool) -> Array:
    parts = [
        np.flip(part, (2, 3)) if is_flipped else part.swapaxes(0, 1) for part in np.split(w, groups)
    ]
    return np.stack([_conjugate(part, m, taps) for part in parts], axis=1)


def _filter_gradient(du: Array, m: Shape, taps: Shape) -> Array:
    _, groups, channels, filters = du.shape
    return _back(du, m, taps, taps).swapaxes(1, 2).reshape(groups * filters, channels, *taps)


FFT: dict[str, Callable[..., Any]] = {
    "fft_input": _input,
    "fft_output": _output,
    "fft_output_gradient": _output_gradient,
    "fft_filter": _filter,
    "fft_filter_gradient": _filter_gradient,
}
