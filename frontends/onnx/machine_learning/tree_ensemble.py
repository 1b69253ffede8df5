"""TreeEnsemble -> the gathers of ``trees.py``: its branches stand in the table's first rows, its
leaves behind them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.graph import Value

from ..context import Context
from ..handler import HandlerTable
from ..node import ModelNode
from .scores import TRANSFORMS, transformed
from .trees import AGGREGATES, LEAF, MEMBER, MODES, MOST_LEVELS, Forest, aggregated, features_of

TREE_ENSEMBLE: Final = HandlerTable()
MODES_BY_NUMBER: Final = (*MODES, MEMBER)  # as the attribute nodes_modes counts them

Array = npt.NDArray[Any]


@TREE_ENSEMBLE.on("TreeEnsemble", first=5)
def tree_ensemble(context: Context, node: ModelNode) -> Value:
    """[n, targets]."""
    x, width = features_of(context, node)
    weights = _numbers(context, node, "leaf_weights")
    forest = _forest(context, node, width, len(weights))
    targets = np.array(node.integers("leaf_targetids") or (), np.int64)
    count = node.integer("n_targets", 1)
    if len(targets) != len(weights) or not 0 <= targets.min() <= targets.max() < count:
        raise node.misshapen(
            f"its {len(weights)} leaves do not belong to {count} targets.", "Convert it again."
        )
    branches = len(forest.modes) - len(weights)
    table = np.zeros((len(forest.modes), count), weights.dtype)
    table[np.arange(branches, len(table)), targets] = weights
    given = np.zeros(table.shape, bool)
    given[np.arange(branches, len(table)), targets] = True
    how = _chosen(node, "aggregate_function", 1, tuple(AGGREGATES))
    y = aggregated(context, x, forest, table, given, how)
    return transformed(context, y, _chosen(node, "post_transform", 0, TRANSFORMS))


def _chosen(node: ModelNode, name: str, default: int, known: tuple[str, ...]) -> str:
    number = node.integer(name, default)
    if not 0 <= number < len(known):
        raise node.unsupported(
            f"attribute {name} is {number}; known are 0 to {len(known) - 1} ({', '.join(known)}).",
            "Do this step outside of the model.",
        )
    return known[number]


def _numbers(context: Context, node: ModelNode, name: str) -> Array:
    """The elements of an attribute that is a tensor; none if it is absent."""
    tensor = node.tensor(name)
    if tensor is None:
        return np.zeros(0, np.float32)
    array = context.reader.constant(tensor, f"{name} of {node.title}").array
    return np.ascontiguousarray(array.reshape(-1))


def _forest(context: Context, node: ModelNode, width: int, leaves: int) -> Forest:
    split, modes = _numbers(context, node, "nodes_splits"), _numbers(context, node, "nodes_modes")
    columns = [
        np.array(node.integers(f"nodes_{name}") or (), np.int64)
        for name in ("featureids", "truenodeids", "trueleafs", "falsenodeids", "falseleafs")
    ]
    count = len(split)
    missing = np.array(node.integers("nodes_missing_value_tracks_true") or (0,) * count, bool)
    if not count or not leaves or any(len(part) != count for part in (modes, missing, *columns)):
        raise node.misshapen("its lists of nodes differ in length.", "Convert it again.")
    if modes.dtype != np.uint8 or modes.max() >= len(MODES_BY_NUMBER):
        raise node.fault(
            f"its modes are {modes.dtype} numbers up to {modes.max()}; uint8 below "
            f"{len(MODES_BY_NUMBER)} is needed.", "Convert it again.",
        )  # fmt: skip
    feature, true, true_is_leaf, false, false_is_leaf = columns
    if feature.min() < 0 or feature.max() >= width:
        raise node.misshapen(f"a feature lies outside of {width}.", "Convert it again.")
    own = np.arange(count, count + leaves)
    true, false = (
        np.concatenate([_targets(node, at, is_leaf, count, leaves), own])
        for at, is_leaf in ((true, true_is_leaf), (false, false_is_leaf))
    )
    roots = np.array(node.integers("tree_roots") or (), np.int64)
    if not len(roots) or roots.min() < 0 or roots.max() >= count:
        raise node.fault("a root is no node.", "Convert it again.")
    names = tuple(MODES_BY_NUMBER[mode] for mode in modes) + (LEAF,) * leaves
    return Forest(
        _padded(feature, leaves), _padded(split, leaves), names, _padded(missing, leaves), true,
        false, roots, _levels(node, roots, true, false, count), {},
        _members(context, node, modes == MODES_BY_NUMBER.index(MEMBER), leaves),
    )  # fmt: skip


def _padded(column: Array, leaves: int) -> Array:
    """Of branches: with zeros for the leaves."""
    return np.concatenate([column, np.zeros((leaves, *column.shape[1:]), column.dtype)])


def _targets(node: ModelNode, at: Array, is_leaf: Array, count: int, leaves: int) -> Array:
    """The rows that branches lead to."""
    if at.min() < 0 or (at >= np.where(is_leaf, leaves, count)).any():
        raise node.fault("a branch leads to no node.", "Convert it again.")
    return np.where(is_leaf, at + count, at)


def _levels(node: ModelNode, roots: Array, true: Array, false: Array, count: int) -> int:
    """How many branches a walk passes at most; in a circle, more than are allowed."""
    at, levels = np.unique(roots), 0
    while len(at):
        at, levels = np.unique(np.concatenate([true[at], false[at]])), levels + 1
        at = at[at < count]
        if levels > MOST_LEVELS:
            raise node.unsupported(
                f"a tree has more than {MOST_LEVELS} levels.", "Train with a limited depth."
            )
    return levels


def _members(context: Context, node: ModelNode, is_member: Array, leaves: int) -> Array | None:
    """[nodes, most]: the sets, which a NaN ends each (the last one's may be missing), of those nodes
    in order.
    """
    values = _numbers(context, node, "membership_values")
    if not is_member.any():
        return None
    if len(values) and not np.isnan(values[-1]):
        values = np.append(values, values.dtype.type(np.nan))
    ends = np.flatnonzero(np.isnan(values))
    sets = np.split(values, ends + 1)[: len(ends)]
    if len(sets) != is_member.sum():
        raise node.misshapen(
            f"it has {len(sets)} sets for {is_member.sum()} nodes.", "Convert it again."
        )
    table = np.full((len(is_member) + leaves, max(map(len, sets))), np.nan, values.dtype)
    for row, numbers in zip(np.flatnonzero(is_member), sets, strict=True):
        table[row, : len(numbers)] = numbers
    return table
