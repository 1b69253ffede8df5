"""The second half of a training step: gradients -> what the states become.

With accumulation, all that an update changes keeps its value until the last of so many steps, when
the mean of their gradients takes effect.
"""

from __future__ import annotations

from netloom.compiler.constant import Constant
from netloom.compiler.graph import State, Value
from netloom.compiler.tensor_type import INT64, TensorType
from netloom.errors import UsageError

from .functions import cast, equal, where
from .optimizers import Grouped, Optimizer, members_of
from .trace import Symbolic, Trace


class Update:
    """The states of a step being updated; ``every``: how many steps make one update."""

    def __init__(self, trace: Trace, every: int = 1) -> None:
        self.trace, self.every = trace, every
        self.is_due: Symbolic | None = None
        if every > 1:
            done = self._state("optimizer.accumulated", Constant.splat(0, TensorType(INT64, ())))
            self.is_due = equal(done, every - 1)
            trace.update_state(done, where(self.is_due, 0, done + 1))

    def _state(self, name: str, initial: Constant) -> Symbolic:
        """A state of the step's own; UsageError if the network has one of that name."""
        if any(state.name == name for state in self.trace.b.states):
            raise UsageError(
                f"the training step keeps a state {name!r}, and the network has one of that name.",
                hint="Give the network's another name.",
            )
        return Symbolic(self.trace.b.state(name, initial), self.trace)

    def _become(self, before: Symbolic, after: Symbolic) -> None:
        """The state becomes ``after``, if the update is due."""
        new = after if self.is_due is None else where(self.is_due, after, before)
        self.trace.update_state(before, new)

    def accumulated(self, states: list[State], gradients: list[Value]) -> list[Value]:
        """The means of the gradients of the steps since the last update."""
        if self.is_due is None:
            return gradients
        return [self._added(*pair) for pair in zip(states, gradients, strict=True)]

    def _added(self, state: State, gradient: Value) -> Value:
        before = self._state(f"{state.name}.gradient", Constant.splat(0, gradient.type))
        total = before + Symbolic(gradient, self.trace)
        assert self.is_due is not None
        self.trace.update_state(before, where(self.is_due, 0.0, total))
        return (total * (1 / self.every)).value

    def apply(
        self, optimizer: Optimizer | Grouped, states: list[State], gradients: list[Value], rate: Symbolic,
        average: float | None = None,
    ) -> None:  # fmt: skip
        """Every state becomes what the optimizer makes of it, and its ``average`` moves."""
        pairs = {s.name: (s, gradient) for s, gradient in zip(states, gradients, strict=True)}
        for member in members_of(optimizer, list(pairs)):
            own = rate if member.factor == 1 else rate * member.factor
            chosen = [pairs[name] for name in member.names]
            self._apply_one(member.optimizer, member.prefix, chosen, own, average)
        self.trace.b.label = ""

    def _apply_one(
        self, optimizer: Optimizer, prefix: str, pairs: list[tuple[State, Value]], rate: Symbolic,
        average: float | None,
    ) -> None:  # fmt: skip
        before = {
            name: self._state(f"{prefix}.{name}", c) for name, c in optimizer.shared().items()
        }
        shared = optimizer.advance(before)
        for name, value in shared.items():
            self._become(before[name], value)
        for state, gradient in pairs:
            self.trace.b.label = f"{state.name}.update"
            slots = {
                name: self._state(f"{state.name}.{name}", initial)
                for name, initial in optimizer.slots(state.input.type).items()
            }
            parameter = Symbolic(state.input, self.trace)
            updated, moved = optimizer.build_update(
                parameter, Symbolic(gradient, self.trace), slots, shared,
                cast(rate, parameter.dtype),
            )  # fmt: skip
            self._become(parameter, updated)
            for name, value in moved.items():
                self._become(slots[name], value)
            if average is not None:
                kept = self._state(f"{state.name}.average", state.initial)
                self._become(kept, kept + (1 - average) * (updated - kept))


__all__ = ["Update"]
