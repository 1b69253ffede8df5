"""What is known at import of a value that DequantizeLinear made."""

from __future__ import annotations

from dataclasses import dataclass

from netloom.compiler.graph import Value


@dataclass(frozen=True)
class Dequantized:
    """(source - zero) * scale; ``centred``: source - zero in int32; ``axis``: that of the scales
    and zero points, if there are several."""

    source: Value
    centred: Value
    zero: Value | None
    scale: Value
    axis: int


__all__ = ["Dequantized"]
