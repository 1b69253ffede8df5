"""Where values lie in others: offsets are those that NumPy's views have."""

from __future__ import annotations

import numpy as np

from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.op import OPS
from netloom.compiler.passes.memory.aliases import Aliases, find_aliases
from netloom.compiler.tensor_type import FLOAT32, TensorType


def kernel(b: Builder, op: str, *inputs: Value, **attrs: object) -> Value:
    """A kernel that holds one op."""
    body = Builder("kernel")
    read = [body.input(value.type, f"x{number}") for number, value in enumerate(inputs)]
    record = OPS["kernel"]
    made = body.build([body(op, *read, **attrs)])
    return b.add(record, inputs, record.attrs(made)).output


def parts(b: Builder, *rows: int) -> list[Value]:
    """Kernels' results [rows, 16]."""
    inputs = (b.input(TensorType(FLOAT32, (n, 16)), f"x{n}") for n in rows)
    return [kernel(b, "neg", x) for x in inputs]


def found_in(graph: Graph, olds: tuple[Value, ...] = (), joins_in_place: bool = True) -> Aliases:
    return find_aliases(graph, targets=(), olds=olds, joins_in_place=joins_in_place)


def first_byte(whole: tuple[int, ...], *start: int) -> int:
    """Of the element at an index."""
    array = np.zeros(whole, np.float32)
    rest = array[tuple(slice(at, None) for at in start)]
    return rest.ctypes.data - array.ctypes.data


def test_parts_of_parts() -> None:
    b = Builder("parts")
    first, second, third = parts(b, 2, 3, 4)
    inner = kernel(b, "concat", first, second, axis=0)
    outer = kernel(b, "concat", third, inner, axis=0)
    graph = b.build([kernel(b, "exp", outer)])
    aliases = found_in(graph)
    for value, row in ((third, 0), (first, 4), (second, 6), (inner, 4)):
        assert aliases.whole(value) == (outer, first_byte((9, 16), row))
    assert {*aliases.parts_of(outer)} == {first, second, third, inner}
    assert not aliases.parts_of(inner)
    assert aliases.has_parts_in(graph.producers[outer])
    assert not found_in(graph, joins_in_place=False).places


def test_parts_of_results_and_rows_between_others_are_copied() -> None:
    b = Builder("copied")
    first, second = parts(b, 2, 3)
    third, fourth = parts(b, 5, 5)
    result = kernel(b, "concat", first, second, axis=0)
    beside = kernel(b, "concat", third, fourth, axis=1)
    assert not found_in(b.build([result, kernel(b, "exp", beside)])).places


def test_what_has_a_place_is_part_of_nothing() -> None:
    b = Builder("placed")
    first, second = parts(b, 2, 3)
    graph = b.build([kernel(b, "exp", kernel(b, "concat", first, second, axis=0))])
    aliases = find_aliases(graph, targets=[first], olds=(), joins_in_place=True)
    assert [*aliases.places] == [second]


def test_a_slice_of_neighbours_lies_in_what_it_is_taken_from() -> None:
    b = Builder("slices")
    (whole,) = parts(b, 16)
    rows = kernel(b, "slice", whole, start=(4, 0), size=(8, 16), step=(1, 1))
    columns = kernel(b, "slice", whole, start=(0, 4), size=(16, 8), step=(1, 1))
    every_second = kernel(b, "slice", whole, start=(0, 0), size=(8, 16), step=(2, 1))
    graph = b.build([kernel(b, "exp", value) for value in (rows, columns, every_second)])
    aliases = found_in(graph)
    assert aliases.places == {rows: (whole, first_byte((16, 16), 4, 0))}
    assert aliases.in_input(graph.producers[rows]) == aliases.whole(rows)
    assert aliases.in_input(graph.producers[columns]) is None


def test_a_reshape_of_a_slice_begins_where_the_slice_does() -> None:
    b = Builder("renamed")
    (whole,) = parts(b, 16)
    rows = kernel(b, "slice", whole, start=(4, 0), size=(8, 16), step=(1, 1))
    flat = kernel(b, "reshape", rows, shape=(128,))
    aliases = found_in(b.build([kernel(b, "exp", flat)]))
    assert aliases.places[flat] == (rows, 0)
    assert aliases.whole(flat) == (whole, first_byte((16, 16), 4, 0))
    assert {*aliases.parts_of(whole)} == {rows, flat}


def test_the_memory_of_a_state_that_changes_has_no_second_name() -> None:
    b = Builder("state")
    x = b.input(TensorType(FLOAT32, (4, 6)), "x")
    graph = b.build([kernel(b, "reshape", x, shape=(24,))])
    (node,) = graph.nodes
    assert found_in(graph).in_input(node) == (x, 0)
    assert found_in(graph, olds=(x,)).in_input(node) is None
