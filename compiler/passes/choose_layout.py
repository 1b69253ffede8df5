"""Layouts: convolutions compute in channel blocks of 16, and what lies between them stays so.

``reorder`` nodes stand where a value must change its layout; those of constants fold, so weights
are packed when compiling. Values without a layout are row-major; inputs, outputs and states always
are. ``RULES`` says which ops read and write other layouts; the rules are in ``layouts/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..graph import Graph, Node, Value, finish, rebuilder
from ..op import OPS
from .layouts import convolutions, images, products, tiles
from .layouts.blocked_views import VIEWS
from .layouts.elementwise import elementwise, is_elementwise
from .layouts.site import Site

Rule: TypeAlias = Callable[[Site], Sequence[Value]]  # adds the node; gives its results

_STAGES: Mapping[str, Rule] = {
    "input": tiles.to_entries,
    "output": tiles.to_image,
    "output_gradient": tiles.to_entries,
    "filter": tiles.from_filter,
    "filter_gradient": tiles.to_filter,
}
RULES: Mapping[str, Rule] = {
    "conv": convolutions.convolution,
    "conv_input_gradient": convolutions.input_gradient,
    "conv_weight_gradient": convolutions.weight_gradient,
    **{f"{name}_{stage}": rule for name in tiles.ALGORITHMS for stage, rule in _STAGES.items()},
    "winograd_fused": tiles.from_image_to_image,
    "matmul": products.product,
    "max_pool": images.pool,
    "average_pool": images.pool,
    "pad": images.pad,
    "concat": images.concat,
    "gather": images.gather,
    "reduce_sum": images.reduction,
    "reduce_max": images.reduction,
    **dict.fromkeys(VIEWS, images.view),
    "look_up": elementwise,
}


def choose_layout(graph: Graph, typical_batch: int | None = None) -> Graph:
    """The graph with layouts on values, and reorders where they meet; ``typical_batch``: what free
    dims are taken for.
    """
    b, placed = rebuilder(graph)
    for node in graph.nodes:
        site = Site(b, graph, node, placed, typical_batch or 1)
        placed.update(zip(node.outputs, rule_of(node)(site), strict=True))
    for value in graph.results:
        if placed[value].layout is not None:
            placed[value] = b("reorder", placed[value], layout=None, label=placed[value].label)
    return _packed_constants(finish(b, graph, placed))


def rule_of(node: Node) -> Rule:
    """That of the op; ops that the table has not go by elements, or are computed row-major."""
    return RULES.get(node.op.name, elementwise if is_elementwise(node) else Site.row_major)


def _packed_constants(graph: Graph) -> Graph:
    """reorder(constant) => the constant in that layout; it is packed when it is stored."""
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        constant = graph.constant_of(node.inputs[0]) if node.op.name == "reorder" else None
        if constant is None:
            mapping.update(
                zip(node.outputs, b.copy(node, [mapping[v] for v in node.inputs]), strict=True)
            )
        else:
            record = OPS["constant"]
            made = b.add(record, [], record.attrs(constant), node.label, node.outputs)
            mapping[node.output] = made.output
    return finish(b, graph, mapping)
