"""Launches: where their buffers begin, and which dims have values by then."""

from __future__ import annotations

import pytest

from netloom.compiler.dim import Dim, Extent, symbol
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.loops.build import Machine
from netloom.compiler.ops.data_dims import as_symbol
from netloom.compiler.passes.memory.launches import Launches
from netloom.compiler.passes.placement import Placement
from netloom.compiler.program import BoundDim, BufferRef, Space, Turn
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.errors import VerificationError

OUT = BufferRef(Space.OUTPUT, 0)
INPUT, SLOT = BufferRef(Space.INPUT, 0), BufferRef(Space.ARENA, 0, 64)


def body_of(op: str, *shape: Extent, **attrs: object) -> tuple[Graph, Value]:
    """A kernel's graph, and what it reads."""
    b = Builder("kernel")
    x = b.input(TensorType(FLOAT32, shape), "x")
    return b.build([b(op, x, **attrs)]), x


def empty_launches(graph: Graph | None = None) -> Launches:
    return Launches(graph or body_of("neg", 3)[0], Placement(Machine()))


@pytest.mark.parametrize(
    ("place", "offsets", "kernels"), [(SLOT, (64 + 128, 64 + 320), 1), (INPUT, (0, 0), 2)]
)
def test_slices_of_slots_begin_where_the_launch_says(
    place: BufferRef, offsets: tuple[int, int], kernels: int
) -> None:
    """Rows 2 and 5 of 16 numbers each; the caller's arrays are read from their beginning."""
    launches = empty_launches()
    for row in (2, 5):
        body, x = body_of("slice", 8, 16, start=(row, 0), size=(3, 16), step=(1, 1))
        launches.add(body, [(x, place)], OUT, "rows")
    assert tuple(launch.buffers[0].offset for launch in launches.done) == offsets
    assert all(launch.buffers[1] == OUT for launch in launches.done)
    assert len({launch.kernel for launch in launches.done}) == kernels


def test_free_dims_are_arguments_under_their_own_names() -> None:
    """Loops have variables called n; the program has a dim of that name."""
    n = symbol("n", 1)
    body, x = body_of("neg", n)
    launches = empty_launches(body)
    launches.add(body, [(x, INPUT)], OUT, "all")
    (launch,) = launches.done
    assert launch.extents == (n,)


def counted() -> tuple[Graph, Dim]:
    b = Builder("counted")
    count = b.input(TensorType(INT64), "count")
    kept = b.new_data_dim("kept", 12)
    return b.build([b("data_dim", count, extent=kept, bound=12)]), kept


def test_a_dim_is_bound_before_a_launch_needs_it() -> None:
    graph, kept = counted()
    launches, born = empty_launches(graph), as_symbol(kept)
    assert born is not None and launches.bounds == {born: 12}
    body, x = body_of("neg", kept)
    with pytest.raises(VerificationError, match=r"a launch reads \['kept_0'\] too early"):
        launches.add(body, [(x, SLOT)], OUT, "early")
    launches.add(*known())
    launches.bind(born, 12, INPUT)
    launches.add(body, [(x, SLOT)], OUT, "late")
    assert launches.dims == [BoundDim(born, 12, 12, INPUT, 1)]
    assert len(launches.done) == 2


def known() -> tuple[Graph, list[tuple[Value, BufferRef]], BufferRef, str]:
    body, x = body_of("neg", 3)
    return body, [(x, INPUT)], OUT, "known"


def test_what_is_added_within_is_one_turn() -> None:
    number = symbol("turn", 0)
    b = Builder("turns")
    inner = Builder("body", b)
    body = inner.build([inner("neg", inner.input(TensorType(FLOAT32, (3,)), "x"))])
    x = b.input(TensorType(FLOAT32, (3,)), "x")
    graph = b.build(b.many("iterate", x, body=body, turn=number, count=4, handed_on=1))
    launches, turn = empty_launches(graph), as_symbol(number)
    assert turn is not None
    launches.add(*known())
    with launches.turns(turn, 4, None):
        launches.add(*known())
        launches.add(*known())
    launches.add(*known())
    before, behind = launches.dims
    assert before == Turn(turn, 4, 3, None, True, 1, 3)
    assert behind == Turn(turn, 4, 3, None, False, 1, 3)
    assert (before.launches, behind.launches) == (1, 3)
