"""Row kernels: one kernel for several reductions over the same rows, right for rows of every
length, NaN and infinities among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import Compiled, Options, compile_graph, plan_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.loops.ir import LaneFold, Load, Store, walk
from netloom.compiler.loops.row_form import FEW_ROWS, LONG_ROW, row_form
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.op import OPS, Array
from netloom.compiler.scalar import Call, post_order
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, INT64, DType, TensorType
from netloom.runtime.session import Session
from tests import oracle

LENGTHS = (1, 7, 16, 100, 1000, 4099)
# op -> inputs behind x, as shapes by the length of a row, and attributes
NORMS: dict[str, tuple[int, dict[str, Any]]] = {
    "softmax": (0, {"axis": 1}),
    "log_softmax": (0, {"axis": 1}),
    "layer_norm": (2, {"axis": 1, "epsilon": 1e-5}),
    "rms_norm": (1, {"axis": 1, "epsilon": 1e-5}),
}


def graph_of(
    op: str, shape: tuple[Extent, ...], vectors: int, length: Extent, dtype: DType, **attrs: Any
) -> Graph:
    b = Builder(op)
    inputs = [
        b.input(TensorType(dtype, s), f"x{i}")
        for i, s in enumerate([shape, *[(length,)] * vectors])
    ]
    return b.build([b(op, *inputs, **attrs)], ["y"])


def run(compiled: Compiled, arrays: list[Array], threads: int = 1) -> Array:
    session = Session.in_process(compiled.image, threads=threads)
    (found,) = session.run(None, {f"x{i}": array for i, array in enumerate(arrays)})
    return found


def kernels(graph: Graph) -> int:
    return sum(
        launch.kernel != ""
        for entry in plan_graph(graph).program.entries
        for launch in entry.launches
    )


def check(op: str, found: Array, arrays: list[Array], terms: int, **attrs: Any) -> None:
    """A lane adds up a sixteenth of a row; what is made of the sums takes some roundings more."""
    wide = [array.astype(np.float64) for array in arrays]
    with np.errstate(all="ignore"):
        expected, _ = oracle.expected(op, wide, attrs)
    finite = np.isfinite(expected)
    room = np.finfo(found.dtype).eps * (terms / 16 + 16) * np.abs(expected[finite]).max(initial=1.0)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.array_equal(found[~finite], expected[~finite].astype(found.dtype), equal_nan=True)
    assert float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) <= room


@pytest.mark.parametrize(
    ("op", "dtype"),
    [*((op, FLOAT32) for op in NORMS), ("softmax", FLOAT64), ("layer_norm", FLOAT64)],
)
def test_rows_of_every_length(op: str, dtype: DType) -> None:
    """All lengths in one program, which costs least."""
    vectors, attrs = NORMS[op]
    b, rng = Builder(op), np.random.default_rng(3)
    arrays = [
        [rng.standard_normal(s).astype(dtype.numpy) * 3 for s in [(19, k), *[(k,)] * vectors]]
        for k in LENGTHS
    ]
    inputs = [
        [b.input(TensorType(dtype, a.shape), f"x{k}_{i}") for i, a in enumerate(row)]
        for k, row in enumerate(arrays)
    ]
    graph = b.build([b(op, *row, **attrs) for row in inputs])
    feeds = {
        value.label: array
        for values, row in zip(inputs, arrays, strict=True)
        for value, array in zip(values, row, strict=True)
    }
    for found, row in zip(
        Session.in_process(compile_graph(graph).image).run(None, feeds), arrays, strict=True
    ):
        check(op, found, row, row[0].shape[1], **attrs)


@pytest.mark.parametrize("op", NORMS)
def test_free_rows(op: str) -> None:
    """Neither the number of rows nor their length is known when compiling."""
    vectors, attrs = NORMS[op]
    n, length = symbol("N", 1), symbol("M", 1)
    compiled = compile_graph(graph_of(op, (n, length), vectors, length, FLOAT32, **attrs))
    rng = np.random.default_rng(4)
    for rows, width in ((1, 1), (3, 7), (17, 16), (2, 100), (9, 1000), (2, 20000)):
        arrays = [
            rng.standard_normal(s).astype(np.float32)
            for s in [(rows, width), *[(width,)] * vectors]
        ]
        check(op, run(compiled, arrays), arrays, width, **attrs)


def test_masked_rows_of_free_axes() -> None:
    """A mask for each image, of the length of a row: softmax over it is one kernel, in which loops
    bind the axes of the rows, and makes each exponential once."""
    n, length = symbol("N", 1), symbol("T", 1)
    b = Builder("masked")
    shape = (n, 3, length, length)
    scores, mask = (
        b.input(TensorType(FLOAT32, s), name)
        for name, s in (("x0", shape), ("x1", (n, 1, 1, length)))
    )
    graph = b.build([b("softmax", b("add", scores, b("broadcast", mask, shape=shape)), axis=3)])
    assert kernels(graph) == 1
    compiled = compile_graph(graph)
    assert (
        compiled.as_text("loops").count("exp(") == 4
    )  # of chunks, of what is left: whole ones, single ones, the last
    rng = np.random.default_rng(8)
    for images, width in ((1, 1), (2, 7), (1, 16), (2, 17), (1, 70), (1, 131)):
        arrays = [
            rng.standard_normal(s).astype(np.float32) * 3
            for s in ((images, 3, width, width), (images, 1, 1, width))
        ]
        check("softmax", run(compiled, arrays), [arrays[0] + arrays[1]], width, axis=3)


@pytest.mark.parametrize(
    ("op", "length"), [("softmax", 7), ("softmax", 20), ("softmax", 100), ("layer_norm", 20)]
)
def test_rows_with_nan_and_infinities(op: str, length: int) -> None:
    """They reach their own row and no other, which in lanes of neighbouring rows is not a matter of
    course."""
    vectors, attrs = NORMS[op]
    arrays = [
        np.random.default_rng(5).standard_normal(s).astype(np.float32)
        for s in [(21, length), *[(length,)] * vectors]
    ]
    arrays[0][2, 3], arrays[0][4, 0], arrays[0][6, length - 1] = np.nan, np.inf, -np.inf
    arrays[0][8], arrays[0][20, 1] = -np.inf, np.nan
    compiled = compile_graph(graph_of(op, (21, length), vectors, length, FLOAT32, **attrs))
    check(op, run(compiled, arrays), arrays, length, **attrs)


@pytest.mark.parametrize("length", [5, 48, 300])
def test_threads_do_not_change_bits(length: int) -> None:
    x = np.random.default_rng(6).standard_normal((999, length)).astype(np.float32)
    compiled = compile_graph(graph_of("softmax", (999, length), 0, length, FLOAT32, axis=1))
    assert run(compiled, [x], 1).tobytes() == run(compiled, [x], 3).tobytes()


def test_groups_of_channels() -> None:
    """Scales lie along the channels of a row: it is walked channel by channel where they are
    read."""
    rng = np.random.default_rng(7)
    for op, attrs in (
        ("group_norm", {"groups": 3, "epsilon": 1e-5}),
        ("instance_norm", {"epsilon": 1e-5}),
    ):
        b = Builder(op)
        arrays = [rng.standard_normal(s).astype(np.float32) for s in ((2, 12, 9, 11), (12,), (12,))]
        inputs = [
            b.input(TensorType(FLOAT32, array.shape), f"x{i}") for i, array in enumerate(arrays)
        ]
        graph = b.build([b(op, *inputs, **attrs)], ["y"])
        assert kernels(graph) == 1
        check(op, run(compile_graph(graph), arrays), arrays, 4 * 99, **attrs)


def test_rows_of_short_parts() -> None:
    """What is kept in the output lies in vectors of fewer elements than lanes."""
    rng = np.random.default_rng(9)
    x, v, scale, bias = (
        rng.standard_normal(s).astype(np.float32) for s in ((3, 17, 8), (8,), (17, 8), (17, 8))
    )
    b = Builder("parts")
    values = [
        b.input(TensorType(FLOAT32, a.shape), f"x{i}") for i, a in enumerate((x, v, scale, bias))
    ]
    made = b("exp", b("mul", values[0], values[1]))
    graph = b.build([b("layer_norm", made, *values[2:], axis=1, epsilon=1e-5)], ["y"])
    found = run(compile_graph(graph), [x, v, scale, bias])
    check("layer_norm", found, [np.exp(x * v), scale, bias], 17 * 8, axis=1, epsilon=1e-5)


@pytest.mark.parametrize("op", NORMS)
@pytest.mark.parametrize(
    "shape", [(40, 10), (40, 50), (40, 1000), (symbol("N", 1), symbol("M", 1))], ids=str
)
def test_a_norm_is_one_kernel(op: str, shape: tuple[Extent, ...]) -> None:
    vectors, attrs = NORMS[op]
    assert kernels(graph_of(op, shape, vectors, shape[1], FLOAT32, **attrs)) == 1


def test_a_loss_is_two_kernels() -> None:
    """One for everything along the classes, one for the mean over samples."""
    b = Builder("loss")
    logits = b.input(TensorType(FLOAT32, (64, 100)), "x")
    labels = b.input(TensorType(INT64, (64,)), "labels")
    assert kernels(b.build([b("cross_entropy", logits, labels)], ["y"])) == 2


# -- what is kept, and what stays apart ------------------------------------------------------------


def body_of(graph: Graph) -> Graph:
    (node,) = [n for n in plan_graph(graph).graphs["run"].nodes if n.op is OPS["kernel"]]
    body: Graph = node.attrs.body
    return body


def exponentials(graph: Graph) -> int:
    (kernel,) = plan_graph(graph).program.kernels.values()
    values = [s.value for s in walk(kernel.body) if isinstance(s, Store)]
    loads = [
        e for e in post_order(values) if isinstance(e, Load) and e.buffer is kernel.buffers[-1]
    ]
    assert any(isinstance(e, LaneFold) for e in post_order(values)), print_kernel(kernel)
    calls = [e for e in post_order(values) if isinstance(e, Call) and e.function == "exp"]
    return len(calls) if loads else -len(calls)


def test_exponentials_are_kept_in_the_output() -> None:
    """One for the vectors of four, one for the single ones, one for the tail; where the length is
    free, one for the vectors of a chunk besides."""
    assert exponentials(graph_of("softmax", (9, 105), 0, 105, FLOAT32, axis=1)) == 3
    n = symbol("N", 1)
    assert exponentials(graph_of("softmax", (9, n), 0, n, FLOAT32, axis=1)) == 4


def apart(make: Any, *shape: int) -> list[str]:
    """The last op of each kernel."""
    b = Builder("apart")
    graph = b.build([make(b, b.input(TensorType(FLOAT32, shape), "x0"))], ["y"])
    bodies = [
        node.attrs.body
        for node in plan_graph(graph).graphs["run"].nodes
        if node.op is OPS["kernel"]
    ]
    return [body.nodes[-1].op.name for body in bodies]


def centred(axis: int) -> Any:
    def make(b: Builder, x: Value) -> Value:
        return b("sub", b("exp", x), b("reduce_max", x, axes=(axis,), keep=True))

    return make


def test_reductions_of_other_axes_stay_apart() -> None:
    assert apart(centred(1), 20, 30) == ["sub"]
    assert apart(centred(0), 20, 30) == ["reduce_max", "sub"]


def test_few_long_rows_are_shared_out_by_element() -> None:
    assert apart(centred(1), FEW_ROWS - 1, LONG_ROW + 1) == ["reduce_max", "sub"]
    assert apart(centred(1), FEW_ROWS, LONG_ROW + 1) == ["sub"]


def test_a_transposed_reader_stays_apart() -> None:
    """It would walk a column for every row."""

    def make(b: Builder, x: Value) -> Value:
        top = b("reduce_max", x, axes=(1,), keep=True)
        return b("add", b("sub", x, top), b("transpose", b("exp", x), permutation=(1, 0)))

    assert len(apart(make, 30, 30)) == 2


def test_forms_of_plain_reductions_are_none() -> None:
    b = Builder("sum")
    body = body_of(
        b.build([b("reduce_sum", b.input(TensorType(FLOAT32, (20, 30)), "x0"), axes=(1,))], ["y"])
    )
    assert row_form(body) is None
    b = Builder("softmax")
    body = body_of(
        b.build([b("softmax", b.input(TensorType(FLOAT32, (20, 30)), "x0"), axis=1)], ["y"])
    )
    form = row_form(body)
    assert form is not None and (form.count, form.length, len(form.reductions)) == (20, 30, 2)


def test_options_reach_the_kernels() -> None:
    """Every CPU level has the same items and the same order of sums."""
    graph = graph_of("softmax", (40, 105), 0, 105, FLOAT32, axis=1)
    digests = {
        cpu: list(plan_graph(graph, Options(cpu=cpu)).kernels.digests.values())
        for cpu in ("x86-64", "x86-64-v4")
    }
    assert digests["x86-64"] == digests["x86-64-v4"]
