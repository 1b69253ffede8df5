"""Non-maximum suppression of boxes that are sorted by score: of boxes that overlap, the first is
kept.

Boxes are [.., 4, n]: the low and the high end along y, then along x, as (y0, x0, y1, x1), low ends
first. Overlap is intersection over union, as ONNX's NonMaxSuppression defines it: nothing overlaps
a box without area. The greedy choice is sequential, so it has loops of its own
(``loops/scans.py``); lines run in parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Extent, product
from ..op import Array, NoAttrs, NotDifferentiable, Op, define
from ..tensor_type import BOOL, TensorType


def _infer(_attrs: NoAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    boxes, candidates, threshold = inputs
    if not boxes.dtype.is_float or boxes.rank < 2 or boxes.shape[-2] != 4:
        raise ValueError(f"boxes are floats of the shape [.., 4, n], not {boxes}")
    if candidates != TensorType(BOOL, (*boxes.shape[:-2], boxes.shape[-1])):
        raise ValueError(f"{candidates} does not tell which of {boxes} are candidates")
    if threshold != TensorType(boxes.dtype):
        raise ValueError(f"the threshold is a {boxes.dtype.value} scalar, not {threshold}")
    return [candidates]


def _reference(
    _attrs: NoAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    boxes, candidates, threshold = inputs
    kept = candidates.copy()
    for at in np.ndindex(candidates.shape[:-1]):
        for i in range(candidates.shape[-1]):
            line = boxes[at]
            kept[(*at, i)] &= not np.any(kept[at][:i] & _overlaps(line, i, threshold))
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


def _pairs(_attrs: NoAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]) -> Extent:
    return product(inputs[1].shape) * inputs[1].shape[-1] // 2


define(
    Op(
        "suppress",
        "which candidates of a line of boxes are kept: those that overlap no box kept before them "
        "by more than the threshold",
        _infer,
        _reference,
        NotDifferentiable("a choice does not change smoothly"),
        family="scan",
        flops=_pairs,
    )
)
