"""The padding SAME of images of free size, as TensorFlow pads: how many elements go before an image
depends on the remainder of its size by the stride.

An axis of H elements is met by ceil(H / stride) windows. It is padded to H + reach - 1 elements,
which hold so many windows whatever the remainder is; the last elements may be in none of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value

from .context import Context
from .node import ModelNode
from .padding import padded_axis
from .window import total_of_same

# ceil_mode too: SAME makes as many windows with it as without
PADDING_ATTRIBUTES: Final = ("pads", "auto_pad", "ceil_mode")


def without_padding(node: ModelNode) -> ModelNode:
    """The node as one that does not pad."""
    kept = {key: v for key, v in node.attributes.items() if key not in PADDING_ATTRIBUTES}
    return replace(node, attributes=kept)


def with_same_padding(
    context: Context, node: ModelNode, x: Value, kernel: tuple[int, ...], number: float
) -> tuple[Value, ModelNode]:
    """x, whose last axes are spatial, padded with ``number``, and the node that does not pad any
    more; both as they are where the padding is known at import.
    """
    automatic = node.text("auto_pad", "NOTSET")
    rank = len(kernel)
    first = x.type.rank - rank
    stride = node.integers("strides") or (1,) * rank
    dilation = node.integers("dilations") or (1,) * rank
    is_read = 0 < len(stride) == len(dilation) == rank == x.type.rank - 2
    if not automatic.startswith("SAME") or not is_read or min(*stride, *dilation, *kernel) < 1:
        return x, node
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    totals = [
        total_of_same(extent, s, r)
        for extent, s, r in zip(x.shape[first:], stride, reach, strict=True)
    ]
    if all(isinstance(total, int) for total in totals):
        return x, node
    for place, total in enumerate(totals):
        lo: Extent = dim.ceil_div(total, 2) if automatic == "SAME_LOWER" else total // 2
        pads = (lo, reach[place] - 1 - lo)
        x = padded_axis(context, x, first + place, pads, number, "constant")
    return x, without_padding(node)
