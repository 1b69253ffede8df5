"""RNN, GRU and LSTM -> their steps, one after another; the input products of all steps are one
matmul.

The number of steps is a number, or a free dim of a small range: then there are as many steps as it
can be, and those beyond it are masked. A masked step (beyond a sequence's end, too) keeps its state
and gives zeros, which serves both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT64

from .context import Context
from .handler import HandlerTable
from .node import ModelNode

RECURRENT: Final = HandlerTable()
MOST_STEPS: Final = 4096
MOST_MASKED: Final = 512  # steps of a free number

GATES: Final = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS: Final = {
    "RNN": ("Tanh",),
    "GRU": ("Sigmoid", "Tanh"),
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
}
DIRECTIONS: Final = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

Activation = Callable[[Context, Value], Value]
# ONNX name -> op, and its attributes with their defaults (from activation_alpha, then
# activation_beta)
ACTIVATIONS: Final[dict[str, tuple[str, tuple[tuple[str, float], ...]]]] = {
    "sigmoid": ("sigmoid", ()),
    "tanh": ("tanh", ()),
    "relu": ("relu", ()),
    "softsign": ("softsign", ()),
    "softplus": ("softplus", ()),
    "leakyrelu": ("leaky_relu", (("slope", 0.01),)),
    "elu": ("elu", (("alpha", 1.0),)),
    "thresholdedrelu": ("thresholded_relu", (("alpha", 1.0),)),
    "hardsigmoid": ("hard_sigmoid", (("alpha", 0.2), ("beta", 0.5))),
}
# those of two ops: with the numbers a and b, affine is a x + b, scaledtanh a tanh(b x)
SCALED: Final = ("affine", "scaledtanh")


@dataclass(frozen=True)
class Direction:
    """One direction's parameters. ``inputs`` are the input products [steps, n, gates * h],
    biases added.
    """

    activations: tuple[Activation, ...]
    inputs: Value
    recurrent: Value  # [gates * h, h]
    recurrent_bias: Value | None  # [gates * h], kept apart where the gate multiplies it
    peepholes: tuple[Value, ...]
    hidden: int


@RECURRENT.on("RNN", "GRU", "LSTM")
def recurrent(context: Context, node: ModelNode) -> list[Value | None]:
    x = node.input(0)
    is_batch_first = node.opset >= 14 and node.flag("layout", False)
    if x.type.rank != 3:
        raise node.misshapen(f"its input is {x.type}; steps, batch and features are needed.")
    x = context.transpose(x, (1, 0, 2)) if is_batch_first else x
    directions = DIRECTIONS[node.text("direction", "forward", tuple(DIRECTIONS))]
    hidden = node.integer("hidden_size", 0)
    _check_shapes(node, x, hidden, len(directions))
    results = [
        _run(context, node, x, hidden, d, is_reversed, is_batch_first)
        for d, is_reversed in enumerate(directions)
    ]
    y = _joined(context, [r[0] for r in results], 1)  # [steps, directions, n, h]
    states = [_joined(context, [r[1 + k] for r in results], 0) for k in range(len(results[0]) - 1)]
    if is_batch_first:
        y = context.transpose(y, (2, 0, 1, 3))
        states = [context.transpose(state, (1, 0, 2)) for state in states]
    return [y, *states]


def _check_shapes(node: ModelNode, x: Value, hidden: int, directions: int) -> None:
    steps = x.shape[0]
    most = _most(steps)
    if not isinstance(steps, int) and (most is None or most > MOST_MASKED):
        raise node.unsupported(
            f"its number of steps, {steps}, is a free dim of 1 to "
            f"{'any number' if most is None else most}; the most is "
            f"{MOST_MASKED}.", "Fix it, or give it a range: dims={'NAME': range(1, 65)}.",
        )  # fmt: skip
    if most is None or not 1 <= most <= MOST_STEPS:
        raise node.unsupported(
            f"it has {steps} steps; 1 to {MOST_STEPS} can be unrolled.", "Use shorter sequences."
        )
    rows = GATES[node.op_type] * hidden
    expected = {1: (directions, rows, x.shape[2]), 2: (directions, rows, hidden),
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


def _most(steps: Extent) -> int | None:
    """The largest number of steps."""
    return steps if isinstance(steps, int) else dim.bounds(steps)[1]


def _joined(context: Context, parts: Sequence[Value], axis: int) -> Value:
    """Stacked along a new axis."""
    stacked = [context.reshape(p, (*p.shape[:axis], 1, *p.shape[axis:])) for p in parts]
    return context("concat", *stacked, axis=axis) if len(stacked) > 1 else stacked[0]


def _row(context: Context, value: Value, direction: int) -> Value:
    """One direction's part of a parameter."""
    return context.reshape(context.slice_axis(value, 0, direction, 1), value.shape[1:])


