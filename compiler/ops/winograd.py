"""The stages of Winograd's minimal filtering (Lavin and Gray, CVPR 2016, section 4) for kernels of
r x s taps.

Along an axis with m outputs and r taps a tile has a = m + r - 1 inputs, and y = A' [(G w) * (B' x)]
with matrices that follow from a - 1 interpolation points (and infinity) by exact rationals:
``matrices(m, r)``. In two dimensions both axes have such matrices; an axis with one tap has m = a =
1. Tiles, shapes and the five ops are those of ops/tiles.py, with E = a b entries.
The gradient of the weights is G' [sum over tiles of V * P] G with P = A dy A', the transpose of the
last stage. ``winograd_fused`` is input, product and output in one op, for kernels that keep tiles
in a cache or in a block of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dim
from ..dim import Extent
from ..op import OPS, Array, NotDifferentiable, Op, define
from ..tensor_type import DType, TensorType
from .tiles import Algorithm, Pair, TileAttrs, TileInputAttrs, TileOutputAttrs, define_tiles

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value

# the first a - 1 of them, and infinity
POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-1/2", "-2", "1/2")))
LARGEST = len(POINTS) + 1  # inputs of a tile along an axis


@cache
def matrices(m: int, r: int) -> tuple[Array, Array, Array]:
    """(A' [m, a], G [a, r], B' [a, a]) in float64 for m outputs and r taps, a = m + r - 1."""
    a = m + r - 1
    points = POINTS[: a - 1]
    evaluate_y = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    powers, scales = _filter_factors(points, r)
    filter_rows = [[p * scale for p in row] for row, scale in zip(powers, scales, strict=True)]
    input_rows = [_polynomial([q for q in points if q != p], a) for p in points] + [
        _polynomial(points, a)
    ]
    return _array(evaluate_y), _array(filter_rows), _array(input_rows)


def _filter_factors(
    points: Sequence[Fraction], r: int
) -> tuple[list[list[Fraction]], list[Fraction]]:
    """G as rows of powers of the points and what each row is multiplied by."""
    powers = [[p**j for j in range(r)] for p in points] + [
        [Fraction(int(j == r - 1)) for j in range(r)]
    ]
    scales = [1 / _product(p - q for q in points if q != p) for p in points] + [Fraction(1)]
    return powers, scales


@cache
def _exact_filter(attrs: TileAttrs) -> tuple[Array, Array]:
    """G down and across as one matrix of powers [E, taps], and a factor of each row [E, 1].

    The points are small dyadic numbers, so sums of float32 weights by their powers are exact in
    float64 for weights of like size: the order of summation does not matter.
    """
    down, across = (
        _filter_factors(POINTS[: m + r - 2], r) for m, r in zip(attrs.m, attrs.taps, strict=True)
    )
    powers = np.kron(_array(down[0]), _array(across[0]))
    return powers, np.kron(_array([down[1]]), _array([across[1]])).T


def _filter(attrs: TileAttrs, taps: Array) -> Array:
    """G w G' of filters [.., i, j], as entries [E, ..]."""
    powers, scales = _exact_filter(attrs)
    made = powers @ taps.reshape(-1, prod(attrs.taps)).T
    made *= scales
    return made.reshape(len(powers), *taps.shape[:-2])


def _product(factors: Iterable[Fraction]) -> Fraction:
    return prod(factors, start=Fraction(1))


def _polynomial(roots: Sequence[Fraction], length: int) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [
            s - root * c for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)
        ]
    return coefficients + [Fraction(0)] * (length - len(coefficients))


def _array(rows: Sequence[Sequence[Fraction]]) -> Array:
    return np.asarray([[float(entry) for entry in row] for row in rows])


def both_matrices(attrs: TileAttrs, which: int) -> tuple[Array, Array]:
    """A', G or B' (0, 1, 2) down and across."""
    down, across = (matrices(m, r)[which] for m, r in zip(attrs.m, attrs.taps, strict=True))
    return down, across


def entries(attrs: TileAttrs) -> int:
    """Entries of a tile: as many as inputs."""
    return prod(attrs.inputs)


def _check(attrs: TileAttrs) -> None:
    if max(attrs.inputs) > LARGEST:
        raise ValueError(
            f"tiles of {attrs.m} outputs with {attrs.taps} taps; at most {LARGEST} inputs along an axis"
        )


