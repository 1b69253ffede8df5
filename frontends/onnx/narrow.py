"""Values whose dtype in the model is narrower than the one that carries them: few ops take them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from netloom.compiler.graph import Value

from .context import Context
from .node import Item, ModelNode
from .tensors import Narrow

TAKE_NARROW: Final = frozenset({"Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"})
MOVE_NARROW: Final = frozenset(
    {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


def narrow_input(context: Context, call: ModelNode) -> Narrow | None:
    """The narrow dtype among a node's inputs; UnsupportedOpError if its op takes none."""
    found = next(
        (context.narrow[x] for x in call.inputs if isinstance(x, Value) and x in context.narrow),
        None,
    )
    if found is not None and call.op_type not in TAKE_NARROW | MOVE_NARROW:
        raise call.unsupported(
            f"it takes {found.name}, which is not supported here.", "Dequantize or cast it first."
        )
    return found


def mark_moved(
    context: Context, call: ModelNode, narrow: Narrow | None, outputs: Iterable[Item | None]
) -> None:
    """What only moves narrow numbers gives such numbers."""
    if narrow is None or call.op_type not in MOVE_NARROW:
        return
    for value in outputs:
        if isinstance(value, Value):
            context.narrow[value] = narrow
