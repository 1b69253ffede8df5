"""What oracles are made with: types, the ONNX reference evaluator, adjoints of linear maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
OPSET = 23


def is_float(dtype: Any) -> bool:
    """Whether elements of a dtype are floating point (bfloat16 too)."""
    return np.dtype(dtype).kind == "f" or np.dtype(dtype) == ml_dtypes.bfloat16


def onnx(op: str, *inputs: Array, **attributes: Any) -> Array:
    """The ONNX reference evaluator's first result for one node."""
    names = [f"x{i}" for i in range(len(inputs))]
    kinds = {
        name: helper.np_dtype_to_tensor_dtype(x.dtype)
        for name, x in zip(names, inputs, strict=True)
    }
    ports = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    node = helper.make_node(op, names, ["y"], **attributes)
    result = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    model = helper.make_model(
        helper.make_graph([node], op, ports, [result]),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    return np.asarray(ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))[0])


def adjoint(linear: Callable[[Array], Array], shape: Shape, dy: Array) -> Array:
    """dx[q] = <linear(e_q), dy>, for every unit array e_q of ``shape``."""
    dx = np.zeros(shape, dy.dtype)
    for q in np.ndindex(*shape):
        unit = np.zeros(shape, dy.dtype)
        unit[q] = 1
        dx[q] = np.vdot(linear(unit), dy)
    return dx


def adjoint_by_sample(linear: Callable[[Array], Array], shape: Shape, dy: Array) -> Array:
    """``adjoint`` of a map that treats all samples alike; ``shape`` is one sample's."""
    size = math.prod(shape)
    images = linear(np.eye(size, dtype=dy.dtype).reshape(size, *shape)).reshape(size, -1)
    return (dy.reshape(len(dy), images.shape[1]) @ images.T).reshape(len(dy), *shape)
