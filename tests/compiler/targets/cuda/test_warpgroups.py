"""Products by warpgroups, which programs hold for Hopper beside the general ones: the same grid,
other instructions, larger tiles.
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
from netloom.compiler.targets.cuda import warpgroups
from netloom.compiler.targets.cuda.compile import (
    compile_kernel,
    is_available,
    link,
    with_dynamic_shared,
)
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, compile_for_cuda, plan
from netloom.compiler.targets.cuda.forms import Product
from netloom.compiler.targets.cuda.source import KernelSource
from netloom.compiler.targets.cuda.tilings import Tiling
from netloom.errors import VerificationError
from netloom.runtime.cuda.program import parse_program
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.test_engines import GRAPH, ROUNDED, numbers, relative
from tests.compiler.targets.cuda.test_forms import (
    CONVOLUTIONS,
    barriers,
    convolutions,
    integers,
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
FENCE = "fence.proxy.async.shared::cta;"
BEGIN = "wgmma.fence.sync.aligned;"
WAIT, WAIT_BUT_LAST = (f"wgmma.wait_group.sync.aligned {number};" for number in (0, 1))
PRECISIONS = ("tf32", "bf16", "3xtf32")
# what a run takes of tests that cost much; --all-kernels takes all
COSTLY = {
    "test_a_large_tile": "bf16", "test_banks_of_windows": "tf32", "test_programs_hold_both": "3xtf32",
}  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.function.__name__
    if name in COSTLY:
        is_all = metafunc.config.getoption("--all-kernels")
        metafunc.parametrize("precision", PRECISIONS if is_all else [COSTLY[name]])


def source_of(graph: Graph, precision: str, tiling: Tiling | None = None) -> KernelSource:
    """Of the graph's one kernel."""
    options = CudaOptions(precision, override="direct", tiling=tiling)
    _, placement, _ = plan({"run": graph}, PIPELINE, options)
    ((name, source),) = placement.sources.items()
    form = placement.forms[name].form
    assert isinstance(form, Product)
    return source


def check(graph: Graph, source: KernelSource, blocks: int) -> BankTraffic:
    """Of small integers, products are exact; how they went through shared memory."""
    found, traffic = execute(graph, emulated.ptx(source, HOPPER), blocks)
    np.testing.assert_array_equal(found, interpret(graph, integers(graph))[0])
    return traffic


def execute(graph: Graph, ptx: str, blocks: int) -> tuple[Array, BankTraffic]:
    """The result of the graph's one kernel, and its traffic."""
    (out,) = graph.outputs
    y = np.full(out.type.evaluate({}), np.nan, np.float32)
    arrays = [*integers(graph).values(), y, np.zeros(1, np.int32)]
    return y, emulate(ptx, blocks, 256, arrays, inputs=2, flag=3)


GRAPHS = {
    "one tile": matmul((64, 64), (64, 64)), "groups of four": matmul((72, 52), (52, 36)),
    "left transposed": matmul((52, 72), (52, 36), transpose_a=True),
    "right transposed": matmul((72, 52), (36, 52), transpose_b=True),
    "single words": matmul((17, 53), (31, 53), transpose_b=True),
    "both transposed": matmul((3, 9, 21), (3, 40, 9), transpose_a=True, transpose_b=True),
    "in parts": matmul((20, 300), (300, 19)), "convolution": convolutions(*CONVOLUTIONS[0])[0],
    "input gradient": convolutions(*CONVOLUTIONS[3])[1],
    "weight gradient": convolutions(*CONVOLUTIONS[0])[2],
    "strides and dilation": convolutions(*CONVOLUTIONS[2])[0],
    "groups": convolutions(*CONVOLUTIONS[3])[0],
}  # fmt: skip


