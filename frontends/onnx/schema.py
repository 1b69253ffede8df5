"""What the ONNX standard says of an op (numbers of inputs and outputs, dtypes, attributes), and
the check of a node.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import onnx.defs

from netloom.compiler.tensor_type import BFLOAT16, FLOAT32, FLOAT64, DType
from netloom.errors import ShapeError

from .node import Item, ModelNode, ValueSequence

_NAMES = {FLOAT32: "float", FLOAT64: "double"}


@dataclass(frozen=True)
class Port:
    """A formal input: the name of its type variable, and the dtypes allowed."""

    variable: str
    dtypes: frozenset[str]
    is_homogeneous: bool


@dataclass(frozen=True)
class Schema:
    """The part of onnx.defs.OpSchema that nodes are checked against. ``attributes``: name -> is
    it required.
    """

    op_type: str
    since: int
    is_deprecated: bool
    inputs: tuple[Port, ...]
    fewest_inputs: int
    most_inputs: int
    fewest_outputs: int
    most_outputs: int
    attributes: dict[str, bool]
    is_function: bool  # defined by the standard as a graph of other ops

    def port(self, position: int) -> Port | None:
        """The formal input at a position; the last one repeats if the op is variadic."""
        return self.inputs[min(position, len(self.inputs) - 1)] if self.inputs else None


@lru_cache(maxsize=1024)
def find_schema(op_type: str, opset: int) -> Schema | None:
    """The schema in force at an opset, or None if there is none (yet)."""
    if not op_type.isidentifier() or not onnx.defs.has(op_type, opset, ""):
        return None
    found: Any = onnx.defs.get_schema(op_type, opset, "")  # its stubs lack the functions
    ports = tuple(Port(p.type_str, frozenset(p.types), p.is_homogeneous) for p in found.inputs)
    attributes = {name: attribute.required for name, attribute in found.attributes.items()}
    return Schema(
        op_type, found.since_version, found.deprecated, ports, found.min_input, found.max_input,
        found.min_output, found.max_output, attributes,
        found.has_function or found.has_context_dependent_function,
    )  # fmt: skip


def type_name(dtype: DType) -> str:
    """ONNX's name of a dense tensor's type."""
    return f"tensor({_NAMES.get(dtype, dtype.value)})"


def check_node(schema: Schema, node: ModelNode, exempt: Container[Item] = ()) -> None:
    """ModelError unless counts, attributes and dtypes are what the schema says (but for the
    dtypes of values exempted).
    """
    _check_count(node, "inputs", len(node.inputs), schema.fewest_inputs, schema.most_inputs)
    _check_count(node, "outputs", len(node.outputs), schema.fewest_outputs, schema.most_outputs)
    for name in node.attributes:
        if name not in schema.attributes:
            raise node.fault(
                f"it has an unknown attribute (known in opset {node.opset}: "
                f"{', '.join(schema.attributes) or 'none'}).",
                "Is the opset version right?",
            )
    for name, is_required in schema.attributes.items():
        if is_required and name not in node.attributes:
            raise node.fault(f"attribute {name} is missing.", "Export the model again.")
    _check_dtypes(schema, node, [None if value in exempt else value for value in node.inputs])


def _check_count(node: ModelNode, what: str, count: int, fewest: int, most: int) -> None:
    if not fewest <= count <= most:
        expected = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise node.fault(
            f"it has {count} {what}; opset {node.opset} has {expected}.",
            "Is the opset version right?",
        )


def _check_dtypes(schema: Schema, node: ModelNode, inputs: Sequence[Item | None]) -> None:
    bound: dict[str, DType] = {}
    for position, value in enumerate(inputs):
        port = schema.port(position)
        if value is None or port is None:
            continue
        if any(name.startswith("optional(") for name in port.dtypes):
            continue  # an optional is what it holds
        if isinstance(value, ValueSequence):
            if not any(name.startswith("seq(") for name in port.dtypes):
                raise node.fault(
                    f"input {position} is a sequence; a tensor is needed.",
                    "Export the model again.",
                )
            continue
        if all(name.startswith("seq(") for name in port.dtypes):
            raise node.fault(
                f"input {position} is a tensor; a sequence is needed.", "Export the model again."
            )
        allowed = type_name(value.dtype) in port.dtypes or value.dtype is BFLOAT16
        if not allowed:
            raise node.fault(f"input {position} is {value.dtype.value}, which opset {node.opset} does not allow.",
                             "Insert a Cast.", ShapeError)  # fmt: skip
        is_variable = not port.variable.startswith("tensor(") and port.is_homogeneous
        if is_variable and bound.setdefault(port.variable, value.dtype) is not value.dtype:
            raise node.fault(f"its inputs mix {bound[port.variable].value} and {value.dtype.value}.",
                             "Insert a Cast.", ShapeError)  # fmt: skip
