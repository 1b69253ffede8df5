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
from netloom.compiler.tensor_type import BOOL, FLOAT32, INT64

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
ABSENT: Final = {"MIN": np.inf, "MAX": -np.inf}  # what a leaf without a weight counts as; else 0
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


def _forest(context: Context, node: ModelNode, features: int) -> Forest:
    trees, ids = node.integers("nodes_treeids") or (), node.integers("nodes_nodeids") or ()
    columns = [
        node.integers(f"nodes_{name}") or ()
        for name in ("featureids", "truenodeids", "falsenodeids")
    ]
    values, modes = _reals(context, node, "nodes_values"), node.texts("nodes_modes") or ()
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


def _reals(context: Context, node: ModelNode, name: str) -> Array:
    """An attribute of floats, or the tensor that there may be for it."""
    tensor = node.tensor(f"{name}_as_tensor")
    if tensor is None:
        return np.array(node.numbers(name) or (), np.float32)
    found = context.reader.constant(tensor, f"{name}_as_tensor of {node.title}").array
    return np.ascontiguousarray(found.reshape(-1))


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
    context: Context, node: ModelNode, forest: Forest, prefix: str, ids: str, count: int
) -> tuple[Array, Array]:
    """[nodes, count]: what each leaf adds to each result, and whether it adds anything."""
    trees, nodes = (node.integers(f"{prefix}_{name}") or () for name in ("treeids", "nodeids"))
    targets, values = node.integers(ids) or (), _reals(context, node, f"{prefix}_weights")
    if not len(trees) == len(nodes) == len(targets) == len(values):
        raise node.misshapen("its lists of weights differ in length.", "Convert it again.")
    if targets and not 0 <= min(targets) <= max(targets) < count:
        raise node.misshapen(f"a weight belongs to none of {count} results.", "Convert it again.")
    table = np.zeros((len(forest.true), count), values.dtype)
    given = np.zeros(table.shape, bool)
    for key, target, value in zip(zip(trees, nodes, strict=True), targets, values, strict=True):
        if key not in forest.number:
            raise node.fault("a weight belongs to no node.", "Convert it again.")
        table[forest.number[key], target] += value
        given[forest.number[key], target] = True
    return table, given


def aggregated(
    context: Context, x: Value, forest: Forest, table: Array, given: Array, how: str
) -> Value:
    """[n, results]: the weights that the leaves give (``given``), aggregated over the trees; 0 where
    no tree gives any.
    """
    absent = table.dtype.type(ABSENT.get(how, 0))
    weights = context.constant(np.where(given, table, absent))
    rows = context("gather", weights, _leaves(context, x, forest), axis=0)
    y = context(AGGREGATES[how], rows, axes=(1,), keep=False)
    return context("select", context("equal", y, float(absent)), 0.0, y) if absent else y


def _sums(
    context: Context, node: ModelNode, x: Value, forest: Forest, table: Array, given: Array
) -> Value:
    """[n, results]: what is aggregated, and base values, as float32."""
    how = node.text("aggregate_function", "SUM", tuple(AGGREGATES))
    y = aggregated(context, x, forest, table, given, how)
    base = _reals(context, node, "base_values")
    if not len(base):
        return context.cast(y, FLOAT32)
    if len(base) not in (1, table.shape[1]):
        raise node.misshapen(f"it has {len(base)} base values.", "Convert it again.")
    y = context("add", y, context.constant(base.astype(table.dtype)))
    return context.cast(y, FLOAT32)


def features_of(context: Context, node: ModelNode) -> tuple[Value, int]:
    x = rows_of(context, node, keeps_double=True)
    width = x.shape[1]
    if not isinstance(width, int):
        raise node.unsupported("its number of features is a free dim.", "Fix it (dims=, --dim).")
    return x, width


@TREES.on("TreeEnsembleRegressor")
def tree_regressor(context: Context, node: ModelNode) -> Value:
    """[n, targets]."""
    x, width = features_of(context, node)
    forest = _forest(context, node, width)
    targets = node.integer("n_targets", 1)
    table, given = _weights(context, node, forest, "target", "target_ids", targets)
    return transformed(context, _sums(context, node, x, forest, table, given), transform_of(node))


@TREES.on("TreeEnsembleClassifier")
def tree_classifier(context: Context, node: ModelNode) -> list[Value | None]:
    """Labels and scores. Of two classes of which one has weights, these decide for the second: a
    probability if none is negative, else a number about 0.
    """
    x, width = features_of(context, node)
    labels = labels_of(node, ("classlabels_int64s", "classlabels_strings"))
    forest = _forest(context, node, width)
    table, given = _weights(context, node, forest, "class", "class_ids", len(labels))
    used = np.flatnonzero(given.any(0))
    if len(labels) != 2 or len(used) != 1:
        sums = _sums(context, node, x, forest, table, given)
        is_open = len(labels) > 2 and not len(_reals(context, node, "base_values"))
        chosen_from = _scored(context, x, forest, given, sums) if is_open else sums
        return classified(context, sums, labels, transform_of(node), chosen_from)
    own = (np.ascontiguousarray(part[:, used]) for part in (table, given))
    score = _sums(context, node, x, forest, *own)
    is_probability = bool((table >= 0).all())
    label = picked_by_threshold(context, score, labels, 0.5 if is_probability else 0.0)
    return [label, _pair(context, score, int(used[0]), is_probability, transform_of(node))]


def _scored(context: Context, x: Value, forest: Forest, given: Array, sums: Value) -> Value:
    """The sums of those classes that a leaf gives a weight to, -inf of the others: ONNX Runtime chooses
    none of these.
    """
    is_leaf, owners = np.array(forest.modes) == LEAF, np.array([tree for tree, _ in forest.number])
    always = [given[is_leaf & (owners == tree)].all(0) for tree in np.unique(owners)]
    if np.any(always, axis=0).all():
        return sums
    rows = context("gather", context.constant(given), _leaves(context, x, forest), axis=0)
    count = context("reduce_sum", context.cast(rows, INT64), axes=(1,), keep=False)
    lowest = context.number(float("-inf"), sums.dtype)
    return context("select", context.cast(count, BOOL), sums, lowest)


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