def _activations(node: ModelNode, direction: int) -> tuple[Activation, ...]:
    count = len(DEFAULTS[node.op_type])
    names = (node.texts("activations") or DEFAULTS[node.op_type] * 2)[
        direction * count : (direction + 1) * count
    ]
    if len(names) < count:
        raise node.fault("it has too few activations.", "Export it again.")
    alphas, betas = (
        iter(node.numbers("activation_alpha") or ()),
        iter(node.numbers("activation_beta") or ()),
    )
    return tuple(_activation(node, name, alphas, betas) for name in names)


def _activation(
    node: ModelNode, name: str, alphas: Iterator[float], betas: Iterator[float]
) -> Activation:
    if name.lower() in SCALED:
        return _scaled(name.lower(), next(alphas, 1.0), next(betas, 0.0))
    found = ACTIVATIONS.get(name.lower())
    if found is None:
        raise node.unsupported(
            f"its activation {name!r} is not supported.",
            f"Known are {', '.join((*ACTIVATIONS, *SCALED))}.",
        )
    op, parameters = found
    sources = (alphas, betas)
    attrs = {field: next(sources[k], default) for k, (field, default) in enumerate(parameters)}
    return lambda context, x: context(op, x, **attrs)


def _scaled(name: str, a: float, b: float) -> Activation:
    if name == "affine":
        return lambda context, x: context("add", context("mul", x, a), b)
    return lambda context, x: context("mul", context("tanh", context("mul", x, b)), a)


def _direction(
    context: Context, node: ModelNode, x: Value, hidden: int, direction: int
) -> Direction:
    steps, n, features = x.shape
    rows = GATES[node.op_type] * hidden
    w, r = _row(context, node.input(1), direction), _row(context, node.input(2), direction)
    is_static = isinstance(n, int)  # an axis is not taken apart by a free dim
    flat = context.reshape(x, (product((steps, n)), features)) if is_static else x
    inputs = context.reshape(
        context("matmul", flat, w, transpose_a=False, transpose_b=True), (steps, n, rows)
    )
    bias = node.optional(3)
    second: Value | None = None
    if bias is not None:
        both = _row(context, bias, direction)
        inputs = context("add", inputs, context.slice_axis(both, 0, 0, rows))
        second = context.slice_axis(both, 0, rows, rows)
    peephole = node.optional(7)
    parts = () if peephole is None else _thirds(context, _row(context, peephole, direction), hidden)
    return Direction(_activations(node, direction), inputs, r, second, parts, hidden)


def _thirds(context: Context, value: Value, hidden: int) -> tuple[Value, ...]:
    return tuple(context.slice_axis(value, 0, k * hidden, hidden) for k in range(3))


def _run(
    context: Context,
    node: ModelNode,
    x: Value,
    hidden: int,
    index: int,
    is_reversed: bool,
    is_batch_first: bool,
) -> list[Value]:
    """[y of all steps, last h (, last c)] of one direction."""
    steps, n, _ = x.shape
    most = _most(steps)
    assert most is not None
    direction = _direction(context, node, x, hidden, index)
    clip = node.number("clip", 0.0)
    state = [_initial(context, node, 5, x, n, hidden, index, is_batch_first)]
    if node.op_type == "LSTM":
        state.append(_initial(context, node, 6, x, n, hidden, index, is_batch_first))
    places = _places(context, steps, most)
    masks = _masks(context, node, steps, most)
    outputs: list[Value] = []
    for t in reversed(range(most)) if is_reversed else range(most):
        now = context.constant(t, INT64)
        place = now if isinstance(steps, int) else context("gather", places, now, axis=0)
        new = STEPS[node.op_type](
            context,
            node,
            direction,
            context("gather", direction.inputs, place, axis=0),
            state,
            clip,
        )
        shown = new[0]
        for mask in masks:
            is_inside = context("gather", mask, now, axis=0)
            shown = context("select", is_inside, shown, 0.0)
            new = [context("select", is_inside, a, b) for a, b in zip(new, state, strict=True)]
        state = new
        outputs.append(shown)
    y = _joined(context, outputs[::-1] if is_reversed else outputs, 0)
    return [context.slice_axis(y, 0, 0, steps), *state]


