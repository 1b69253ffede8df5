"""Extents that data decide: the one op at which such a dim is born.

``data_dim(count)`` says that from here on a symbol stands for the number that an int64 scalar holds
when the program runs, from 0 to a bound that shapes give. Nodes whose types hold the symbol come
after it. Ops whose results are as long as their data say are composed of ops of bounded shape, a
count, and ops over the symbol (``true_positions`` gives those of what was counted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netloom.errors import InputError

from ..dim import Dim, Extent, Symbol
from ..op import Array, NotDifferentiable, Op, define
from ..tensor_type import INT64, TensorType

if TYPE_CHECKING:
    from ..graph import Node


@dataclass(frozen=True)
class DataDimAttrs:
    """``extent``: the symbol that is born here; ``bound``: the largest that it can be."""

    extent: Extent
    bound: Extent


def _infer(attrs: DataDimAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (count,) = inputs
    if count != TensorType(INT64):
        raise ValueError(f"a count is an int64 scalar, not {count}")
    if isinstance(attrs.extent, Dim) and symbol_in(attrs) is None:
        raise ValueError(f"a data dim is one symbol, not {attrs.extent}")
    return [count]


def _reference(
    attrs: DataDimAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    count = int(inputs[0])
    assert isinstance(attrs.bound, int)
    if not 0 <= count <= attrs.bound:
        raise InputError(f"the data dim {attrs.extent} is {count}, outside 0..{attrs.bound}")
    return [inputs[0]]


def symbol_in(attrs: DataDimAttrs) -> Symbol | None:
    """The symbol of a data dim; None where a number stands in its place."""
    return as_symbol(attrs.extent)


def as_symbol(extent: Extent) -> Symbol | None:
    """The symbol that an extent is; None for all others."""
    match extent:
        case Dim(terms=(((Symbol() as symbol,), 1),)):
            return symbol
    return None


def data_dim_of(node: Node) -> Symbol | None:
    """The symbol that a node gives its value, if it is a data dim."""
    return symbol_in(node.attrs) if node.op is DATA_DIM else None


DATA_DIM = define(
    Op(
        "data_dim",
        "from here on a symbol stands for this count; a count that is negative or above the bound "
        "is an error",
        _infer,
        _reference,
        NotDifferentiable("an extent does not change smoothly"),
        DataDimAttrs,
        "data_dims",
    )
)
