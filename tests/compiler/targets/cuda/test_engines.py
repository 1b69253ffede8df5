"""Products on tensor cores: mma.sync in TF32, BF16 and 3xTF32, in the emulator.

Small integers are exact in every engine. For other numbers, TF32 and BF16 are compared with float64
products of the rounded operands, and 3xTF32 must keep float32's tolerance, which TF32 does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import Product
from netloom.errors import UsageError
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.test_forms import (
    CONVOLUTIONS,
    MATMULS,
    check_first_product,
    convolutions,
    integers,
    matmul,
)
from tests.ptx_emulator.machine import emulate

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]
TENSOR = ("tf32", "bf16", "3xtf32")


@pytest.mark.parametrize("precision", TENSOR)
@pytest.mark.parametrize("graph", MATMULS, ids=lambda g: " ".join(str(v.type) for v in g.inputs))
def test_matmuls(graph: Graph, precision: str) -> None:
    inputs = integers(graph)
    (found,) = emulated.run(graph, inputs, options=CudaOptions(precision))
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


@pytest.mark.parametrize("precision", TENSOR)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["forward", "input_gradient", "weight_gradient"])
@pytest.mark.parametrize("row", CONVOLUTIONS[:4], ids=str)
def test_convolutions(
    row: tuple[tuple[int, ...], tuple[int, ...], Mapping[str, Any]], which: int, precision: str
) -> None:
    graph = convolutions(*row)[which]
    inputs = integers(graph)
    (found,) = emulated.run(graph, inputs, options=CudaOptions(precision, override="direct"))
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


def test_a_tile_half_as_wide() -> None:
    """3xtf32 without wide accesses: of a grid that fills a device, the first three blocks make
    the first product.
    """
    graph = matmul((128, 128, 9), (128, 9, 129))
    _, placement, _ = plan({"run": graph}, PIPELINE, CudaOptions("3xtf32"))
    ((name, source),) = placement.sources.items()
    form = placement.forms[name].form
    assert isinstance(form, Product) and (form.tile.rows, form.tile.columns) == (128, 64)
    check_first_product(graph, source, 3)


def numbers(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def tf32(x: Array) -> Array:
    """To the nearest of 10 bits, halves away from zero."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


ROUNDED = {"tf32": tf32, "bf16": lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32)}
GRAPH = matmul((70, 300), (300, 33))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_operands_are_rounded_to_nearest_and_sums_are_not(precision: str) -> None:
    x, w = numbers((70, 300), 0), numbers((300, 33), 1)
    (found,) = emulated.run(GRAPH, {"x": x, "w": w}, options=CudaOptions(precision))
    wanted = ROUNDED[precision](x).astype(np.float64) @ ROUNDED[precision](w).astype(np.float64)
    assert relative(found, wanted) <= 300 * 2**-24
    assert relative(found, x.astype(np.float64) @ w) > 1e-4  # it is not float32


def test_three_products_keep_float32() -> None:
    x, w = numbers((70, 300), 0), numbers((300, 33), 1)
    exact = x.astype(np.float64) @ w
    (found,) = emulated.run(GRAPH, {"x": x, "w": w}, options=CudaOptions("3xtf32"))
    assert relative(found, exact) <= 4e-7
    assert relative(found, exact) <= 2 * relative(x @ w, exact)


@pytest.mark.parametrize("precision", TENSOR)
def test_not_a_number_passes(precision: str) -> None:
    x, w = numbers((70, 300), 0), numbers((300, 33), 1)
    x[7, 11] = np.array(0x7FFFFFFF, np.uint32).view(np.float32)
    (found,) = emulated.run(GRAPH, {"x": x, "w": w}, options=CudaOptions(precision))
    assert np.isnan(found[7]).all() and np.isfinite(np.delete(found, 7, 0)).all()


@pytest.mark.parametrize("precision", ["f32", *TENSOR])
@pytest.mark.parametrize("order", [{}, {"transpose_a": True}, {"transpose_b": True}], ids=str)
def test_slices_lie_in_different_banks(order: dict[str, bool], precision: str) -> None:
    """Whatever the operands' order in memory, shared memory is never the bottleneck: no
    conflicts on tensor cores, few else.
    """
    graph = matmul((64, 64), (64, 64), **order)
    _, placement, _ = plan({"run": graph}, PIPELINE, CudaOptions(precision))
    ((name, source),) = placement.sources.items()
    form = placement.forms[name]
    assert (
        isinstance(form.form, Product)
        and form.form.left.width == form.form.right.width == 4
        and form.items == 1
    )
    arrays = [*integers(graph).values(), np.zeros((64, 64), np.float32), np.zeros(1, np.int32)]
    traffic = emulate(compile_kernel(source, ()).ptx, 1, source.threads, arrays, inputs=2, flag=3)
    assert traffic.cycles <= traffic.least * (1.07 if precision == "f32" else 1.0)


@pytest.mark.parametrize(("precision", "instruction", "k", "registers"), [
    ("f32", "fma.rn.f32", 512, 128), ("f32", "fma.rn.f32", 4096, 255),
    ("tf32", "mma.sync.aligned.m16n8k8.row.col.f32.tf32", 4096, 255),
    ("bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16", 4096, 255),
    ("3xtf32", "mma.sync.aligned.m16n8k8", 4096, 255),
])  # fmt: skip
def test_the_large_tile_passes_the_gates(
    precision: str, instruction: str, k: int, registers: int
) -> None:
    """128 x 128 a block, for sm_80 and sm_90a: no spills, and the instructions that the engine
    is named after.
    """
    graph = matmul((4096, k), (k, 4096))
    _, placement, _ = plan({"run": graph}, PIPELINE, CudaOptions(precision))
    ((name, source),) = placement.sources.items()
    form = placement.forms[name].form
    assert (
        isinstance(form, Product)
        and form.tile.rows == 128
        and form.left.width == form.right.width == 4
    )
    compiled = compile_kernel(source)
    assert (
        instruction in compiled.ptx
        and ("ld.global.v4" if precision == "bf16" else "cp.async.cg.shared.global") in compiled.ptx
    )
    assert all(binary.registers <= registers for binary in compiled.binaries)


def test_the_precision_is_in_the_program_and_wrong_ones_are_refused() -> None:
    program, _, _ = plan({"run": MATMULS[0]}, PIPELINE, CudaOptions("tf32"))
    assert program.metadata["options"]["precision"] == "tf32"
    with pytest.raises(UsageError, match="no precision 'fp8'. Choose f32, 3xtf32, tf32, bf16"):
        plan({"run": MATMULS[0]}, PIPELINE, CudaOptions("fp8"))
