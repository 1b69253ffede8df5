"""A program whose code is in the cache is compiled again without what only making code needs."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import netloom as nl
from netloom.compiler.cache import default_cache
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim
from netloom.compiler.program import Program
from netloom.compiler.targets.cpu import features, host_api, llvm_version
from netloom.compiler.targets.cpu.architecture import AARCH64, X86_64
from netloom.compiler.targets.cpu.features import FEATURES, present_features
from netloom.compiler.targets.cpu.host_object import build_host_objects, functions_ahead
from netloom.compiler.targets.cpu.host_shape import HostShape, shape_of
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.machine import CPUS
from netloom.compiler.targets.cpu.segments import Weights, lay_out
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import ToolchainError
from netloom.runtime.session import Session, load
from tests.compiler.targets.cpu import small_programs as small

ROOT = Path(__file__).parents[4]
_COMPILE = """
import sys
from netloom.cli import main
# with -v passes are reported, so the program is not copied whole
main(["compile", sys.argv[1], "-o", sys.argv[2], "-v"], standalone_mode=False)
names = ("llvmlite", "networkx", "netloom.frontends.dsl", "netloom.frontends.onnx.exporter",
         "netloom.compiler.targets.cpu.lowering", "netloom.compiler.targets.cpu.worker_pool",
         "netloom.compiler.loops.verify", "netloom.compiler.targets.cpu.host",
         "netloom.compiler.targets.cpu.stand_ins")  # a linker runs
print(*(name for name in names if name in sys.modules))
"""


def test_a_warm_compile_imports_nothing_that_makes_code(tmp_path: Path) -> None:
    onnx.save(nl.to_onnx(nl.zoo.lenet5()), tmp_path / "net.onnx")
    cold, warm = (
        imported_by_compiling(tmp_path, "net.onnx", name) for name in ("cold.so", "warm.so")
    )
    assert warm == []
    assert {"llvmlite", "netloom.compiler.targets.cpu.host"} <= set(cold)  # the control
    for suffix in (".so", ".h"):
        first, second = (tmp_path / f"{name}{suffix}" for name in ("cold", "warm"))
        assert first.read_bytes() == second.read_bytes()


def test_other_weights_need_neither_llvm_nor_a_linker(tmp_path: Path) -> None:
    """Of what is compiled only the source's hash depends on them, which is put in afterwards."""
    for name in ("one", "other"):
        model = nl.to_onnx(nl.zoo.mlp())
        weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
        weight.flat[0] += name == "other"
        changed = onnx.numpy_helper.from_array(weight, model.graph.initializer[0].name)
        model.graph.initializer[0].CopyFrom(changed)
        onnx.save(model, tmp_path / f"{name}.onnx")
    cold = imported_by_compiling(tmp_path, "one.onnx", "one.so")
    assert {"llvmlite", "netloom.compiler.targets.cpu.stand_ins"} <= set(cold)  # the control
    assert imported_by_compiling(tmp_path, "other.onnx", "other.so") == []
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "other.onnx").write_bytes((tmp_path / "other.onnx").read_bytes())
    imported_by_compiling(alone, "other.onnx", "other.so")
    assert (alone / "other.so").read_bytes() == (tmp_path / "other.so").read_bytes()
    hashes = {load(tmp_path / f"{name}.so").metadata["source_hash"] for name in ("one", "other")}
    assert len(hashes) == 2 and all(len(found) == 64 for found in hashes)


