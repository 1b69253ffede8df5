"""One step of RNN, GRU and LSTM: its gates, its activations, and what it hands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from netloom.compiler.graph import Value

from .context import Context
from .node import ModelNode

GATES: Final = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS: Final = {
    "RNN": ("Tanh",),
    "GRU": ("Sigmoid", "Tanh"),
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
}

Activation = Callable[[Context, Value], Value]
# the product of [.., k] by so many rows of a matrix [rows, k] from a first one on: [.., count]
Times = Callable[[Context, Value, int, int], Value]
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


def times_rows_of(matrix: Value) -> Times:
    """The products by rows of [rows, k]."""

    def times(context: Context, x: Value, first: int, count: int) -> Value:
        rows = context.slice_axis(matrix, 0, first, count)
        return context("matmul", x, rows, transpose_a=False, transpose_b=True)

    return times


@dataclass(frozen=True)
class Direction:
    """One direction's parameters. ``inputs`` are the input products [steps, n, gates * h],
    biases added.
    """

    activations: tuple[Activation, ...]
    inputs: Value
    recurrent: Times
    recurrent_bias: Value | None  # [gates * h], kept apart where the gate multiplies it
    peepholes: tuple[Value, ...]
    hidden: int


def activations_of(node: ModelNode, direction: int) -> tuple[Activation, ...]:
    """Of one direction. Their numbers are taken in the order of the activations of all directions."""
    count = len(DEFAULTS[node.op_type])
    first, last = direction * count, (direction + 1) * count
    names = node.texts("activations") or DEFAULTS[node.op_type] * 2
    if len(names) < last:
        raise node.fault("it has too few activations.", "Export it again.")
    alphas, betas = (
        iter(node.numbers("activation_alpha") or ()),
        iter(node.numbers("activation_beta") or ()),
    )
    found = [_activation(node, name, alphas, betas) for name in names[:last]]
    return tuple(found[first:])


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


def _gates(context: Context, value: Value, hidden: int) -> list[Value]:
    """[n, gates * h] in parts of h."""
    count = value.shape[1]
    assert isinstance(count, int)
    return [context.slice_axis(value, 1, start, hidden) for start in range(0, count, hidden)]


def _recurrent_product(context: Context, d: Direction, h: Value, first: int, count: int) -> Value:
    """h times the rows of gates first.. of R, their bias added."""
    value = d.recurrent(context, h, first * d.hidden, count * d.hidden)
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
