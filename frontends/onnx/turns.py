"""A Loop or a Scan as one ``iterate`` node: its body is imported once, as a graph of its own.

The body reads values from outside by their names. Constants among them become its own; the others
become inputs that all turns share. What a turn learns of values is forgotten behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent
from netloom.compiler.graph import Builder, Graph, Value, born_dims
from netloom.compiler.ops.data_dims import as_symbol
from netloom.compiler.rewrite import without_dead_nodes
from netloom.compiler.tensor_type import BOOL, INT64

from .context import Context
from .node import Item, ModelNode, as_tensor
from .sizes import check_size

MOST_COPIES: Final = 32  # of a body; more of them are turns
MOST_TURNS: Final = 1 << 62  # of a loop that only its condition ends
LONGEST: Final = 1 << 32  # turns of a loop that nothing else ends: they take hours
DEEPEST: Final = 16  # loops within each other

ApplyBody: TypeAlias = Callable[[Sequence[Item]], Sequence[Item]]


@dataclass(frozen=True)
class Scanned:
    """An input of which each turn takes one entry along an axis, from the last one if reversed."""

    value: Value
    axis: int
    is_reversed: bool


@dataclass(frozen=True)
class Stacked:
    """An output that has one entry of each turn along an axis, from the last one if reversed."""

    axis: int = 0
    is_reversed: bool = False


@dataclass(frozen=True)
class Turns:
    """What Loop and Scan have in common. ``condition``: whether there is a first turn, of a body
    that takes its number and a condition, and gives whether another follows; None for a body
    without.
    """

    count: Extent
    states: Sequence[Value]
    condition: Value | None
    scanned: Sequence[Scanned]
    stacked: Sequence[Stacked]


@dataclass(frozen=True)
class _Body:
    """The body of a node: what it hands on, before and after a turn, what it stacks, and whether
    the first that it hands on says if a turn follows.
    """

    before: list[Value]
    after: list[Value]
    entries: list[Value]
    has_end: bool


def iterated(context: Context, node: ModelNode, turns: Turns, apply: ApplyBody) -> list[Value]:
    """The node's outputs: its states after the last turn, and what the turns stack. ``apply``
    imports the body.
    """
    outer, depth = context.builder, 0
    while outer.outer is not None:
        outer, depth = outer.outer, depth + 1
    if depth >= DEEPEST:
        raise node.unsupported(f"more than {DEEPEST} loops hold each other.", "Nest fewer loops.")
    with context.nested() as b:
        most = dim.maximum(turns.count - 1, 0)
        turn = b.new_data_dim("turn", most)
        context.turns = (*context.turns, turn)
        found = _imported(context, node, turns, turn, apply)
        raw = b.build([*found.after, *found.entries])
        types = [value.type for value in found.entries]
        born = {as_symbol(turn), *born_dims(b.nodes)}
    if dim.symbols_of([extent for type in types for extent in type.shape]) & born:
        raise node.unsupported(
            f"a result of a step has a shape that the step computes: {', '.join(map(str, types))}.",
            "Give it one shape for all steps (pad it).",
        )
    body, shared = _closed(context, without_dead_nodes(raw), found.before)
    handed_on = _initial(context, turns, found)
    results = list(
        context.builder.many("iterate", *handed_on, *shared, body=body, turn=turn,
                             count=turns.count, handed_on=len(handed_on), has_end=found.has_end)
    )  # fmt: skip
    for value in results:
        check_size(value.type)
    stacked = results[len(handed_on) :]
    count = turns.count
    if found.has_end and stacked:
        made = context.data_dim(results[len(handed_on) - 1], count, "steps")
        count = dim.minimum(made, count)  # they are no more, as whoever reads them can see
        stacked = [context.slice_axis(value, 0, 0, count) for value in stacked]
    first = 1 if found.has_end else 0
    states = results[first : first + len(turns.states)]
    placed = zip(stacked, turns.stacked, strict=True)
    return [*states, *(_placed(context, node, value, count, to) for value, to in placed)]


def _imported(
    context: Context, node: ModelNode, turns: Turns, turn: Dim, apply: ApplyBody
) -> _Body:
    """The body, imported into the context's builder."""
    b = context.builder
    before = [b.input(value.type, f"state{k}") for k, value in enumerate(turns.states)]
    narrow = [value for value in (*turns.states, *(s.value for s in turns.scanned))
              if value in context.narrow]  # fmt: skip
    if narrow:
        raise node.unsupported(
            f"it takes {context.narrow[narrow[0]].name} from step to step.",
            "Dequantize it before.",
        )
    entries = [_entry(context, part, turn, turns.count) for part in turns.scanned]
    given: list[Item] = [*before, *entries]
    if turns.condition is not None:
        given = [context.extent_value(turn), context.number(True, BOOL), *given]
    results = [as_tensor(node, item, "a result of a step") for item in apply(given)]
    goes_on = results.pop(0) if turns.condition is not None else None
    after, grown = results[: len(before)], results[len(before) :]
    for position, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.type != new.type:
            raise node.unsupported(
                f"its state {position} is {old.type} before a step and {new.type} behind it.",
                "Give states one shape (pad them); only results that a loop stacks may grow.",
            )
    has_end = goes_on is not None and _may_end(context, node, turns, goes_on)
    if has_end and goes_on is not None:
        before.insert(0, b.input(goes_on.type.with_shape(()), "goes_on"))
        after = [context.reshape(goes_on, ()), *after]
        if grown:
            before.append(b.input(context.extent_value(turn).type, "steps"))
            after.append(context("add", context.extent_value(turn), 1))
    b.inputs[:] = before
    return _Body(before, after, grown, has_end)


