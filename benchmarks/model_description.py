"""An ONNX model as plain data: what a peer without the onnx package needs to run it.

``described`` reads a model; ``as_json`` leaves weights' values out, and ``from_json`` draws others
in their place, as large as He et al. draw them. Integers and single numbers keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """A node; tensors among its attributes are arrays, strings are bytes."""

    op: str
    attributes: Mapping[str, Any]
    inputs: Sequence[str]
    output: str


@dataclass(frozen=True)
class Description:
    """A model: the names of its outputs, its constant tensors by name, its nodes in order."""

    outputs: Sequence[str]
    tensors: Mapping[str, Array]
    steps: Sequence[Step]


def described(model: onnx.ModelProto) -> Description:
    """The description of a model whose nodes have one output that is read."""
    from onnx import TensorProto, helper, numpy_helper

    def plain(value: Any) -> Any:
        return numpy_helper.to_array(value).copy() if isinstance(value, TensorProto) else value

    graph = model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in graph.initializer}
    steps = []
    for node in graph.node:
        values = {a.name: plain(helper.get_attribute_value(a)) for a in node.attribute}
        steps.append(Step(node.op_type, values, list(node.input), node.output[0]))
    return Description([output.name for output in graph.output], tensors, steps)


def as_json(description: Description) -> dict[str, Any]:
    """The description without its weights."""
    return {
        "outputs": list(description.outputs),
        "tensors": {name: _without_weights(a) for name, a in description.tensors.items()},
        "steps": [
            {"op": step.op, "inputs": list(step.inputs), "output": step.output,
             "attributes": {name: _plain(value) for name, value in step.attributes.items()}}
            for step in description.steps
        ],
    }  # fmt: skip


def from_json(data: Mapping[str, Any]) -> Description:
    """The description that ``as_json`` wrote, with random weights: the same each time."""
    rng = np.random.default_rng(0)
    return Description(
        data["outputs"],
        {name: _array(record, rng) for name, record in data["tensors"].items()},
        [
            Step(
                row["op"],
                {name: _value(value, rng) for name, value in row["attributes"].items()},
                row["inputs"],
                row["output"],
            )
            for row in data["steps"]
        ],
    )


def _without_weights(array: Array) -> dict[str, Any]:
    record: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    is_weights = array.dtype.kind == "f" and array.size > 1
    return record if is_weights else {**record, "values": array.reshape(-1).tolist()}


def _array(record: Mapping[str, Any], rng: np.random.Generator) -> Array:
    shape, dtype = tuple(record["shape"]), np.dtype(record["dtype"])
    if "values" in record:
        return np.array(record["values"], dtype).reshape(shape)
    terms = int(np.prod(shape[1:])) or 1
    values = rng.standard_normal(shape, np.float32) * np.float32((2 / terms) ** 0.5)
    # a vector may hold variances: positive
    return (values if len(shape) > 1 else np.abs(values) + np.float32(0.5)).astype(dtype)


def _plain(value: Any) -> Any:
    match value:
        case np.ndarray():
            return {**_without_weights(value), "values": value.reshape(-1).tolist()}
        case bytes():
            return {"bytes": value.decode()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value


def _value(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, dict):
        return value["bytes"].encode() if "bytes" in value else _array(value, rng)
    return value


__all__ = ["Description", "Step", "as_json", "described", "from_json"]
