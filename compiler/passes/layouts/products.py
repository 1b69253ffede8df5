"""Layouts of matrix products: right operands in the order in which they are read best, operands and
results of transforms in their panels.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...graph import Value
from .packed_layouts import by_columns, columns_in_panels, panels, panels_of_bytes
from .right_operands import (
    has_full_columns,
    is_skinny,
    is_worth_packing,
    is_worth_turning,
    multiplies_bytes,
)
from .site import Site
from .tiles import in_panels, reads_entries


def product(site: Site) -> Sequence[Value]:
    """What a transform will read goes into panels, whose padding the right operand must have."""
    left, right = site.inputs
    is_transformed = any(map(reads_entries, site.graph.users.get(site.node.output, ())))
    if not _is_in_panels(left):
        left = site.plain(left)
    if not _is_in_panels(right):
        right = _right_operand(site, right, is_transformed)
    return site.add([left, right], panels(site.node.output) if is_transformed else None)


def _right_operand(site: Site, right: Value, is_transformed: bool) -> Value:
    """In quads of bytes, panels or columns where that pays, else row-major."""
    graph, node = site.graph, site.node
    is_constant = graph.constant_of(node.inputs[1]) is not None
    if is_constant and multiplies_bytes(node) and not node.attrs.transpose_b:
        return site.reordered(site.plain(right), panels_of_bytes(right))
    if node.attrs.transpose_b:
        right = site.plain(right)
        is_turned = (
            has_full_columns(graph, node) if is_constant else is_worth_turning(node, site.free)
        )
        return site.reordered(right, columns_in_panels(right)) if is_turned else right
    if is_skinny(node, is_constant) and not is_transformed:
        return site.reordered(site.plain(right), by_columns(right))
    is_packed = is_constant or is_transformed or is_worth_packing(graph, node)
    return in_panels(site, right) if is_packed else site.plain(right)


def _is_in_panels(value: Value) -> bool:
    return value.layout is not None and value.layout == panels(value)
