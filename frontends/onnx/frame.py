"""A graph or function body while it is inlined: its nodes still to come, and the names visible in
it.
"""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto

from netloom.errors import ModelError, NetloomError

from .names import printable
from .node import Item
from .order import title


@dataclass
class Frame:
    """A graph or function body being inlined: what is left of its nodes, and the names visible
    in it.
    """

    nodes: Iterator[onnx.NodeProto]
    names: ChainMap[str, Item | None]
    opsets: Mapping[str, int]
    results: Sequence[str]
    # what becomes of the results; a frame comes back if more is to do
    deliver: Callable[[list[Item]], Frame | None]
    attributes: Mapping[str, AttributeProto] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, onnx.TypeProto] = dataclasses.field(default_factory=dict)
    # what explains an error in it, if it is a branch
    undecided: Callable[[], NetloomError | None] = lambda: None


@dataclass(frozen=True)
class Body:
    """A graph that a node holds, and the names visible in it: those outside, and its
    initializers.
    """

    graph: onnx.GraphProto
    names: ChainMap[str, Item | None]


def present_item(names: Mapping[str, Item | None], name: str) -> Item:
    """A value that must be there: only an input of a function may be absent."""
    value = names[name]
    if value is None:
        raise ModelError(
            f"{printable(name)!r} is an absent input.", hint="Give all inputs of the function."
        )
    return value


class KnownNames(Collection[str]):
    """The names visible in a frame; "" never is."""

    def __init__(self, names: ChainMap[str, Item | None]) -> None:
        self._names = frozenset().union(*names.maps) if len(names.maps) > 1 else names.maps[0]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def resolved_attributes(
    node: onnx.NodeProto, outer: Mapping[str, AttributeProto]
) -> dict[str, AttributeProto]:
    """A node's attributes by name; references to a function's attributes are replaced."""
    found: dict[str, AttributeProto] = {}
    for attribute in node.attribute:
        if attribute.name in found:
            raise ModelError(f"attribute {printable(attribute.name)!r} is given twice.", node=title(node),
                             hint="Export it again.")  # fmt: skip
        if not attribute.ref_attr_name:
            found[attribute.name] = attribute
        elif attribute.ref_attr_name in outer:
            found[attribute.name] = outer[attribute.ref_attr_name]
    return found
