"""LinearRegressor, LinearClassifier and SVMRegressor -> products."""

from __future__ import annotations

from typing import Final

import numpy as np

from netloom.compiler.graph import Value

from ..context import Context
from ..handler import HandlerTable
from ..node import ModelNode
from .scores import (
    classified,
    complemented,
    labels_of,
    picked_by_threshold,
    rows_of,
    transform_of,
    transformed,
)

LINEAR: Final = HandlerTable()

KERNELS: Final = ("LINEAR", "POLY", "RBF", "SIGMOID")


def _scores(context: Context, node: ModelNode, x: Value, count: int) -> Value:
    """x w' + intercepts, [n, count]."""
    weights, intercepts = node.numbers("coefficients") or (), node.numbers("intercepts") or ()
    features = x.shape[1]
    if not isinstance(features, int) or len(weights) != count * features:
        raise node.misshapen(
            f"it has {len(weights)} coefficients for {count} results of {features} features.",
            "Convert it again.",
        )
    if intercepts and len(intercepts) != count:
        raise node.misshapen(
            f"it has {len(intercepts)} intercepts for {count} results.", "Convert it again."
        )
    matrix = np.array(weights, np.float32).reshape(count, features).T
    y = context("matmul", x, context.constant(np.ascontiguousarray(matrix), x.dtype))
    if not intercepts:
        return y
    return context("add", y, context.constant(np.array(intercepts, np.float32), x.dtype))


@LINEAR.on("LinearRegressor")
def linear_regressor(context: Context, node: ModelNode) -> Value:
    y = _scores(context, node, rows_of(context, node), node.integer("targets", 1))
    return transformed(context, y, transform_of(node))


@LINEAR.on("LinearClassifier")
def linear_classifier(context: Context, node: ModelNode) -> list[Value | None]:
    """Labels and scores. One row of coefficients for two labels is that of the second."""
    labels = labels_of(node, ("classlabels_ints", "classlabels_strings"))
    count = len(node.numbers("intercepts") or labels)
    scores = _scores(context, node, rows_of(context, node), count)
    if count == 1 and len(labels) == 2:
        label = picked_by_threshold(context, scores, labels, 0.0)
        return [label, complemented(context, transformed(context, scores, transform_of(node)))]
    if count != len(labels):
        raise node.misshapen(f"it has {count} scores for {len(labels)} labels.")
    return classified(context, scores, labels, transform_of(node))


@LINEAR.on("SVMRegressor")
def support_vector_regressor(context: Context, node: ModelNode) -> Value:
    """sum_j coefficient_j K(x, vector_j) + rho; its sign, if there is one class only."""
    x, kind = rows_of(context, node), node.text("kernel_type", "LINEAR", KERNELS)
    count, (shift, *_) = node.integer("n_supports", 0), node.numbers("rho") or (0.0,)
    weights = np.array(node.numbers("coefficients") or (), np.float32).reshape(-1, 1)
    vectors = np.array(node.numbers("support_vectors") or (), np.float32)
    features = x.shape[1]
    is_whole = isinstance(features, int) and vectors.size == max(count, 0) * features
    if count < 0 or len(weights) != (count or features) or not is_whole:
        raise node.misshapen(
            f"it has {vectors.size} numbers of {count} vectors and {len(weights)} coefficients.",
            "Convert it again.",
        )
    values = _kernel(context, node, x, vectors.reshape(count, -1), kind) if count else x
    y = context("matmul", values, context.constant(weights, x.dtype))
    y = context("add", y, context.number(shift, x.dtype))
    if node.flag("one_class", False):
        one, zero = context.number(1.0, x.dtype), context.number(0.0, x.dtype)
        y = context("select", context("less", zero, y), one, context("neg", one))
    return transformed(context, y, transform_of(node))


def _kernel(context: Context, node: ModelNode, x: Value, vectors: np.ndarray, kind: str) -> Value:
    """K(x_i, vector_j), [n, vectors]."""
    gamma, shift, degree, *_ = (*(node.numbers("kernel_params") or ()), 0.0, 0.0, 0.0)
    inner = context("matmul", x, context.constant(np.ascontiguousarray(vectors.T), x.dtype))
    match kind:
        case "LINEAR":
            return inner
        case "RBF":  # |x - v|^2 = x x + v v - 2 x v
            squares = context("reduce_sum", context("mul", x, x), axes=(1,), keep=True)
            own = context.constant((vectors.astype(np.float64) ** 2).sum(1), x.dtype)
            apart = context("sub", context("add", squares, own), context("mul", inner, 2.0))
            return context("exp", context("mul", apart, -gamma))
    scaled = context("add", context("mul", inner, gamma), context.number(shift, x.dtype))
    return context("pow", scaled, float(degree)) if kind == "POLY" else context("tanh", scaled)
