"""NonZero, Compress and Unique, whose results are as long as data say: possible where those data
are known at import.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import DType

from .context import Context
from .handler import HandlerTable
from .node import ModelNode

DATA_DEPENDENT: Final = HandlerTable()

CUT_BEFORE: Final = (
    "Its result's shape depends on data: cut the model before it, and do this step outside."
)


def _known(context: Context, node: ModelNode, position: int) -> npt.NDArray[Any]:
    array = context.array(node.input(position))
    if array is None:
        raise node.unsupported(
            f"its input {position} is computed from data, and must be known at import.", CUT_BEFORE
        )
    return array


@DATA_DEPENDENT.on("NonZero", first=9)
def non_zero(context: Context, node: ModelNode) -> Value:
    """[rank, count]: the indices of each element that is not zero."""
    array = np.atleast_1d(_known(context, node, 0))
    return context.constant(np.array(np.nonzero(array), np.int64).reshape(array.ndim, -1))


@DATA_DEPENDENT.on("Compress", first=9)
def compress(context: Context, node: ModelNode) -> Value:
    """The entries of an axis (or of the flat input) where the condition holds."""
    x = node.input(0)
    condition = _known(context, node, 1)
    flat = "axis" not in node.attributes
    axis = 0 if flat else node.axis(node.integer("axis", 0), x.type.rank)
    x = context.reshape(x, (x.type.elements,)) if flat else x
    picked = np.flatnonzero(condition)
    extent = x.shape[axis]
    if condition.ndim != 1 or (isinstance(extent, int) and condition.size > extent):
        raise node.misshapen(
            f"its condition has the shape {list(condition.shape)} for an axis of {extent}.",
            "Export it again.",
        )
    return context("gather", x, context.constant(picked.astype(np.int64)), axis=axis)


@DATA_DEPENDENT.on("Unique", first=11)
def unique(context: Context, node: ModelNode) -> list[Value | None]:
    """Different entries, sorted or in order of appearance; where each stood first; which one
    each is; how often each is.
    """
    array = _known(context, node, 0)
    axis = node.axis(node.integer("axis", 0), array.ndim) if "axis" in node.attributes else None
    found = np.unique(
        _sortable(array), return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    first, inverse, counts = (np.asarray(part, np.int64) for part in found[1:])
    order = np.arange(len(first)) if node.flag("sorted", True) else np.argsort(first, kind="stable")
    place = np.argsort(order, kind="stable")
    values = np.take(array, first[order], axis=axis)
    return [
        context.constant(values, DType.of(array.dtype)), context.constant(first[order]),
        context.constant(place[inverse.reshape(-1)]), context.constant(counts[order]),
    ]  # fmt: skip


def _sortable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """NumPy cannot sort bfloat16; float32 holds it exactly."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array
