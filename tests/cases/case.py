"""A row of the table of ops, and how it is written: ``row("log", "float32[3, 17] positive")``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import netloom.compiler.ops  # noqa: F401  (fills the table of ops)
from netloom.compiler.dim import Symbol, symbol
from netloom.compiler.graph import Graph
from netloom.compiler.tensor_type import DType, TensorType, parse_type

FREE = Symbol("N", 1, 64)
N = symbol("N", 1, 64)
DIMS = {"N": 5}  # the number that N stands for when a row runs


@dataclass(frozen=True)
class Input:
    """An input's type, and the domain that its values are drawn from (see ``domains.draw``)."""

    type: TensorType
    domain: str = ""


@dataclass(frozen=True)
class Case:
    """A row. ``terms``: how many products or summands make one element."""

    op: str
    inputs: tuple[Input, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    terms: int = 1

    def __str__(self) -> str:
        inputs = ", ".join(f"{i.type}{' ' * bool(i.domain)}{i.domain}" for i in self.inputs)
        attrs = ", ".join(
            f"{k}={v.value if isinstance(v, DType) else v}"
            for k, v in self.attrs.items()
            if not isinstance(v, Graph)
        )
        return f"{self.op}({inputs}{'; ' * bool(attrs)}{attrs})"


def row(op: str, *inputs: str, terms: int = 1, **attrs: Any) -> Case:
    """A row from text: ``row("log", "float32[3, 17] positive")``."""
    return Case(op, tuple(parse_input(text) for text in inputs), attrs, terms)


def parse_input(text: str) -> Input:
    type, _, domain = text.partition("] ")
    return Input(parse_type(type.rstrip("]") + "]", {"N": FREE}), domain)
