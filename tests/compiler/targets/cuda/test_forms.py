"""Each form of kernel on awkward shapes, graph -> PTX -> emulator, against the graph's interpreter
in float64.

Tolerances are derived: eps (k + 1) c S with k the terms of a sum, S the product of the largest
inputs, c = 8 roundings. Sums of small integers are exact in float32, and must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, plan
from netloom.compiler.targets.cuda.forms import Form, Pointwise, Product, RowPasses, Rows, Transform
from netloom.compiler.targets.cuda.source import KernelSource
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, INT64, TensorType
from tests.compiler.loops.cases import masked
from tests.compiler.targets.cuda import emulated
from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import MemoryFault

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]


def forms_of(graph: Graph) -> list[Form]:
    _, placement, _ = plan({"run": graph}, PIPELINE)
    return [kernel.form for kernel in placement.forms.values()]


def integers(
    graph: Graph, dims: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, Array]:
    """Small integers for every input: sums of a few thousand products of them are exact."""
    rng = np.random.default_rng(seed)
    return {
        v.label: rng.integers(-8, 9, v.type.evaluate(dims or {})).astype(v.dtype.numpy)
        for v in graph.inputs
    }


def check_exactly(graph: Graph, dims: Mapping[str, int] | None = None) -> None:
    inputs = integers(graph, dims)
    for found, wanted in zip(
        emulated.run(graph, inputs, dims), interpret(graph, inputs), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


# -- products --------------------------------------------------------------------------------------


def matmul(left: tuple[int, ...], right: tuple[int, ...], **attrs: Any) -> Graph:
    b = Builder("matmul")
    return b.build(
        [
            b(
                "matmul",
                b.input(TensorType(FLOAT32, left), "x"),
                b.input(TensorType(FLOAT32, right), "w"),
                **attrs,
            )
        ]
    )


MATMULS = [
    matmul((16, 8), (8, 16)), matmul((65, 33), (33, 70)), matmul((130, 17), (17, 129)),
    matmul((64, 16), (64, 16), transpose_b=True),
    matmul((1100, 17), (1100, 31), transpose_a=True), matmul((3, 20, 9), (3, 9, 66)),
    matmul((2, 1, 19, 12), (5, 12, 17)),
    matmul((40, 513), (513, 16)),
    matmul((3, 9, 21), (3, 40, 9), transpose_a=True, transpose_b=True),
]  # fmt: skip


@pytest.mark.parametrize("graph", MATMULS, ids=lambda g: " ".join(str(v.type) for v in g.inputs))
def test_matmuls(graph: Graph) -> None:
    assert type(forms_of(graph)[0]) is Product  # and the sum of its parts, if it has parts
    check_exactly(graph)


def check_first_product(graph: Graph, source: KernelSource, blocks: int) -> None:
    """So many blocks make the first of the batch's products, exactly, and nothing of the others."""
    inputs = integers(graph)
    y = np.full((128, 128, 129), np.nan, np.float32)
    emulate(
        compile_kernel(source, ()).ptx,
        blocks,
        source.threads,
        [inputs["x"], inputs["w"], y, np.zeros(1, np.int32)],
        inputs=2,
        flag=3,
    )
    np.testing.assert_array_equal(y[0], inputs["x"][0] @ inputs["w"][0])
    assert np.isnan(y[1:]).all()


def test_a_large_tile() -> None:
    """128 blocks of 128 x 128 fill a device: of a batch this large only the last few are
    computed here.
    """
    graph = matmul((128, 128, 9), (128, 9, 129))
    (form,) = forms_of(graph)
    assert isinstance(form, Product) and form.tile.rows == 128
    _, placement, _ = plan({"run": graph}, PIPELINE)
    (source,) = placement.sources.values()
    check_first_product(graph, source, 2)


