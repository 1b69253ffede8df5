"""Loop and Scan -> one copy of the body for each step, or one node whose turns a run counts.

Few steps are unrolled: ``MOST_COPIES`` copies compile quickly, passes see from one into the next,
and nothing is copied between turns. For more, and where free dims or data say how many there are,
the body is imported once (``turns.py``); if it cannot be, because a state changes its shape, steps
of a known number are unrolled after all. What is unrolled is bounded: ``MOST_STEPS`` steps of one
loop, ``MOST_UNROLLED`` of all loops of a model, ``MOST_NODES`` nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, INT64
from netloom.errors import NetloomError

from .context import Context
from .control_flow import Apply, Branches, Done, Driver, Step, check_ports, chosen
from .functions import MOST_NODES
from .node import Item, ModelNode, as_tensor
from .turns import MOST_COPIES, MOST_TURNS, Scanned, Stacked, Turns
from .window import FIX_DIMS

MOST_STEPS: Final = 4096
MOST_UNROLLED: Final = 1 << 15


def _check_steps(context: Context, node: ModelNode, steps: int, why: NetloomError | None) -> None:
    """``why``: the reason for which they are unrolled, if there is one."""
    if steps > MOST_STEPS:
        raise why or node.unsupported(
            f"it has more than {MOST_STEPS} steps.", "Use fewer steps; loops are unrolled."
        )
    context.unrolled += 1
    if context.unrolled > MOST_UNROLLED or len(context.builder.nodes) > MOST_NODES:
        raise node.unsupported(f"the model's loops have more than {MOST_UNROLLED} steps or {MOST_NODES} nodes in all.",
                               "Use fewer steps; loops are unrolled.")  # fmt: skip


# -- Loop ------------------------------------------------------------------------------------------


class Loop:
    """One copy of the body for each step.

    Where data decide when it ends, every step is made and those behind the end keep the state; that
    needs a known largest number of steps. Outputs that grow with the steps are cut to those that
    were made.
    """

    def __init__(self, context: Context, node: ModelNode) -> None:
        self.context, self.node = context, node
        self.state: list[Item] = [node.item(position) for position in range(2, len(node.inputs))]
        grown = len(node.outputs) - len(self.state)
        if grown < 0:
            raise node.fault(
                f"it has {len(node.outputs)} outputs for {len(self.state)} states.",
                "Export it again.",
            )
        check_ports(node, "body", 2 + len(self.state), 1 + len(self.state) + grown)
        self.why: NetloomError | None = None  # its turns are unrolled
        self.trips: Value | None = None  # how many steps there are, if data decide it
        self.most: int | None = None
        self.count: Extent = 0  # of turns
        condition = node.optional(1)
        given = context.number(True, BOOL) if condition is None else condition
        self.goes_on = context.reshape(given, ())
        self.made: list[Value] = []  # for each step, whether it is one, if data decide it
        self.grown: list[list[Value]] = [[] for _ in range(grown)]
        self.steps = 0

    def undecided(self) -> None:
        """Each of its steps is right."""

    def turns(self) -> Turns | None:
        """The loop as turns that a run counts; None if it is better unrolled."""
        states = [item for item in self.state if isinstance(item, Value)]
        if len(states) < len(self.state):
            return None
        over = self.context.array(self.goes_on)
        count = 0 if over is not None and not over else self._most_turns()
        if isinstance(count, int) and count <= MOST_COPIES and (count or not self.grown):
            return None
        if count == MOST_TURNS and self.grown:
            self.why = self.node.unsupported(
                "nothing limits its steps, and each of them adds to its results.",
                "Give it a largest number of steps when exporting.",
            )
            return None
        self.count = count
        return Turns(count, states, self.goes_on, [], [Stacked()] * len(self.grown))

    def _most_turns(self) -> Extent:
        trips = self.node.optional(0)
        if trips is None:
            return MOST_TURNS
        is_bounded = (
            self.context.contents(trips) is not None or self.context.bound(trips) is not None
        )
        if is_bounded or self.grown:
            count = self.context.extent(trips, self.node, "the number of steps")
            return (
                min(max(count, 0), MOST_TURNS) if isinstance(count, int) else _not_negative(count)
            )
        given = self.context.reshape(self.context.cast(trips, INT64), ())
        most = self.context("min", self.context("max", given, 0), MOST_TURNS)
        return self.context.data_dim(most, MOST_TURNS, "steps")

    def _trip_count(self) -> int | None:
        """The largest number of steps."""
        trips = self.node.optional(0)
        if trips is None:
            return None
        count = self.context.extent(trips, self.node, "the number of steps")
        most = self.context.data_bounds.get(count, count)
        if not isinstance(most, int):
            (most,) = self.context.integers(trips, self.node, "the number of steps")
        if not isinstance(count, int):
            self.trips = self.context.extent_value(count)
        return max(most, 0)

    def _limited(self, condition: Value, steps: int) -> Value:
        """Whether it goes on after so many steps."""
        if self.trips is None:
            return condition
        is_step = self.context("less", self.context.number(steps, INT64), self.trips)
        return self.context("and", condition, is_step)

    @property
    def _is_over(self) -> bool | None:
        """None: data decide."""
        if self.steps == self.most:
            return True
        known = self.context.array(self.goes_on)
        return None if known is None else not known

    def first(self) -> Step:
        if self.why is not None:
            most = self.context.data_bounds.get(self.count, self.count)
            if not isinstance(most, int):
                raise self.why
        self.most = 0 if self._is_over else self._trip_count()
        self.goes_on = self._limited(self.goes_on, 0)
        return self._step()

    def _step(self) -> Step:
        is_over = self._is_over
        if is_over:
            return Done([*self.state, *self._results()])
        if is_over is None and self.most is None:
            raise self.why or self.node.unsupported(
                "data decide how many steps it has, and no number of steps limits them.",
                "Give it a largest number of steps when exporting.",
            )
        most = self.most if is_over is None and self.most else self.steps + 1
        _check_steps(self.context, self.node, most, self.why)
        return Apply("body", [self.context.number(self.steps, INT64), self.goes_on, *self.state])

    def next(self, results: list[Item]) -> Step:
        condition, state = (
            as_tensor(self.node, results[0], "its condition"),
            results[1 : 1 + len(self.state)],
        )
        if condition.type.elements != 1 or condition.dtype is not BOOL:
            raise self.node.misshapen(
                f"its condition is {condition.type}; one bool is needed.", "Export it again."
            )
        for parts, value in zip(self.grown, results[1 + len(self.state) :], strict=True):
            parts.append(as_tensor(self.node, value, "a result of a step"))
        condition = self.context.reshape(condition, ())
        if self._is_over is None:
            state = [
                chosen(self.context, self.node, self.goes_on, new, old, f"its state {position}")
                for position, (new, old) in enumerate(zip(state, self.state, strict=True))
            ]
            condition = self.context("and", self.goes_on, condition)
            self.made.append(self.goes_on)
        self.steps += 1
        self.state, self.goes_on = state, self._limited(condition, self.steps)
        return self._step()

    def _results(self) -> list[Value]:
        """The outputs that grow, with an entry for each step that was one."""
        found = [self._stacked(parts) for parts in self.grown]
        if not self.made or not found:
            return found
        before = self.steps - len(self.made)  # steps that are known to be some
        flags = _stacked(self.context, self.node, self.made, 0)
        count = self.context("reduce_sum", self.context.cast(flags, INT64), axes=(0,))
        taken = self.context.data_dim(count, len(self.made), "steps")
        return [self.context.slice_axis(value, 0, 0, before + taken) for value in found]

    def _stacked(self, parts: Sequence[Value]) -> Value:
        if not parts:
            raise self.node.unsupported(
                "it has no steps, so its results have no shape.", "Remove the loop."
            )
        return _stacked(self.context, self.node, parts, 0)


def _not_negative(count: Extent) -> Extent:
    return count if dim.is_nonnegative(count) else dim.maximum(count, 0)


def _stacked(context: Context, node: ModelNode, parts: Sequence[Value], axis: int) -> Value:
    """One result of each step, along a new axis."""
    if any(part.type != parts[0].type for part in parts):
        raise node.unsupported(
            f"a result is {parts[0].type} in its first step, and differs later.", "Pad it."
        )
    shape = parts[0].shape
    if not 0 <= axis <= len(shape):
        raise node.fault(
            f"its results of rank {len(shape)} have no place for axis {axis}.", "Export it again."
        )
    rows = [context.reshape(part, (*shape[:axis], 1, *shape[axis:])) for part in parts]
    return context("concat", *rows, axis=axis) if len(rows) > 1 else rows[0]


# -- Scan ------------------------------------------------------------------------------------------


class Scan:
    """One copy of the body for each entry along the scanned axes."""

    first_opset: Final = 9

    def __init__(self, context: Context, node: ModelNode) -> None:
        self.context, self.node = context, node
        if node.opset < self.first_opset:
            raise node.unsupported(
                "Scan with a batch axis (opset 8) is not supported.",
                "Export with opset 9 or later.",
            )
        scanned = node.integer("num_scan_inputs", 0)
        values = node.present
        if not 1 <= scanned <= len(values):
            raise node.fault(
                f"num_scan_inputs is {scanned} of {len(values)} inputs.", "Export it again."
            )
        self.state: list[Item] = list(values[: len(values) - scanned])
        self.inputs = values[len(values) - scanned :]
        grown = len(node.outputs) - len(self.state)
        if grown < 0:
            raise node.fault(
                f"it has {len(node.outputs)} outputs for {len(self.state)} states.",
                "Export it again.",
            )
        check_ports(node, "body", len(values), len(node.outputs))
        self.axes = [
            node.axis(axis, value.type.rank)
            for axis, value in zip(self._list("scan_input_axes", scanned), self.inputs, strict=True)
        ]
        self.reversed = self._list("scan_input_directions", scanned)
        self.output_axes = self._list("scan_output_axes", grown)
        self.output_reversed = self._list("scan_output_directions", grown)
        self.count = self._steps()
        self.why: NetloomError | None = None  # its turns are unrolled
        self.grown: list[list[Value]] = [[] for _ in range(grown)]
        self.steps = 0

    def _list(self, name: str, count: int) -> tuple[int, ...]:
        found = self.node.integers(name) or (0,) * count
        if len(found) != count:
            raise self.node.fault(
                f"attribute {name} has {len(found)} entries for {count}.", "Export it again."
            )
        return found

    def undecided(self) -> None:
        """Each of its steps is right."""

    def turns(self) -> Turns | None:
        """The scan as turns that a run counts; None if it is better unrolled."""
        if isinstance(self.count, int) and 0 < self.count <= MOST_COPIES:
            return None
        parts = zip(self.inputs, self.axes, map(bool, self.reversed), strict=True)
        placed = zip(self.output_axes, map(bool, self.output_reversed), strict=True)
        states = [as_tensor(self.node, item, "a state") for item in self.state]
        return Turns(
            self.count, states, None, [Scanned(*p) for p in parts], [Stacked(*p) for p in placed]
        )

    def _steps(self) -> Extent:
        extents = {value.shape[axis] for value, axis in zip(self.inputs, self.axes, strict=True)}
        (extent,) = extents if len(extents) == 1 else (None,)
        if extent is None:
            raise self.node.misshapen(
                f"its inputs have {', '.join(map(str, extents))} steps.", "Export it again."
            )
        return extent

    def first(self) -> Step:
        if not isinstance(self.count, int):
            raise self.why or self.node.unsupported(
                f"its number of steps, {self.count}, is a free dim.", FIX_DIMS
            )
        if not self.count:
            raise self.why or self.node.unsupported(
                "it has no steps, so its results have no shape.", "Remove it."
            )
        return self._step()

    def _step(self) -> Step:
        if self.steps == self.count:
            return Done([*self.state, *map(self._result, range(len(self.grown)))])
        assert isinstance(self.count, int)
        _check_steps(self.context, self.node, self.count, self.why)
        entries = []
        for value, axis, is_reversed in zip(self.inputs, self.axes, self.reversed, strict=True):
            position = self.count - 1 - self.steps if is_reversed else self.steps
            part = self.context.slice_axis(value, axis, position, 1)
            entries.append(
                self.context.reshape(part, (*value.shape[:axis], *value.shape[axis + 1 :]))
            )
        return Apply("body", [*self.state, *entries])

    def next(self, results: list[Item]) -> Step:
        self.state = results[: len(self.state)]
        for parts, value in zip(self.grown, results[len(self.state) :], strict=True):
            parts.append(as_tensor(self.node, value, "a result of a step"))
        self.steps += 1
        return self._step()

    def _result(self, position: int) -> Value:
        parts = self.grown[position][:: -1 if self.output_reversed[position] else 1]
        axis = self.node.axis(self.output_axes[position], parts[0].type.rank + 1)
        return _stacked(self.context, self.node, parts, axis)


CONTROL_FLOW: Final[Mapping[str, Callable[[Context, ModelNode], Driver]]] = {
    "If": Branches,
    "Loop": Loop,
    "Scan": Scan,
}
