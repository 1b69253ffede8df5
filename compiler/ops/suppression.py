"""Non-maximum suppression of boxes that are sorted by score: of boxes that overlap, the first is
kept.

Boxes are [.., 4, n]: the low and the high end along y, then along x, as (y0, x0, y1, x1), low ends
first. Overlap is intersection over union, as ONNX's NonMaxSuppression defines it: nothing overlaps
a box without area. The greedy choice is sequential, so it has loops of its own
(``loops/scans.py``); lines run in parallel. If it is known how many are kept at most, a box is
compared with those alone that were kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..dim import Extent, minimum, product
from ..op import Array, NotDifferentiable, Op, define
from ..tensor_type import BOOL, TensorType

LONGEST_LIST: Final = 1024  # of kept boxes: it lies in the L1 cache


@dataclass(frozen=True)
class SuppressAttrs:
    """``most``: how many of a line are kept at most, the first ones; None: all."""

    most: int | None = None


def _infer(attrs: SuppressAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    boxes, candidates, threshold = inputs
    if not boxes.dtype.is_float or boxes.rank < 2 or boxes.shape[-2] != 4:
        raise ValueError(f"boxes are floats of the shape [.., 4, n], not {boxes}")
    if candidates != TensorType(BOOL, (*boxes.shape[:-2], boxes.shape[-1])):
        raise ValueError(f"{candidates} does not tell which of {boxes} are candidates")
    if threshold != TensorType(boxes.dtype):
        raise ValueError(f"the threshold is a {boxes.dtype.value} scalar, not {threshold}")
    if attrs.most is not None and not 0 < attrs.most <= LONGEST_LIST:
        raise ValueError(f"most is from 1 to {LONGEST_LIST}, not {attrs.most}")
    return [candidates]


def _reference(
    attrs: SuppressAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    boxes, candidates, threshold = inputs
    kept = candidates.copy()
    for at in np.ndindex(candidates.shape[:-1]):
        for i in range(candidates.shape[-1]):
            line = boxes[at]
            before = kept[at][:i]
            kept[(*at, i)] &= not np.any(before & _overlaps(line, i, threshold))
            if attrs.most is not None and np.count_nonzero(before) == attrs.most:
                kept[(*at, i)] = False
    return [kept]


def _overlaps(boxes: Array, i: int, threshold: Any) -> Array:
    """Which of the boxes before number i overlap it."""
    (y0, x0, y1, x1), (v0, u0, v1, u1) = boxes[:, :i], boxes[:, i]
    height, width = np.minimum(y1, v1) - np.maximum(y0, v0), np.minimum(x1, u1) - np.maximum(x0, u0)
    shared = height * width
    area, own = (y1 - y0) * (x1 - x0), (v1 - v0) * (u1 - u0)
    union = area + own - shared
    is_real = (height > 0) & (width > 0) & (area > 0) & (own > 0)
    found: Array = is_real & (shared / union > threshold)
    return found


def _pairs(attrs: SuppressAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]) -> Extent:
    others = inputs[1].shape[-1] // 2
    if attrs.most is not None:
        others = minimum(others, attrs.most)
    return product(inputs[1].shape) * others


define(
    Op(
        "suppress",
        "which candidates of a line of boxes are kept: those that overlap no box kept before them "
        "by more than the threshold, and the first of these if only so many may be",
        _infer,
        _reference,
        NotDifferentiable("a choice does not change smoothly"),
        SuppressAttrs,
        family="scan",
        flops=_pairs,
    )
)