def _may_end(context: Context, node: ModelNode, turns: Turns, goes_on: Value) -> bool:
    """Whether anything but the number of turns may end them."""
    if goes_on.type.elements != 1 or goes_on.dtype is not BOOL:
        raise node.misshapen(
            f"its condition is {goes_on.type}; one bool is needed.", "Export it again."
        )
    first, later = (
        (known := context.array(value)) is not None and bool(known.all())
        for value in (turns.condition, goes_on)
    )
    if later and isinstance(turns.count, int) and turns.count > LONGEST:
        what = "nothing ends it" if turns.count == MOST_TURNS else f"it has {turns.count} steps"
        raise node.unsupported(f"once it has begun, {what}.", "Give it fewer steps, or an end.")
    return not (first and later)


def _entry(context: Context, part: Scanned, turn: Dim, count: Extent) -> Value:
    """What a turn takes of a scanned input."""
    place = count - 1 - turn if part.is_reversed else turn
    if (
        not isinstance(count, int) or not count
    ):  # nothing proves that the place is one: the run checks it
        return context("gather", part.value, context.extent_value(place), axis=part.axis)
    shape = part.value.shape
    entry = context.slice_axis(part.value, part.axis, place, 1)
    return context.reshape(entry, (*shape[: part.axis], *shape[part.axis + 1 :]))


def _closed(context: Context, graph: Graph, inputs: Sequence[Value]) -> tuple[Graph, list[Value]]:
    """The body as a graph that reads nothing from outside but by its inputs, and what further
    inputs are.
    """
    b = Builder("turn", context.builder)
    b.inputs = list(inputs)
    inside = {value: value for value in inputs}
    shared: list[Value] = []

    def within(value: Value) -> Value:
        if value not in inside:
            constant = context.constants.get(value)
            if constant is not None:
                inside[value] = b.constant(constant, label=value.label)
            else:
                inside[value] = b.input(value.type, f"shared{len(shared)}")
                shared.append(value)
        return inside[value]

    for node in graph.nodes:
        made = b.copy(node, [within(value) for value in node.inputs])
        inside.update(zip(node.outputs, made, strict=True))
    return b.build([within(value) for value in graph.outputs]), shared


def _initial(context: Context, turns: Turns, body: _Body) -> list[Value]:
    """What the first turn gets."""
    values = list(turns.states)
    if body.has_end and turns.condition is not None:
        values.insert(0, context.reshape(turns.condition, ()))
        if body.entries:
            values.append(context.number(0, INT64))
    return values


def _placed(context: Context, node: ModelNode, value: Value, count: Extent, to: Stacked) -> Value:
    """Entries along the axis and in the order of an output."""
    rank = value.type.rank
    if to.is_reversed:
        steps = (-1, *(1,) * (rank - 1))
        value = context.slice(value, (count - 1, *(0,) * (rank - 1)), value.shape, steps)
    axis = node.axis(to.axis, rank)
    return context.transpose(value, (*range(1, axis + 1), 0, *range(axis + 1, rank)))
