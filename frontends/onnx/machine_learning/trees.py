"""TreeEnsembleRegressor and TreeEnsembleClassifier -> gathers, one level of all trees after
another.

All nodes stand in one table. Each row of the input is at one node of each tree; a step compares the
node's feature with its threshold and moves on, and leaves lead to themselves, so as many steps as
the deepest tree has levels end at leaves. The table is checked: every node has one parent at most,
so a walk ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, INT64

from ..context import Context
from ..handler import HandlerTable
from ..node import ModelNode
from .scores import (
    classified,
    complemented,
    labels_of,
    mirrored,
    picked_by_threshold,
    rows_of,
    transform_of,
    transformed,
)

TREES: Final = HandlerTable()

MOST_LEVELS: Final = 1024
LEAF: Final = "LEAF"
MEMBER: Final = "BRANCH_MEMBER"
AGGREGATES: Final = {
    "AVERAGE": "reduce_mean", "SUM": "reduce_sum", "MIN": "reduce_min", "MAX": "reduce_max",
}  # fmt: skip
# mode -> op, whether the threshold stands first
MODES: Final = {
    "BRANCH_LEQ": ("less_equal", False), "BRANCH_LT": ("less", False),
    "BRANCH_GTE": ("less_equal", True), "BRANCH_GT": ("less", True),
    "BRANCH_EQ": ("equal", False), "BRANCH_NEQ": ("not_equal", False),
}  # fmt: skip

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Forest:
    """Nodes of all trees: feature and threshold, where they lead, and each tree's root.

    ``missing``: whether NaN goes where the comparison holds. ``number``: (tree, node) -> row.
    ``members``: [nodes, most], the numbers that MEMBER compares with, the rest NaN.
    """

    feature: Array
    threshold: Array
    modes: tuple[str, ...]
    missing: Array
    true: Array
    false: Array
    roots: Array
    levels: int
    number: dict[tuple[int, int], int]
    members: Array | None = None


def _forest(node: ModelNode, features: int) -> Forest:
    trees, ids = node.integers("nodes_treeids") or (), node.integers("nodes_nodeids") or ()
    columns = [
        node.integers(f"nodes_{name}") or ()
        for name in ("featureids", "truenodeids", "falsenodeids")
    ]
    values, modes = _thresholds(node), node.texts("nodes_modes") or ()
    count = len(ids)
    if not count or any(len(c) != count for c in (trees, *columns, values, modes)):
        raise node.misshapen("its lists of nodes differ in length.", "Convert it again.")
    unknown = sorted(set(modes) - set(MODES) - {LEAF})
    if unknown:
        raise node.unsupported(f"its mode {unknown[0]!r} is not supported.", "Use BRANCH_LEQ.")
    number = {key: row for row, key in enumerate(zip(trees, ids, strict=True))}
    if len(number) != count:
        raise node.fault("two of its nodes have one number.", "Convert it again.")
    is_leaf = np.array([mode == LEAF for mode in modes])
    rows = np.arange(count)
    true, false = (_targets(node, number, trees, column, is_leaf, rows) for column in columns[1:])
    feature = np.where(is_leaf, 0, np.array(columns[0], np.int64))
    if feature.min() < 0 or feature.max() >= features:
        raise node.misshapen(f"a feature lies outside of {features}.", "Convert it again.")
    roots, levels = _roots(node, true, false, is_leaf)
    missing = node.integers("nodes_missing_value_tracks_true") or (0,) * count
    if len(missing) != count:
        raise node.misshapen("its lists of nodes differ in length.", "Convert it again.")
    return Forest(
        feature, values, modes, np.array(missing, bool), true, false, roots, levels, number
    )


def _thresholds(node: ModelNode) -> Array:
    return np.array(node.numbers("nodes_values") or (), np.float32)


def _targets(
    node: ModelNode, number: dict[tuple[int, int], int], trees: tuple[int, ...],
    column: tuple[int, ...], is_leaf: Array, rows: Array,
) -> Array:  # fmt: skip
    """The rows that branches lead to; leaves lead to themselves."""
    found = [
        own if leaf else number.get(key, -1)
        for own, leaf, key in zip(rows, is_leaf, zip(trees, column, strict=True), strict=True)
    ]
    if min(found) < 0:
        raise node.fault("a branch leads to no node of its tree.", "Convert it again.")
    return np.array(found, np.int64)


def _roots(node: ModelNode, true: Array, false: Array, is_leaf: Array) -> tuple[Array, int]:
    """Nodes that no branch leads to, one for each tree, and the number of levels below them."""
    branches = np.flatnonzero(~is_leaf)
    entries = np.bincount(np.concatenate([true[branches], false[branches]]), minlength=len(true))
    if entries.max(initial=0) > 1:
        raise node.fault("two branches lead to one node.", "Convert it again.")
    roots = np.flatnonzero(entries == 0)
    at, levels, seen = roots, 0, len(roots)
    while len(at := at[~is_leaf[at]]):
        at = np.concatenate([true[at], false[at]])
        levels, seen = levels + 1, seen + len(at)
        if levels > MOST_LEVELS:
            raise node.unsupported(
                f"a tree has more than {MOST_LEVELS} levels.", "Train with a limited depth."
            )
    if seen != len(true):
        raise node.fault("its branches lead in a circle.", "Convert it again.")
    return roots, levels


def _leaves(context: Context, x: Value, forest: Forest) -> Value:
    """[n, trees]: the leaf of each row in each tree."""
    count = len(forest.roots)
    shape = (x.shape[0], count)
    at = context("broadcast", context.constant(forest.roots.astype(np.int64)), shape=shape)
    for _ in range(forest.levels):
        goes = _comparison(context, x, at, forest)
        true, false = (
            context("gather", context.constant(targets), at, axis=0)
            for targets in (forest.true, forest.false)
        )
        at = context("select", goes, true, false)
    return at


def _comparison(context: Context, x: Value, at: Value, forest: Forest) -> Value:
    """Whether the branch's condition holds at each place."""

    def looked_up(table: Array) -> Value:
        return context("gather", context.constant(table), at, axis=0)

    value = context("gather_elements", x, looked_up(forest.feature), axis=1)
    limit = context.cast(looked_up(forest.threshold), x.dtype)
    result: Value | None = None
    kinds = sorted(set(forest.modes) - {LEAF})
    for kind in kinds:
        if kind == MEMBER:
            assert forest.members is not None
            members = context.cast(looked_up(forest.members), x.dtype)
            holds = _is_member(context, value, members)
        else:
            op, is_swapped = MODES[kind]
            holds = context(op, *((limit, value) if is_swapped else (value, limit)))
        if result is None:
            result = holds
        else:
            is_kind = looked_up(np.array([mode == kind for mode in forest.modes]))
            result = context("select", is_kind, holds, result)
    assert result is not None
    if forest.missing.any():
        is_missing = context("and", context("is_nan", value), looked_up(forest.missing))
        result = context("or", result, is_missing)
    return result


