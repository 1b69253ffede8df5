"""SparseTensorProto -> Constant: an array of zeros with the given numbers in their places.

Places are numbers of elements, [k], or positions along each axis, [k, rank]. The standard has them
in ascending order; here they must only differ.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from netloom.compiler.constant import Constant
from netloom.compiler.tensor_type import INT64
from netloom.errors import ModelError

from .tensors import TensorReader, check_shape

HINT = "Save it as a dense tensor."


def dense(reader: TensorReader, tensor: onnx.SparseTensorProto, what: str) -> Constant:
    """The tensor with all its elements. ModelError names ``what`` is wrong with it."""
    shape = check_shape(tensor.dims, what)
    values = reader.constant(tensor.values, f"the values of {what}")
    indices = reader.constant(tensor.indices, f"the indices of {what}")
    count = values.array.size
    forms = ((count,), (count, len(shape)))
    if values.type.rank != 1 or indices.type.dtype is not INT64 or indices.type.shape not in forms:
        raise ModelError(
            f"{what} has the values {values.type} and the indices {indices.type}.", hint=HINT
        )
    extents = shape if indices.type.rank == 2 else (math.prod(shape),)
    columns = indices.array.reshape(count, len(extents)).T
    for column, extent in zip(columns, extents, strict=True):
        if column.size and not (0 <= column.min() and column.max() < extent):
            raise ModelError(f"{what} has an index outside its {extent} elements.", hint=HINT)
    made = np.zeros(extents, values.array.dtype)
    places = tuple(columns)
    if len(np.unique(np.ravel_multi_index(places, extents) if count else ())) != count:
        raise ModelError(f"{what} gives an element twice.", hint=HINT)
    made[places] = values.array
    return Constant(made.reshape(shape))
