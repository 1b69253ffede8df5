"""ZipMap -> its input: a map from labels to numbers for each row is, as a tensor, a column for each
label.
"""

from __future__ import annotations

from typing import Final

from netloom.compiler.graph import Value

from ..context import Context
from ..handler import HandlerTable
from ..names import printable
from ..node import ModelNode

MAPS: Final = HandlerTable()
MOST_SHOWN: Final = 8  # labels


@MAPS.on("ZipMap")
def zip_map(context: Context, node: ModelNode) -> Value:
    """[.., labels], as it is. A note says which column is whose."""
    x = node.input(0)
    labels = node.integers("classlabels_int64s") or node.texts("classlabels_strings") or ()
    if x.type.rank not in (1, 2) or x.shape[-1] != len(labels):
        raise node.misshapen(f"it has {len(labels)} labels for {x.type}.", "Convert it again.")
    shown = ", ".join(printable(str(label)) for label in labels[:MOST_SHOWN])
    more = ", .." if len(labels) > MOST_SHOWN else ""
    context.notes.append(
        f"{node.title}: its maps become a tensor with a column for each label ({shown}{more}); "
        "convert the model with options={'zipmap': False} to have it so elsewhere too."
    )
    return x
