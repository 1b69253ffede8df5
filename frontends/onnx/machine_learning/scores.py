"""What classifiers make of scores [n, classes]: a label for each row, and the scores transformed."""

from __future__ import annotations

from typing import Final

import numpy as np

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, FLOAT64

from ..context import Context
from ..node import ModelNode

TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
INTEGER_LABELS: Final = "Convert the model with integer labels."


def rows_of(context: Context, node: ModelNode, *, keeps_double: bool = False) -> Value:
    """The input as float32 [n, features], as results are; a vector is one row."""
    x = node.input(0)
    x = x if keeps_double and x.dtype is FLOAT64 else context.cast(x, FLOAT32)
    if x.type.rank == 1:
        return context.reshape(x, (1, *x.shape))
    if x.type.rank != 2:
        raise node.misshapen(f"its input is {x.type}; rows of features are needed.")
    return x


def transform_of(node: ModelNode) -> str:
    """The attribute post_transform."""
    return node.text("post_transform", "NONE", TRANSFORMS)


def transformed(context: Context, scores: Value, transform: str) -> Value:
    """softmax or 1 / (1 + exp(-x)); SOFTMAX_ZERO keeps zeros out of the softmax."""
    match transform:
        case "SOFTMAX":
            return context("softmax", scores, axis=1)
        case "LOGISTIC":
            return context("sigmoid", scores)
        case "SOFTMAX_ZERO":
            return _softmax_of_nonzero(context, scores)
        case _:
            return scores


def _softmax_of_nonzero(context: Context, scores: Value) -> Value:
    """exp(x - m) / sum, where |x| <= 1e-7 counts for nothing and gives x exp(-m)."""
    largest = context("reduce_max", scores, axes=(1,), keep=True)
    is_zero = context("less_equal", context("abs", scores), context.number(1e-7, scores.dtype))
    zero = context.number(0.0, scores.dtype)
    power = context("select", is_zero, zero, context("exp", context("sub", scores, largest)))
    divisor = context("reduce_sum", power, axes=(1,), keep=True)
    return context("div", power, divisor)


def labels_of(node: ModelNode, names: tuple[str, str]) -> tuple[int, ...]:
    """The labels of the classes; ``names``: of the attributes for integers and strings."""
    if node.attributes.get(names[1]) is not None and node.texts(names[1]):
        raise node.unsupported("its labels are strings.", INTEGER_LABELS)
    labels = node.integers(names[0])
    if not labels:
        raise node.fault(f"attribute {names[0]} is missing.", "Convert it again.")
    return labels


def classified(
    context: Context, scores: Value, labels: tuple[int, ...], transform: str,
    chosen_from: Value | None = None,
) -> list[Value | None]:  # fmt: skip
    """The label of the largest score (among those to choose from), and the scores transformed."""
    ranked = scores if chosen_from is None else chosen_from
    best = context("argmax", ranked, axis=1, keep=False, last=False)
    names = context.constant(np.array(labels, np.int64))
    return [context("gather", names, best, axis=0), transformed(context, scores, transform)]


def picked_by_threshold(
    context: Context, score: Value, labels: tuple[int, ...], limit: float
) -> Value:
    """[n]: the second label where the score [n, 1] is above a limit, else the first."""
    bound = context.number(limit, score.dtype)
    is_second = context("less", bound, context.reshape(score, score.shape[:1]))
    first, second = (context.constant(np.array(label, np.int64)) for label in labels)
    return context("select", is_second, second, first)


def complemented(context: Context, score: Value) -> Value:
    """[1 - p, p] of p [n, 1]."""
    rest = context("sub", context.number(1.0, score.dtype), score)
    return context("concat", rest, score, axis=1)


def mirrored(context: Context, score: Value, transform: str) -> Value:
    """[-s, s] of s [n, 1], or the logistic function of both."""
    both = context("concat", context("neg", score), score, axis=1)
    return context("sigmoid", both) if transform == "LOGISTIC" else both
