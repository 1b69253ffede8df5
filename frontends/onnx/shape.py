"""ONNX's ops that rearrange -> reshape and transpose; the contents of small values are followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .restriction import NotThatNumber
from .sizes import listed
from .window import FIX_DIMS

SHAPE: Final = HandlerTable()


# -- reshapes --------------------------------------------------------------------------------------


@SHAPE.on("Reshape")
def reshape(context: Context, node: ModelNode) -> Value:
    """0 copies the extent (unless allowzero), -1 takes the rest."""
    x = node.input(0)
    if node.opset < 5:
        wanted: tuple[Extent, ...] = node.integers("shape") or ()
    else:
        wanted = context.extents(node.input(1), node, "the new shape")
    shape = _resolved(node, x, wanted, not node.flag("allowzero", False))
    total = product(shape)
    if total != x.type.elements:
        raise node.misshapen(
            f"{x.type} has {x.type.elements} elements and cannot become {listed(shape)} ({total}).",
            "Is a size written into the model? Fix the free dims to those that it was exported for "
            "(dims=; --dim), or export it with dynamic sizes.",
        )
    return context.reshape(x, shape)


def _resolved(
    node: ModelNode, x: Value, wanted: Sequence[Extent], copies_zero: bool
) -> tuple[Extent, ...]:
    shape: list[Extent] = []
    for axis, extent in enumerate(wanted):
        if extent == 0 and copies_zero:
            if axis >= x.type.rank:
                raise node.misshapen(
                    f"its new shape {listed(wanted)} copies axis {axis}, which {x.type} lacks."
                )
            extent = x.shape[axis]
        if isinstance(extent, int) and extent < -1:
            raise node.misshapen(
                f"its new shape {listed(wanted)} has a negative extent.", "Export it again."
            )
        shape.append(extent)
    unknown = [axis for axis, extent in enumerate(shape) if extent == -1]
    if len(unknown) > 1:
        raise node.misshapen(f"its new shape {listed(wanted)} has several entries -1.", "Keep one.")
    if unknown:
        shape[unknown[0]] = _rest(node, x, [e for e in shape if e != -1])
    return tuple(shape)


def _rest(node: ModelNode, x: Value, others: Sequence[Extent]) -> Extent:
    rest = dim.exact_quotient(x.type.elements, product(list(others)))
    if rest is None:
        is_static = x.type.is_static and all(isinstance(extent, int) for extent in others)
        kind = node.misshapen if is_static else node.unsupported
        raise kind(
            f"{x.type} cannot be divided into {listed([*others, -1])}.",
            FIX_DIMS if not is_static else "Is a batch size written into the model?",
        )
    return rest


@SHAPE.on("Flatten")
def flatten(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    axis = node.integer("axis", 1)
    axis = axis if axis == x.type.rank else node.axis(axis, max(x.type.rank, 1)) if axis else 0
    return context.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))


def _listed_axes(context: Context, node: ModelNode) -> tuple[int, ...] | None:
    """Axes from the attribute (before opset 13) or the second input."""
    if node.opset < 13:
        return node.integers("axes")
    axes = node.optional(1)
    return None if axes is None else context.integers(axes, node, "the list of axes")


@SHAPE.on("Squeeze")
def squeeze(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    given = _listed_axes(context, node)
    axes = (
        node.axes(given, x.type.rank)
        if given  # ONNX Runtime takes an empty list as none
        else tuple(a for a, e in enumerate(x.shape) if e == 1)
    )
    for axis in axes:
        extent = x.shape[axis]
        if extent != 1:
            message = f"axis {axis} of {x.type} is not 1 and cannot be squeezed."
            if isinstance(extent, int):
                raise node.misshapen(message, "Export it again.")
            raise NotThatNumber(message, hint=FIX_DIMS, extent=extent, number=1)
    return context.reshape(
        x, tuple(extent for axis, extent in enumerate(x.shape) if axis not in axes)
    )


@SHAPE.on("Unsqueeze")
def unsqueeze(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    given = _listed_axes(context, node)
    if given is None:
        raise node.fault("axes are missing.", "Export it again.")
    axes = node.axes(given, x.type.rank + len(given))
    rest = iter(x.shape)
    return context.reshape(
        x, tuple(1 if axis in axes else next(rest) for axis in range(x.type.rank + len(axes)))
    )


@SHAPE.on("Shape")
def shape(context: Context, node: ModelNode) -> Value:
    extents = node.input(0).shape
    start, end = (
        (node.integer("start", 0), node.integer("end", len(extents)))
        if node.opset >= 15
        else (0, None)
    )
    return context.extents_value(extents[slice(start, end)])


@SHAPE.on("Transpose")
def transpose(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    permutation = node.integers("perm")
    if permutation is None:
        permutation = tuple(reversed(range(x.type.rank)))
    if sorted(permutation) != list(range(x.type.rank)):
        raise node.fault(f"attribute perm is {list(permutation)}, no permutation of {x.type.rank} axes.",
                         "Export it again.")  # fmt: skip
    return context.transpose(x, permutation)


# -- blocks ----------------------------------------------------------------------------------------


def _block(node: ModelNode, x: Value) -> int:
    block = node.integer("blocksize", 0)
    if block < 1:
        raise node.fault(
            f"attribute blocksize is {block}; it must be at least 1.", "Export it again."
        )
    if x.type.rank != 4:
        raise node.misshapen(f"its input is {x.type}; rank 4 is needed.")
    return block


@SHAPE.on("DepthToSpace")
def depth_to_space(context: Context, node: ModelNode) -> Value:
    """DCR: c = (by, bx, c'); CRD: c = (c', by, bx)."""
    x = node.input(0)
    b = _block(node, x)
    n, c, h, w = x.shape
    depth = dim.exact_quotient(c, b * b)
    if depth is None:
        raise node.misshapen(f"its {c} channels are no multiple of {b} x {b}.", "Export it again.")
    if node.text("mode", "DCR", ("DCR", "CRD")) == "DCR":
        parts = context.transpose(context.reshape(x, (n, b, b, depth, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        parts = context.transpose(context.reshape(x, (n, depth, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return context.reshape(parts, (n, depth, h * b, w * b))


@SHAPE.on("SpaceToDepth")
def space_to_depth(context: Context, node: ModelNode) -> Value:
    """The inverse of DepthToSpace."""
    x = node.input(0)
    b = _block(node, x)
    n, c, h, w = x.shape
    rows, columns = dim.exact_quotient(h, b), dim.exact_quotient(w, b)
    if rows is None or columns is None:
        raise node.misshapen(f"its spatial extents {h} x {w} are no multiples of {b}.", FIX_DIMS)
    parts = context.reshape(x, (n, c, rows, b, columns, b))
    order = (
        (0, 3, 5, 1, 2, 4)
        if node.text("mode", "DCR", ("DCR", "CRD")) == "DCR"
        else (0, 1, 3, 5, 2, 4)
    )
    return context.reshape(context.transpose(parts, order), (n, c * b * b, rows, columns))
