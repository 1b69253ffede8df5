"""Products by warpgroups, which programs hold for Hopper beside the general ones: the same grid,
other instructions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cuda import compile as cuda_compile
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import Product
from netloom.compiler.targets.cuda.source import KernelSource
from netloom.errors import VerificationError
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.test_engines import GRAPH, ROUNDED, numbers, relative
from tests.compiler.targets.cuda.test_forms import (
    CONVOLUTIONS,
    barriers,
    convolutions,
    integers,
    launch,
    matmul,
    without_barrier,
)
from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import BankTraffic, MemoryFault

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]
HOPPER = "sm_90a"
FENCE, WAIT = "fence.proxy.async.shared::cta;", "wgmma.wait_group.sync.aligned 0;"


def source_of(graph: Graph, precision: str) -> KernelSource:
    """Of the graph's one kernel."""
    _, placement, _ = plan({"run": graph}, PIPELINE, CudaOptions(precision))
    ((name, source),) = placement.sources.items()
    form = placement.forms[name].form
    assert isinstance(form, Product)
    return source


GRAPHS = {
    "one tile": matmul((64, 64), (64, 64)), "groups of four": matmul((72, 52), (52, 36)),
    "left transposed": matmul((52, 72), (52, 36), transpose_a=True),
    "right transposed": matmul((72, 52), (36, 52), transpose_b=True),
    "single words": matmul((17, 53), (31, 53), transpose_b=True),
    "both transposed": matmul((3, 9, 21), (3, 40, 9), transpose_a=True, transpose_b=True),
    "in parts": matmul((20, 300), (300, 19)), "convolution": convolutions(*CONVOLUTIONS[0])[0],
    "input gradient": convolutions(*CONVOLUTIONS[3])[1],
    "weight gradient": convolutions(*CONVOLUTIONS[0])[2],
}  # fmt: skip


@pytest.mark.parametrize(("name", "precision"), [
    *((name, "tf32") for name in GRAPHS), *((name, "bf16") for name in list(GRAPHS)[1:6]),
])  # fmt: skip
def test_integers_are_exact(name: str, precision: str) -> None:
    graph = GRAPHS[name]
    inputs = integers(graph)
    options = CudaOptions(precision, override="direct")
    assert any("wgmma.mma_async" in ptx for ptx in emulated.ptx_of(graph, options, HOPPER).values())
    (found,) = emulated.run(graph, inputs, options=options, architecture=HOPPER)
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_numbers_are_rounded_as_elsewhere(precision: str) -> None:
    x, w = numbers((70, 300), 0), numbers((300, 33), 1)
    x[7, 11] = np.array(0x7FFFFFFF, np.uint32).view(np.float32)
    (found,) = emulated.run(
        GRAPH, {"x": x, "w": w}, options=CudaOptions(precision), architecture=HOPPER
    )
    assert np.isnan(found[7]).all()
    wanted = ROUNDED[precision](x).astype(np.float64) @ ROUNDED[precision](w).astype(np.float64)
    assert relative(np.delete(found, 7, 0), np.delete(wanted, 7, 0)) <= 300 * 2**-24


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_large_tile(precision: str) -> None:
    """128 x 128: of a grid that fills a device, the first two blocks make the first product."""
    graph = matmul((128, 128, 36), (128, 36, 129))
    source = source_of(graph, precision)
    inputs = integers(graph)
    y = np.full((128, 128, 129), np.nan, np.float32)
    arrays = [inputs["x"], inputs["w"], y, np.zeros(1, np.int32)]
    emulate(emulated.ptx(source, HOPPER), 2, source.threads, arrays, inputs=2, flag=3)
    np.testing.assert_array_equal(y[0], inputs["x"][0] @ inputs["w"][0])
    assert np.isnan(y[1:]).all()


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_each_fence_wait_and_barrier_is_needed(precision: str) -> None:
    graph = matmul((40, 148), (148, 36))
    ptx = emulated.ptx(source_of(graph, precision), HOPPER)
    launch(graph, ptx)
    assert ptx.count(FENCE) == 2 and ptx.count(WAIT) == 1
    for number in (1, 2):
        before, *rest = ptx.split(FENCE)
        wrong = (
            FENCE.join([before, rest[0]]) + rest[1] if number == 2 else before + FENCE.join(rest)
        )
        with pytest.raises(MemoryFault, match="has not fenced"):
            launch(graph, wrong)
    with pytest.raises(MemoryFault, match="a product reads that nobody has waited for"):
        launch(graph, ptx.replace(WAIT, ""))
    for number in range(barriers(ptx)):
        with pytest.raises(MemoryFault, match="race|never written|fenced|nobody has waited for"):
            launch(graph, without_barrier(ptx, number))


def traffic(graph: Graph, precision: str) -> BankTraffic:
    arrays = [*integers(graph).values(), np.zeros((64, 64), np.float32), np.zeros(1, np.int32)]
    source = source_of(graph, precision)
    return emulate(emulated.ptx(source, HOPPER), 1, source.threads, arrays, inputs=2, flag=3)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_banks(precision: str) -> None:
    """Threads that bring four neighbouring rows or columns of one k reach half of the banks at
    once; all others all.
    """
    found = traffic(matmul((64, 64), (64, 64), transpose_b=True), precision)
    assert found.cycles == found.least
    found = traffic(matmul((64, 64), (64, 64)), precision)
    assert found.least < found.cycles <= 1.5 * found.least


def test_programs_hold_both() -> None:
    source = source_of(matmul((4096, 512), (512, 4096)), "tf32")
    compiled = compile_kernel(source)
    assert "wgmma" not in compiled.ptx and "mma.sync" in compiled.ptx
    old, hopper = compiled.binaries
    general = compile_kernel(replace(source, special=())).binaries
    assert (old.registers, old.shared) == (general[0].registers, general[0].shared)
    assert hopper.registers <= 128 + 32 and hopper.shared != general[1].shared


def test_only_rounded_products_have_two_forms() -> None:
    for precision in ("f32", "3xtf32"):
        assert not source_of(GRAPHS["one tile"], precision).special


def test_a_form_that_passes_no_gate_gives_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A kernel is never refused for what only one architecture's source does."""
    source = source_of(GRAPHS["one tile"], "tf32")
    check = cuda_compile.check_ptx

    def refuse(ptx: str, checked: KernelSource) -> None:
        if "wgmma" in ptx:
            raise VerificationError("a gate")
        check(ptx, checked)

    monkeypatch.setattr(cuda_compile, "check_ptx", refuse)
    compiled = compile_kernel(source, cache_folder=tmp_path)
    general = compile_kernel(replace(source, special=()), cache_folder=tmp_path)
    assert [b.registers for b in compiled.binaries] == [b.registers for b in general.binaries]
