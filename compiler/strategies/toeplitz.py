"""toeplitz: the convolution as one product with its whole matrix, for reference.

The flattened padded input, c P numbers, times a matrix T [c P, o Q] gives the flattened output, o Q
numbers: T is a block matrix of Toeplitz blocks (Gray, "Toeplitz and Circulant Matrices: A Review",
2006, section 3.4), T[c p, o q] = w[o, c, k] where the k-th tap of the window at q lies on p, else
zero. With the 0/1 matrix S [k, p q] of where that is so, T = w S, the gradient of the input
is dy T' and that of the weights (x' dy) S'. It multiplies mostly zeros, P / K times the products of
direct at least, so it is never the cheapest; asked for by its name, it checks the others. A NaN or
infinity spreads over its sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ..constant import Constant
from ..dim import Extent
from ..graph import Builder, Graph, Node, Value
from ..op import Array
from .strategy import Cost, Strategy, geometry, nominal

MOST_ELEMENTS = 1 << 20  # of the matrix and of S


def _padded(node: Node) -> tuple[int, ...]:
    """Spatial extents of the input with its padding."""
    attrs = node.attrs
    sizes = nominal(geometry(node).x)[2:]
    return tuple(e + lo + hi for e, lo, hi in zip(sizes, attrs.lo, attrs.hi, strict=True))


def _sizes(node: Node) -> tuple[int, int, int]:
    """Elements of the matrix of one group, of S, and how many groups."""
    of = geometry(node)
    positions = prod(_padded(node)) * prod(nominal(of.y)[2:])
    filters, channels, *kernel = nominal(of.w)
    groups = node.attrs.groups
    return filters // groups * channels * positions, prod(kernel) * positions, groups


def _rejects(_graph: Graph, node: Node) -> str | None:
    of = geometry(node)
    if node.inputs[0].dtype is not node.inputs[1].dtype:
        return "its operands have two dtypes, and the matrix one"
    if not all(isinstance(extent, int) for extent in (*of.x.shape[2:], *of.y.shape[2:])):
        return "a spatial axis is a free dim"
    matrix, taps, groups = _sizes(node)
    if max(groups * matrix, taps) > MOST_ELEMENTS:
        return (
            f"its matrix would have {groups * matrix} elements, made from {taps}; "
            f"at most {MOST_ELEMENTS} are for reference"
        )
    return None


def _cost(_graph: Graph, node: Node, batch: int) -> Cost:
    of = geometry(node)
    matrix, taps, groups = _sizes(node)
    workspace = 4.0 * groups * matrix
    products = float(groups * matrix) * (nominal(of.x, batch)[0] + prod(nominal(of.w)[2:]))
    moved = 4.0 * sum(prod(nominal(value, batch)) for value in (of.x, of.w, of.y))
    return Cost(products, moved + 4.0 * taps + 2 * workspace, workspace)


def _where_taps_lie(node: Node) -> Array:
    """S [K, P Q]: 1 where the k-th tap of the window at q lies on the position p of the padded
    input.
    """
    attrs, kernel = node.attrs, nominal(geometry(node).w)[2:]
    padded, out = _padded(node), nominal(geometry(node).y)[2:]
    found = np.ones((1, 1, 1))
    for extent, count, taps, stride, dilation in zip(
        padded, out, kernel, attrs.stride, attrs.dilation, strict=True
    ):
        k, p, q = np.ogrid[:taps, :extent, :count]
        found = np.einsum("kpq,lrs->klprqs", found, p == q * stride + k * dilation)
        found = found.reshape(found.shape[0] * taps, -1, found.shape[4] * count)
    return found.reshape(len(found), -1)


def _expand(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    s = b.constant(Constant(_where_taps_lie(node).astype(geometry(node).w.dtype.numpy)))
    match node.op.name:
        case "conv_input_gradient":
            return _input_gradient(b, node, s, *inputs)
        case "conv_weight_gradient":
            return _weight_gradient(b, node, s, *inputs)
    product = b(
        "matmul", _rows(b, node, _with_padding(b, node, inputs[0])), _matrix(b, node, s, inputs[1])
    )
    return _from_rows(b, node, product, node.output.shape[1:])


def _with_padding(b: Builder, node: Node, x: Value) -> Value:
    attrs = node.attrs
    return (
        b("pad", x, lo=(0, 0, *attrs.lo), hi=(0, 0, *attrs.hi), value=0.0)
        if any((*attrs.lo, *attrs.hi))
        else x
    )


def _rows(b: Builder, node: Node, value: Value) -> Value:
    """[n, g c, ..] as [g, n, c ..]."""
    groups = node.attrs.groups
    flat = b("reshape", value, shape=(value.shape[0], groups, prod(nominal(value)[1:]) // groups))
    return b("transpose", flat, permutation=(1, 0, 2))


def _from_rows(b: Builder, node: Node, rows: Value, shape: Sequence[Extent]) -> Value:
    """[g, n, c ..] as [n, g c, ..]."""
    samples = b("transpose", rows, permutation=(1, 0, 2))
    return b("reshape", samples, shape=(rows.shape[1], *shape), label=node.label)


def _matrix(b: Builder, node: Node, s: Value, w: Value) -> Value:
    """T [g, c P, o Q] of the weights [g o, c, ..]."""
    filters, channels, *kernel = nominal(w)
    groups, p, q = node.attrs.groups, prod(_padded(node)), prod(nominal(geometry(node).y)[2:])
    made = b("matmul", b("reshape", w, shape=(filters * channels, prod(kernel))), s)
    split = b("reshape", made, shape=(groups, filters // groups, channels, p, q))
    ordered = b("transpose", split, permutation=(0, 2, 3, 1, 4))
    return b("reshape", ordered, shape=(groups, channels * p, filters // groups * q))


def _input_gradient(b: Builder, node: Node, s: Value, dy: Value, w: Value) -> Value:
    attrs, padded = node.attrs, _padded(node)
    product = b("matmul", _rows(b, node, dy), _matrix(b, node, s, w), transpose_b=True)
    whole = _from_rows(b, node, product, (node.output.shape[1], *padded))
    if not any((*attrs.lo, *attrs.hi)):
        return whole
    return b(
        "slice",
        whole,
        start=(0, 0, *attrs.lo),
        size=node.output.shape,
        step=(1,) * len(node.output.shape),
        label=node.label,
    )


def _weight_gradient(b: Builder, node: Node, s: Value, x: Value, dy: Value) -> Value:
    filters, channels, *_ = nominal(node.output)
    groups, p, q = node.attrs.groups, prod(_padded(node)), prod(nominal(dy)[2:])
    # [g, c P, o Q]
    sums = b(
        "matmul", _rows(b, node, _with_padding(b, node, x)), _rows(b, node, dy), transpose_a=True
    )
    split = b("reshape", sums, shape=(groups, channels, p, filters // groups, q))
    ordered = b("transpose", split, permutation=(0, 3, 1, 2, 4))
    taps = b(
        "matmul", b("reshape", ordered, shape=(filters * channels, p * q)), s, transpose_b=True
    )
    return b("reshape", taps, shape=node.output.shape, label=node.label)


TOEPLITZ = Strategy(
    "toeplitz", "one product with the whole matrix, for reference", _rejects, _cost, _expand
)