CONVOLUTIONS = [  # x, w, and attributes: each gives the convolution and both its gradients
    ((2, 5, 9, 8), (17, 5, 3, 3), {"lo": (1, 1), "hi": (1, 1)}),
    ((1, 16, 6, 7), (20, 16, 1, 1), {}),
    ((3, 4, 11, 10), (18, 4, 3, 2),
     {"stride": (2, 1), "dilation": (1, 2), "lo": (2, 0), "hi": (0, 3)}),
    ((2, 32, 5, 6), (34, 16, 3, 3), {"groups": 2, "lo": (1, 1), "hi": (1, 1)}),
    ((4, 3, 23), (16, 3, 5), {"stride": (3,), "lo": (2,), "hi": (1,)}),
    ((1, 2, 5, 6, 7), (16, 2, 2, 3, 2), {"lo": (0, 1, 1), "hi": (1, 1, 0)}),
]  # fmt: skip


def convolutions(x: tuple[int, ...], w: tuple[int, ...], attrs: Mapping[str, Any]) -> list[Graph]:
    rank = len(w) - 2
    full = {
        "stride": (1,) * rank,
        "dilation": (1,) * rank,
        "lo": (0,) * rank,
        "hi": (0,) * rank,
        "groups": 1,
        **attrs,
    }
    b = Builder("conv")
    forward = b.build(
        [
            b(
                "conv",
                b.input(TensorType(FLOAT32, x), "x"),
                b.input(TensorType(FLOAT32, w), "w"),
                **full,
            )
        ]
    )
    y = forward.outputs[0].type
    b = Builder("input_gradient")
    dx = b(
        "conv_input_gradient",
        b.input(y, "y"),
        b.input(TensorType(FLOAT32, w), "w"),
        **full,
        spatial=x[2:],
    )
    by_input = b.build([dx])
    b = Builder("weight_gradient")
    dw = b(
        "conv_weight_gradient",
        b.input(TensorType(FLOAT32, x), "x"),
        b.input(y, "y"),
        **full,
        kernel=w[2:],
    )
    return [forward, by_input, b.build([dw])]


@pytest.mark.parametrize(("x", "w", "attrs"), CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["forward", "input_gradient", "weight_gradient"])
def test_convolutions(
    which: int, x: tuple[int, ...], w: tuple[int, ...], attrs: Mapping[str, Any]
) -> None:
    check_exactly(convolutions(x, w, attrs)[which])


def test_convolutions_are_products() -> None:
    found = [type(forms_of(graph)[0]) for row in CONVOLUTIONS for graph in convolutions(*row)]
    assert found.count(Product) == 13, found  # the others have fewer than 16 rows or columns


def test_an_epilogue_happens_in_registers() -> None:
    b = Builder("epilogue")
    x, w = b.input(TensorType(FLOAT32, (33, 20)), "x"), b.input(TensorType(FLOAT32, (20, 19)), "w")
    bias, other = (
        b.input(TensorType(FLOAT32, (19,)), "bias"),
        b.input(TensorType(FLOAT32, (33, 19)), "other"),
    )
    graph = b.build([b("relu", b("add", b("add", b("matmul", x, w), bias), other))])
    assert [type(form) for form in forms_of(graph)] == [Product]
    check_exactly(graph)


def test_products_of_any_numbers_keep_the_tolerance() -> None:
    for graph in (MATMULS[1], MATMULS[4], *convolutions(*CONVOLUTIONS[0])):
        rng = np.random.default_rng(1)
        inputs = {
            v.label: rng.standard_normal(v.type.evaluate({})).astype(np.float32)
            for v in graph.inputs
        }
        wide = interpret_in_float64(graph, inputs)
        k = 1 + max(array.size for array in inputs.values()) // 8
        bound = (
            np.finfo(np.float32).eps
            * 8
            * (min(k, 1100) + 1)
            * np.prod([np.abs(a).max() for a in inputs.values()])
        )
        (found,) = emulated.run(graph, inputs)
        assert np.abs(found - wide).max() <= bound


def interpret_in_float64(graph: Graph, inputs: Mapping[str, Array]) -> Array:
    b = Builder("wide")
    values = [b.input(v.type.with_dtype(FLOAT64), v.label) for v in graph.inputs]
    (node,) = graph.nodes
    wide = b.build(
        [
            b(
                node.op.name,
                *values,
                **{f: getattr(node.attrs, f) for f in node.attrs.__dataclass_fields__},
            )
        ]
    )
    return interpret(wide, {name: array.astype(np.float64) for name, array in inputs.items()})[0]


