"""What the strategies that work tile by tile (ops/tiles.py) share: where they apply, what they
move, how they expand.

Constant weights are transformed when compiling. The gradient of the input is a convolution with the
weights flipped; that of the weights sums products of the same tiles over all positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..constant import Constant
from ..graph import Builder, Graph, Node, Value
from ..op import OPS
from ..ops.tiles import TileAttrs
from .strategy import Cost, geometry, nominal

BLOCK = 16  # channels of a vector: several groups are whole vectors each


def rejects(node: Node) -> str | None:
    """The reason why a convolution or a gradient of one cannot be cut into tiles, or None."""
    attrs, of = node.attrs, geometry(node)
    kernel = of.w.shape[2:]
    if 0 in of.w.shape:
        return "its weights are none"
    if not of.w.dtype.is_float:
        return f"its transforms have fractions, which {of.w.dtype.value} has not"
    if of.w.dtype.bytes < 4:
        return f"its tiles would be rounded to {of.w.dtype.value}"
    if len(kernel) != 2 or kernel == (1, 1):
        return f"its kernel is {list(kernel)}; tiles are for two axes and more than one tap"
    if attrs.stride != (1, 1) or attrs.dilation != (1, 1):
        return f"its stride is {attrs.stride} and its dilation {attrs.dilation}; both must be 1"
    if attrs.groups != 1 and any(
        extent % (attrs.groups * BLOCK) for extent in (nominal(of.x)[1], nominal(of.y)[1])
    ):
        return f"it has {attrs.groups} groups that are not multiples of {BLOCK} channels"
    if node.op.name == "conv_input_gradient" and any(
        padding >= taps
        for side in (attrs.lo, attrs.hi)
        for padding, taps in zip(side, of.w.type.static_shape[2:], strict=True)
    ):
        return "its padding is wider than its kernel"
    return None


def count(form: TileAttrs, node: Node, batch: int) -> int:
    """How many tiles a convolution has."""
    of = geometry(node)
    n, _, oh, ow = nominal(of.x if node.op.name == "conv_input_gradient" else of.y, batch)
    return n * -(-oh // form.m[0]) * -(-ow // form.m[1])


def has_constant_weights(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies with weights that are known when compiling."""
    return node.op.name != "conv_weight_gradient" and graph.constant_of(node.inputs[1]) is not None


def cost(
    form: TileAttrs, entries: int, transforms: float, node: Node, batch: int, is_constant: bool
) -> Cost:
    """The cost with so many entries of a tile; ``transforms``: multiply-adds of them in all;
    ``is_constant``: of the weights."""
    of, tiles = geometry(node), count(form, node, batch)
    c, o = nominal(of.x)[1], nominal(of.y)[1]
    multiplied = entries * c * o // node.attrs.groups
    workspace = 4.0 * entries * tiles * (c + o)
    moved = 2 * workspace + 4.0 * (prod(nominal(of.x, batch)) + prod(nominal(of.y, batch)))
    return Cost(
        float(tiles * multiplied + transforms),
        moved + (1 if is_constant else 3) * 4.0 * multiplied,
        workspace,
    )


def expand(
    algorithm: str, form: TileAttrs, b: Builder, node: Node, inputs: Sequence[Value],
    constant: Constant | None,
) -> Value:  # fmt: skip
    """The node as the algorithm's ops and a product of matrices for every entry; ``constant``: its
    weights, if they are known when compiling."""
    if node.op.name == "conv_weight_gradient":
        return _weight_gradient(algorithm, form, b, node, *inputs)
    shape = {"m": form.m, "taps": form.taps}
    u = filters(algorithm, form, b, node, inputs[1], constant)
    v = b(f"{algorithm}_input", inputs[0], **shape, lo=before(form, node),
          counts=form.tiles(node.output.shape), groups=node.attrs.groups,
          label=node.label)  # fmt: skip
    product = b("matmul", v, u, label=node.label)
    return b(f"{algorithm}_output", product, **shape, shape=node.output.shape, label=node.label)


def before(form: TileAttrs, node: Node) -> tuple[int, int]:
    """Zeros before what is cut into tiles: x of a convolution, dy of its input's gradient."""
    lo: tuple[int, int] = node.attrs.lo
    if node.op.name == "conv_input_gradient":
        return form.taps[0] - 1 - lo[0], form.taps[1] - 1 - lo[1]
    return lo


def filters(
    algorithm: str, form: TileAttrs, b: Builder, node: Node, w: Value, constant: Constant | None
) -> Value:
    """U, of the weights flipped for the input's gradient; of a constant, which then takes the
    place of ``w``, when compiling."""
    record = OPS[f"{algorithm}_filter"]
    attrs = record.attrs(
        form.m, form.taps, node.attrs.groups, node.op.name == "conv_input_gradient"
    )
    if constant is None:
        return b.add(record, [w], attrs).output
    weights = Constant(constant.data).array  # of which nobody keeps the product
    made = record.reference(attrs, [weights], record.infer(attrs, [constant.type]))
    return b.constant(Constant(made[0]))


def _weight_gradient(
    algorithm: str, form: TileAttrs, b: Builder, node: Node, x: Value, dy: Value
) -> Value:
    """dw[o, c] of the sum over tiles of V[., t, c] P[., t, o]."""
    shape = {"m": form.m, "taps": form.taps}
    groups = node.attrs.groups
    v = b(
        f"{algorithm}_input",
        x,
        **shape,
        lo=node.attrs.lo,
        counts=form.tiles(dy.shape),
        groups=groups,
        label=node.label,
    )
    p = b(f"{algorithm}_output_gradient", dy, **shape, groups=groups, label=node.label)
    sums = b("matmul", v, p, transpose_a=True, label=node.label)
    return b(f"{algorithm}_filter_gradient", sums, **shape, label=node.label)
