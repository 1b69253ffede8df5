"""Means, norms and softmax of short floats -> of float32, rounded at the end.

A sum of float16 numbers, or of their squares, may exceed 65504 where their mean does not, and an
epsilon of 1e-12 is zero there. So the composed ops that divide by such a sum are of float32 when
they are decomposed, for a run and for gradients, as their meanings in NumPy are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..graph import Builder, Node, Value
from ..tensor_type import FLOAT32

MEANS: Final = frozenset(
    {
        "average_pool",
        "group_norm",
        "instance_norm",
        "layer_norm",
        "log_softmax",
        "lrn",
        "reduce_mean",
        "rms_norm",
        "softmax",
    }
)


def widened(b: Builder, node: Node) -> Sequence[Value] | None:
    """A mean, a norm or a softmax of floats of 16 bits as that of float32; None for other nodes."""
    if node.op.name not in MEANS:
        return None
    dtype = node.output.dtype
    if not dtype.is_float or dtype.bytes >= FLOAT32.bytes:
        return None
    wide = [b("cast", value, dtype=FLOAT32) for value in node.inputs]
    made = b.add(node.op, wide, node.attrs, node.label).output
    return [b("cast", made, dtype=dtype)]


__all__ = ["widened"]
