"""Recurrent layers over [n, length, features]: LSTM and GRU, of several layers, in both directions.

The steps are written out one after another, so the length is a fixed extent; what does not depend
on the step before (the products with the input) is one product for all steps. Each step has kernels
of its own, so the time to compile grows with the length. Inside, time is the first axis, so that
the entries of a step lie together.

A layer named ``lstm1`` owns, for its first layer, ``lstm1.layer1.input_weight`` [features, gates],
``lstm1.layer1.hidden_weight`` [units, gates] and ``lstm1.layer1.bias``; for the way back
``lstm1.layer1.backward.input_weight`` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from netloom.arguments import whole
from netloom.compiler.constant import Constant
from netloom.compiler.tensor_type import TensorType
from netloom.errors import ShapeError, UsageError

from .functions import concat, reshape, sigmoid, tanh, transpose
from .initializers import Fans, Initializer, glorot_uniform, orthogonal, zeros
from .layers import check_dropout
from .layers import dropout as dropped
from .trace import Symbolic, trace_of

# (what a step's input adds to each gate [n, gates], the states before) -> the states after it
Cell = Callable[[Symbolic, Sequence[Symbolic]], list[Symbolic]]


def lstm(
    x: Symbolic, units: int, *, layers: int = 1, bidirectional: bool = False, dropout: float = 0.0,
    initial: tuple[Symbolic, Symbolic] | None = None,
    input_initializer: Initializer = glorot_uniform, hidden_initializer: Initializer = orthogonal,
    name: str | None = None,
) -> tuple[Symbolic, Symbolic, Symbolic]:  # fmt: skip
    """[n, length, features] -> (the hidden state of each step [n, length, units], the last hidden
    state and the last cell state, [layers, n, units] each).

    c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c), where the gates i, f, g, o, in
    this order, are x input_weight + h hidden_weight + bias (Hochreiter and Schmidhuber 1997; Gers
    et al. 2000). The bias of f starts at 1. ``bidirectional``: each layer has a second part that
    reads the steps in reverse; its hidden states follow along the last axis, its last states along
    the first one. ``dropout`` is between layers. ``initial``: (h, c) before the first step, shaped
    as the last ones; zeros unless given. ShapeError if the length or the features are free.
    """

    def cell(owner: Symbolic, prefix: str) -> tuple[int, Cell]:
        hidden = _weight(owner, f"{prefix}.hidden_weight", units, 4 * units, hidden_initializer)
        bias = owner.trace.parameter(
            f"{prefix}.bias", TensorType(x.dtype, (4 * units,)), _forgets_nothing, Fans(1, 1)
        )

        def step(given: Symbolic, states: Sequence[Symbolic]) -> list[Symbolic]:
            h, c = states
            gates = given + h @ hidden + bias
            i, f, g, o = (gates[:, part * units : (part + 1) * units] for part in range(4))
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            return [sigmoid(o) * tanh(c), c]

        return 4 * units, step

    y, (h, c) = _recurrent(
        x, "lstm", units, 2, cell, layers, bidirectional, dropout, initial, input_initializer, name
    )
    return y, h, c


def gru(
    x: Symbolic, units: int, *, layers: int = 1, bidirectional: bool = False, dropout: float = 0.0,
    initial: Symbolic | None = None,
    input_initializer: Initializer = glorot_uniform, hidden_initializer: Initializer = orthogonal,
    name: str | None = None,
) -> tuple[Symbolic, Symbolic]:  # fmt: skip
    """[n, length, features] -> (the hidden state of each step [n, length, units], the last hidden
    state [layers, n, units]).

    h = (1 - sigmoid(z)) tanh(n) + sigmoid(z) h with the gates r, z, n in this order, which are x
    input_weight + bias and h hidden_weight + hidden_bias, added up for r and z; n is the first plus
    sigmoid(r) times the second (Cho et al. 2014; the product before the gate, as in cuDNN). Options
    are those of ``lstm``.
    """

    def cell(owner: Symbolic, prefix: str) -> tuple[int, Cell]:
        hidden = _weight(owner, f"{prefix}.hidden_weight", units, 3 * units, hidden_initializer)
        type = TensorType(x.dtype, (3 * units,))
        bias, hidden_bias = (
            owner.trace.parameter(f"{prefix}.{own}", type, zeros, Fans(1, 1))
            for own in ("bias", "hidden_bias")
        )

        def step(given: Symbolic, states: Sequence[Symbolic]) -> list[Symbolic]:
            (h,) = states
            ahead, behind = given + bias, h @ hidden + hidden_bias
            parts = [slice(part * units, (part + 1) * units) for part in range(3)]
            r, z = (sigmoid(ahead[:, part] + behind[:, part]) for part in parts[:2])
            new = tanh(ahead[:, parts[2]] + r * behind[:, parts[2]])
            return [new + z * (h - new)]

        return 3 * units, step

    y, (h,) = _recurrent(
        x, "gru", units, 1, cell, layers, bidirectional, dropout,
        None if initial is None else (initial,), input_initializer, name,
    )  # fmt: skip
    return y, h


def _recurrent(
    x: Symbolic, kind: str, units: int, states: int,
    cell: Callable[[Symbolic, str], tuple[int, Cell]], layers: int, bidirectional: bool,
    dropout: float, initial: Sequence[Symbolic] | None, initializer: Initializer, name: str | None,
) -> tuple[Symbolic, list[Symbolic]]:  # fmt: skip
    """(hidden states of the last layer, the last of each state for all layers and directions)"""
    label = trace_of(x).layer_name(kind, name)
    if x.rank != 3 or not all(isinstance(extent, int) and extent for extent in x.shape[1:]):
        raise ShapeError(
            f"{kind} takes [n, length, features] with fixed length and features, not {x.type}",
            node=label,
        )
    if not x.dtype.is_float:
        raise ShapeError(f"{kind} takes floats, not {x.type}", node=label)
    units = whole(units, "the number of units", node=label, least=1)
    layers = whole(layers, "the number of layers", node=label, least=1)
    check_dropout(dropout, label)
    ways = ("", ".backward") if bidirectional else ("",)
    before = _initial(x, label, (layers * len(ways), units), states, initial)
    time = transpose(x, (1, 0, 2))  # [length, n, features]
    last: list[list[Symbolic]] = []
    for layer in range(layers):
        if layer:
            time = dropped(time, dropout)
        found = []
        for way in ways:
            prefix = f"{label}.layer{layer + 1}{way}"
            gates, step = cell(x, prefix)
            features = time.shape[-1]
            assert isinstance(features, int)
            weight = _weight(x, f"{prefix}.input_weight", features, gates, initializer)
            given = time @ weight  # [length, n, gates]
            hidden, after = _steps(given, step, before[len(last)], is_reversed=bool(way))
            found.append(hidden)
            last.append(after)
        time = concat(found, 2) if bidirectional else found[0]
    return transpose(time, (1, 0, 2)), [_stacked(of) for of in zip(*last, strict=True)]


def _initial(
    x: Symbolic, label: str, shape: tuple[int, int], states: int,
    given: Sequence[Symbolic] | None,
) -> list[list[Symbolic]]:  # fmt: skip
    """For each layer and direction its states before the first step, [n, units]."""
    count, units = shape
    if given is None:
        zero = x.trace("broadcast", x.trace.constant(0, x.dtype), shape=(x.shape[0], units))
        return [[zero] * states] * count
    is_sequence = isinstance(given, tuple | list) and len(given) == states
    if not is_sequence or not all(isinstance(value, Symbolic) for value in given):
        takes = "a pair (h, c) of symbolic values" if states == 2 else "one symbolic value"
        raise UsageError(f"the initial state is {takes}, not {given!r}.", node=label)
    expected = TensorType(x.dtype, (count, x.shape[0], units))
    for value in given:
        if value.type != expected:
            raise ShapeError(f"the initial state is {value.type}, not {expected}", node=label)
    return [[value[place] for value in given] for place in range(count)]


def _steps(
    given: Symbolic, step: Cell, states: Sequence[Symbolic], is_reversed: bool
) -> tuple[Symbolic, list[Symbolic]]:
    """(hidden states in the order of the steps [length, n, units], the states after the last)"""
    length = given.shape[0]
    assert isinstance(length, int)
    found = {}
    for place in reversed(range(length)) if is_reversed else range(length):
        states = step(given[place], states)
        found[place] = states[0]
    return _stacked([found[place] for place in range(length)]), list(states)


def _stacked(values: Sequence[Symbolic]) -> Symbolic:
    """Values along a new first axis."""
    return concat([reshape(value, (1, *value.shape)) for value in values], 0)


def _weight(
    x: Symbolic, name: str, inputs: int, outputs: int, initializer: Initializer
) -> Symbolic:
    type = TensorType(x.dtype, (inputs, outputs))
    return x.trace.parameter(name, type, initializer, Fans(inputs, outputs))


def _forgets_nothing(type: TensorType, fans: Fans, generator: np.random.Generator) -> Constant:
    """Zeros, but 1 for the forget gate, the second of four (Jozefowicz et al. 2015)."""
    units = type.static_shape[0] // 4
    return Constant(np.repeat([0, 1, 0, 0], units).astype(type.dtype.numpy))


__all__ = ["gru", "lstm"]
