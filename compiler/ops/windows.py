"""im2col: every window of an input as a column of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..dim import Extent
from ..op import Array, Compute, NotDifferentiable, Op, Read, define
from ..scalar import Expr
from ..tensor_type import TensorType


@dataclass(frozen=True)
class WindowsAttrs:
    """One entry per spatial axis of an input that is padded already."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def _windows_infer(attrs: WindowsAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    out = []
    for e, k, s, d in zip(x.shape[2:], attrs.kernel, attrs.stride, attrs.dilation, strict=True):
        extent = (e - (k - 1) * d - 1) // s + 1
        if isinstance(extent, int) and extent < 1:
            raise ValueError(f"a kernel of {k} does not fit into {e} elements")
        out.append(extent)
    return [x.with_shape((*x.shape[:2], *attrs.kernel, *out))]


def _windows_reference(
    attrs: WindowsAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (x,) = inputs
    result = np.empty(outputs[0].static_shape, x.dtype)
    out = outputs[0].static_shape[2 + len(attrs.kernel) :]
    for k in np.ndindex(*attrs.kernel):
        where = tuple(slice(i * d, i * d + (e - 1) * s + 1, s) for i, d, s, e in
                      zip(k, attrs.dilation, attrs.stride, out, strict=True))  # fmt: skip
        result[(slice(None), slice(None), *k)] = x[(slice(None), slice(None), *where)]
    return [result]


def _windows_compute(
    attrs: WindowsAttrs, _i: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    rank = len(attrs.kernel)

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        k, p = i[2 : 2 + rank], i[2 + rank :]
        at = [p[a] * attrs.stride[a] + k[a] * attrs.dilation[a] for a in range(rank)]
        return read(0, (*i[:2], *at))

    return Compute(term)


define(Op("windows", "y[n, c, k, p] = x[n, c, p s + k d]: im2col", _windows_infer, _windows_reference,
          NotDifferentiable("strategies are chosen after differentiation"),
          WindowsAttrs, "transforms", _windows_compute))  # fmt: skip
