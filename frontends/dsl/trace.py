"""Tracing: symbolic values that record each op applied to them in a Builder.

Parameters become states of the graph, named by the layer that owns them ("conv1.weight"); their
initial values depend on the seed and the name alone, never on the order of creation.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import netloom.compiler.ops  # noqa: F401  (fills the table of ops)
from netloom.arguments import whole
from netloom.compiler import dim
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim, Extent
from netloom.compiler.graph import Builder, Value
from netloom.compiler.tensor_type import DType, TensorType
from netloom.errors import ShapeError, UsageError

from .initializers import Fans, Initializer, zeros
from .literals import array_of, dtype_of

Operand: TypeAlias = "Symbolic | float | int | bool | npt.NDArray[Any]"
GENERATOR_KEY = "generator.key"


def tensor(*shape: int | str | Extent, dtype: str | DType = "float32") -> TensorType:
    """The type of an input; an extent that is a name ("N") is free and at least 1."""
    try:
        extents = tuple(extent_of(extent) for extent in shape)
    except (TypeError, ValueError):
        raise ShapeError(f"a tensor cannot have the extents {shape}") from None
    return TensorType(dtype_of(dtype), extents)


def extent_of(given: object) -> Extent:
    """An extent, that of a name being free and at least 1; TypeError or ValueError for others."""
    if isinstance(given, Dim):
        return given
    if isinstance(given, str):
        return dim.symbol(given, 1)
    if (extent := operator.index(given)) < 0:  # type: ignore[arg-type]
        raise ValueError(f"{extent} is no extent")
    return extent


class Trace:
    """One tracing in progress: the builder, the form being traced, and the names given so far."""

    def __init__(
        self, b: Builder, *, training: bool, seed: int = 0, initializer: Initializer | None = None
    ) -> None:
        self.b, self.training, self.seed, self.initializer = b, training, seed, initializer
        self.trainable: list[str] = []
        self._counts: dict[str, int] = {}
        self._layers: set[str] = set()
        self._key: Symbolic | None = None
        self._key_uses = 0

    # -- names -------------------------------------------------------------------------------------

    def layer_name(self, kind: str, name: str | None) -> str:
        """``name``, or ``kind`` with the next free number; UsageError if a layer has the name
        already.
        """
        if name is None:
            name = self._next_name(kind)
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"a layer cannot be named {name!r}.", hint="Give it a word.")
        if name in self._layers:
            raise UsageError(
                f"two layers are named {name!r}.", hint="Give each layer a name of its own."
            )
        self._layers.add(name)
        return name

    def _next_name(self, kind: str) -> str:
        while True:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            name = f"{kind}{self._counts[kind]}"
            if name not in self._layers:
                return name

    # -- values ------------------------------------------------------------------------------------

    def __call__(self, op: str, *inputs: Operand, label: str = "", **attrs: Any) -> Symbolic:
        """Record one op; numbers and arrays among the inputs become constants."""
        dtype = next((x.dtype for x in inputs if isinstance(x, Symbolic)), None)
        return Symbolic(
            self.b(op, *(self._lift(x, dtype) for x in inputs), label=label, **attrs), self
        )

    def _lift(self, x: Operand, dtype: DType | None) -> Value | float | int | bool:
        match x:
            case Symbolic():
                if x.trace is not self:
                    raise UsageError(
                        f"{x!r} belongs to another trace.",
                        hint="Pass it as an input of the network.",
                    )
                return x.value
            case bool() | int() | float():
                return array_of(x, dtype).item() if dtype else x
        return self.b.constant(array_of(x, dtype), dtype)

    def constant(self, array: npt.ArrayLike, dtype: DType | None = None) -> Symbolic:
        """A constant tensor."""
        return Symbolic(self.b.constant(array_of(array, dtype), dtype), self)

    def parameter(
        self,
        name: str,
        type: TensorType,
        initializer: Initializer,
        fans: Fans,
        *,
        trainable: bool = True,
    ) -> Symbolic:
        """A new state; its initial value comes from the seed and the name."""
        if any(state.name == name for state in self.b.states):
            raise UsageError(
                f"two parameters are named {name!r}.", hint="Give each layer a name of its own."
            )
        chosen = self.initializer if self.initializer is not None and trainable else initializer
        if not callable(chosen):
            raise UsageError(
                f"the initializer is {chosen!r}, which is no function.", node=name,
                hint="Give one of nl.initializers, such as nl.initializers.constant(0.5).",
            )  # fmt: skip
        initial = chosen(type, fans, _generator(self.seed, name))
        if initial.type != type:
            raise ShapeError(
                f"the initializer made {initial.type} for a parameter of type {type}", node=name
            )
        if trainable:
            self.trainable.append(name)
        return Symbolic(self.b.state(name, initial), self)

    def update_state(self, before: Symbolic, after: Symbolic) -> None:
        """The state that reads as ``before`` becomes ``after``."""
        self.b.update_state(before.value, after.value)

    def random_key(self) -> Symbolic:
        """A generator key of its own for one op: word 1 counts the steps of a training, word 3
        tells the ops apart.

        The state is (counter lo, counter hi, seed lo, seed hi); an op draws from counter lo = 0 on,
        so each op has 2**32 blocks of its own in every step.
        """
        if self._key is None:
            seed = np.random.SeedSequence(self.seed).generate_state(2, np.uint32)
            initial = Constant(np.array([0, 0, *seed], np.uint32))
            self._key = Symbolic(self.b.state(GENERATOR_KEY, initial), self)
            if self.training:
                self.update_state(self._key, self._key + np.array([0, 1, 0, 0], np.uint32))
        use = np.array([0, 0, 0, self._key_uses], np.uint32)
        self._key_uses += 1
        return self._key + use


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


_ACTIVE: ContextVar[Trace] = ContextVar("netloom.active_trace")


def active_trace() -> Trace:
    """The trace in progress; UsageError outside of a network function."""
    try:
        return _ACTIVE.get()
    except LookupError:
        raise UsageError(
            "no network is being traced here.", hint="Call layers inside a @network function."
        ) from None


def is_tracing() -> bool:
    """Whether a network is being traced here."""
    return _ACTIVE.get(None) is not None


def is_training() -> bool:
    """Whether the training form is being traced."""
    return active_trace().training


@contextmanager
def tracing(trace: Trace) -> Iterator[Trace]:
    """Make ``trace`` the active one."""
    token = _ACTIVE.set(trace)
    try:
        yield trace
    finally:
        _ACTIVE.reset(token)


def trace_of(*operands: object) -> Trace:
    """The trace of the first symbolic value among operands; UsageError if there is none."""
    for operand in operands:
        if isinstance(operand, Symbolic):
            return operand.trace
    raise UsageError(
        f"{operands[0]!r} is no symbolic value.",
        hint="Layers take what the inputs of a network and other layers give; of several values, "
        "such as an LSTM's, give one.",
    )


class Symbolic:
    """A value of the network being traced. Operators record elementwise ops and broadcast by
    NumPy's rule.
    """

    __slots__ = ("trace", "value")
    __array_ufunc__ = None  # so that array + symbolic reaches __radd__

    def __init__(self, value: Value, trace: Trace) -> None:
        self.value, self.trace = value, trace

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self.value.type.shape

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def rank(self) -> int:
        return self.value.type.rank

    def __repr__(self) -> str:
        return f"<symbolic {self.value.label or '?'}: {self.type}>"

    def __bool__(self) -> bool:
        raise UsageError(
            "a symbolic value has no truth value while the network is traced.",
            hint="Use where(condition, x, y) in place of if.",
        )

    def __array__(self, *_: object, **__: object) -> npt.NDArray[Any]:
        raise UsageError(
            "a symbolic value is no array while the network is traced.",
            hint="Use the functions of netloom in place of NumPy's.",
        )

    def __iter__(self) -> Iterator[Symbolic]:
        """The entries along the first axis."""
        extent = self.shape[0] if self.rank else None
        if not isinstance(extent, int):
            raise ShapeError(f"{self.type} cannot be iterated over: its first axis is not fixed")
        return (self[place] for place in range(extent))

    def __add__(self, other: Operand) -> Symbolic:
        return self.trace("add", self, other)

    def __radd__(self, other: Operand) -> Symbolic:
        return self.trace("add", other, self)

    def __sub__(self, other: Operand) -> Symbolic:
        return self.trace("sub", self, other)

    def __rsub__(self, other: Operand) -> Symbolic:
        return self.trace("sub", other, self)

    def __mul__(self, other: Operand) -> Symbolic:
        return self.trace("mul", self, other)

    def __rmul__(self, other: Operand) -> Symbolic:
        return self.trace("mul", other, self)

    def __truediv__(self, other: Operand) -> Symbolic:
        return self.trace("div", self, other)

    def __rtruediv__(self, other: Operand) -> Symbolic:
        return self.trace("div", other, self)

    def __pow__(self, other: Operand) -> Symbolic:
        return self.trace("pow", self, other)

    def __neg__(self) -> Symbolic:
        return self.trace("neg", self)

    def __abs__(self) -> Symbolic:
        return self.trace("abs", self)

    def __lt__(self, other: Symbolic | float) -> Symbolic:
        return self.trace("less", self, other)

    def __le__(self, other: Symbolic | float) -> Symbolic:
        return self.trace("less_equal", self, other)

    def __gt__(self, other: Symbolic | float) -> Symbolic:
        return self.trace("less", other, self)

    def __ge__(self, other: Symbolic | float) -> Symbolic:
        return self.trace("less_equal", other, self)

    def __matmul__(self, other: Operand) -> Symbolic:
        return self.trace("matmul", self, other)

    def __rmatmul__(self, other: Operand) -> Symbolic:
        return self.trace("matmul", other, self)

    def __getitem__(self, key: Any) -> Symbolic:
        """Ints and slices with static bounds, as in NumPy; ``...`` and new axes are not
        supported.
        """
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > self.rank:
            raise ShapeError(f"{len(keys)} indices for {self.type}")
        start: list[Extent] = [0] * self.rank
        size: list[Extent] = list(self.shape)
        step = [1] * self.rank
        for axis, one in enumerate(keys):
            start[axis], size[axis], step[axis] = _slice_axis(one, self.shape[axis])
        cut = self.trace("slice", self, start=tuple(start), size=tuple(size), step=tuple(step))
        kept = tuple(
            e
            for axis, e in enumerate(cut.shape)
            if axis >= len(keys) or isinstance(keys[axis], slice)
        )
        return cut if len(kept) == self.rank else cut.trace("reshape", cut, shape=kept)


def _slice_axis(key: Any, extent: Extent) -> tuple[Extent, Extent, int]:
    """(start, size, step) of one index; only a full slice is possible on a symbolic extent."""
    if isinstance(key, np.integer):
        key = int(key)
    if isinstance(key, bool) or not isinstance(key, int | slice):
        raise UsageError(f"{key!r} is not an index.", hint="Use ints and slices of ints.")
    if key == slice(None):
        return 0, extent, 1
    if not isinstance(extent, int):
        raise ShapeError(f"an axis of the symbolic extent {extent} can only be taken whole")
    if isinstance(key, int):
        if not -extent <= key < extent:
            raise ShapeError(f"index {key} is outside an axis of extent {extent}")
        return key % extent, 1, 1
    try:
        chosen = range(extent)[key]
    except TypeError:
        raise UsageError(f"{key!r} is not a slice of ints.") from None
    return (chosen.start if chosen else 0), len(chosen), chosen.step


def parameter(
    name: str,
    shape: Sequence[int],
    initializer: Initializer = zeros,
    *,
    fans: tuple[int, int] | None = None,
    dtype: str | DType = "float32",
    trainable: bool = True,
) -> Symbolic:
    """A parameter of one's own, for layers that this module lacks; ``fans`` are (inputs,
    outputs) of one unit.
    """
    trace = active_trace()
    extents = shape if isinstance(shape, Sequence) else (shape,)
    type = tensor(*(whole(extent, f"an extent of {name}") for extent in extents), dtype=dtype)
    return trace.parameter(trace.layer_name("parameter", name), type, initializer, Fans(*(fans or (1, 1))),
                           trainable=trainable)  # fmt: skip
