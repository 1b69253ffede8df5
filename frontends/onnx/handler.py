"""The table of handlers: ONNX op type and opset range -> the function that adds it to a graph.

A family of ops (a file) fills one ``HandlerTable``; registry.py joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from .context import Context
    from .node import Item, ModelNode

LATEST_OPSET: Final = 28

Convert: TypeAlias = "Callable[[Context, ModelNode], Item | Sequence[Item | None]]"
AnyConvert = TypeVar("AnyConvert", bound="Convert")  # a handler keeps its own type


@dataclass(frozen=True)
class Handler:
    """How one op type is imported in the opsets ``first`` to ``last``. Outputs not made are
    None.
    """

    op_type: str
    first: int
    last: int
    convert: Convert


class HandlerTable:
    """Handlers by op type."""

    def __init__(self, *parts: HandlerTable) -> None:
        self.entries: dict[str, list[Handler]] = {}
        for part in parts:
            for handlers in part.entries.values():
                for handler in handlers:
                    self.add(handler)

    def add(self, handler: Handler) -> None:
        """Add a handler; overlapping ranges of one op type are refused."""
        others = self.entries.setdefault(handler.op_type, [])
        if any(handler.first <= other.last and other.first <= handler.last for other in others):
            raise ValueError(f"{handler.op_type} has two handlers for one opset")
        others.append(handler)

    def on(
        self, *op_types: str, first: int = 1, last: int = LATEST_OPSET
    ) -> Callable[[AnyConvert], AnyConvert]:
        """Decorator: the function imports these op types in these opsets."""

        def register(convert: AnyConvert) -> AnyConvert:
            for op_type in op_types:
                self.add(Handler(op_type, first, last, convert))
            return convert

        return register

    def find(self, op_type: str, opset: int) -> Handler | None:
        return next((h for h in self.entries.get(op_type, ()) if h.first <= opset <= h.last), None)
