"""If -> a known branch, or both branches and a choice; and what Loop and Scan (``loops.py``) share
with it.

A driver says which of its node's graphs is imported next and with which inputs (``Apply``), sees
the results, and gives the node's outputs in the end (``Done``). The importer keeps the stack, so
nesting is no limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL
from netloom.errors import NetloomError

from .conditions import decided_from
from .context import Context
from .node import Item, ModelNode, ValueSequence, as_tensor
from .padding import padded_axis
from .restriction import Undecided
from .turns import Turns


@dataclass(frozen=True)
class Apply:
    """Import the graph of the attribute ``graph`` on these inputs."""

    graph: str
    inputs: Sequence[Item] = ()


@dataclass(frozen=True)
class Done:
    """The node's outputs."""

    values: Sequence[Item]


Step: TypeAlias = Apply | Done


class Driver(Protocol):
    """Says what is imported first, and after results, next. ``turns``: the node as turns that a run
    counts, if it is better imported so; ``why``: for what reason that could not be done.
    """

    why: NetloomError | None

    def undecided(self) -> NetloomError | None:
        """If a free dim decides which graph is right, the error that says from where on it is one."""

    def turns(self) -> Turns | None: ...

    def first(self) -> Step: ...

    def next(self, results: list[Item]) -> Step: ...


def check_ports(node: ModelNode, graph: str, inputs: int, outputs: int) -> None:
    found = node.graph(graph)
    if (len(found.input), len(found.output)) != (inputs, outputs):
        raise node.fault(f"its {graph} has {len(found.input)} inputs and {len(found.output)} outputs; {inputs} and "
                         f"{outputs} are needed.", "Export it again.")  # fmt: skip


def chosen(
    context: Context, node: ModelNode, condition: Value, yes: Item, no: Item, what: str
) -> Item:
    """One of two values, as data decide; of two sequences of one length, one of each two parts.
    Where their extents differ, data decide these too.
    """
    if yes is no:
        return yes
    if isinstance(yes, ValueSequence) or isinstance(no, ValueSequence):
        return _chosen_parts(context, node, condition, yes, no, what)
    if (yes.dtype, yes.type.rank) != (no.dtype, no.type.rank):
        message = (
            f"{what} is {yes.type} or {no.type}, as its condition decides, which is computed from "
            "data or free dims; only extents may be so."
        )
        hint = (
            "Fix the free dims and inputs that decide it (dims=, shapes=; --dim, --shape), or export "
            "without squeezing."
        )
        decided = decided_from(context, condition)
        if decided is None:
            raise node.unsupported(message, hint)
        raise Undecided(message, hint=hint, symbol=decided[0], least=decided[1])
    shape = [
        _extent_of(context, condition, *pair) for pair in zip(yes.shape, no.shape, strict=True)
    ]
    return context("select", condition, _resized(context, yes, shape), _resized(context, no, shape))


def _extent_of(context: Context, condition: Value, yes: Extent, no: Extent) -> Extent:
    if yes == no:
        return yes
    count = context("select", condition, context.extent_value(yes), context.extent_value(no))
    return context.data_dim(count, _largest(context, dim.maximum(yes, no)), "chosen")


def _largest(context: Context, extent: Extent) -> Extent:
    """Over shapes alone, at least as large as an extent that data decide."""
    born = {s: context.data_bounds.get(Dim.of(s)) for s in dim.symbols_of([extent])}
    return dim.largest(extent, {s: bound for s, bound in born.items() if bound is not None})


def _resized(context: Context, value: Value, shape: Sequence[Extent]) -> Value:
    """With zeros behind each axis that is too short, and cut where it is too long: right where it
    has that shape, and there it is chosen.
    """
    for axis, (have, want) in enumerate(zip(value.shape, shape, strict=True)):
        if have != want:
            more = _largest(context, want) - have
            value = padded_axis(context, value, axis, (0, more), 0, "constant")
            value = context.slice_axis(value, axis, 0, want)
    return value


def _chosen_parts(
    context: Context, node: ModelNode, condition: Value, yes: Item, no: Item, what: str
) -> ValueSequence:
    if not (
        isinstance(yes, ValueSequence)
        and isinstance(no, ValueSequence)
        and len(yes.parts) == len(no.parts)
    ):
        raise node.unsupported(
            f"the length of the sequence that is {what} depends on data.", "Use tensors."
        )
    pairs = zip(yes.parts, no.parts, strict=True)
    return ValueSequence(
        tuple(as_tensor(node, chosen(context, node, condition, a, b, what), what) for a, b in pairs)
    )


class Branches:
    """The branch that a known condition chooses; else both, and a choice between their results.

    Branches have no effects, so to compute both is right; but an index out of range is an error
    even in the branch that is not taken.
    """

    def __init__(self, context: Context, node: ModelNode) -> None:
        self.context, self.node = context, node
        condition = node.input(0)
        if condition.type.elements != 1 or condition.dtype is not BOOL:
            raise node.misshapen(
                f"its condition is {condition.type}; one bool is needed.", "Export it again."
            )
        self.condition = context.reshape(condition, ())
        self.known = context.array(self.condition)
        self.results: list[list[Item]] = []
        self.why: NetloomError | None = None
        for graph in ("then_branch", "else_branch"):
            check_ports(node, graph, 0, len(node.outputs))

    def undecided(self) -> Undecided | None:
        found = None if self.known is not None else decided_from(self.context, self.condition)
        if found is None:
            return None
        message = "a free dim decides its branch."
        return Undecided(message, node=self.node.title, symbol=found[0], least=found[1])

    def turns(self) -> None:
        """A branch is no loop."""

    def first(self) -> Step:
        return Apply("else_branch" if self.known is not None and not self.known else "then_branch")

    def next(self, results: list[Item]) -> Step:
        self.results.append(results)
        if self.known is not None:
            return Done(results)
        if len(self.results) == 1:
            return Apply("else_branch")
        pairs = enumerate(zip(*self.results, strict=True))
        return Done([chosen(self.context, self.node, self.condition, yes, no, f"its output {position}")
                     for position, (yes, no) in pairs])  # fmt: skip
