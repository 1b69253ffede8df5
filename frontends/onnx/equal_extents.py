"""Which extents of a node's inputs must be equal, or broadcast against each other; of a Reshape,
which numbers of elements.

A node whose inputs have free dims does not fit where such a pair differs; ``restriction`` finds the
numbers for which it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Final

from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value

from .context import Context
from .node import ModelNode

Pairs = Iterator[tuple[Extent, Extent]]

# ops that broadcast all their inputs against each other
BROADCASTING: Final = frozenset(
    """Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual
    LayerNormalization Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow RMSNormalization Sub Sum
    Where Xor BiasAdd BiasGelu FastGelu SkipLayerNormalization SkipSimplifiedLayerNormalization
    """.split()
)

# op: axes of its first two inputs that have one extent
SHARED_AXES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "ConvTranspose": ((1, 0),),
    "BatchNormalization": ((1, 0),),
    "InstanceNormalization": ((1, 0),),
    "RNN": ((2, 2),),
    "GRU": ((2, 2),),
    "LSTM": ((2, 2),),
    "NonMaxSuppression": ((1, 2), (0, 0)),  # boxes and scores
}


def equal_extents(context: Context, node: ModelNode) -> Pairs:
    """The pairs, for ops whose inputs have axes in common."""
    values = [value for value in node.inputs if isinstance(value, Value)]
    if len(values) < 2 and node.op_type != "Split":  # with its parts in an attribute
        return
    match node.op_type:
        case "Expand":
            yield from _expanded(context, values)
        case "Reshape":
            wanted = new_shape(context, node)
            if wanted is not None and -1 not in wanted:
                yield values[0].type.elements, product(wanted)
        case "Concat":
            yield from _joined(node, values)
        case "MatMul":
            yield from _multiplied(*values[:2])
        case "Gemm":
            a, b = values[:2]
            if a.type.rank == b.type.rank == 2:
                yield a.shape[1 - node.flag("transA", False)], b.shape[node.flag("transB", False)]
        case "Conv":
            x, w = values[:2]
            if min(x.type.rank, w.type.rank) > 1:
                yield x.shape[1], w.shape[1] * node.integer("group", 1)
        case op if op in SHARED_AXES:
            a, b = values[:2]
            for axis, other in SHARED_AXES[op]:
                if a.type.rank > axis and b.type.rank > other:
                    yield a.shape[axis], b.shape[other]
        case "Split":
            yield from _divided(context, node, values)
        case "ScatterND" if len(values) == 3:
            yield from _scattered(*values)
        case op if op in BROADCASTING:
            for a, b in combinations(values, 2):
                yield from _aligned(a.shape, b.shape)


def new_shape(context: Context, node: ModelNode) -> list[Extent] | None:
    """The extents that a Reshape gives its input, of which one may be -1; None if the node does not
    know them.
    """
    x, shape = node.inputs[:2] if len(node.inputs) == 2 else (None, None)
    contents = context.contents(shape) if isinstance(shape, Value) else None
    if not isinstance(x, Value) or contents is None or contents.ndim != 1:
        return None
    return [
        x.shape[axis] if extent == 0 and axis < x.type.rank else extent
        for axis, extent in enumerate(contents.tolist())
    ]


def _aligned(a: tuple[Extent, ...], b: tuple[Extent, ...]) -> Pairs:
    """Axes from the last on, as elementwise ops pair them; what is 1 fits any number."""
    for pair in zip(reversed(a), reversed(b), strict=False):
        if 1 not in pair:
            yield pair


def _divided(context: Context, node: ModelNode, values: list[Value]) -> Pairs:
    """The axis that a Split divides, and the sum of its parts."""
    parts = node.integers("split")
    if len(values) > 1 and (contents := context.contents(values[1])) is not None:
        parts = tuple(contents.ravel().tolist())
    x, axis = values[0], node.integer("axis", 0)
    if parts and -x.type.rank <= axis < x.type.rank:
        yield x.shape[axis], sum(parts)


def _scattered(x: Value, indices: Value, updates: Value) -> Pairs:
    """The axes of the updates: those of the indices but the last one, and those of what is left of x
    at an index.
    """
    depth = indices.shape[-1] if indices.type.rank else 0
    if isinstance(depth, int):
        yield from zip((*indices.shape[:-1], *x.shape[depth:]), updates.shape, strict=False)


def _expanded(context: Context, values: list[Value]) -> Pairs:
    wanted = context.contents(values[-1])
    if wanted is not None and wanted.ndim == 1:
        yield from _aligned(values[0].shape, tuple(wanted.tolist()))


def _joined(node: ModelNode, values: list[Value]) -> Pairs:
    for a, b in combinations(values, 2):
        joined = node.integer("axis", 1) % max(a.type.rank, 1)
        for axis, pair in enumerate(zip(a.shape, b.shape, strict=False)):
            if axis != joined:
                yield pair


def _multiplied(a: Value, b: Value) -> Pairs:
    """The summed axes, and the axes of the batch."""
    if a.type.rank and b.type.rank:
        yield a.shape[-1], b.shape[-2:][0]
        yield from _aligned(a.shape[:-2], b.shape[:-2])