@pytest.mark.parametrize(("name", "precision"), [
    *((name, "tf32") for name in GRAPHS), *((name, "bf16") for name in list(GRAPHS)[1:6]),
    *((name, "3xtf32") for name in ("groups of four", "left transposed", "single words", "convolution")),
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


def test_three_products_keep_float32() -> None:
    """Each slice's sum is added in float32."""
    x, w = numbers((70, 300), 0), numbers((300, 33), 1)
    exact = x.astype(np.float64) @ w
    options = CudaOptions("3xtf32")
    (found,) = emulated.run(GRAPH, {"x": x, "w": w}, options=options, architecture=HOPPER)
    assert relative(found, exact) <= 4e-7
    assert relative(found, exact) <= 2 * relative(x @ w, exact)


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
def test_a_wide_tile_leaves_blocks_over(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 x 256: of the general form's three blocks of 128 x 128, two have work."""
    monkeypatch.setattr(warpgroups, "MULTIPROCESSORS", {HOPPER: 1})
    graph = matmul((100, 72), (72, 300))
    source = source_of(graph, precision, Tiling(128, 128, parts=1))
    wide, square, general = source.of(HOPPER)
    assert "_256_" in wide.text and "_256_" not in square.text and "wgmma" not in general.text
    check(graph, source, 3)


def test_wide_tiles_are_for_grids_that_fill_a_device() -> None:
    """And for sums that one accumulator may add up, and operands that are read in groups."""

    def is_wide(x: tuple[int, ...], w: tuple[int, ...], precision: str = "tf32") -> bool:
        return "_256_" in source_of(matmul(x, w), precision).of(HOPPER)[0].text

    assert is_wide((4096, 4096), (4096, 4096)) and is_wide((4096, 4096), (4096, 4096), "bf16")
    assert not is_wide((4096, 4100), (4100, 4096)) and is_wide((4096, 8192), (8192, 4096), "bf16")
    assert not is_wide((2048, 4096), (4096, 2048)) and not is_wide((4096, 4095), (4095, 4096))
    assert not is_wide((4096, 4096), (4096, 4096), "3xtf32")


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_sums_longer_than_a_chain(precision: str) -> None:
    """The accumulator moves to another while no product is under way."""
    terms = 8200 if precision == "bf16" else 4100
    graph = matmul((16, terms), (terms, 16))
    check(graph, source_of(graph, precision, Tiling(64, 64, parts=1)), 1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_fence_wait_and_barrier_is_needed(precision: str) -> None:
    graph = matmul((40, 300), (300, 36))
    ptx = emulated.ptx(source_of(graph, precision, Tiling(64, 64, parts=1)), HOPPER)
    execute(graph, ptx, 1)
    waits = [WAIT] if precision == "3xtf32" else [WAIT_BUT_LAST, WAIT]
    assert ptx.count(FENCE) == 2 and ptx.count("wgmma.wait_group") == len(waits)
    for number in (1, 2):
        before, *rest = ptx.split(FENCE)
        wrong = (
            FENCE.join([before, rest[0]]) + rest[1] if number == 2 else before + FENCE.join(rest)
        )
        with pytest.raises(MemoryFault, match="has not fenced"):
            execute(graph, wrong, 1)
    for wait in waits:
        with pytest.raises(MemoryFault, match="a product reads that nobody has waited for"):
            execute(graph, ptx.replace(wait, ""), 1)
    for number in range(barriers(ptx)):
        with pytest.raises(MemoryFault, match="race|never written|fenced|nobody has waited for"):
            execute(graph, without_barrier(ptx, number), 1)


def test_a_wait_for_one_product_less_is_found() -> None:
    graph = matmul((40, 300), (300, 36))
    ptx = emulated.ptx(source_of(graph, "tf32", Tiling(64, 64, parts=1)), HOPPER)
    with pytest.raises(MemoryFault, match="a product reads that nobody has waited for"):
        execute(graph, ptx.replace(WAIT_BUT_LAST, "wgmma.wait_group.sync.aligned 2;"), 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("order", [{}, {"transpose_a": True}, {"transpose_b": True}], ids=str)
def test_banks(order: dict[str, bool], precision: str) -> None:
    """Whatever the operands' order in memory, threads reach all banks."""
    graph = matmul((64, 64), (64, 64), **order)
    found = check(graph, source_of(graph, precision), 1)
    assert found.cycles == found.least


def test_banks_of_windows(precision: str) -> None:
    graph = convolutions((1, 4, 8, 8), (64, 4, 3, 3), {"lo": (1, 1), "hi": (1, 1)})[0]
    source = source_of(graph, precision, Tiling(64, 64, parts=1))
    assert "load_if_float32" in source.of(HOPPER)[0].text
    found = check(graph, source, 1)
    assert found.cycles == found.least


def test_banks_of_a_wide_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 64 bytes in bf16: four neighbouring columns of one k reach half of the banks."""
    monkeypatch.setattr(warpgroups, "MULTIPROCESSORS", {HOPPER: 1})
    graph = matmul((128, 64), (64, 256))
    found = check(graph, source_of(graph, "bf16", Tiling(128, 128, parts=1)), 1)
    assert found.least < found.cycles <= 1.5 * found.least
    found = check(graph, source_of(graph, "tf32", Tiling(128, 128, parts=1)), 1)
    assert found.cycles == found.least


def test_programs_hold_both(precision: str) -> None:
    """And the forms with the largest tiles pass the gates."""
    source = source_of(matmul((4096, 512), (512, 4096)), precision)
    compiled = compile_kernel(source)
    assert "wgmma" not in compiled.ptx and "mma.sync" in compiled.ptx
    old, hopper = compiled.binaries
    general = compile_kernel(replace(source, special=())).binaries
    assert (old.registers, old.shared) == (general[0].registers, general[0].shared)
    assert not old.is_dynamic and not general[1].is_dynamic
    buffers = {"tf32": 3 * 128 * (128 + 256), "bf16": 3 * 64 * (128 + 256), "3xtf32": 2 * 256 * 256}
    assert hopper.is_dynamic and hopper.shared == buffers[precision]


def test_a_convolution_passes_the_gates() -> None:
    """By warpgroups with its largest tile, where both operands have two parts."""
    graph = convolutions((8, 64, 56, 56), (128, 64, 3, 3), {"lo": (1, 1), "hi": (1, 1)})[0]
    source = source_of(graph, "3xtf32", Tiling(128, 64, parts=1))
    best, *_ = source.of(HOPPER)
    assert "wgmmas_128_" in best.text
    assert link(emulated.ptx(source, HOPPER), "kernel", HOPPER).registers <= 255


def test_float32_has_one_form() -> None:
    assert not source_of(GRAPHS["one tile"], "f32").special


def refuse(monkeypatch: pytest.MonkeyPatch, instruction: str) -> None:
    """No PTX with this instruction passes the gates."""
    check = cuda_compile.check_ptx

    def checked(ptx: str, source: KernelSource) -> None:
        if instruction in ptx:
            raise VerificationError("a gate")
        check(ptx, source)

    monkeypatch.setattr(cuda_compile, "check_ptx", checked)


def test_a_form_that_passes_no_gate_gives_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A kernel is never refused for what only one architecture's source does."""
    source = source_of(GRAPHS["one tile"], "tf32")
    refuse(monkeypatch, "wgmma")
    compiled = compile_kernel(source, cache_folder=tmp_path)
    general = compile_kernel(replace(source, special=()), cache_folder=tmp_path)
    assert [b.registers for b in compiled.binaries] == [b.registers for b in general.binaries]


def test_a_smaller_tile_comes_before_the_general_form(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(warpgroups, "MULTIPROCESSORS", {HOPPER: 1})
    source = source_of(matmul((100, 72), (72, 300)), "tf32", Tiling(128, 128, parts=1))
    refuse(monkeypatch, "m64n256k8")
    (binary,) = compile_kernel(source, (HOPPER,), tmp_path).binaries
    assert binary.is_dynamic and binary.shared == 3 * 128 * (128 + 128)


SHARED = ".shared .align 1024 .b8 {}[{}];"
KERNEL = ".visible .entry k() {{\n{}\nret;\n}}"


def test_more_shared_memory_than_a_launch_gives_unasked_has_no_size() -> None:
    least = KERNEL.format(SHARED.format("s", 48 << 10))
    assert with_dynamic_shared(least, HOPPER) == (least, 0)
    found, size = with_dynamic_shared(KERNEL.format(SHARED.format("s", 227 << 10)), HOPPER)
    assert size == 227 << 10 and found.startswith(".extern .shared .align 1024 .b8 s[];\n.visible")
    for architecture, arrays in (
        (HOPPER, [SHARED.format("s", (227 << 10) + 4)]),
        ("sm_80", [SHARED.format("s", 227 << 10)]),
        (HOPPER, [SHARED.format(name, 40 << 10) for name in "st"]),
    ):
        with pytest.raises(VerificationError, match="bytes of shared memory in"):
            with_dynamic_shared(KERNEL.format("\n".join(arrays)), architecture)


def test_products_that_wait_more_than_they_say_are_refused() -> None:
    """As the assembler notes, where it adds a wait before sums are read, or a fence."""
    source = source_of(matmul((40, 300), (300, 36)), "tf32", Tiling(64, 64, parts=1))
    ptx = emulated.ptx(source, HOPPER)
    assert link(ptx, "kernel", HOPPER).is_dynamic is False
    for wrong in (ptx.replace(WAIT_BUT_LAST, "").replace(WAIT, ""), ptx.replace(BEGIN, "")):
        with pytest.raises(VerificationError, match=r"wait more than they say: \(C75.*injected"):
            link(wrong, "kernel", HOPPER)


def test_a_program_says_how_much_shared_memory_its_launches_ask_for() -> None:
    program = compile_for_cuda(GRAPHS["one tile"], CudaOptions("3xtf32"))
    (kernel,) = parse_program(program.as_bytes()).kernels
    assert kernel.dynamic_shared == {HOPPER: 2 * 2 * 128 * (64 + 64)}
