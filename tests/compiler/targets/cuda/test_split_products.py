"""Products with few tiles, cut into parts: the same numbers as whole ones, in two kernels
without atomics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.devices import BLOCKS
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import CHAIN, Product, blocks, count
from netloom.compiler.tensor_type import FLOAT16, FLOAT32, TensorType
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.test_forms import convolutions, integers, matmul
from tests.ptx_emulator.machine import emulate

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]


def products(graph: Graph, precision: str = "f32") -> list[Product]:
    _, placement, _ = plan({"run": graph}, PIPELINE, CudaOptions(precision, override="direct"))
    return [kernel.form for kernel in placement.forms.values() if isinstance(kernel.form, Product)]


def parts(form: Product) -> Any:
    return form.part.extent if form.part else 1


def epilogue() -> Graph:
    """A view before the product, and behind it a bias, a value that both kernels read, and a
    rounding.
    """
    b = Builder("epilogue")
    x, w = b.input(TensorType(FLOAT32, (20, 35)), "x"), b.input(TensorType(FLOAT32, (700, 17)), "w")
    bias = b.input(TensorType(FLOAT32, (17,)), "bias")
    wide = b("reshape", b.input(TensorType(FLOAT32, (4, 5, 700)), "v"), shape=(20, 700))
    y = b("relu", b("add", b("matmul", wide, w), bias))
    return b.build(
        [b("cast", b("mul", y, b("reduce_sum", x, axes=(1,), keep=True)), dtype=FLOAT16)]
    )


# of a network's end, with fewer channels
LAYER = ((1, 40, 7, 7), (33, 40, 3, 3), {"lo": (1, 1), "hi": (1, 1)})
GRAPHS = {
    "matmul": matmul((17, 300), (300, 19)),
    "left transposed": matmul((301, 16), (301, 70), transpose_a=True),
    "right transposed": matmul((33, 261), (20, 261), transpose_b=True),
    "batched": matmul((2, 18, 257), (2, 257, 21)),
    "epilogue": epilogue(), "convolution": convolutions(*LAYER)[0],
    "input gradient": convolutions(*LAYER)[1],
    "weight gradient": convolutions((2, 16, 13, 11), (17, 16, 2, 2),
                                    {"lo": (1, 1), "hi": (1, 1)})[2],
}  # fmt: skip


@pytest.mark.parametrize(("name", "precision"), [
    *((name, "f32") for name in GRAPHS), ("epilogue", "3xtf32"), ("input gradient", "tf32"),
    ("weight gradient", "bf16"),
])  # fmt: skip
def test_parts_add_up(name: str, precision: str) -> None:
    graph = GRAPHS[name]
    (form,) = products(graph, precision)
    assert parts(form) > 1
    inputs = integers(graph)
    (found,) = emulated.run(graph, inputs, options=CudaOptions(precision, override="direct"))
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


def test_a_part_of_more_terms_than_a_chain_may_have() -> None:
    """The first of 31 blocks makes the sums of the first 560 of 17000 terms."""
    graph = matmul((16, 17000), (17000, 17))
    (form,) = products(graph)
    assert parts(form) == 31 and form.chain == 560 > CHAIN
    _, placement, _ = plan({"run": graph}, PIPELINE)
    source = next(
        placement.sources[name]
        for name, kernel in placement.forms.items()
        if kernel.form is not form and kernel.items == 31
    )
    inputs = integers(graph)
    sums = np.full((31, 16, 17), np.nan, np.float32)
    emulate(
        compile_kernel(source, ()).ptx,
        1,
        source.threads,
        [*inputs.values(), sums, np.zeros(1, np.int32)],
        inputs=2,
        flag=3,
    )
    np.testing.assert_array_equal(sums[0], inputs["x"][:, :560] @ inputs["w"][:560])
    assert np.isnan(sums[1:]).all()


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (matmul((512, 4608), (4608, 196)), 8),
        (matmul((512, 4608), (4608, 49)), 31),
        (matmul((64, 4096), (4096, 4096)), 4),
        (matmul((4096, 4096), (4096, 4096)), 1),
        (matmul((64, 250), (250, 64)), 1),
        (matmul((64, 256), (256, 64)), 2),
        (matmul((1088, 4096), (4096, 1024)), 1),
    ],
    ids=lambda value: str(value.outputs[0].type) if isinstance(value, Graph) else str(value),
)
def test_parts_fill_a_device(graph: Graph, expected: int) -> None:
    (form,) = products(graph)
    assert parts(form) == expected
    number = blocks(form)
    assert isinstance(number, int) and (expected == 1 or number <= BLOCKS)


def test_parts_cover_all_terms_once() -> None:
    """Every part begins where the one before it ends, with whole slices; the last ones may be
    short, or empty.
    """
    for terms in (256, 257, 300, 511, 1000, 4097):
        (form,) = products(matmul((16, terms), (terms, 16)))
        assert isinstance(form.chain, int) and form.chain % form.tile.depth == 0
        assert form.chain * parts(form) >= terms == count(form.terms)


def test_a_free_dim_keeps_its_product_whole() -> None:
    """How many tiles there are is not known; of free terms it does not matter, which are padded
    with zeros.
    """
    b = Builder("free")
    n = symbol("N", 1, 512)
    x, w = (
        b.input(TensorType(FLOAT32, (n, 4096)), "x"),
        b.input(TensorType(FLOAT32, (4096, 64)), "w"),
    )
    (form,) = products(b.build([b("matmul", x, w)]))
    assert parts(form) == 1


@pytest.mark.parametrize("n", [1, 3, 40])
def test_free_terms(n: int) -> None:
    b = Builder("free")
    x, y = (
        b.input(TensorType(FLOAT32, (symbol("N", 1, 512), 9, extent)), name)
        for name, extent in (("x", 17), ("y", 18))
    )
    flat = [
        b("reshape", value, shape=(symbol("N", 1, 512) * 9, value.shape[2])) for value in (x, y)
    ]
    graph = b.build([b("matmul", *flat, transpose_a=True)])
    inputs = integers(graph, {"N": n})
    (found,) = emulated.run(graph, inputs, {"N": n})
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])
