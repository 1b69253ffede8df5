"""A model's own annotations of its values: nothing is sized from them. Wrong dtypes are errors; so are
wrong shapes of what the model holds. Wrong shapes of what is computed are only told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from netloom.errors import ShapeError

from .frame import present_item
from .names import printable
from .node import Item, ValueSequence
from .tensors import NARROW, dtype_of


def check_annotation(value: Item, annotation: onnx.TypeProto, name: str, is_changed: bool) -> None:
    """ShapeError where the model says otherwise than what the value is (``is_changed``: of shapes, only
    the rank counts, since the caller chose others).
    """
    if contradiction := contradiction_of(value, annotation, name, is_changed):
        raise ShapeError(contradiction, hint="Run onnx.shape_inference on it again.")


def check_annotations(
    names: Mapping[str, Item | None], annotations: Mapping[str, onnx.TypeProto], is_changed: bool
) -> None:
    """Of all names that are annotated."""
    for name in names.keys() & annotations.keys():
        check_annotation(present_item(names, name), annotations[name], printable(name), is_changed)


def contradiction_of(value: Item, annotation: onnx.TypeProto, name: str, is_changed: bool) -> str:
    """What the model says otherwise of a shape; "" if nothing. ShapeError if it is the dtype."""
    if isinstance(value, ValueSequence) or not annotation.HasField("tensor_type"):
        return ""
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
        return ""
    claimed = [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
        for d in tensor.shape.dim
    ]
    is_same = len(claimed) == value.type.rank and all(
        is_changed or c is None or not isinstance(e, int) or c == e
        for c, e in zip(claimed, value.shape, strict=False)
    )
    if is_same:
        return ""
    shown = ", ".join("?" if c is None else str(c) for c in claimed)
    return f"{said} [{shown}], but it is {value.type}."


def summary_of(contradictions: Sequence[str]) -> list[str]:
    """The first one, and how many there are besides."""
    if not contradictions:
        return []
    others = len(contradictions) - 1
    more = f" There are {others} more such shapes." if others else ""
    return [f"{contradictions[0]} What was computed holds.{more}"]
