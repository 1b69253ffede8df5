"""A model's own annotations of its values, as assertions: nothing is sized from them."""

from __future__ import annotations

import onnx

from netloom.errors import ShapeError

from .node import Item, ValueSequence
from .tensors import NARROW, dtype_of


def check_annotation(value: Item, annotation: onnx.TypeProto, name: str, is_changed: bool) -> None:
    """ShapeError where the model says otherwise than what was computed (``is_changed``: of shapes, only
    the rank counts, since the caller chose others).
    """
    if isinstance(value, ValueSequence) or not annotation.HasField("tensor_type"):
        return
    tensor = annotation.tensor_type
    said = f"the model says that {name!r} is"
    narrow = NARROW.get(tensor.elem_type)
    dtype = (
        narrow.carrier
        if narrow
        else dtype_of(tensor.elem_type, name)
        if tensor.elem_type
        else value.dtype
    )
    if dtype is not value.dtype:
        raise ShapeError(f"{said} {dtype.value}, but it is {value.dtype.value}.",
                         hint="Run onnx.shape_inference on it again.")  # fmt: skip
    if not tensor.HasField("shape"):
        return
    claimed = [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
        for d in tensor.shape.dim
    ]
    is_same = len(claimed) == value.type.rank and all(
        is_changed or c is None or not isinstance(e, int) or c == e
        for c, e in zip(claimed, value.shape, strict=False)
    )
    if not is_same:
        shown = ", ".join("?" if c is None else str(c) for c in claimed)
        raise ShapeError(
            f"{said} [{shown}], but it is {value.type}.",
            hint="Run onnx.shape_inference on it again.",
        )
