"""A kernel around attention's gradient -> the form ``FusedGradient``: what is read where, and the
tile.

``attention_gradient_fused`` with ``wrt`` "q" makes dQ[.., l, d], with "kv" dK and dV side by side,
[.., s, d + e].
"""

from __future__ import annotations

from ... import scalar
from ...dim import Extent, product
from ...graph import Node, Value
from ...loops.elements import Axis, Elements
from ...loops.ir import Load
from ...scalar import Argument, Expr, Guarded
from ...tensor_type import BOOL, FLOAT32
from .attention_form import masked, numbers_of_a_word
from .attention_tiles import WIDTH, GradientTile
from .attention_warps import WarpGradientTile, warp_gradient_tile
from .elements import SUM
from .forms import Engine, FusedGradient, nominal

NUMBERS = 4  # cotangents, and what is known of each query


def gradient_form(elements: Elements, node: Node, engine: Engine) -> FusedGradient:
    """The form of a kernel around ``attention_gradient_fused``."""
    q, k, v, dy, *numbers = node.inputs
    bases, inverses, deltas, *masks = numbers
    *batch, rows, columns = node.output.shape
    is_across = node.attrs.wrt == "kv"
    heads = tuple(Axis.of(f"p{place}", extent) for place, extent in enumerate(batch))
    column = Axis.of(f"p{len(batch) + 1}", columns)
    own, other = Axis.of(f"p{len(batch)}", rows), Axis.of("r0", (q if is_across else k).shape[-2])
    row, key = (other, own) if is_across else (own, other)
    depth, width = Axis.of("r1", q.shape[-1]), Axis.of("r2", v.shape[-1])
    at_heads = tuple(axis.position for axis in heads)

    def read(value: Value, *index: Extent) -> Expr:
        places = (*at_heads, *index)[len(at_heads) + len(index) - value.type.rank :]
        at = [0 if e == 1 else i for e, i in zip(value.shape, places, strict=True)]
        return elements.element(value, at, None)

    def load(value: Value, *index: Extent) -> Load:
        found = read(value, *index)
        assert isinstance(found, Load), "what is copied has no formula"
        return found

    def number(value: Value) -> Expr:
        """Of a query; 0 where there is none."""
        known = row.extent - 1 - row.position
        return Guarded((known,), read(value, row.position), scalar.literal(0, FLOAT32))

    mask, slope = None, None
    if masks:
        element = read(masks[0], row.position, key.position)
        mask = masked(node, masks[0], element, row, key, None)
        if masks[0].dtype is BOOL:
            slope = masked(node, masks[0], element, row, key, 0.0)
    position = (*at_heads, own.position, column.position)
    return FusedGradient(
        heads, row, key, depth, width, column,
        load(q, row.position, depth.position), load(k, key.position, depth.position),
        load(v, key.position, width.position), load(dy, row.position, width.position),
        (number(bases), number(inverses), number(deltas)), mask, slope, node.attrs, position,
        elements.element(elements.output, position, Argument(SUM, FLOAT32)), is_across,
        _tile(node, engine), engine,
    )  # fmt: skip


def _tile(node: Node, engine: Engine) -> GradientTile | WarpGradientTile:
    q, _, v, *numbers = node.inputs
    *batch, rows, _ = node.output.shape
    depth, width = _static(q.shape[-1]), _static(v.shape[-1])
    number = 2 if node.attrs.wrt == "kv" else 1
    if engine is Engine.FFMA:
        widths = (depth, width)[:number]
        return GradientTile(tuple(-(-extent // WIDTH) * WIDTH for extent in widths))
    is_masked = len(numbers) > NUMBERS
    return warp_gradient_tile(
        rows, nominal(product(batch)), depth, width, numbers_of_a_word(engine), number, is_masked
    )


def _static(extent: Extent) -> int:
    assert isinstance(extent, int)
    return extent


__all__ = ["gradient_form"]
