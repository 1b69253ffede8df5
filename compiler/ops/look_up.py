"""A function of a byte, as the table of its 256 results (passes/tabulate.py makes them)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import scalar
from ..dim import Extent
from ..op import Array, Compute, NoAttrs, NotDifferentiable, Op, Read, define
from ..scalar import Expr
from ..tensor_type import INT64, TensorType

BYTES = 256  # entries of a table: one for each byte, the least first


def _infer(_attrs: NoAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    table, x = inputs
    if table.shape != (BYTES,) or not x.dtype.is_integer or x.dtype.bytes != 1:
        raise ValueError(f"{x} has no place in a table of {table}")
    return [TensorType(table.dtype, x.shape)]


def _reference(
    _attrs: NoAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    table, x = inputs
    return [table[x.astype(np.int64) - np.iinfo(x.dtype).min]]


def _compute(_attrs: NoAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]) -> Compute:
    least = int(np.iinfo(inputs[1].dtype.numpy).min)

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        place = scalar.cast(read(1, list(i)), INT64)
        return read(0, [place if least == 0 else place + -least])

    return Compute(term)


define(
    Op(
        "look_up",
        "y[i] = table[x[i] - the least of x's dtype], for bytes x and a table of 256 entries",
        _infer,
        _reference,
        NotDifferentiable("a byte does not change smoothly"),
        family="indexing",
        compute=_compute,
    )
)
