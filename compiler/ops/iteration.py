"""``iterate``: a body graph that is applied turn after turn, as often as an extent says, or until a
value that it computes says that it was the last.

Values that turns hand on keep their types. What a turn computes besides, one entry each, is stacked
along a new first axis. The body reads the number of its turn as a symbol: a part of a tensor for
each turn is a slice that starts there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import dim
from ..dim import Extent, Symbol
from ..op import Array, NotDifferentiable, Op, define
from ..tensor_type import BOOL, TensorType
from .data_dims import as_symbol

if TYPE_CHECKING:
    from ..graph import Graph, Node


@dataclass(frozen=True)
class IterateAttrs:
    """``body``: one turn, over what is handed on, then what all turns read; it gives what is handed
    on, then the entries. ``turn``: the symbol that stands for 0, 1, .. in the body. ``count``: the
    most turns. ``handed_on``: how many values are. ``has_end``: the first of them is a bool that
    says whether a turn follows.
    """

    body: Graph
    turn: Extent
    count: Extent
    handed_on: int
    has_end: bool = False


def _infer(attrs: IterateAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    turn, expected = as_symbol(attrs.turn), [value.type for value in attrs.body.inputs]
    if turn is None:
        raise ValueError(f"the number of a turn is one symbol, not {attrs.turn}")
    if list(inputs) != expected:
        raise ValueError(f"the body takes {', '.join(map(str, expected))}")
    results, count = [value.type for value in attrs.body.outputs], attrs.handed_on
    if not 0 <= count <= len(inputs) or results[:count] != expected[:count]:
        raise ValueError("what is handed on has another type after a turn")
    if attrs.has_end and (not count or expected[0] != TensorType(BOOL)):
        raise ValueError("what says whether a turn follows is a bool")
    if any(turn in dim.symbols_of(type.shape) for type in results):
        raise ValueError(f"a result of a turn has an extent of {attrs.turn}")
    stacked = [type.with_shape((attrs.count, *type.shape)) for type in results[count:]]
    return [*results[:count], *stacked]


def _reference(
    attrs: IterateAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    from ..interpret import interpret  # the interpreter knows ops, and this op is interpreted by it

    kept, shared = list(inputs[: attrs.handed_on]), inputs[attrs.handed_on :]
    stacked = [np.zeros(type.static_shape, type.dtype.numpy) for type in outputs[attrs.handed_on :]]
    names = [value.label for value in attrs.body.inputs]
    symbol = as_symbol(attrs.turn)
    assert symbol is not None and isinstance(attrs.count, int)
    for turn in range(attrs.count):
        if attrs.has_end and not kept[0]:
            break
        given = dict(zip(names, (*kept, *shared), strict=True))
        results = interpret(attrs.body, given, symbols={symbol: turn})
        kept = results[: attrs.handed_on]
        for whole, entry in zip(stacked, results[attrs.handed_on :], strict=True):
            whole[turn] = entry
    return [*kept, *stacked]


def turn_of(node: Node) -> Symbol | None:
    """The symbol of the turns of a node, if it has turns."""
    return as_symbol(node.attrs.turn) if node.op is ITERATE else None


ITERATE = define(
    Op(
        "iterate",
        "a body graph applied turn after turn: what it hands on, then the entries of all turns "
        "(zeros behind the last)",
        _infer,
        _reference,
        NotDifferentiable(
            "a program does not keep what every turn has computed. Turns of a fixed number, which "
            "no condition ends, become copies: fix the free dims that decide it (dims=)"
        ),
        IterateAttrs,
        "iteration",
    )
)
