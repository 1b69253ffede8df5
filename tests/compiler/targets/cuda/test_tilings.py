"""Tilings that were measured: the same numbers by every one of them, in the kernels that they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import Product
from netloom.compiler.targets.cuda.schedule import plan_kernel
from netloom.compiler.targets.cuda.source import print_source
from netloom.compiler.targets.cuda.tilings import (
    SHAPES,
    Tiling,
    Tilings,
    alternatives,
    size_of,
)
from netloom.compiler.tensor_type import FLOAT32, TensorType
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.test_forms import convolutions, integers, matmul

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]
LAYER = ((1, 17, 9, 7), (33, 17, 3, 3), {"lo": (1, 1), "hi": (1, 1)})


def products(graph: Graph, options: CudaOptions) -> list[Product]:
    _, placement, _ = plan({"run": graph}, PIPELINE, options)
    return [kernel.form for kernel in placement.forms.values() if isinstance(kernel.form, Product)]


@pytest.mark.parametrize(
    "text", ["128x128", "128x64", "64x64 stages 2", "128x64 parts 3", "64x64 stages 3 parts 2"]
)
def test_names_are_read_back(text: str) -> None:
    assert str(Tiling.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "96x96", "128x64 stages", "128x64 parts 2 stages 3", "64x128"]
)
def test_what_is_no_tiling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no tiling"):
        Tiling.parse(text)


@needs_compiler
@pytest.mark.parametrize(("graph", "tiling", "precision"), [
    (matmul((132, 140), (140, 68)), Tiling(128, 64, 2), "f32"),
    (matmul((131, 150), (150, 70)), Tiling(128, 128, 2, 3), "f32"),
    (matmul((64, 300), (300, 64)), Tiling(64, 64, 3, 2), "f32"),
    (convolutions(*LAYER)[1], Tiling(128, 64, 2), "f32"),
    (convolutions(*LAYER)[2], Tiling(128, 64, 0, 2), "f32"),
    (matmul((131, 50), (50, 70)), Tiling(128, 64, 2), "3xtf32"),
    (matmul((131, 50), (50, 70)), Tiling(128, 64), "bf16"),
], ids=str)  # fmt: skip
def test_results_do_not_depend_on_the_tiling(graph: Graph, tiling: Tiling, precision: str) -> None:
    options = CudaOptions(precision, override="direct", tiling=tiling)
    (form,) = products(graph, options)
    assert (form.tile.rows, form.tile.columns) == (tiling.rows, tiling.columns)
    assert not tiling.stages or form.stages == tiling.stages
    assert not tiling.parts or (form.part.extent if form.part else 1) == tiling.parts
    inputs = integers(graph)
    (found,) = emulated.run(graph, inputs, options=options)
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


@needs_compiler
def test_hopper_multiplies_by_the_shape_between() -> None:
    graph = matmul((130, 40), (40, 66))
    options = CudaOptions("tf32", tiling=Tiling(128, 64))
    inputs = integers(graph)
    (found,) = emulated.run(graph, inputs, options=options, architecture="sm_90a")
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


@needs_compiler
@pytest.mark.parametrize("precision", ["f32", "3xtf32"])
def test_the_shape_between_passes_the_gates(precision: str) -> None:
    """Of a layer of a network, with its windows, for both architectures."""
    graph = convolutions((8, 256, 28, 28), (256, 256, 3, 3), {"lo": (1, 1), "hi": (1, 1)})[0]
    options = CudaOptions(precision, override="direct", tiling=Tiling(128, 64))
    _, placement, _ = plan({"run": graph}, PIPELINE, options)
    for source in placement.sources.values():
        assert len(compile_kernel(source).binaries) == 2


def test_alternatives_are_other_kernels() -> None:
    form = plan_kernel(matmul((512, 4608), (4608, 196))).form
    assert isinstance(form, Product)
    found = list(alternatives(form, 8))
    assert Tiling(128, 64) in found and Tiling(form.tile.rows, form.tile.columns, 2) in found
    assert {tiling.parts for tiling in found} == {0, 4, 16}
    own = print_source(plan_kernel(matmul((512, 4608), (4608, 196)))).key
    for tiling in found:
        if not tiling.parts:
            other = plan_kernel(
                matmul((512, 4608), (4608, 196)), tilings=Tilings(everywhere=tiling)
            )
            assert print_source(other).key != own


def test_a_tiling_belongs_to_a_size() -> None:
    graph = matmul((512, 300), (300, 512))
    form = plan_kernel(graph).form
    assert isinstance(form, Product)
    measured = {size_of(form): Tiling(128, 64)}
    (tiled,) = products(graph, CudaOptions(measured=measured))
    assert (tiled.tile.rows, tiled.tile.columns) == (128, 64)
    (other,) = products(matmul((512, 301), (301, 512)), CudaOptions(measured=measured))
    assert other.tile in (SHAPES[0], SHAPES[2])


def test_a_free_batch_has_the_size_of_its_typical_one() -> None:
    b = Builder("free")
    x = b.input(TensorType(FLOAT32, (symbol("N", 1, 512), 300)), "x")
    graph = b.build([b("matmul", x, b.input(TensorType(FLOAT32, (300, 512)), "w"))])
    form = plan_kernel(graph).form
    assert isinstance(form, Product)
    measured = {size_of(form, 64): Tiling(128, 64)}
    for batch, columns in ((64, 64), (32, form.tile.columns)):
        (found,) = products(graph, CudaOptions(typical_batch=batch, measured=measured))
        assert (found.tile.rows, found.tile.columns) == (
            128 if batch == 64 else form.tile.rows,
            columns,
        )
