"""RNN, GRU and LSTM -> their steps, one after another; the input products of all steps are one
matmul.

Few steps are unrolled; of a free number from 1 on there are as many as it can be, and those beyond it
are masked. More steps are turns that a run counts. A masked step (beyond a sequence's end, too) keeps
its state and gives zeros, which serves both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT64

from .context import Context
from .handler import HandlerTable
from .node import Item, ModelNode, as_tensor
from .recurrent_cells import GATES, STEPS, Direction, Times, activations_of, times_rows_of
from .turns import MOST_COPIES, Scanned, Stacked, Turns, iterated

RECURRENT: Final = HandlerTable()

DIRECTIONS: Final = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@RECURRENT.on("RNN", "GRU", "LSTM")
def recurrent(context: Context, node: ModelNode) -> list[Value | None]:
    def times_of(position: int, direction: int) -> Times:
        return times_rows_of(direction_part(context, node.input(position), direction))

    return recurrent_layer(context, node, times_of)


def recurrent_layer(
    context: Context,
    node: ModelNode,
    times_of: Callable[[int, int], Times],
    is_transposed: bool = False,
) -> list[Value | None]:
    """The outputs of a layer. ``times_of`` gives the products by input 1 (W) or 2 (R) of a
    direction; these are [directions, gates * h, k], or the last two axes the other way round.
    """
    x = node.input(0)
    is_batch_first = node.opset >= 14 and node.flag("layout", False)
    if x.type.rank != 3:
        raise node.misshapen(f"its input is {x.type}; steps, batch and features are needed.")
    x = context.transpose(x, (1, 0, 2)) if is_batch_first else x
    directions = DIRECTIONS[node.text("direction", "forward", tuple(DIRECTIONS))]
    hidden = _hidden_size(node, is_transposed)
    _check_shapes(node, x, hidden, len(directions), is_transposed)
    with context.whole_weights():
        results = [
            _run(context, node, times_of, x, hidden, d, is_reversed, is_batch_first)
            for d, is_reversed in enumerate(directions)
        ]
    y = _joined(context, [r[0] for r in results], 1)  # [steps, directions, n, h]
    states = [_joined(context, [r[1 + k] for r in results], 0) for k in range(len(results[0]) - 1)]
    if is_batch_first:
        y = context.transpose(y, (2, 0, 1, 3))
        states = [context.transpose(state, (1, 0, 2)) for state in states]
    return [y, *states]


def _hidden_size(node: ModelNode, is_transposed: bool) -> int:
    """The attribute; without it, what the recurrent weights say."""
    weights = node.input(2)
    extent = weights.shape[1 if is_transposed else 2] if weights.type.rank == 3 else 0
    return node.integer("hidden_size", extent if isinstance(extent, int) else 0)


def _check_shapes(
    node: ModelNode, x: Value, hidden: int, directions: int, is_transposed: bool
) -> None:
    if isinstance(x.shape[0], int) and x.shape[0] < 1:
        raise node.unsupported("it has no steps.", "Use longer sequences.")
    rows = GATES[node.op_type] * hidden
    order = -1 if is_transposed else 1
    expected = {1: (directions, *(rows, x.shape[2])[::order]),
                2: (directions, *(rows, hidden)[::order]),
                3: (directions, 2 * rows),
                7: (directions, 3 * hidden)}  # fmt: skip
    for position, shape in expected.items():
        value = node.optional(position)
        if hidden < 1 or (value is not None and value.shape != shape):
            found = "none" if value is None else value.type
            raise node.misshapen(
                f"input {position} is {found}; the shape {list(shape)} is needed (hidden_size "
                f"{hidden}, {directions} directions).",
                "Export it again.",
            )


def _copies(steps: Extent) -> int | None:
    """How many steps are unrolled; None if a run counts them."""
    most = steps if isinstance(steps, int) else dim.bounds(steps)[1]
    if most is None or most > MOST_COPIES:
        return None
    return most if dim.is_nonnegative(steps - 1) else None  # masked steps read the last one


def _joined(context: Context, parts: Sequence[Value], axis: int) -> Value:
    """Stacked along a new axis."""
    stacked = [context.reshape(p, (*p.shape[:axis], 1, *p.shape[axis:])) for p in parts]
    return context("concat", *stacked, axis=axis) if len(stacked) > 1 else stacked[0]


def direction_part(context: Context, value: Value, direction: int) -> Value:
    """One direction's part of a parameter."""
    return context.reshape(context.slice_axis(value, 0, direction, 1), value.shape[1:])


def _direction(
    context: Context,
    node: ModelNode,
    times_of: Callable[[int, int], Times],
    x: Value,
    hidden: int,
    direction: int,
) -> Direction:
    steps, n, features = x.shape
    rows = GATES[node.op_type] * hidden
    is_static = isinstance(n, int)  # an axis is not taken apart by a free dim
    flat = context.reshape(x, (product((steps, n)), features)) if is_static else x
    inputs = context.reshape(times_of(1, direction)(context, flat, 0, rows), (steps, n, rows))
    bias = node.optional(3)
    second: Value | None = None
    if bias is not None:
        both = direction_part(context, bias, direction)
        inputs = context("add", inputs, context.slice_axis(both, 0, 0, rows))
        second = context.slice_axis(both, 0, rows, rows)
    peephole = node.optional(7)
    parts = (
        ()
        if peephole is None
        else _thirds(context, direction_part(context, peephole, direction), hidden)
    )
    times = times_of(2, direction)
    return Direction(activations_of(node, direction), inputs, times, second, parts, hidden)


