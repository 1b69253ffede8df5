"""Dims that data decide: the rules of graphs, memory for the bound, and runs that bind them."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.data_dims import bounds_of, data_dims
from netloom.compiler.dim import Dim, Extent, Symbol, symbol
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph, Value, map_extents
from netloom.compiler.inline import inline
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.bind_dims import bind_dims
from netloom.compiler.passes.differentiate import gradient_graph
from netloom.compiler.passes.eliminate_dead import eliminate_dead
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.compiler.text import is_identical, parse_graph, print_graph
from netloom.compiler.verify import verify
from netloom.errors import InputError, UnsupportedOpError, VerificationError
from netloom.runtime.session import Session, load
from tests.cases import CASES, FREE, Case, draw

N = symbol("N", 0, 40)
S = Symbol("kept_0", 0, 12)


def positive_part(extent: Extent = 12) -> tuple[Builder, Value, Dim]:
    """Builder, the positive elements of x [extent] in order, and how many they are."""
    b = Builder("positive")
    x = b.input(TensorType(FLOAT32, (extent,)), "x")
    zeros = b("broadcast", b.number(0.0, FLOAT32), shape=(extent,))
    ones = b("cast", b("less", zeros, x), dtype=INT64)
    kept = b.new_data_dim("kept", extent)
    b("data_dim", b("reduce_sum", ones, axes=(0,)), extent=kept, bound=extent, label="count")
    places = b("search_sorted", b("running_sum", ones), b("iota", shape=(kept,), axis=0))
    return b, b("gather", x, places, axis=0), kept


def several(extent: Extent = 12) -> Graph:
    """What is made of these elements: rows, a product without rows at times, a sum of nothing at
    times, splats, a number.
    """
    b, y, kept = positive_part(extent)
    rows = b("reshape", y, shape=(kept, 1))
    square = b("matmul", rows, b("transpose", rows, permutation=(1, 0)))
    weights = b("softmax", y, axis=0)
    filled = b("broadcast", b.number(3.0, FLOAT32), shape=(kept, 2))
    results = [y, square, weights, b("reduce_sum", y, axes=(0,)), filled,
               b("extent", extent=2 * kept + 1)]  # fmt: skip
    names = ["y", "square", "weights", "total", "filled", "number"]
    return b.build(results, names)


def values(count: int, extent: int = 12) -> dict[str, np.ndarray]:
    """x with so many positive elements."""
    x = -np.arange(1, extent + 1, dtype=np.float32)
    x[np.random.default_rng(count).permutation(extent)[:count]] *= -0.25
    return {"x": x}


# -- graphs ----------------------------------------------------------------------------------------


def test_text_is_read_again() -> None:
    graph = several()
    verify(graph)
    assert "data_dim(" in str(graph) and "dim kept_0 = 0..12" in str(graph)
    assert is_identical(parse_graph(print_graph(graph)), graph)


def use_before(b: Builder, count: Value) -> None:
    b("broadcast", b.number(1.0, FLOAT32), shape=(Dim.of(S),), label="early")
    b("data_dim", count, extent=Dim.of(S), bound=12)


def bind_twice(b: Builder, count: Value) -> None:
    for _ in range(2):
        b("data_dim", count, extent=Dim.of(S), bound=12, label="early")


def like_a_free_dim(b: Builder, count: Value) -> None:
    b("data_dim", count, extent=symbol("N", 0, 12), bound=12, label="early")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (use_before, "no source has the dims"),
        (bind_twice, "kept_0 is bound already"),
        (like_a_free_dim, "N is bound already"),
    ],
)
def test_a_data_dim_is_bound_once_and_before_its_uses(
    build: Callable[[Builder, Value], None], says: str
) -> None:
    b = Builder("rules")
    b.input(TensorType(FLOAT32, (N,)), "x")
    count = b.input(TensorType(INT64), "count")
    build(b, count)
    with pytest.raises(VerificationError, match=f"early: .*{says}"):
        verify(b.build([count]))


def test_dead_nodes_take_their_dims_along_and_live_ones_keep_them() -> None:
    b, y, kept = positive_part()
    splat = b("broadcast", b.number(3.0, FLOAT32), shape=(kept,))
    assert data_dims(eliminate_dead(b.build([splat]))).keys() == {S}
    assert "gather" not in {node.op.name for node in eliminate_dead(b.build([splat])).nodes}
    assert not data_dims(eliminate_dead(b.build([b.input(y.type.with_shape((3,)), "other")])))


def test_inlined_graphs_have_dims_of_their_own() -> None:
    inner, b = several(), Builder("twice")
    xs = [b.input(TensorType(FLOAT32, (12,)), f"x{i}") for i in range(2)]
    graph = b.build([inline(b, inner, [x])[0] for x in xs])
    verify(graph)
    assert len(data_dims(graph)) == 2
    found = interpret(graph, {"x0": values(3)["x"], "x1": values(5)["x"]})
    assert [y.shape for y in found] == [(3,), (5,)]


def test_bounds_follow_free_dims() -> None:
    graph = several(N)
    (found,) = data_dims(graph)
    assert bounds_of(graph) == {found: N}
    assert list(bounds_of(bind_dims(graph, {"N": 7})).values()) == [7]


def test_room_is_enough_for_every_value() -> None:
    s, t, n = (Symbol(name, 0, None) for name in "stn")
    a, c, free = Dim.of(s), Dim.of(t), Dim.of(n)
    extents = [
        3 * a + 1, free - a, a * c + a, (a + 5) // 3 * 4, a % 4 + c, dim.minimum(a, 6) * c,
        dim.maximum(a - 3, 0) + 1, dim.minimum(7 - a, c) + 9, 5 - 2 * a + c * c,
    ]  # fmt: skip
    for extent in extents:
        room = dim.largest(extent, {s: free, t: 2 * free + 1})
        assert dim.symbols_of([room]) <= {n}
        for number, x, y in itertools.product(range(5), repeat=3):
            if x <= number and y <= 2 * number + 1:
                value = dim.evaluate(extent, {"s": x, "t": y, "n": number})
                assert value <= dim.evaluate(room, {"n": number}), (extent, room)
    with pytest.raises(ValueError, match="may be negative"):
        dim.largest(dim.minimum(a - 3, c) * c, {s: free, t: free})


# -- programs --------------------------------------------------------------------------------------


def agree(graph: Graph, session: Session, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    expected, found = interpret(graph, inputs), session.run(None, inputs)
    for a, b in zip(expected, found, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5)
    return found


def test_runs_decide_shapes() -> None:
    graph = several()
    compiled = compile_graph(graph)
    for threads in (1, 3):
        session = Session.in_process(compiled.image, threads)
        for count in (5, 0, 12, 1, 5):
            found = agree(graph, session, values(count))
            assert found[1].shape == (count, count)
    (entry,) = session.metadata["entries"]
    assert entry["data_dims"] == [{"name": "kept_0", "most": 12}]
    assert entry["outputs"][0]["shape"] == ["kept_0"]


def test_free_dims_bound_data_dims() -> None:
    graph = several(N)
    session = Session.in_process(compile_graph(graph).image, 2)
    for extent, count in [(9, 4), (40, 40), (9, 0), (0, 0), (3, 3)]:
        agree(graph, session, values(count, extent))
    assert session.arena_bytes(N=40) >= 2 * 40 * 8 > session.arena_bytes(N=0)


def test_a_dim_of_a_dim() -> None:
    """The second is at most the first; launches between them use the first alone."""
    b, y, kept = positive_part()
    large = b("less", b("broadcast", b.number(1.0, FLOAT32), shape=(kept,)), y)
    ones = b("cast", large, dtype=INT64)
    count = b("reduce_sum", ones, axes=(0,))
    fewer = b.new_data_dim("kept", kept)
    b("data_dim", count, extent=fewer, bound=kept)
    places = b("search_sorted", b("running_sum", ones), b("iota", shape=(fewer,), axis=0))
    graph = b.build([y, b("gather", y, places, axis=0), b("mul", y, 2.0)])
    session = Session.in_process(compile_graph(graph).image, 2)
    shapes = set()
    for number in range(13):
        found = agree(graph, session, values(number))
        shapes.add((found[0].size, found[1].size))
    assert len({small for _, small in shapes}) > 3


def test_buffers_have_room_for_the_most() -> None:
    b, y, _ = positive_part()
    session = Session.in_process(compile_graph(b.build([y], ["y"])).image)
    inputs, room = values(5), np.zeros(12, np.float32)
    bound = session.bind(x=inputs["x"], y=room)
    for count in (5, 0, 7):
        inputs["x"][:] = values(count)["x"]
        bound()
        assert bound.outputs["y"].shape == (count,)
        assert np.array_equal(bound.outputs["y"], inputs["x"][inputs["x"] > 0])
        assert count == 0 or np.shares_memory(bound.outputs["y"], room)
    with pytest.raises(InputError, match="must be"):
        session.bind(x=inputs["x"], y=np.zeros(5, np.float32))()


def test_gradients_flow_through_what_is_kept() -> None:
    """The sum of squares of the positive elements: 2 x there, else 0."""
    b, y, _ = positive_part()
    loss = b("reduce_sum", b("mul", y, y), axes=(0,))
    graph = gradient_graph(b.build([loss], ["loss"]), "loss", ["x"])
    session = Session.in_process(compile_graph(graph).image)
    for count in (5, 0):
        x = values(count)["x"]
        assert np.array_equal(agree(graph, session, {"x": x})[1], 2 * np.maximum(x, 0))


def test_levels_share_a_file(tmp_path: Path) -> None:
    graph = several()
    compile_graph(graph, Options(cpu="x86-64-v2,x86-64-v4")).save(tmp_path / "two.so")
    session = load(tmp_path / "two.so")
    for count in (5, 0, 12):
        agree(graph, session, values(count))


def test_counts_outside_their_bounds() -> None:
    b = Builder("told")
    count = b.input(TensorType(INT64), "count")
    b("data_dim", count, extent=Dim.of(S), bound=12)
    graph = b.build([b("broadcast", b.number(1.0, FLOAT32), shape=(Dim.of(S),))])
    session = Session.in_process(compile_graph(graph).image)
    assert session(np.int64(12)).shape == (12,)
    for wrong in (13, -1, 1 << 62):
        with pytest.raises(InputError, match=f"would be {wrong}; data may decide it from 0 to 12"):
            session(np.int64(wrong))
        with pytest.raises(InputError, match=f"is {wrong}, outside 0..12"):
            interpret(graph, {"count": np.int64(wrong)})
    assert session(np.int64(0)).shape == (0,)


def test_other_targets_refuse_by_name() -> None:
    pytest.importorskip("numba.cuda")
    from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, plan

    with pytest.raises(UnsupportedOpError, match="count: there is no code for data_dim"):
        plan({"run": several()}, PIPELINE, CudaOptions(), None)


MAIN = """
#include <dlfcn.h>
#include <stdio.h>
#include "positive.h"
int main(void) {
    const nl_api *(*get)(uint32_t) = dlsym(dlopen("./positive.so", RTLD_NOW), "nl_get_api");
    const nl_api *api = get(1);
    nl_model *model; nl_context *context; char error[1024];
    if (api->open(&model, error, 1024) || api->context_create(model, NULL, &context, error, 1024))
        return 1;
    float x[12] = {1, -1, 2, -2, 3}, y[12];
    int64_t shape[1];
    int32_t code = positive_run(context, x, y, shape);
    printf("%d %d %g %g %g\\n", code, (int)shape[0], y[0], y[1], y[2]);
    api->context_destroy(context);
    api->close(model);
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed")
def test_c_callers_receive_the_shape(tmp_path: Path) -> None:
    b, y, _ = positive_part()
    compile_graph(b.build([y], ["y"])).save(tmp_path / "positive.so")
    (tmp_path / "main.c").write_text(MAIN)
    command = ["cc", "-Wall", "-Werror", "-o", "main", "main.c", "-ldl"]
    subprocess.run(command, cwd=tmp_path, check=True)
    made = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert made.stdout == "0 3 1 2 3\n"


# -- every op --------------------------------------------------------------------------------------

# they have no meaning where the dim is smaller than the indices of their rows, or zero
INDEXED = {
    "gather", "gather_elements", "gather_gradient", "scatter", "scatter_last", "scatter_source",
    "cross_entropy",
    "inverse_positions", "max_pool_gradient", "argmax", "argmin",
}  # fmt: skip


def over_a_data_dim(
    case: Case, b: Builder, dim_: Dim
) -> tuple[Value, dict[str, np.ndarray]] | None:
    """A row of the table of ops with the data dim in place of its free dim, and its inputs, cut to
    that dim; None for a row without one, or with a body of its own free dim.
    """
    renamed = {FREE: dim_}
    types = [map_extents(given.type, renamed) for given in case.inputs]
    if case.op in INDEXED or types == [given.type for given in case.inputs]:
        return None
    if any(isinstance(value, Graph) for value in case.attrs.values()):
        return None
    values, feeds = [], {}
    for place, (type_, given) in enumerate(zip(types, case.inputs, strict=True)):
        whole = type_.evaluate({"kept_0": 5})
        x = b.input(TensorType(type_.dtype, whole), f"{len(b.inputs)}_x{place}")
        domain = "label:3" if given.domain == "max_pool" else given.domain
        drawn = draw(domain, np.random.default_rng(place), whole, type_.dtype, place)
        feeds[x.label] = np.asarray(drawn).astype(type_.dtype.numpy)
        cut = {"start": (0,) * len(whole), "size": type_.shape, "step": (1,) * len(whole)}
        values.append(b("slice", x, **cut) if whole != type_.shape else x)
    attrs = {name: map_extents(value, renamed) for name, value in case.attrs.items()}
    return b(case.op, *values, **attrs), feeds


def test_ops_over_a_data_dim(shapes: int) -> None:
    """Rows of the table of ops, for every number of elements: every tenth, all with --shapes 300."""
    b, kept = Builder("ops"), Dim.of(Symbol("kept_0", 0, 5))
    b("data_dim", b.input(TensorType(INT64), "count"), extent=kept, bound=5)
    made = [over_a_data_dim(case, b, kept) for case in CASES[:: max(1, 300 // shapes)]]
    found = [item for item in made if item is not None]
    graph = b.build([value for value, _ in found])
    feeds = {name: array for _, given in found for name, array in given.items()}
    session = Session.in_process(compile_graph(graph).image, 2)
    for count in (5, 0, 1, 3):
        given = {**feeds, "count": np.int64(count)}
        for value, a, c in zip(
            graph.outputs, interpret(graph, given), session.run(None, given), strict=True
        ):
            assert a.shape == c.shape, value
            close = np.allclose(a.astype(float), c.astype(float), 1e-2, 1e-2, equal_nan=True)
            assert close, (count, graph.producers[value])
