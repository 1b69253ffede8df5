"""Which results kernels write to their places: outputs once, states where nobody still needs the
old value. What the programs compute is compared with NumPy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.driver import compile_entries
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.passes.fuse import fuse
from netloom.compiler.passes.memory.goals import Goal, direct_goals, targets
from netloom.compiler.program import BufferRef, Space
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

SQUARE = np.arange(9, dtype=np.float32).reshape(3, 3)
Update = Callable[[Builder, Value, Value], tuple[Value, Value]]


def by_elements(b: Builder, w: Value, x: Value) -> tuple[Value, Value]:
    return b("sub", w, x), x


def read_by_its_kernel_elsewhere(b: Builder, w: Value, x: Value) -> tuple[Value, Value]:
    return b("sub", b("transpose", w, permutation=(1, 0)), x), x


def read_later(b: Builder, w: Value, x: Value) -> tuple[Value, Value]:
    """By a kernel that needs the new value as well."""
    new = b("sub", w, x)
    both = b("add", b("reduce_sum", new, axes=(1,)), b("reduce_max", w, axes=(0,)))
    return new, both


def the_old_one_is_a_result(b: Builder, w: Value, x: Value) -> tuple[Value, Value]:
    return b("sub", w, x), w


def step_of(update: Update) -> Graph:
    b = Builder("step")
    x = b.input(TensorType(FLOAT32, (3, 3)), "x")
    w = b.state("w", Constant(SQUARE))
    new, result = update(b, w, x)
    b.update_state(w, new)
    return b.build([result])


def state_goal(graph: Graph) -> Goal:
    (state,) = graph.states
    return Goal(state.output, BufferRef(Space.STATE, 0), state.input)


@pytest.mark.parametrize(
    ("update", "is_in_place"),
    [(by_elements, True), (read_by_its_kernel_elsewhere, False), (read_later, False),
     (the_old_one_is_a_result, False)],
)  # fmt: skip
def test_states_are_overwritten_where_nobody_needs_them(update: Update, is_in_place: bool) -> None:
    step = step_of(update)
    graph = fuse(step)
    goal = state_goal(graph)
    assert direct_goals(graph, [goal]) == ([goal] if is_in_place else [])
    b = Builder("run")
    run = b.build([b("neg", b.input(TensorType(FLOAT32, (3, 3)), "x"))])
    session = Session.in_process(compile_entries(step, run).image)
    state = session.create_state()
    x = np.array([[1, -2, 3], [0, 5, 1], [2, 2, 7]], np.float32)
    w = SQUARE.astype(np.float64)
    for _ in range(3):
        (found,) = session.train_step(state, x)
        old, w = w, (w.T if update is read_by_its_kernel_elsewhere else w) - x
        expected = {
            read_later: w.sum(1) + old.max(0), the_old_one_is_a_result: old
        }.get(update, x)  # fmt: skip
        np.testing.assert_array_equal(found, expected)


def test_a_value_has_one_place_of_its_own() -> None:
    b = Builder("twice")
    y = b("neg", b.input(TensorType(FLOAT32, (3,)), "x"))
    graph = fuse(b.build([y, y]))
    first, second = (Goal(v, BufferRef(Space.OUTPUT, n)) for n, v in enumerate(graph.outputs))
    assert direct_goals(graph, [first, second]) == [first]


def test_an_input_that_is_a_result_is_copied() -> None:
    b = Builder("same")
    x = b.input(TensorType(FLOAT32, (3,)), "x")
    graph = fuse(b.build([x]))
    assert direct_goals(graph, [Goal(x, BufferRef(Space.OUTPUT, 0))]) == []


def test_what_is_renamed_last_is_made_in_its_place() -> None:
    b = Builder("renamed")
    x = b.input(TensorType(FLOAT32, (4, 3, 2)), "x")
    sums = b("reduce_sum", x, axes=(2,))
    graph = fuse(b.build([b("reshape", sums, shape=(12,))]))
    goal = Goal(graph.outputs[0], BufferRef(Space.OUTPUT, 0))
    assert direct_goals(graph, [goal]) == [goal]
    (source,) = graph.producers[goal.value].inputs
    assert targets(graph, [goal]) == {source: goal.ref}