def _thirds(context: Context, value: Value, hidden: int) -> tuple[Value, ...]:
    return tuple(context.slice_axis(value, 0, k * hidden, hidden) for k in range(3))


def _run(
    context: Context,
    node: ModelNode,
    times_of: Callable[[int, int], Times],
    x: Value,
    hidden: int,
    index: int,
    is_reversed: bool,
    is_batch_first: bool,
) -> list[Value]:
    """[y of all steps, last h (, last c)] of one direction."""
    n = x.shape[1]
    direction = _direction(context, node, times_of, x, hidden, index)
    state = [_initial(context, node, 5, x, n, hidden, index, is_batch_first)]
    if node.op_type == "LSTM":
        state.append(_initial(context, node, 6, x, n, hidden, index, is_batch_first))
    copies = _copies(x.shape[0])
    if copies is None:
        return _turned(context, node, direction, state, is_reversed)
    return _unrolled(context, node, direction, state, is_reversed, copies)


def _unrolled(
    context: Context,
    node: ModelNode,
    direction: Direction,
    state: list[Value],
    is_reversed: bool,
    copies: int,
) -> list[Value]:
    """One copy of the step for each of ``copies``, some of which may be masked."""
    steps = direction.inputs.shape[0]
    places = _places(context, steps, copies)
    masks = _masks(context, node, copies)
    if not isinstance(steps, int):
        masks.append(_less(context, copies, context.extent_value(steps)))
    outputs: list[Value] = []
    for t in reversed(range(copies)) if is_reversed else range(copies):
        now = context.constant(t, INT64)
        place = now if isinstance(steps, int) else context("gather", places, now, axis=0)
        own = context("gather", direction.inputs, place, axis=0)
        inside = [context("gather", mask, now, axis=0) for mask in masks]
        state, shown = _masked_step(context, node, direction, own, inside, state)
        outputs.append(shown)
    y = _joined(context, outputs[::-1] if is_reversed else outputs, 0)
    return [context.slice_axis(y, 0, 0, steps), *state]


def _turned(
    context: Context, node: ModelNode, direction: Direction, state: list[Value], is_reversed: bool
) -> list[Value]:
    """The step once, as the body of turns."""
    count, handed_on = direction.inputs.shape[0], len(state)

    def step(given: Sequence[Item]) -> list[Item]:
        values = [as_tensor(node, item, "a value of a step") for item in given]
        before, own, inside = values[:handed_on], values[handed_on], values[handed_on + 1 :]
        after, shown = _masked_step(context, node, direction, own, inside, before)
        return [*after, shown]

    entries = [direction.inputs, *_masks(context, node, count)]
    scanned = [Scanned(value, 0, is_reversed) for value in entries]
    turns = Turns(count, state, None, scanned, [Stacked(0, is_reversed)])
    *after, y = iterated(context, node, turns, step)
    return [y, *after]


def _masked_step(
    context: Context,
    node: ModelNode,
    direction: Direction,
    own: Value,
    inside: Sequence[Value],
    state: Sequence[Value],
) -> tuple[list[Value], Value]:
    """(what is handed on, what is shown): where a step lies ``inside`` nothing, its state is kept
    and zeros are shown.
    """
    clip = node.number("clip", 0.0)
    new = STEPS[node.op_type](context, node, direction, own, state, clip)
    shown = new[0]
    for mask in inside:
        shown = context("select", mask, shown, 0.0)
        new = [context("select", mask, a, b) for a, b in zip(new, state, strict=True)]
    return new, shown


def _places(context: Context, steps: Extent, most: int) -> Value:
    """Where each step's input lies: steps beyond the last read the last. Gathered, so that all
    steps share their code.
    """
    places = context("iota", shape=(most,), axis=0, dtype=INT64)
    return context("min", places, context.extent_value(steps - 1))


def _masks(context: Context, node: ModelNode, steps: Extent) -> list[Value]:
    """[steps, n, 1]: whether a step lies inside each sequence, if those have lengths."""
    lengths = node.optional(4)
    if lengths is None:
        return []
    each = context.reshape(context.cast(lengths, INT64), (1, *lengths.shape, 1))
    return [_less(context, steps, each)]


def _less(context: Context, steps: Extent, limit: Value) -> Value:
    """[steps, .., 1]: whether the number of a step is less than a limit."""
    count = context("iota", shape=(steps, 1, 1), axis=0, dtype=INT64)
    return context("less", count, limit)


def _initial(
    context: Context,
    node: ModelNode,
    position: int,
    x: Value,
    n: Extent,
    hidden: int,
    index: int,
    is_batch_first: bool,
) -> Value:
    given = node.optional(position)
    if given is None:
        return context.splat(0, x.dtype, (n, hidden))
    given = context.transpose(given, (1, 0, 2)) if is_batch_first else given
    if given.shape[1:] != (n, hidden):
        raise node.misshapen(
            f"input {position} is {given.type}; {n} x {hidden} states are needed.",
            "Export it again.",
        )
    return direction_part(context, given, index)
