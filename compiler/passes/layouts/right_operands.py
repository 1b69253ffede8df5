"""In which order a product reads its right operand best: when it is packed into panels, laid out by
columns, or read in quads of bytes.
"""

from __future__ import annotations

import math

from ...dim import Extent
from ...graph import Graph, Node
from ...layout import BLOCK, QUAD
from ...strategies.strategy import numbers
from .packed_layouts import by_columns

PACKED_ROWS, PACKED_BYTES = 128, 2 << 20  # of a product whose right operand is packed at run time
GIVEN_ROWS, GIVEN_BYTES = 256, 512 << 10  # the same where the caller gives the right operand
# of a right operand whose columns are made contiguous, their length, rows of the left one
FEW_COLUMNS, LONG, SKINNY_ROWS = 8, 64, 64
PADDED = 1.25  # columns in panels, padding and all, for each one that is there
TURNED = 2  # elements put into panels in the time in which the lanes of one result are added up


def is_worth_packing(graph: Graph, node: Node) -> bool:
    """Whether a product reads its right operand so often that packing it first pays: row-major, the
    rows of a large matrix lie a power of two apart or nearly so, and push each other out of the
    cache (Goto and van de Geijn 2008, section 4). What a caller gives may begin anywhere: each
    vector of it that lies across two lines is two loads from the L2 cache, a fifth of the time of
    a whole product."""
    left, right = node.inputs
    if not (left.type.is_static and right.type.is_static):
        return False
    batch, (k, n) = right.type.static_shape[:-2], right.type.static_shape[-2:]
    rows = math.prod(left.type.static_shape) // (math.prod(batch) * k or 1)
    size = k * n * right.dtype.bytes
    is_given = right in graph.inputs and rows >= GIVEN_ROWS and size >= GIVEN_BYTES
    return is_given or (rows >= PACKED_ROWS and size >= PACKED_BYTES)


def is_skinny(node: Node, is_constant: bool) -> bool:
    """Whether the right operand has so few columns that vectors run along the sum instead, for
    which each column must be contiguous: where it is constant, or short beside the left operand."""
    left, right = node.inputs
    k, n = right.shape[-2:]
    if (
        node.attrs.transpose_a
        or node.attrs.transpose_b
        or not (isinstance(k, int) and isinstance(n, int))
    ):
        return False
    rows = left.shape[-2]
    return (
        1 < n <= FEW_COLUMNS
        and k >= LONG
        and (is_constant or (isinstance(rows, int) and rows >= SKINNY_ROWS))
    )


def has_full_columns(graph: Graph, node: Node) -> bool:
    """Whether a constant that a product reads transposed gives it columns for lanes, which few
    padding lanes are among. Lanes along the sum would have to be added up for each result, and what
    follows the product (an activation) would have one lane. A constant that others read as it is
    stays as it is, for it would be stored twice."""
    right = node.inputs[1]
    return _fills_panels(right.shape[-2]) and all(
        user.op.name == "matmul" and user.inputs[0] is not right and user.attrs.transpose_b
        for user in graph.users.get(right, ())
    )


def is_worth_turning(node: Node, free: int) -> bool:
    """Whether a right operand that a product reads transposed, and that is no constant, is put into
    panels first: a pass over it, in place of lanes along the sum that are added up for each result.
    ``free``: what free dims are taken for."""
    left, right = node.inputs
    columns, depth = right.shape[-2:]
    if node.attrs.transpose_a or not (_fills_panels(columns) and isinstance(depth, int)):
        return False
    rows = math.prod(numbers(node.output.shape[:-1], free))
    matrices = math.prod(numbers(right.shape[:-2], free))
    return left.dtype.is_float and TURNED * rows >= matrices * depth


def has_lanes_along_sum(node: Node) -> bool:
    """Whether vectors run along the sum of a product, so that what follows it has one lane."""
    right = node.inputs[1]
    if right.layout is not None:
        return right.layout == by_columns(right)
    return bool(node.attrs.transpose_b and not node.attrs.transpose_a)


def _fills_panels(columns: Extent) -> bool:
    """Whether few lanes of the panels of so many columns are padding."""
    return isinstance(columns, int) and PADDED * columns >= -(-columns // BLOCK) * BLOCK


def multiplies_bytes(node: Node) -> bool:
    """Whether products add up in fours along the summed axis, of whole quads or in blocks, whose
    padding lanes are zeros."""
    left, right = node.inputs
    is_whole = node.op.name != "matmul" or right.shape[-2] % QUAD == 0
    return left.dtype is not right.dtype and is_whole
