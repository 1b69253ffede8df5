"""ONNX Runtime's own ops (domain com.microsoft) that its optimizer and quantizer write into models
-> ops of the graph.

The standard has no schemas of them, so everything is checked here. Their meaning is that of ONNX
Runtime's kernels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..context import Context
from ..handler import HandlerTable
from ..indexing import INDEXING
from ..node import Item, ModelNode
from ..padding import PADDING
from ..sampling import SAMPLING
from .attention import ATTENTION
from .experimental import EXPERIMENTAL
from .fused import FUSED
from .grouped_attention import GROUPED_ATTENTION
from .normalization import ADDED_NORMALIZATION, NORMALIZATION
from .packed import PACKED
from .quantized import QUANTIZED
from .quantized_attention import QUANTIZED_ATTENTION
from .quantized_lstm import QUANTIZED_LSTM

# ops that became the standard's: the opset whose meaning is theirs
AS_IN_STANDARD: Final = {"GatherND": 13, "GridSample": 16, "Pad": 13, "Range": 11, "Trilu": 14}
MICROSOFT: Final = HandlerTable(
    ATTENTION,
    FUSED,
    GROUPED_ATTENTION,
    NORMALIZATION,
    PACKED,
    QUANTIZED,
    QUANTIZED_ATTENTION,
    QUANTIZED_LSTM,
)
# ops that ONNX Runtime adds to the standard's domain, and those that it still has of old opsets
ADDED_TO_STANDARD: Final = HandlerTable(ADDED_NORMALIZATION, EXPERIMENTAL)


@MICROSOFT.on(*AS_IN_STANDARD)
def as_in_standard(context: Context, node: ModelNode) -> Item:
    """The standard's op of the same name; its pads may be one row, and its step of a range 1."""
    opset, inputs = AS_IN_STANDARD[node.op_type], list(node.inputs)
    if node.op_type == "Pad":
        inputs[1] = context.reshape(node.input(1), (node.input(1).type.elements,))
    if node.op_type == "Range" and node.optional(2) is None:
        inputs[2:] = [context.number(1, node.input(0).dtype)]
    found = (table.find(node.op_type, opset) for table in (INDEXING, PADDING, SAMPLING))
    handler = next(handler for handler in found if handler is not None)
    own = replace(node, domain="", opset=opset, inputs=tuple(inputs))
    made = handler.convert(context, own)
    assert isinstance(made, Item)
    return made


__all__ = ["ADDED_TO_STANDARD", "MICROSOFT"]