def _is_member(context: Context, value: Value, members: Value) -> Value:
    """Whether a number [n, trees] is one of [n, trees, most]."""
    equal = context("equal", context.reshape(value, (*value.shape, 1)), members)
    count = context("reduce_sum", context.cast(equal, INT64), axes=(2,))
    return context.cast(count, BOOL)


def _weights(
    node: ModelNode, forest: Forest, prefix: str, ids: str, count: int
) -> tuple[Array, Array]:
    """[nodes, count]: what each leaf adds to each result; and which results have any."""
    trees, nodes = (node.integers(f"{prefix}_{name}") or () for name in ("treeids", "nodeids"))
    targets, values = node.integers(ids) or (), node.numbers(f"{prefix}_weights") or ()
    if not len(trees) == len(nodes) == len(targets) == len(values):
        raise node.misshapen("its lists of weights differ in length.", "Convert it again.")
    if targets and not 0 <= min(targets) <= max(targets) < count:
        raise node.misshapen(f"a weight belongs to none of {count} results.", "Convert it again.")
    table = np.zeros((len(forest.true), count), np.float32)
    for key, target, value in zip(zip(trees, nodes, strict=True), targets, values, strict=True):
        if key not in forest.number:
            raise node.fault("a weight belongs to no node.", "Convert it again.")
        table[forest.number[key], target] += value
    return table, np.unique(np.array(targets, np.int64))


def aggregated(context: Context, x: Value, forest: Forest, table: Array, how: str) -> Value:
    """[n, results]: the leaves' weights, aggregated over the trees."""
    rows = context("gather", context.constant(table), _leaves(context, x, forest), axis=0)
    return context(AGGREGATES[how], rows, axes=(1,), keep=False)


def _sums(context: Context, node: ModelNode, x: Value, forest: Forest, table: Array) -> Value:
    """[n, results]: what is aggregated, and base values."""
    how = node.text("aggregate_function", "SUM", tuple(AGGREGATES))
    y = aggregated(context, x, forest, table, how)
    base = node.numbers("base_values")
    if not base:
        return y
    if len(base) not in (1, table.shape[1]):
        raise node.misshapen(f"it has {len(base)} base values.", "Convert it again.")
    return context("add", y, context.constant(np.array(base, np.float32)))


def features_of(context: Context, node: ModelNode) -> tuple[Value, int]:
    x = rows_of(context, node)
    width = x.shape[1]
    if not isinstance(width, int):
        raise node.unsupported("its number of features is a free dim.", "Fix it (dims=, --dim).")
    return x, width


@TREES.on("TreeEnsembleRegressor")
def tree_regressor(context: Context, node: ModelNode) -> Value:
    """[n, targets]."""
    x, width = features_of(context, node)
    forest = _forest(node, width)
    table, _ = _weights(node, forest, "target", "target_ids", node.integer("n_targets", 1))
    return transformed(context, _sums(context, node, x, forest, table), transform_of(node))


@TREES.on("TreeEnsembleClassifier")
def tree_classifier(context: Context, node: ModelNode) -> list[Value | None]:
    """Labels and scores. Of two classes of which one has weights, these decide for the second: a
    probability if none is negative, else a number about 0.
    """
    x, width = features_of(context, node)
    labels = labels_of(node, ("classlabels_int64s", "classlabels_strings"))
    forest = _forest(node, width)
    table, used = _weights(node, forest, "class", "class_ids", len(labels))
    if len(labels) != 2 or len(used) != 1:
        sums = _sums(context, node, x, forest, table)
        return classified(context, sums, labels, transform_of(node))
    score = _sums(context, node, x, forest, np.ascontiguousarray(table[:, used]))
    is_probability = bool((table >= 0).all())
    label = picked_by_threshold(context, score, labels, 0.5 if is_probability else 0.0)
    return [label, _pair(context, score, int(used[0]), is_probability, transform_of(node))]


def _pair(
    context: Context, score: Value, place: int, is_probability: bool, transform: str
) -> Value:
    """The scores of both classes. Where the weights are said to be the second's, as ONNX Runtime
    has it, the first class has none.
    """
    if place == 1:
        nothing = context("mul", score, 0.0)
        return transformed(context, context("concat", nothing, score, axis=1), transform)
    if not is_probability:
        return mirrored(context, score, transform)
    return complemented(context, context("sigmoid", score) if transform == "LOGISTIC" else score)