def _made(pair: tuple[Array, Array], tiles: Array) -> Array:
    """Tiles [.., i, j] by matrices down and across, as entries [E, ..]."""
    down, across = (matrix.astype(tiles.dtype) for matrix in pair)
    made: Array = np.einsum("ei,...ij,fj->ef...", down, tiles, across)
    return made.reshape(len(down) * len(across), *tiles.shape[:-2])


def _back(attrs: TileAttrs, pair: tuple[Array, Array], made: Array) -> Array:
    """Entries [E, ..] by matrices down and across, as tiles [.., i, j]."""
    down, across = (matrix.astype(made.dtype) for matrix in pair)
    tiles: Array = np.einsum(
        "ie,jf,ef...->...ij", down, across, made.reshape(*attrs.inputs, *made.shape[1:])
    )
    return tiles


def _transposed(pair: tuple[Array, Array]) -> tuple[Array, Array]:
    return pair[0].T, pair[1].T


define_tiles(
    Algorithm(
        "winograd",
        ("V = B' x B of every tile", "y = A' M A of every tile", "P = A dy A' of every tile",
         "U = G w G' of every filter and channel", "dw = G' dU G"),
        _check, entries,
        # about one multiply-add for each entry of a row and each pass
        lambda attrs: 4 * max(attrs.inputs),
        input=lambda attrs, x: _made(both_matrices(attrs, 2), x),
        output=lambda attrs, made: _back(attrs, both_matrices(attrs, 0), made),
        gradient=lambda attrs, dy: _made(_transposed(both_matrices(attrs, 0)), dy),
        filter=_filter,
        filter_gradient=lambda attrs, made: _back(attrs, _transposed(both_matrices(attrs, 1)), made),
    )
)  # fmt: skip


# -- the three stages as one op --------------------------------------------------------------------


@dataclass(frozen=True)
class FusedAttrs(TileAttrs):
    """``lo``: zeros before the input; ``shape``: that of the convolution's result, [n, o, oh,
    ow].
    """

    lo: Pair
    shape: tuple[Extent, ...]

    @property
    def input(self) -> TileInputAttrs:
        """Of the first stage."""
        return TileInputAttrs(self.m, self.taps, self.lo, self.tiles(self.shape))

    @property
    def output(self) -> TileOutputAttrs:
        """Of the last stage."""
        return TileOutputAttrs(self.m, self.taps, self.shape)


def _typed(name: str, attrs: TileAttrs, kind: TensorType) -> TensorType:
    return OPS[name].infer(attrs, [kind])[0]


def _fused_infer(attrs: FusedAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x, u = inputs
    v = _typed("winograd_input", attrs.input, x)
    if u.rank != 4 or u.shape[:3] != (v.shape[0], 1, v.shape[3]):
        raise ValueError(f"the weights {u} do not fit the tiles {v}")
    return [_typed("winograd_output", attrs.output, v.with_shape((*v.shape[:3], u.shape[3])))]


def _fused_reference(
    attrs: FusedAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    x, u = inputs
    kind = _typed("winograd_input", attrs.input, TensorType(DType(x.dtype.name), x.shape))
    (v,) = OPS["winograd_input"].reference(attrs.input, [x], [kind])
    return OPS["winograd_output"].reference(attrs.output, [v @ u], outputs)


def _fused_stages(b: Builder, node: Node) -> Sequence[Value]:
    attrs: Any = node.attrs
    x, u = node.inputs
    v = b.add(OPS["winograd_input"], [x], attrs.input, node.label).output
    product = b("matmul", v, u, label=node.label)
    return [b.add(OPS["winograd_output"], [product], attrs.output, node.label).output]


def _fused_flops(
    attrs: FusedAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Extent:
    n, *counts = (outputs[0].shape[0], *attrs.tiles(attrs.shape))
    return 2 * dim.product([n, *counts, *inputs[1].shape])


define(
    Op(
        "winograd_fused", "y = A' (sum over c of (B' x B) * U) A of every tile",
        _fused_infer, _fused_reference, NotDifferentiable("strategies are chosen after differentiation"),
        FusedAttrs, "transforms", decompose=_fused_stages, flops=_fused_flops,
    )
)  # fmt: skip
