"""winograd_f2, winograd_f4, winograd_f6: Winograd's minimal filtering at stride 1 (ops/winograd.py).

Tiles have m outputs along every axis on which the kernel has more than one tap. For 3 x 3 taps m = 2 needs 16 products for
4 outputs instead of 36, m = 4 needs 36 for 16 instead of 144, m = 6 needs 64 for 36 instead of 324; 5 x 5, 7 x 7, 1 x n and
n x 1 taps have the same forms, as far as a tile has at most 8 inputs along an axis. The more inputs, the larger the
coefficients and the error: up to 4 belong to every accuracy, up to 6 to the default one, 7 and 8 to fast. Constant weights
are transformed when compiling. The gradient of the input is a convolution with the weights turned around; that of the
weights sums products of the same tiles over all positions. A NaN or infinity in the input spreads over its tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..constant import Constant
from ..graph import Builder, Graph, Node, Value
from ..op import OPS
from ..ops.winograd import LARGEST, WinogradAttrs
from .strategy import Cost, Strategy, geometry, nominal

BLOCK = 16  # channels of a vector: several groups are whole vectors each
BUDGETS = ((4, 2e-6, "strict"), (6, 1e-5, "default"), (LARGEST, 2e-5, "fast"))  # most inputs of a tile, error, accuracy


def _form(m: int, node: Node) -> WinogradAttrs:
    down, across = geometry(node).w.type.static_shape[2:]
    return WinogradAttrs((m if down > 1 else 1, m if across > 1 else 1), (down, across))


def _rejects(m: int, _graph: Graph, node: Node) -> str | None:
    attrs, of = node.attrs, geometry(node)
    kernel = of.w.shape[2:]
    if of.w.dtype.bytes < 4:
        return f"its tiles would be rounded to {of.w.dtype.value}"
    if len(kernel) != 2 or kernel == (1, 1):
        return f"its kernel is {list(kernel)}; Winograd's form is for two axes and more than one tap"
    if attrs.stride != (1, 1) or attrs.dilation != (1, 1):
        return f"its stride is {attrs.stride} and its dilation {attrs.dilation}; both must be 1"
    if max(_form(m, node).inputs) > LARGEST:
        return f"its kernel is {list(kernel)}: a tile would have more than {LARGEST} inputs along an axis"
    if attrs.groups != 1 and any(extent % (attrs.groups * BLOCK) for extent in (nominal(of.x)[1], nominal(of.y)[1])):
        return f"it has {attrs.groups} groups that are not multiples of {BLOCK} channels"
    if not all(isinstance(extent, int) for extent in (*of.x.shape[2:], *of.y.shape[2:])):
        return "its height or width is a free dim"
    if node.op.name == "conv_input_gradient" and any(
        padding >= taps for side in (attrs.lo, attrs.hi) for padding, taps in zip(side, of.w.type.static_shape[2:], strict=True)
    ):
        return "its padding is wider than its kernel"
    return None


def _cost(m: int, graph: Graph, node: Node, batch: int) -> Cost:
    of, form = geometry(node), _form(m, node)
    n, _, oh, ow = nominal(of.x if node.op.name == "conv_input_gradient" else of.y, batch)
    c, o = nominal(of.x)[1], nominal(of.y)[1]
    tiles = n * -(-oh // form.m[0]) * -(-ow // form.m[1])
    filters = form.entries * c * o // node.attrs.groups
    workspace = 4.0 * form.entries * tiles * (c + o)
    is_constant = node.op.name != "conv_weight_gradient" and graph.constant_of(node.inputs[1]) is not None
    moved = 2 * workspace + 4.0 * (prod(nominal(of.x, batch)) + prod(nominal(of.y, batch)))
    # The sums of the transforms count for nothing: they hide behind what they load and store (measured: benchmarks/choices.py).
    return Cost(float(tiles * filters), moved + (1 if is_constant else 3) * 4.0 * filters, workspace)


def _expand(m: int, b: Builder, graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    form, lo = _form(m, node), node.attrs.lo
    match node.op.name:
        case "conv_weight_gradient":
            return _weight_gradient(form, b, node, *inputs)
        case "conv_input_gradient":
            lo = (form.taps[0] - 1 - lo[0], form.taps[1] - 1 - lo[1])
    shape = {"m": form.m, "taps": form.taps}
    filters = _filters(form, b, node, inputs[1], graph.constant_of(node.inputs[1]))
    v = b("winograd_input", inputs[0], **shape, lo=lo, counts=form.tiles(node.output.shape), groups=node.attrs.groups,
          label=node.label)  # fmt: skip
    product = b("matmul", v, filters, label=node.label)
    return b("winograd_output", product, **shape, shape=node.output.shape, label=node.label)


def _filters(form: WinogradAttrs, b: Builder, node: Node, w: Value, constant: Constant | None) -> Value:
    """U, of the weights turned around for the input's gradient; of constants when compiling."""
    record = OPS["winograd_filter"]
    attrs = record.attrs(form.m, form.taps, node.attrs.groups, node.op.name == "conv_input_gradient")
    if constant is None:
        return b.add(record, [w], attrs).output
    made = record.reference(attrs, [constant.array], record.infer(attrs, [w.type]))
    return b.constant(Constant(made[0]))


def _weight_gradient(form: WinogradAttrs, b: Builder, node: Node, x: Value, dy: Value) -> Value:
    """dw[o, c] = G' [sum over tiles of V[., t, c] P[., t, o]] G."""
    shape = {"m": form.m, "taps": form.taps}
    groups = node.attrs.groups
    v = b("winograd_input", x, **shape, lo=node.attrs.lo, counts=form.tiles(dy.shape), groups=groups, label=node.label)
    p = b("winograd_output_gradient", dy, **shape, groups=groups, label=node.label)
    sums = b("matmul", v, p, transpose_a=True, label=node.label)
    return b("winograd_filter_gradient", sums, **shape, label=node.label)


def _level(m: int, node: Node) -> tuple[float, str]:
    most = max(_form(m, node).inputs)
    return next((budget, accuracy) for inputs, budget, accuracy in BUDGETS if most <= inputs)


def _strategy(m: int) -> Strategy:
    return Strategy(
        f"winograd_f{m}", f"Winograd's minimal filtering in tiles of {m} x {m}",
        lambda graph, node: _rejects(m, graph, node),
        lambda graph, node, batch: _cost(m, graph, node, batch),
        lambda b, graph, node, inputs: _expand(m, b, graph, node, inputs),
        lambda node: _level(m, node),
    )  # fmt: skip


WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F6 = map(_strategy, (2, 4, 6))
