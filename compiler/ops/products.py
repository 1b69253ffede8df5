"""The dtype in which a product of two tensors adds up: their own, or int32 for bytes without and
with a sign, whose products CPUs add up in fours (exactly, as long as int32 does not wrap).
"""

from __future__ import annotations

from ..tensor_type import INT8, INT32, UINT8, DType


def product_dtype(left: DType, right: DType) -> DType | None:
    """The dtype of a sum of products; None if the dtypes cannot be multiplied."""
    if left is right:
        return left
    return INT32 if (left, right) == (UINT8, INT8) else None


__all__ = ["product_dtype"]
