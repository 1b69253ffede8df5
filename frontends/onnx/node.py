"""A node of a model, ready for its handler: inputs as values, attributes read by name and
checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import onnx
from onnx import AttributeProto

from netloom.compiler.graph import Value
from netloom.errors import ModelError, NetloomError, ShapeError, UnsupportedOpError

from .names import printable

Fault = TypeVar("Fault", bound=NetloomError)


@dataclass(frozen=True, eq=False)
class ValueSequence:
    """ONNX's sequence of tensors: it exists while importing only, so its length is always known."""

    parts: tuple[Value, ...]


Item: TypeAlias = Value | ValueSequence  # what a name of a model stands for


@dataclass(frozen=True, eq=False)
class ModelNode:
    """One application of an ONNX op. An absent optional input is None, an unused output has the
    name "".
    """

    op_type: str
    domain: str
    opset: int
    label: str
    inputs: tuple[Item | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]
    names: tuple[str, ...] = ()  # of the inputs in the model

    @property
    def title(self) -> str:
        """Op type and label, for messages."""
        return f"{self.op_type} {self.label!r}"

    def fault(
        self, message: str, hint: str = "", kind: type[NetloomError] = ModelError
    ) -> NetloomError:
        """An error about this node, to raise."""
        return kind(message, node=self.title, hint=hint)

    def unsupported(self, message: str, hint: str = "") -> NetloomError:
        return self.fault(message, hint, UnsupportedOpError)

    def misshapen(self, message: str, hint: str = "") -> NetloomError:
        return self.fault(message, hint, ShapeError)

    # -- inputs ------------------------------------------------------------------------------------

    def input(self, position: int) -> Value:
        """A required input."""
        item = self.item(position)
        if isinstance(item, ValueSequence):
            raise self.fault(
                f"input {position} is a sequence; a tensor is needed.", "Export the model again."
            )
        return item

    def optional(self, position: int) -> Value | None:
        is_given = position < len(self.inputs) and self.inputs[position] is not None
        return self.input(position) if is_given else None

    def item(self, position: int) -> Item:
        """A required input, a tensor or a sequence."""
        item = self.inputs[position] if position < len(self.inputs) else None
        if item is None:
            raise self.fault(f"input {position} is missing.", "Export the model again.")
        return item

    def sequence(self, position: int) -> tuple[Value, ...]:
        """The tensors of a required input that is a sequence."""
        item = self.item(position)
        if not isinstance(item, ValueSequence):
            raise self.fault(
                f"input {position} is a tensor; a sequence is needed.", "Export the model again."
            )
        return item.parts

    def name_of(self, value: Value) -> str:
        """An input's name in the model as messages show it; "" of what is no input."""
        pairs = zip(self.inputs, self.names, strict=False)
        return next((printable(name) for item, name in pairs if item is value), "")

    @property
    def present(self) -> list[Value]:
        """All inputs, none of which may be absent (variadic ops)."""
        return self.present_from(0)

    def present_from(self, first: int) -> list[Value]:
        """The inputs from a position on, none of which may be absent."""
        return [self.input(position) for position in range(first, len(self.inputs))]

    def is_used(self, output: int) -> bool:
        """Whether an output has a name."""
        return output < len(self.outputs) and self.outputs[output] != ""

    def axis(self, axis: int, rank: int) -> int:
        """The axis counted from 0; ModelError outside [-rank, rank)."""
        if not -rank <= axis < rank:
            raise self.fault(
                f"axis {axis} does not exist in a tensor of rank {rank}.", "Export the model again."
            )
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """The axes counted from 0, sorted; duplicates are refused."""
        found = sorted(self.axis(axis, rank) for axis in axes)
        if len(set(found)) != len(found):
            raise self.fault(
                f"the axes {list(axes)} name one axis twice.", "Export the model again."
            )
        return tuple(found)

    # -- attributes --------------------------------------------------------------------------------

    def _get(self, name: str, kind: int) -> AttributeProto | None:
        attribute = self.attributes.get(name)
        if attribute is not None and attribute.type != kind:
            expected = AttributeProto.AttributeType.Name(kind)
            raise self.fault(
                f"attribute {name} is not of the type {expected}.", "Export the model again."
            )
        return attribute

    def integer(self, name: str, default: int) -> int:
        found = self._get(name, AttributeProto.INT)
        return default if found is None else int(found.i)

    def flag(self, name: str, default: bool) -> bool:
        """An integer attribute that must be 0 or 1."""
        found = self.integer(name, int(default))
        if found not in (0, 1):
            raise self.fault(
                f"attribute {name} is {found}; it must be 0 or 1.", "Export the model again."
            )
        return bool(found)

    def integers(self, name: str) -> tuple[int, ...] | None:
        found = self._get(name, AttributeProto.INTS)
        return None if found is None else tuple(found.ints)

    def number(self, name: str, default: float) -> float:
        found = self._get(name, AttributeProto.FLOAT)
        return default if found is None else float(found.f)

    def numbers(self, name: str) -> tuple[float, ...] | None:
        found = self._get(name, AttributeProto.FLOATS)
        return None if found is None else tuple(found.floats)

    def text(self, name: str, default: str, allowed: Sequence[str] = ()) -> str:
        found = self._get(name, AttributeProto.STRING)
        result = default if found is None else found.s.decode(errors="replace")
        if allowed and result not in allowed:
            raise self.fault(f"attribute {name} is {printable(result)!r}; known are {', '.join(allowed)}.",
                             "Export the model again.")  # fmt: skip
        return result

    def texts(self, name: str) -> tuple[str, ...] | None:
        found = self._get(name, AttributeProto.STRINGS)
        return None if found is None else tuple(s.decode(errors="replace") for s in found.strings)

    def tensor(self, name: str) -> onnx.TensorProto | None:
        found = self._get(name, AttributeProto.TENSOR)
        return None if found is None else found.t

    def graph(self, name: str) -> onnx.GraphProto:
        found = self._get(name, AttributeProto.GRAPH)
        if found is None:
            raise self.fault(f"attribute {name} is missing.", "Export the model again.")
        return found.g


def as_tensor(node: ModelNode, item: Item, what: str) -> Value:
    """The item, which must be a tensor."""
    if isinstance(item, ValueSequence):
        raise node.fault(f"{what} is a sequence; a tensor is needed.", "Export the model again.")
    return item


def named_tensors(name: str, item: Item) -> list[tuple[str, Value]]:
    """An output of the graph; of a sequence, each of its tensors is one: name.0, name.1, .."""
    if isinstance(item, ValueSequence):
        return [(f"{name}.{position}", part) for position, part in enumerate(item.parts)]
    return [(name, item)]