# -- rows ------------------------------------------------------------------------------------------


def reduction(shape: tuple[int, ...], axes: tuple[int, ...], op: str = "reduce_sum") -> Graph:
    b = Builder("reduction")
    return b.build([b(op, b.input(TensorType(FLOAT32, shape), "x"), axes=axes, keep=False)])


ROWS = [  # shape, reduced axes, lanes that share a sum, whether neighbours take neighbouring rows
    ((300, 7), (1,), 1, True), ((3, 40), (1,), 32, False), ((5, 300), (1,), 128, False),
    ((2, 5000), (1,), 256, False),
    ((700, 5), (0,), 8, True), ((70000, 2), (1,), 1, True), ((2, 33, 700), (1,), 8, True),
    ((140001,), (0,), 256, False),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axes", "lanes", "is_adjacent"), ROWS, ids=str)
def test_rows(shape: tuple[int, ...], axes: tuple[int, ...], lanes: int, is_adjacent: bool) -> None:
    graph = reduction(shape, axes)
    (form,) = forms_of(graph)
    assert isinstance(form, Rows) and (form.lanes, form.rows_are_adjacent) == (lanes, is_adjacent)
    check_exactly(graph)


def norm(op: str, shape: tuple[Extent, ...], vectors: int = 0, **attrs: Any) -> Graph:
    b = Builder(op)
    inputs = [
        b.input(TensorType(FLOAT32, s), f"x{i}")
        for i, s in enumerate([shape, *[shape[1:2]] * vectors])
    ]
    return b.build([b(op, *inputs, **attrs)])


N, M = symbol("N", 1), symbol("M", 1)
PASSES = [  # graph, free dims, lanes that share a row
    (norm("softmax", (300, 7), axis=1), {}, 1), (norm("softmax", (9, 40), axis=1), {}, 32),
    (norm("log_softmax", (5, 300), axis=1), {}, 128),
    (norm("layer_norm", (2, 700), 2, axis=1), {}, 256),
    (norm("rms_norm", (8, 132000), 1, axis=1), {}, 256),
    (norm("softmax", (N, M), axis=1), {"N": 17, "M": 33}, 1),
    (norm("group_norm", (2, 6, 3, 7), 2, groups=2), {}, 32),
]  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "dims", "lanes"), PASSES, ids=lambda part: getattr(part, "name", str(part))
)
def test_passes_over_rows(graph: Graph, dims: Mapping[str, int], lanes: int) -> None:
    """All reductions of a row in one kernel; the emulator would find a missing barrier."""
    (form,) = forms_of(graph)
    assert isinstance(form, RowPasses) and form.lanes == lanes
    rng = np.random.default_rng(1)
    inputs = {
        v.label: rng.standard_normal(v.type.evaluate(dims)).astype(np.float32) for v in graph.inputs
    }
    wide, (found,) = interpret_in_float64(graph, inputs), emulated.run(graph, inputs, dims)
    terms = wide.size // wide.shape[0] // lanes + 8
    assert (
        np.abs(found - wide).max()
        <= np.finfo(np.float32).eps * 8 * (min(terms, 1100) + 1) * np.abs(wide).max()
    )


def test_passes_over_rows_with_masks() -> None:
    """Free dims stand between the axes of the rows, and each image has a mask."""
    graph, rng = masked(), np.random.default_rng(4)
    assert [type(form) for form in forms_of(graph)] == [RowPasses]
    scores, mask = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 19, 19), (2, 1, 1, 19))
    )
    (found,) = emulated.run(graph, {"x": scores, "m": mask}, {"N": 2, "M": 19})
    wanted = np.exp(scores.astype(np.float64) + mask)
    wanted /= wanted.sum(axis=3, keepdims=True)
    assert np.abs(found - wanted).max() <= np.finfo(np.float32).eps * 19


