"""LinearRegressor and LinearClassifier -> products."""

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
