"""Ops that the ONNX standard defines as graphs of other ops: their bodies, for those that have
no handler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx.defs

from .node import Item, ModelNode, ValueSequence
from .schema import find_schema
from .tensors import ONNX_DTYPES


def has_body(op_type: str, opset: int) -> bool:
    """Whether the standard defines the op by a graph that can be inlined."""
    schema = find_schema(op_type, opset)
    return schema is not None and schema.is_function


def body_of(node: ModelNode) -> onnx.FunctionProto:
    """The graph that the op stands for; it may depend on the types of the inputs.
    UnsupportedOpError if it has none.
    """
    schema: Any = onnx.defs.get_schema(node.op_type, node.opset, "")  # its stubs lack the functions
    body = onnx.FunctionProto()
    if schema.has_function:
        version = max(v for v in schema.function_opset_versions if v <= node.opset)
        body.ParseFromString(schema.get_function_with_opset_version(version))
    else:
        version = max(
            v for v in schema.context_dependent_function_opset_versions if v <= node.opset
        )
        types = [_type_of(value).SerializeToString() for value in node.inputs]
        text = schema.get_context_dependent_function_with_opset_version(
            version, _proto(node).SerializeToString(), types
        )
        body.ParseFromString(text)
    if not body.node:
        raise node.unsupported(
            "it has no definition for these inputs.", "Export the network with simpler ops."
        )
    defaults = {
        name: a.default_value for name, a in schema.attributes.items() if a.default_value.type
    }
    for name in body.attribute:
        if name in defaults:
            body.attribute_proto.append(defaults[name])
    return body


def _proto(node: ModelNode) -> onnx.NodeProto:
    """The node with its attributes resolved; inputs named by position."""
    names = [
        f"x{position}" if value is not None else "" for position, value in enumerate(node.inputs)
    ]
    return onnx.NodeProto(
        op_type=node.op_type,
        input=names,
        output=list(node.outputs),
        attribute=list(node.attributes.values()),
    )


def _type_of(value: Item | None) -> onnx.TypeProto:
    if value is None:
        return onnx.TypeProto()
    if isinstance(value, ValueSequence):
        element = _type_of(value.parts[0]) if value.parts else onnx.TypeProto()
        return onnx.helper.make_sequence_type_proto(element)
    shape: Sequence[int | str] = [e if isinstance(e, int) else str(e) for e in value.shape]
    return onnx.helper.make_tensor_type_proto(ONNX_DTYPES[value.dtype], shape)