def imported_by_compiling(folder: Path, model: str, target: str) -> list[str]:
    """What of the names was imported when a network was compiled by a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NETLOOM_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, model, target],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1].split()


# -- host code -------------------------------------------------------------------------------------


def variants(program: Program | None = None, **changes: Any) -> list[Variant]:
    weights = np.arange(8000, dtype=np.float32).reshape(4, 2000)
    program = program or small.dense(weights, Constant(weights[0]))
    return [dataclasses.replace(Variant(program, small.kernels(), ["avx2"], "level"), **changes)]


def changed_launches(program: Program, **changes: Any) -> Program:
    (entry,) = program.entries
    launches = tuple(dataclasses.replace(launch, **changes) for launch in entry.launches)
    return dataclasses.replace(program, entries=(dataclasses.replace(entry, launches=launches),))


def moved(weights: Weights) -> Weights:
    return dataclasses.replace(weights, size=weights.size + 64)


def test_tables_are_looked_up_by_all_that_they_are_written_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    made: list[object] = []

    def write(*arguments: object) -> bytes:
        made.append(arguments)
        return f"object {len(made)}".encode()

    monkeypatch.setattr(host_api, "compile_data", write)
    monkeypatch.setattr(host_api, "compile_functions", lambda _: b"functions")
    program = variants()[0].program
    weights = lay_out(program.constants)
    calls: list[Callable[[], tuple[bytes, bytes]]] = [
        lambda: build_host_objects(variants(), weights, ["{}"], True),
        lambda: build_host_objects(variants(), lay_out([]), ["{}"], True),
        lambda: build_host_objects(variants(), lay_out([]), ["{}"], False),
        lambda: build_host_objects(variants(), weights, ["[]"], True),
        lambda: build_host_objects(variants(), moved(weights), ["{}"], True),
        lambda: build_host_objects(variants(features=["fma"]), weights, ["{}"], True),
        lambda: build_host_objects(variants(level="other"), weights, ["{}"], True),
        lambda: build_host_objects(variants(architecture=AARCH64), weights, ["{}"], True),
        lambda: build_host_objects(
            variants(changed_launches(program, extents=())), weights, ["{}"], True
        ),
        lambda: build_host_objects(
            variants(dataclasses.replace(program, name="other")), weights, ["{}"], True
        ),
    ]
    first = [call()[1] for call in calls]
    assert len(set(first)) == len(made) == len(calls)
    assert [call()[1] for call in calls] == first
    assert len(made) == len(calls)  # nothing was made again


def test_functions_are_looked_up_by_the_shape_of_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that differ in sizes, names and weights share them; all else makes others."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    made: list[HostShape] = []

    def write(shape: HostShape) -> bytes:
        made.append(shape)
        return repr(shape).encode()

    monkeypatch.setattr(host_api, "compile_data", lambda *_: b"tables")
    monkeypatch.setattr(host_api, "compile_functions", write)
    program = variants()[0].program
    alike = [
        variants(),
        variants(small.dense(np.ones((8, 3), np.float32), Constant(np.ones(3, np.float32)))),
        variants(dataclasses.replace(program, name="other", constants=())),
        variants(changed_launches(program, extents=())),
        variants(small.doubling()),  # without a free dim
        variants(small.turning()),
    ]
    others = [
        variants(features=["fma"]),
        variants(level="other"),
        variants(architecture=AARCH64),
        variants(small.training()),
        [*variants(), *variants(changed_launches(program, kernel="other"), level="other")],
    ]
    for given in (*alike, *others, *alike):
        found, _ = build_host_objects(given, lay_out([]), ["{}"] * len(given), True)
        assert found == repr(shape_of(given)).encode()
    assert len(made) == 1 + len(others)


def test_functions_are_made_ahead_by_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, while kernels are compiled; a fault is told where the functions are asked for."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    monkeypatch.setattr(host_api, "compile_data", lambda *_: b"tables")
    makers: list[threading.Thread] = []

    def write(_: HostShape) -> bytes:
        makers.append(threading.current_thread())
        if len(makers) <= 2:
            raise ToolchainError("there is no LLVM")
        return b"functions"

    monkeypatch.setattr(host_api, "compile_functions", write)
    bare = [dataclasses.replace(variant, objects=()) for variant in variants()]
    with functions_ahead(bare):
        pass
    with pytest.raises(ToolchainError, match="there is no LLVM"):
        build_host_objects(variants(), lay_out([]), ["{}"], True)
    with pytest.raises(KeyError), functions_ahead(bare):
        raise KeyError("a kernel's fault")
    for _ in range(2):
        with functions_ahead(bare):
            pass
        assert build_host_objects(variants(), lay_out([]), ["{}"], True)[0] == b"functions"
    me = threading.current_thread()
    assert [maker is me for maker in makers] == [False, True, False]
    assert not any(maker.is_alive() for maker in makers if maker is not me)


def test_host_code_is_compiled_without_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take twice as long as all else."""
    builder = "create_pass_builder"
    monkeypatch.setattr(host_api.llvm, builder, lambda *_: pytest.fail("passes are run"))
    assert host_api.compile_functions.__wrapped__(shape_of(variants())).startswith(b"\x7fELF")


def test_programs_of_one_shape_share_their_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of free dims, constants, launches, turns and sizes are read from each program's own
    tables.
    """
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    weights = np.arange(6000, dtype=np.float32).reshape(2, 3000) % 7
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    filled = Constant.splat(3.0, TensorType(FLOAT32, (3000,)))  # expanded when it is opened
    cases = [
        (small.doubling(Dim.of(small.N)), x, 2 * x),
        (small.chain(5), x, 32 * x),
        (small.turning(), x, 8 * x),
        (small.doubling(2), x, 2 * x),
        (small.dense(weights, filled), x[:, :2], x[:, :2] @ weights + 3),
    ]
    misses = host_api.compile_functions.cache_info().misses
    for program, given, wanted in cases:
        image = load_in_process([Variant(program, small.kernels(), level="shared")])
        assert np.array_equal(Session.in_process(image, threads=2)(given), wanted)
    assert host_api.compile_functions.cache_info().misses == misses + 1


def test_tables_with_addresses_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of one process; each compile would leave an object that nothing finds."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    monkeypatch.setattr(host_api, "compile_data", lambda *_: b"object")
    weights = lay_out(variants()[0].program.constants)
    assert weights.placements
    for image, kept in ((False, 0), (True, 1)):
        build_host_objects(variants(), weights, ["{}"], image)
        found = [
            entry
            for entry in default_cache().entries()
            if entry.path.read_bytes()[-6:] == b"object"
        ]
        assert len(found) == kept


# -- what LLVM and the machine are -----------------------------------------------------------------


def test_llvm_is_asked_for_its_version_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    version = llvm_version.llvm_version.__wrapped__  # as in another process
    asked = version()
    assert asked.startswith("llvmlite ") and ", LLVM " in asked
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    assert version() == asked
    folder, *rest = llvm_version.identity_of("llvmlite", "__init__.py")
    monkeypatch.setattr(llvm_version, "identity_of", lambda *_: (folder, *rest, "another file"))
    with pytest.raises(ImportError):  # the control: another file is asked
        version()


@pytest.mark.skipif(not X86_64.is_native, reason="the features of x86-64 are looked at")
def test_the_system_and_llvm_name_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = present_features.__wrapped__
    used = {feature for cpu in CPUS.values() for feature in cpu.required}
    assert used <= FEATURES.keys()
    said = ask()
    monkeypatch.setattr(features, "_PROCESSORS", Path("/nowhere"))
    assert ask() & used == said & used
    assert said & used  # the control: a machine that has none would prove nothing
