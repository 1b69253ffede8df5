"""Probabilities of classes from those of pairs of classes: the p that minimizes
sum_i sum_{j != i} (r_ji p_i - r_ij p_j)^2, by turns over the classes until a row's gradient is small.

T.-F. Wu, C.-J. Lin, R. C. Weng, Probability Estimates for Multi-class Classification by Pairwise
Coupling, JMLR 5 (2004), algorithm 2. The end of a row's turns is that of LIBSVM and ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, FLOAT32

from ..context import Context
from ..node import Item, ModelNode, as_tensor
from ..turns import Turns, iterated

LEAST: Final = 1e-7  # of the probability that one class of a pair wins
MOST_TURNS: Final = 100  # unless there are more classes
ERROR: Final = 0.005  # of a row's gradient, by the number of classes


def coupled(context: Context, node: ModelNode, wins: Value, classes: int) -> Value:
    """[n, classes] of ``wins`` [n, pairs], the probabilities r_ij that i wins against j > i."""
    one = context.number(1.0, FLOAT32)
    wins = context("max", wins, context.number(LEAST, FLOAT32))
    wins = context("min", wins, context.constant(np.float32(1) - np.float32(LEAST), FLOAT32))
    r = _matrix(context, wins, classes)
    own = context("reduce_sum", context("mul", r, r), axes=(1,), keep=True)  # Q_ii = sum_j r_ji^2
    diagonal = context("mul", context.constant(np.eye(classes, dtype=np.float32), FLOAT32), own)
    mixed = context("mul", context.transpose(r, (0, 2, 1)), r)
    q = context("sub", diagonal, mixed)  # [n, i, j]
    start = context.splat(1.0 / classes, FLOAT32, (wins.shape[0], classes))

    def turn(items: Sequence[Item]) -> list[Item]:
        p = as_tensor(node, items[-1], "its probabilities")
        after, is_open = _improved(context, q, p, classes)
        left = context("reduce_max", context.cast(is_open, FLOAT32), axes=(0, 1), keep=False)
        return [context("less_equal", one, left), context("select", is_open, after, p)]

    turns = Turns(max(MOST_TURNS, classes), [start], context.number(True, BOOL), [], [])
    return iterated(context, node, turns, turn)[0]


def _matrix(context: Context, wins: Value, classes: int) -> Value:
    """r_ij [n, classes, classes] with r_ji = 1 - r_ij, and zeros on the diagonal."""
    losses = context("sub", context.number(1.0, FLOAT32), wins)
    none = context.splat(0.0, FLOAT32, (wins.shape[0], 1))
    table = context("concat", wins, losses, none, axis=1)
    pairs = list(combinations(range(classes), 2))
    places = np.full((classes, classes), 2 * len(pairs), np.int64)
    for k, (i, j) in enumerate(pairs):
        places[i, j], places[j, i] = k, len(pairs) + k
    found = context("gather", table, context.constant(places.ravel()), axis=1)
    return context.reshape(found, (wins.shape[0], classes, classes))


def _improved(context: Context, q: Value, p: Value, classes: int) -> tuple[Value, Value]:
    """p [n, classes] after one step for each class, and whether a row is still to be improved
    [n, 1]: |(Q p)_i - p' Q p| is not small for some i.
    """
    one = context.number(1.0, FLOAT32)
    row = context.reshape(p, (p.shape[0], 1, classes))
    qp = context("reduce_sum", context("mul", q, row), axes=(2,), keep=False)
    pqp = context("reduce_sum", context("mul", p, qp), axes=(1,), keep=True)
    error = context("reduce_max", context("abs", context("sub", qp, pqp)), axes=(1,), keep=True)
    is_open = context("less_equal", context.number(ERROR / classes, FLOAT32), error)
    for i in range(classes):
        line = context.reshape(context.slice_axis(q, 1, i, 1), (p.shape[0], classes))
        own, slope = context.slice_axis(line, 1, i, 1), context.slice_axis(qp, 1, i, 1)
        step = context("div", context("sub", pqp, slope), own)
        total = context("add", step, one)
        growth = context("add", context("mul", step, own), context("mul", slope, 2.0))
        pqp = context("add", pqp, context("mul", step, growth))
        pqp = context("div", context("div", pqp, total), total)
        qp = context("div", context("add", qp, context("mul", step, line)), total)
        here = context.constant(np.eye(classes, dtype=np.float32)[i], FLOAT32)
        p = context("div", context("add", p, context("mul", step, here)), total)
    return p, is_open
