"""The stages of a convolution by discrete Fourier transforms, tile by tile (overlap-save) in real
arithmetic.

The circular correlation of n x n inputs with r x s taps is right where no window wraps around: at
the first n - r + 1 by n - s + 1 positions, the tile's outputs (Vasilache et al., "Fast
Convolutional Nets With fbfft", ICLR 2015, section 2; overlap-save: Oppenheim and Schafer,
Discrete-Time Signal Processing, section 8.7.3). Tiles, shapes and the five ops are those of
ops/tiles.py; along an axis n = m + r - 1 is a power of two, at most 32.

Of a real tile's spectrum one half tells the other. With N numbers in a tile it has R real
frequencies (0 and n/2 along each axis; R is 4, or 2 where one axis has one number) and C = (N - R)
/ 2 complex ones (``frequencies``). A complex product takes three real ones (Gauss; Higham, SIAM
Journal on Matrix Analysis 13, 1992, section 2): with x = a + bi and w = c + di

    re = c (a + b) - b (c + d),   im = c (a + b) + a (d - c)

so V has the entries a, b, a + b of every complex frequency and then the real ones, U has d - c, c +
d, c and the real ones, and all E = 3 C + R entries are real matrix products. U holds the conjugate
spectrum of the taps, times 2 / N (1 / N where it is real), so that the way back is the transpose of
the way there.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..op import Array
from .tiles import Algorithm, Pair, TileAttrs, define_tiles

LARGEST = 32  # numbers of a tile along an axis


@cache
def frequencies(n: Pair) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """The complex and the real frequencies of a tile in the order of its entries: rows 1 .. n/2 - 1
    whole, then half of row 0 and half of row n/2."""
    rows, columns = n
    ends = (0, rows // 2) if rows > 1 else (0,)
    whole = [(k, l) for k in range(1, rows // 2) for l in range(columns)]
    halves = [(k, l) for k in ends for l in range(1, columns // 2)]
    real = [(k, l) for k in ends for l in ((0, columns // 2) if columns > 1 else (0,))]
    if columns == 1:
        return tuple(whole), tuple(real)
    return (*whole, *halves), tuple(real)


def entries(attrs: TileAttrs) -> int:
    """Entries of a tile: three for every complex frequency, one for every real one."""
    complex_, real = frequencies(attrs.inputs)
    return 3 * len(complex_) + len(real)


def _check(attrs: TileAttrs) -> None:
    if any(n & (n - 1) or n > LARGEST for n in attrs.inputs):
        raise ValueError(f"tiles of {attrs.m} outputs with {attrs.taps} taps have {attrs.inputs} "
                         "inputs; each must be a power "
                         f"of two up to {LARGEST}")  # fmt: skip


def _parts(spectrum: Array, n: Pair) -> tuple[Array, Array, Array]:
    """Real and imaginary parts of the complex frequencies, and the real ones, each on the first
    axis.
    """
    complex_, real = (np.array(places).reshape(-1, 2) for places in frequencies(n))
    found = np.moveaxis(spectrum[..., complex_[:, 0], complex_[:, 1]], -1, 0)
    return found.real, found.imag, np.moveaxis(spectrum[..., real[:, 0], real[:, 1]].real, -1, 0)


def _stacked(first: Array, second: Array, third: Array, real: Array) -> Array:
    """[3 C + R, ..]: the three of every complex frequency next to each other."""
    triples = np.stack([first, second, third], axis=1)
    return np.concatenate([triples.reshape(3 * len(first), *real.shape[1:]), real])


def _input(attrs: TileAttrs, tiles: Array) -> Array:
    re, im, real = _parts(np.fft.fft2(tiles.astype(np.float64)), attrs.inputs)
    return _stacked(re, im, re + im, real)


def _filter(attrs: TileAttrs, taps: Array) -> Array:
    n = attrs.inputs
    scale = 1.0 / (n[0] * n[1])
    re, im, real = _parts(np.conj(np.fft.fft2(taps.astype(np.float64), s=n)), n)
    return _stacked(2 * scale * (im - re), 2 * scale * (re + im), 2 * scale * re, scale * real)


def _output(attrs: TileAttrs, made: Array, kept: Pair) -> Array:
    n = attrs.inputs
    complex_, real = frequencies(n)
    wide = np.moveaxis(made.astype(np.float64), 0, -1)
    triples = wide[..., : 3 * len(complex_)].reshape(*wide.shape[:-1], len(complex_), 3)
    spectrum = np.zeros((*wide.shape[:-1], *n), np.complex128)
    for place, (k, l) in enumerate(complex_):
        p, q, both = (triples[..., place, i] for i in range(3))
        spectrum[..., k, l] = (both - q) + 1j * (both + p)
    for place, (k, l) in enumerate(real):
        spectrum[..., k, l] = wide[..., 3 * len(complex_) + place]
    tiles = np.fft.ifft2(spectrum, norm="forward").real
    return np.asarray(tiles[..., : kept[0], : kept[1]])


def _flops(attrs: TileAttrs) -> int:
    """About 5/2 N log2 N for a real transform of N numbers, which has about 3/2 N entries."""
    rows, columns = attrs.inputs
    return max(2 * (rows * columns - 1).bit_length(), 1)


define_tiles(
    Algorithm(
        "fft",
        ("V = the spectrum of every tile", "y = every tile of the spectrum M",
         "P = the conjugate spectrum of dy's tiles",
         "U = the conjugate spectrum of every filter and channel",
         "dw = the first places of the spectrum dU"),
        _check, entries, _flops,
        input=_input, output=lambda attrs, made: _output(attrs, made, attrs.m), gradient=_filter,
        filter=_filter,
        filter_gradient=lambda attrs, made: _output(attrs, made, attrs.taps),
    )
)  # fmt: skip