def _places(context: Context, steps: Extent, most: int) -> Value:
    """Where each step's input lies: steps beyond the last read the last. Gathered, so that all
    steps share their code.
    """
    places = context("iota", shape=(most,), axis=0, dtype=INT64)
    return context("min", places, context.extent_value(steps - 1))


def _masks(context: Context, node: ModelNode, steps: Extent, most: int) -> list[Value]:
    """[most, n or 1, 1]: whether a step lies inside the free number of steps, and inside each
    sequence.
    """
    masks = []
    count = context("iota", shape=(most, 1, 1), axis=0, dtype=INT64)
    if not isinstance(steps, int):
        masks.append(context("less", count, context.extent_value(steps)))
    lengths = node.optional(4)
    if lengths is not None:
        masks.append(
            context(
                "less", count, context.reshape(context.cast(lengths, INT64), (1, *lengths.shape, 1))
            )
        )
    return masks


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
    return _row(context, given, index)


# -- one step --------------------------------------------------------------------------------------


def _gates(context: Context, value: Value, hidden: int) -> list[Value]:
    """[n, gates * h] in parts of h."""
    count = value.shape[1]
    assert isinstance(count, int)
    return [context.slice_axis(value, 1, start, hidden) for start in range(0, count, hidden)]


def _recurrent_product(context: Context, d: Direction, h: Value, first: int, count: int) -> Value:
    """h times the rows of gates first.. of R, their bias added."""
    rows = context.slice_axis(d.recurrent, 0, first * d.hidden, count * d.hidden)
    value = context("matmul", h, rows, transpose_a=False, transpose_b=True)
    if d.recurrent_bias is None:
        return value
    return context(
        "add", value, context.slice_axis(d.recurrent_bias, 0, first * d.hidden, count * d.hidden)
    )


def _clipped(context: Context, value: Value, clip: float) -> Value:
    return context("clip", value, lo=-clip, hi=clip) if clip > 0 else value


def _rnn_step(
    context: Context, node: ModelNode, d: Direction, own: Value, state: Sequence[Value], clip: float
) -> list[Value]:
    """h' = f(x W + h R + b)."""
    total = context("add", own, _recurrent_product(context, d, state[0], 0, 1))
    return [d.activations[0](context, _clipped(context, total, clip))]


def _gru_step(
    context: Context, node: ModelNode, d: Direction, own: Value, state: Sequence[Value], clip: float
) -> list[Value]:
    """h' = (1 - z) * g(..) + z * h; the reset gate acts on h, or on its product
    (linear_before_reset), which is then one with the gates' products.
    """
    (h,), (f, g) = state, d.activations
    is_linear = node.opset >= 3 and node.flag("linear_before_reset", False)
    update, reset, candidate = _gates(context, own, d.hidden)
    products = _recurrent_product(context, d, h, 0, 3 if is_linear else 2)
    first = _gates(context, products, d.hidden)
    z = f(context, _clipped(context, context("add", update, first[0]), clip))
    r = f(context, _clipped(context, context("add", reset, first[1]), clip))
    if is_linear:
        own_part = context("mul", r, first[2])
    else:
        own_part = _recurrent_product(context, d, context("mul", r, h), 2, 1)
    new = g(context, _clipped(context, context("add", candidate, own_part), clip))
    rest = context("sub", context.number(1.0, h.dtype), z)
    return [context("add", context("mul", rest, new), context("mul", z, h))]


def _lstm_step(
    context: Context, node: ModelNode, d: Direction, own: Value, state: Sequence[Value], clip: float
) -> list[Value]:
    """Gates in the order i o f c; peepholes look at the old cell, o's at the new one. With
    input_forget, f is 1 - i.
    """
    (h, c), (f, g, last) = state, d.activations
    parts = _gates(context, context("add", own, _recurrent_product(context, d, h, 0, 4)), d.hidden)
    peep = d.peepholes

    def gate(position: int, cell: Value, peephole: int) -> Value:
        total = parts[position]
        if peep:
            total = context("add", total, context("mul", peep[peephole], cell))
        return f(context, _clipped(context, total, clip))

    i = gate(0, c, 0)
    is_coupled = node.flag("input_forget", False)
    forget = context("sub", context.number(1.0, c.dtype), i) if is_coupled else gate(2, c, 2)
    fresh = g(context, _clipped(context, parts[3], clip))
    cell = context("add", context("mul", forget, c), context("mul", i, fresh))
    o = gate(1, cell, 1)
    return [context("mul", o, last(context, cell)), cell]


Step = Callable[[Context, ModelNode, Direction, Value, Sequence[Value], float], list[Value]]
STEPS: Final[dict[str, Step]] = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}
