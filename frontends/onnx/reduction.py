"""ONNX's reductions -> reductions of the graph."""

from __future__ import annotations

from typing import Final

import numpy as np

from netloom.compiler.dim import product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, FLOAT64, UINT8

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .short_floats import widened

REDUCTION: Final = HandlerTable()

SIMPLE: Final = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "product",
}  # fmt: skip
ROOTS_AND_LOGARITHMS: Final = ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp")


def _axes(context: Context, node: ModelNode, rank: int) -> tuple[int, ...] | None:
    """The axes to reduce; None: nothing is reduced."""
    given = node.integers("axes")
    axes = node.optional(1)
    if axes is not None:
        given = context.integers(axes, node, "the list of axes")
    if not given:
        return None if node.flag("noop_with_empty_axes", False) else tuple(range(rank))
    return node.axes(given, rank)


@REDUCTION.on(*SIMPLE)
def reduce_simple(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    axes = _axes(context, node, x.type.rank)
    if axes is None:
        return x
    keep = node.flag("keepdims", True)
    if x.dtype is BOOL:
        return context.cast(
            context(f"reduce_{SIMPLE[node.op_type]}", context.cast(x, UINT8), axes=axes, keep=keep),
            BOOL,
        )
    value = context(f"reduce_{SIMPLE[node.op_type]}", x, axes=axes, keep=keep)
    match node.op_type:
        case "ReduceProd":
            return context.learn(value, lambda a: np.prod(a, axis=axes, keepdims=keep), x)
        case "ReduceSum":
            return context.learn(value, lambda a: np.sum(a, axis=axes, keepdims=keep), x)
    return value


@REDUCTION.on("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
def reduce_composed(context: Context, node: ModelNode) -> Value:
    """L1: sum |x|; L2: sqrt(sum x^2); log-sum-exp is shifted by the maximum. Roots and logarithms of
    integers are computed in float64, and cut off.
    """
    given = node.input(0)
    is_cut = given.dtype.is_integer and node.op_type in ROOTS_AND_LOGARITHMS
    x = context.cast(given, FLOAT64) if is_cut else widened(context, given)
    axes = _axes(context, node, x.type.rank) or ()
    y = _composed(context, node.op_type, x, axes, node.flag("keepdims", True))
    return context.cast(y, given.dtype)


def _composed(context: Context, op: str, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    attrs = {"axes": axes, "keep": keep}
    match op:
        case "ReduceL1":
            return context("reduce_sum", context("abs", x), **attrs)
        case "ReduceL2":
            return context("sqrt", context("reduce_sum", context("mul", x, x), **attrs))
        case "ReduceSumSquare":
            return context("reduce_sum", context("mul", x, x), **attrs)
        case "ReduceLogSum":
            return context("log", context("reduce_sum", x, **attrs))
        case _:
            return _log_sum_exp(context, x, axes, keep)


def _log_sum_exp(context: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    largest = context("reduce_max", x, axes=axes, keep=True)
    # An infinite maximum would give inf - inf: shift by 0 there.
    is_finite = context("less", context("abs", largest), float("inf"))
    shift = context("select", is_finite, largest, 0.0)
    total = context("reduce_sum", context("exp", context("sub", x, shift)), axes=axes, keep=True)
    value = context("add", context("log", total), shift)
    kept = tuple(extent for axis, extent in enumerate(value.shape) if keep or axis not in axes)
    return context.reshape(value, kept)


@REDUCTION.on("ArgMax", "ArgMin")
def arg_extreme(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    last = node.opset >= 12 and node.flag("select_last_index", False)
    if x.shape[axis] == 0:
        raise node.misshapen(f"its input {x.type} has no element along axis {axis}.")
    return context(node.op_type.lower(), x, axis=axis, keep=node.flag("keepdims", True), last=last)


@REDUCTION.on("Size")
def size(context: Context, node: ModelNode) -> Value:
    return context.extent_value(product(node.input(0).shape))
