"""SVMRegressor and SVMClassifier -> products with support vectors.

A classifier of k classes compares each pair of them, (0, 1), (0, 2), ..., (k - 2, k - 1). Its
probabilities are those of ``coupling``.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32

from ..context import Context
from ..handler import HandlerTable
from ..node import ModelNode
from .coupling import coupled
from .scores import (
    complemented,
    labels_of,
    mirrored,
    rows_of,
    transform_of,
    transformed,
)

VECTORS: Final = HandlerTable()

KERNELS: Final = ("LINEAR", "POLY", "RBF", "SIGMOID")


@VECTORS.on("SVMRegressor")
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
    values = _kernel_values(context, node, x, vectors.reshape(count, -1), kind) if count else x
    y = context("matmul", values, context.constant(weights, x.dtype))
    y = context("add", y, context.number(shift, x.dtype))
    if node.flag("one_class", False):
        one, zero = context.number(1.0, x.dtype), context.number(0.0, x.dtype)
        y = context("select", context("less", zero, y), one, context("neg", one))
    return transformed(context, y, transform_of(node))


@VECTORS.on("SVMClassifier")
def support_vector_classifier(context: Context, node: ModelNode) -> list[Value | None]:
    """Labels [n] by votes; scores of the pairs, [-s, s] of two classes, or probabilities."""
    x = context.cast(rows_of(context, node), FLOAT32)
    labels = labels_of(node, ("classlabels_ints", "classlabels_strings"))
    scores = _pair_scores(context, node, x, len(labels))
    label = _winner(context, scores, labels)
    transform = transform_of(node)
    slopes, shifts = node.numbers("prob_a") or (), node.numbers("prob_b") or ()
    if slopes or shifts:
        if not len(slopes) == len(shifts) == scores.shape[1]:
            raise node.misshapen(
                f"prob_a and prob_b have {len(slopes)} and {len(shifts)} numbers for"
                f" {scores.shape[1]} pairs.", "Convert it again.",
            )  # fmt: skip
        fitted = context("mul", scores, context.constant(np.array(slopes), FLOAT32))
        fitted = context("add", fitted, context.constant(np.array(shifts), FLOAT32))
        wins = context("sub", context.number(1.0, FLOAT32), context("sigmoid", fitted))
        found = coupled(context, node, wins, len(labels))
        return [label, transformed(context, found, transform)]
    if len(labels) > 2:
        return [label, transformed(context, scores, transform)]
    if transform == "NONE":
        return [label, mirrored(context, scores, transform)]
    return [label, complemented(context, scores)]


def _pair_scores(context: Context, node: ModelNode, x: Value, classes: int) -> Value:
    """sum_v coefficient_pv K(x, v) + rho_p for each pair p, [n, pairs]; above 0 the first wins."""
    counts = node.integers("vectors_per_class") or ()
    vectors = np.array(node.numbers("support_vectors") or (), np.float32)
    weights = np.array(node.numbers("coefficients") or (), np.float32)
    shifts = np.array(node.numbers("rho") or (), np.float32)
    pairs, total = list(combinations(range(classes), 2)), sum(counts)
    if not total:
        raise node.unsupported("it has no support vectors.", "Convert a LinearClassifier.")
    is_whole = (
        len(counts) == classes > 1
        and min(counts) >= 0
        and vectors.size == total * x.shape[1]
        and (weights.size, shifts.size) == ((classes - 1) * total, len(pairs))
    )
    if not is_whole:
        raise node.misshapen(
            f"it has {vectors.size} numbers of {total} vectors, {weights.size} coefficients and"
            f" {shifts.size} numbers rho for {classes} classes.", "Convert it again.",
        )  # fmt: skip
    kind = node.text("kernel_type", "LINEAR", KERNELS)
    values = _kernel_values(context, node, x, vectors.reshape(total, -1), kind)
    columns = _columns(weights.reshape(-1, total), counts, pairs)
    y = context("matmul", values, context.constant(columns, FLOAT32))
    return context("add", y, context.constant(shifts, FLOAT32))


def _columns(
    weights: npt.NDArray[np.float32], counts: tuple[int, ...], pairs: list[tuple[int, int]]
) -> npt.NDArray[np.float32]:
    """The coefficients of each pair as a column, [vectors, pairs]: a class's own row is left out of
    ``weights`` [classes - 1, vectors].
    """
    ends = np.cumsum(counts)
    columns = np.zeros((weights.shape[1], len(pairs)), np.float32)
    for column, (i, j) in zip(columns.T, pairs, strict=True):
        for own, row in ((i, j - 1), (j, i)):
            part = slice(ends[own] - counts[own], ends[own])
            column[part] = weights[row, part]
    return columns


def _winner(context: Context, scores: Value, labels: tuple[int, ...]) -> Value:
    """The label with the most pairs won, [n]; the first of several."""
    pairs = list(combinations(range(len(labels)), 2))
    gains = np.zeros((len(pairs), len(labels)), np.float32)
    for gain, (i, j) in zip(gains, pairs, strict=True):
        gain[[i, j]] = 1, -1
    is_won = context("less", context.number(0.0, FLOAT32), scores)
    losses = (gains < 0).sum(0).astype(np.float32)  # votes that a class has if it wins as second
    votes = context("matmul", context.cast(is_won, FLOAT32), context.constant(gains, FLOAT32))
    votes = context("add", votes, context.constant(losses, FLOAT32))
    best = context("argmax", votes, axis=1, keep=False, last=False)
    return context("gather", context.constant(np.array(labels, np.int64)), best, axis=0)


def _kernel_values(
    context: Context, node: ModelNode, x: Value, vectors: np.ndarray, kind: str
) -> Value:
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
