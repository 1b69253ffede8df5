"""Static gates: compiled kernels have no spills, no stack, and no float64 instruction unless their
types hold one.

A run compiles LeNet-5's training step, a transformer's block, and from all other networks but two
together the kernel with the longest source of each form; ``--all-kernels`` compiles every kernel of
all of them. Each for sm_80 and sm_90a.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from netloom.compiler.cache import Cache
from netloom.compiler.graph import Builder
from netloom.compiler.targets.cuda import compile as cuda_compile
from netloom.compiler.targets.cuda.compile import ARCHITECTURES, compile_kernel, is_available, link
from netloom.compiler.targets.cuda.forms import DeviceKernel
from netloom.compiler.targets.cuda.schedule import plan_kernel
from netloom.compiler.targets.cuda.source import KernelSource, print_source
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, TensorType
from netloom.errors import ToolchainError, VerificationError
from tests.compiler.targets.cuda.networks import GRAPHS, planned

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
WHOLE = ("lenet5 training step", "transformer block")
HEAVY = ("resnet50 training step", "densenet121")  # take longest to plan; others have their forms
SAMPLED = [name for name in GRAPHS if name not in HEAVY]
REGISTERS = 65536 // 256  # a block of 256 threads must fit


@cache
def kernels_of(name: str) -> tuple[tuple[KernelSource, DeviceKernel], ...]:
    placement = planned(GRAPHS[name]())
    return tuple((placement.sources[key], placement.forms[key]) for key in placement.sources)


@cache
def sample() -> dict[str, list[KernelSource]]:
    """By network, the kernels that a run compiles."""
    longest: dict[str, tuple[str, KernelSource]] = {}
    for name in SAMPLED:
        for source, kernel in kernels_of(name) if name not in WHOLE else ():
            form = type(kernel.form).__name__
            if form not in longest or len(source.text) > len(longest[form][1].text):
                longest[form] = (name, source)
    found = {name: [source for source, _ in kernels_of(name)] for name in WHOLE}
    for name, source in longest.values():
        found.setdefault(name, []).append(source)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "network" in metafunc.fixturenames:
        is_all = metafunc.config.getoption("--all-kernels")
        metafunc.parametrize("network", GRAPHS if is_all else SAMPLED)


def test_networks_pass(network: str, request: pytest.FixtureRequest) -> None:
    is_whole = request.config.getoption("--all-kernels")
    whole = kernels_of(network) if is_whole else ()
    sources = [source for source, _ in whole] or sample().get(network, [])
    for source in sources:
        compiled = compile_kernel(source)
        assert [binary.architecture for binary in compiled.binaries] == list(ARCHITECTURES)
        for binary in compiled.binaries:
            assert binary.cubin.startswith(b"\x7fELF") and compiled.name.encode() in binary.cubin
            assert 0 < binary.registers <= REGISTERS and binary.shared <= 48 << 10


def test_the_networks_hold_every_form() -> None:
    found = {type(kernel.form).__name__ for name in SAMPLED for _, kernel in kernels_of(name)}
    assert found == {
        "Pointwise", "Rows", "RowPasses", "Product", "Transform", "FusedWinograd", "FusedAttention",
    }  # fmt: skip


# -- the gates refuse what they must ---------------------------------------------------------------


def product_source() -> KernelSource:
    b = Builder("matmul")
    x, w = (b.input(TensorType(FLOAT32, (64, 64)), name) for name in "xw")
    return print_source(plan_kernel(b.build([b("matmul", x, w)])))


def test_a_kernel_that_spills_is_refused() -> None:
    compiled = compile_kernel(product_source(), ())
    tight = compiled.ptx.replace(".maxntid 256", ".maxnreg 24\n.maxntid 256", 1)
    assert tight != compiled.ptx
    with pytest.raises(VerificationError, match="does not fit its registers"):
        link(tight, compiled.name, "sm_80")


def test_a_kernel_gets_the_registers_of_fewer_blocks_before_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def spilling(ptx: str, name: str, architecture: str) -> cuda_compile.Binary:
        blocks = int(re.search(r"\.minnctapersm (\d+)", ptx).group(1))  # type: ignore[union-attr]
        made.append(blocks)
        if blocks > limit:
            raise VerificationError("a kernel does not fit its registers")
        return link(ptx, name, architecture)

    limit = 1
    monkeypatch.setattr(cuda_compile, "link", spilling)
    source = product_source()
    assert (
        source.blocks == 2
        and compile_kernel(source, ("sm_80",), tmp_path).binaries
        and made == [2, 1]
    )
    limit = 0
    with pytest.raises(VerificationError, match="does not fit"):
        compile_kernel(source, ("sm_90a",), tmp_path)


def test_float64_in_a_float32_kernel_is_refused() -> None:
    source = product_source()
    ptx = compile_kernel(source, ()).ptx
    cuda_compile.check_ptx(ptx, source)
    with pytest.raises(VerificationError, match="float64 instructions"):
        cuda_compile.check_ptx(ptx.replace("ret;", "add.rn.f64 %fd1, %fd1, %fd1;\nret;"), source)
    with pytest.raises(VerificationError, match="local memory"):
        cuda_compile.check_ptx(ptx.replace("ret;", "ld.local.f32 %f1, [%rd1];\nret;"), source)


def test_float64_where_the_types_hold_it_is_not() -> None:
    b = Builder("double")
    x = b.input(TensorType(FLOAT64, (5,)), "x")
    assert ".f64" in compile_kernel(print_source(plan_kernel(b.build([b("mul", x, x)]))), ()).ptx


def test_broken_ptx_is_one_clear_error() -> None:
    with pytest.raises(ToolchainError, match="nvJitLink refused a kernel"):
        link(".version 8.0\nnonsense", "k", "sm_80")


# -- the cache -------------------------------------------------------------------------------------


def test_the_cache_gives_the_same_and_is_not_believed_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = product_source()
    first = compile_kernel(source, ("sm_80",), tmp_path)
    entries = [entry.path for entry in Cache(tmp_path).entries()]
    assert len(entries) == 2  # the PTX and the binary
    (binary,) = (path for path in entries if first.binaries[0].cubin in path.read_bytes())
    binary.write_bytes(binary.read_bytes()[:-1] + b"?")
    assert compile_kernel(source, ("sm_80",), tmp_path) == first  # linked again
    monkeypatch.setattr(cuda_compile, "link", None)
    monkeypatch.setattr(cuda_compile, "make_ptx", None)
    assert compile_kernel(source, ("sm_80",), tmp_path) == first  # read
    monkeypatch.setattr(cuda_compile, "_tool_key", lambda: "another version")
    with pytest.raises(TypeError):  # made anew
        compile_kernel(source, ("sm_80",), tmp_path)


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that ``netloom cache`` shows and clears it, and NETLOOM_CACHE moves it or turns it off."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path / "own"))
    source = product_source()
    first = compile_kernel(source, ())
    assert len(Cache(tmp_path / "own").entries()) == 1
    monkeypatch.setattr(cuda_compile, "make_ptx", None)
    assert compile_kernel(source, ()) == first
    monkeypatch.setenv("NETLOOM_CACHE", "off")
    with pytest.raises(TypeError):  # made anew
        compile_kernel(source, ())


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert compile_kernel(product_source(), (), tmp_path / "file" / "cache").ptx


def test_missing_tools_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compile, "_PACKAGES", ("numba", "no-such-package"))
    monkeypatch.setattr(cuda_compile, "versions", cuda_compile.versions.__wrapped__)
    monkeypatch.setattr(cuda_compile, "_tool_key", cuda_compile._tool_key.__wrapped__)
    with pytest.raises(
        ToolchainError,
        match=r"needs the package no-such-package, which is not installed. Install netloom\[cuda\]",
    ):
        compile_kernel(product_source(), ())
    assert not is_available()