def test_passes_that_give_one_number_a_row() -> None:
    b = Builder("numbers")
    x = b.input(TensorType(FLOAT32, (5, 80)), "x")
    top = b("reduce_max", x, axes=(1,), keep=True)
    total = b("reduce_sum", b("exp", b("sub", x, top)), axes=(1,), keep=True)
    graph = b.build([b("add", b("log", total), top)])
    assert [form.is_row for form in forms_of(graph) if isinstance(form, RowPasses)] == [False]
    numbers = np.random.default_rng(2).standard_normal((5, 80)).astype(np.float32)
    wanted = np.log(np.exp(numbers.astype(np.float64)).sum(axis=1, keepdims=True))
    (found,) = emulated.run(graph, {"x": numbers})
    assert (
        np.abs(found - wanted).max()
        <= np.finfo(np.float32).eps * 8 * (80 // 32 + 8) * np.abs(wanted).max()
    )


@pytest.mark.parametrize("op", ["reduce_max", "reduce_min", "reduce_product"])
def test_rows_of_other_combinations(op: str) -> None:
    x = np.random.default_rng(0).choice([0.5, 1.0, -1.0, 2.0, -3.0], (9, 66)).astype(np.float32)
    x[:, 20:] = np.sign(x[:, 20:])
    graph = reduction((9, 66), (1,), op)
    np.testing.assert_array_equal(emulated.run(graph, {"x": x})[0], interpret(graph, {"x": x})[0])


# -- the other forms -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (255,), (257,), (3, 1, 5, 7), (), (0, 4)], ids=str)
def test_pointwise(shape: tuple[int, ...]) -> None:
    b = Builder("pointwise")
    x, y = b.input(TensorType(FLOAT32, shape), "x"), b.input(TensorType(FLOAT32, ()), "y")
    graph = b.build([b("relu", b("sub", b("mul", x, x), y))])
    assert [type(form) for form in forms_of(graph)] == [Pointwise]
    check_exactly(graph)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(
    ("c", "h", "w", "lo"),
    [
        (3, 6, 6, (1, 1)),
        (5, 9, 4, (0, 2)),
        (1, 1, 1, (1, 1)),
        (33, 5, 7, (1, 0)),
        (2, 13, 8, (0, 0)),
    ],
)
def test_transforms(m: int, c: int, h: int, w: int, lo: tuple[int, int]) -> None:
    """Halves and quarters of small integers: F(2) is exact, F(4) nearly."""
    down, across = (max(-(-(extent + low) // m), 1) for extent, low in zip((h, w), lo, strict=True))
    b = Builder("transforms")
    x = b.input(TensorType(FLOAT32, (2, c, h, w)), "x")
    form = {"m": (m, m), "taps": (3, 3)}
    v = b("winograd_input", x, **form, lo=lo, counts=(down, across))
    y = b(
        "relu", b("winograd_output", v, **form, shape=(2, c, down * m - (down * m > 1), across * m))
    )
    graph = b.build([v, y])
    assert [type(form) for form in forms_of(graph)] == [Transform, Transform]
    inputs = integers(graph)
    for found, wanted in zip(emulated.run(graph, inputs), interpret(graph, inputs), strict=True):
        np.testing.assert_allclose(
            found, wanted, rtol=0, atol=0 if m == 2 else 1e-6 * np.abs(wanted).max()
        )


@pytest.mark.parametrize("shape", [(7, 3), (1, 300), (33, 33), (5, 2, 3), (257,)], ids=str)
def test_layout(shape: tuple[int, ...]) -> None:
    b = Builder("layout")
    x = b.input(TensorType(FLOAT32, shape), "x")
    turned = b("transpose", x, permutation=tuple(reversed(range(len(shape)))))
    padded = b("pad", turned, lo=(1,) * len(shape), hi=(2,) * len(shape), value=3.0)
    graph = b.build(
        [b("reshape", turned, shape=(int(np.prod(shape)),)), b("concat", padded, padded, axis=0)]
    )
    check_exactly(graph)


@pytest.mark.parametrize(
    ("rows", "columns", "picked"), [(5, 3, 4), (1, 1, 1), (9, 300, 2), (300, 2, 257), (2, 2, 0)]
)
def test_indexing(rows: int, columns: int, picked: int) -> None:
    b = Builder("indexing")
    table, at = (
        b.input(TensorType(FLOAT32, (rows, columns)), "table"),
        b.input(TensorType(INT64, (picked,)), "at"),
    )
    found = b("gather", table, at, axis=0)
    graph = b.build([found, b("gather_gradient", found, at, axis=0, extent=rows)])
    rng = np.random.default_rng(0)
    inputs = {
        "table": rng.integers(-9, 9, (rows, columns)).astype(np.float32),
        "at": rng.integers(-rows, rows, picked),
    }
    for result, wanted in zip(emulated.run(graph, inputs), interpret(graph, inputs), strict=True):
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("index", [5, -6, 2**40])
def test_an_index_out_of_range_is_noted_and_reads_nothing(index: int) -> None:
    b = Builder("indexing")
    table, at = (
        b.input(TensorType(FLOAT32, (5, 3)), "table"),
        b.input(TensorType(INT64, (2,)), "at"),
    )
    graph = b.build([b("gather", table, at, axis=0)])
    with pytest.raises(emulated.IndexFault):
        emulated.run(graph, {"table": np.zeros((5, 3), np.float32), "at": np.array([0, index])})


# -- faults in compiled kernels are found ----------------------------------------------------------


def barriers(ptx: str) -> int:
    return ptx.count("bar.sync")


def without_barrier(ptx: str, number: int) -> str:
    parts = ptx.split("bar.sync \t0;")
    assert len(parts) == barriers(ptx) + 1
    return "bar.sync \t0;".join(parts[: number + 1]) + "".join(parts[number + 1 : number + 2]) + "".join(
        "bar.sync \t0;" + part for part in parts[number + 2 :])  # fmt: skip


@pytest.mark.parametrize(
    "graph", [matmul((65, 66), (66, 70)), reduction((5, 300), (1,))], ids=["product", "rows"]
)
def test_each_barrier_is_needed(graph: Graph) -> None:
    """Of a product whose last slice lies where its result is exchanged, too."""
    ((_, ptx),) = emulated.ptx_of(graph).items()
    assert barriers(ptx) >= 3
    for number in range(barriers(ptx)):
        with pytest.raises(MemoryFault, match="race|never written|barrier"):
            launch(graph, without_barrier(ptx, number))


def launch(graph: Graph, ptx: str, change: Mapping[str, int] | None = None) -> None:
    """One kernel over buffers of the right size, or that many elements more or less."""
    (program, placement, _) = plan({"run": graph}, PIPELINE)
    inputs = [*integers(graph).values()]
    out = np.zeros(graph.outputs[0].type.evaluate({}), np.float32)
    arrays = [
        array.reshape(-1)[: array.size + (change or {}).get(name, 0)].copy()
        for name, array in zip(
            [*(v.label for v in graph.inputs), "out"], [*inputs, out], strict=True
        )
    ]
    ((_, form),) = placement.forms.items()
    assert isinstance(form.items, int)
    emulate(
        ptx, form.items, 256, [*arrays, np.zeros(1, np.int32)], inputs=len(inputs), flag=len(arrays)
    )


@pytest.mark.parametrize("buffer", ["x", "w", "out"])
def test_a_buffer_one_element_short_is_found(buffer: str) -> None:
    graph = MATMULS[1]
    ((_, ptx),) = emulated.ptx_of(graph).items()
    launch(graph, ptx)
    with pytest.raises(MemoryFault, match="an access at byte"):
        launch(graph, ptx, {buffer: -1})


def test_a_wrong_bound_is_found() -> None:
    """The guard of the last thread, one too far."""
    graph = reduction((300, 7), (1,))
    ((_, ptx),) = emulated.ptx_of(graph).items()
    wrong = ptx.replace(", 299;", ", 300;").replace(", 300;", ", 301;", 1)
    assert wrong != ptx
    with pytest.raises(MemoryFault, match="an access at byte"):
        launch(graph, wrong)
