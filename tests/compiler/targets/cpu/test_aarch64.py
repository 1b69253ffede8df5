"""Code for AArch64: what is emitted, and, in an emulator, what kernels and whole programs
compute.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netloom as nl
from netloom.compiler import dim
from netloom.compiler.driver import Compiled, Options, plan_graph
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cpu.architecture import AARCH64, X86_64, Architecture
from netloom.compiler.targets.cpu.link import LIBRARIES, find_linker, symbol_versions
from netloom.compiler.targets.cpu.llvm import compile_kernels, kernels_as_llvm
from netloom.compiler.targets.cpu.machine import CPUS, cpus_named
from netloom.compiler.targets.cpu.relocatable import _read, relocatable_object
from netloom.compiler.targets.cpu.worker_pool import compile_texts
from netloom.errors import CpuFeatureError, LinkError, UsageError
from netloom.frontends.dsl.network import TracedGraph
from netloom.runtime.session import load
from tests.compiler.loops.case_kernels import drawn, kernels_of
from tests.compiler.loops.cases import CASES, Case
from tests.compiler.loops.test_lowering import ALIKE, interpreted

CPU = CPUS["aarch64"]
# to compile
SLOW = {
    "winograd_filter_f2",
    "winograd_input_f4",
    "winograd_output_f4",
    "winograd_output_f2",
    "winograd_filter_gradient",
    "winograd_bands_of_long_sums",
    "sort_symbolic",  # as merge_sort_symbolic, between other kernels
}
EMULATED = [case for case in CASES if case.name not in ALIKE | SLOW]


def network() -> TracedGraph:
    """A small network with a free batch: convolution, pooling, a matrix product, exp and tanh."""

    @nl.network
    def small(x: Any) -> Any:
        x = nl.tanh(nl.conv2d(x, filters=24, kernel=3, padding="same"))
        return nl.softmax(nl.dense(nl.flatten(nl.max_pool2d(x, 2)), units=10))

    return small.graph(x=nl.tensor("N", 3, 8, 8))


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return plan_graph(network(), Options("aarch64"))


@pytest.fixture(scope="module")
def data(compiled: Compiled) -> bytes:
    return relocatable_object(compiled.variants)


# -- emission --------------------------------------------------------------------------------------


def test_the_object_is_one_for_aarch64(data: bytes) -> None:
    # relocatable, EM_AARCH64
    assert data[:4] == b"\x7fELF" and data[16:20] == bytes([1, 0, 183, 0])
    _, symbols = _read(data)
    allowed = {
        name for library in LIBRARIES for names in library.functions.values() for name in names
    }
    assert {symbol.name for symbol in symbols if symbol.section == 0} <= {*allowed, ""}
    visible = [
        symbol.name
        for symbol in symbols
        if symbol.section and not symbol.is_local and symbol.other == 0
    ]
    assert visible == ["nl_get_api"]


def test_kernels_use_neon_alone(compiled: Compiled) -> None:
    text = compiled.as_text("asm")
    assert "fmla\tv" in text and ".4s" in text
    assert not [
        word for word in ("xmm", "ymm", "%r", "cpuid", "fmaf", "expf", "tanhf") if word in text
    ]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_readelf_finds_nothing_wrong(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.o"
    path.write_bytes(data)
    result = subprocess.run(["readelf", "-aW", path], capture_output=True, text=True, check=True)
    assert "AArch64" in result.stdout and result.stderr == ""


def test_objects_are_the_same_from_every_build(data: bytes) -> None:
    assert relocatable_object(plan_graph(network(), Options("aarch64", workers=1)).variants) == data


def test_worker_processes_make_the_same_code(compiled: Compiled) -> None:
    kernels = dict(list(compiled.program.kernels.items())[:1])
    texts = [("k", kernels_as_llvm(kernels, CPU))]
    assert compile_texts(texts, CPU, 1, lambda *_: None) == compile_texts(
        texts, CPU, 0, lambda *_: None
    )


def test_symbol_versions_are_the_architectures() -> None:
    for library in LIBRARIES:
        assert symbol_versions(library, X86_64) == {
            version: list(names) for version, names in library.functions.items()
        }
        assert set(symbol_versions(library, AARCH64)) == {"GLIBC_2.17"}


# -- what it cannot do here ------------------------------------------------------------------------


@pytest.mark.skipif(AARCH64.is_native, reason="this machine is an AArch64")
def test_it_does_not_run_in_this_process(compiled: Compiled) -> None:
    with pytest.raises(CpuFeatureError, match="for aarch64, which this machine is not"):
        compiled.image  # noqa: B018


def test_no_cross_linker(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Architecture, "is_native", False)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/ld" if name == "ld" else None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        LinkError, match="No linker for aarch64 was found: neither aarch64-linux-gnu-ld.*An object"
    ) as error:
        compiled.save(tmp_path / "m.so")
    assert error.value.exit_code == 4 and not list(tmp_path.iterdir())
    monkeypatch.setattr(
        "shutil.which", lambda name: f"/bin/{name}" if name == "aarch64-linux-gnu-ld" else None
    )
    assert find_linker(AARCH64).command == ("/bin/aarch64-linux-gnu-ld",)


def test_two_architectures_are_no_file() -> None:
    with pytest.raises(UsageError, match="are of two architectures"):
        cpus_named("x86-64,aarch64")


def test_a_program_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    other = X86_64 if AARCH64.is_native else AARCH64
    nl.compile(network()).save(path)
    contents = bytearray(path.read_bytes())
    contents[18:20] = other.elf_machine.to_bytes(2, "little")
    path.write_bytes(contents)
    with pytest.raises(CpuFeatureError, match=f"is for {other.name}, but this machine is") as error:
        load(path)
    assert error.value.exit_code == 4


# -- in the emulator -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", EMULATED, ids=lambda case: case.name)
def test_kernels_give_the_interpreters_bits(case: Case) -> None:
    """But for the bits of a NaN, which processors make differently."""
    from tests.compiler.targets.cpu import emulated

    kernels = [
        dataclasses.replace(kernel, name=f"kernel_{place}")
        for place, kernel in enumerate(kernels_of(case, machine=CPU.machine))
    ]
    machine = emulated.Machine(compile_kernels({kernel.name: kernel for kernel in kernels}, CPU))
    for seed, kernel in enumerate(kernels):
        arrays = drawn(kernel, case.symbols, np.random.default_rng(seed))
        expected = interpreted(kernel, CPU, arrays, case.symbols)
        extents = [case.symbols[symbol.name] for symbol in kernel.symbols]
        room = np.zeros_like(expected.output)
        found, flag = machine.run_kernel(
            kernel.name, [*arrays, room], extents, dim.evaluate(kernel.items, case.symbols)
        )
        output = np.frombuffer(found, room.dtype).reshape(room.shape)
        is_nan = output != output
        assert np.array_equal(is_nan, expected.output != expected.output) and not flag
        assert output[~is_nan].tobytes() == expected.output[~is_nan].tobytes()


def test_a_whole_program_runs(data: bytes) -> None:
    """Opened, asked, and run through the C interface: host code, constants, kernels, and an
    error.
    """
    from tests.compiler.targets.cpu import emulated

    program = emulated.Program(data)
    assert json.loads(program.metadata())["level"] == "aarch64"
    graph = network().inference_form()
    for rows in (1, 3):
        x = np.random.default_rng(rows).standard_normal((rows, 3, 8, 8)).astype(np.float32)
        y = np.zeros((rows, 10), np.float32)
        assert program.run([x], [y]) == 0
        np.testing.assert_allclose(y, interpret(graph, {"x": x})[0], rtol=2e-5, atol=1e-6)
    assert program.run([x[:, :2]], [y]) == 2  # NL_ERROR_INPUT
    assert program.error().startswith(b"The %s %s must be %s")
