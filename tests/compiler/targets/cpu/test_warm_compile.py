"""A program whose code is in the cache is compiled again without what only making code needs."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import netloom as nl
from netloom.compiler.cache import default_cache
from netloom.compiler.constant import Constant
from netloom.compiler.program import Program
from netloom.compiler.targets.cpu import features, host_api, llvm_version
from netloom.compiler.targets.cpu.architecture import AARCH64, X86_64
from netloom.compiler.targets.cpu.features import FEATURES, present_features
from netloom.compiler.targets.cpu.host_object import build_host_object
from netloom.compiler.targets.cpu.machine import CPUS
from netloom.compiler.targets.cpu.segments import Weights, lay_out
from netloom.compiler.targets.cpu.variant import Variant
from tests.compiler.targets.cpu import small_programs as small

ROOT = Path(__file__).parents[4]
_COMPILE = """
import sys
from netloom.cli import main
main(["compile", "net.onnx", "-o", sys.argv[1], "-q"], standalone_mode=False)
names = ("llvmlite", "networkx", "netloom.frontends.dsl", "netloom.frontends.onnx.exporter",
         "netloom.compiler.targets.cpu.lowering", "netloom.compiler.targets.cpu.worker_pool",
         "netloom.compiler.loops.verify", "netloom.compiler.targets.cpu.host")
print(*(name for name in names if name in sys.modules))
"""


def test_a_warm_compile_imports_nothing_that_makes_code(tmp_path: Path) -> None:
    onnx.save(nl.to_onnx(nl.zoo.lenet5()), tmp_path / "net.onnx")
    cold, warm = (imported_by_compiling(tmp_path, name) for name in ("cold.so", "warm.so"))
    assert warm == []
    assert {"llvmlite", "netloom.compiler.targets.cpu.host"} <= set(cold)  # the control
    for suffix in (".so", ".h"):
        first, second = (tmp_path / f"{name}{suffix}" for name in ("cold", "warm"))
        assert first.read_bytes() == second.read_bytes()


def imported_by_compiling(folder: Path, target: str) -> list[str]:
    """What of the names was imported when a network was compiled by a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NETLOOM_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, target],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1].split()


# -- host code -------------------------------------------------------------------------------------


def variants(program: Program | None = None, **changes: Any) -> list[Variant]:
    weights = np.arange(8000, dtype=np.float32).reshape(4, 2000)
    program = program or small.dense(weights, Constant(weights[0]))
    return [dataclasses.replace(Variant(program, small.kernels(), ["avx2"], "level"), **changes)]


def renamed_launch(program: Program) -> Program:
    (entry,) = program.entries
    launches = tuple(dataclasses.replace(launch, extents=()) for launch in entry.launches)
    return dataclasses.replace(program, entries=(dataclasses.replace(entry, launches=launches),))


def moved(weights: Weights) -> Weights:
    return dataclasses.replace(weights, size=weights.size + 64)


def test_host_code_is_looked_up_by_all_that_it_is_written_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    made: list[object] = []

    def write(*arguments: object) -> bytes:
        made.append(arguments)
        return f"object {len(made)}".encode()

    monkeypatch.setattr(host_api, "compile_host_object", write)
    program = variants()[0].program
    weights = lay_out(program.constants)
    calls: list[Callable[[], bytes]] = [
        lambda: build_host_object(variants(), weights, ["{}"], True),
        lambda: build_host_object(variants(), lay_out([]), ["{}"], True),
        lambda: build_host_object(variants(), lay_out([]), ["{}"], False),
        lambda: build_host_object(variants(), weights, ["[]"], True),
        lambda: build_host_object(variants(), moved(weights), ["{}"], True),
        lambda: build_host_object(variants(features=["fma"]), weights, ["{}"], True),
        lambda: build_host_object(variants(level="other"), weights, ["{}"], True),
        lambda: build_host_object(variants(architecture=AARCH64), weights, ["{}"], True),
        lambda: build_host_object(variants(renamed_launch(program)), weights, ["{}"], True),
        lambda: build_host_object(
            variants(dataclasses.replace(program, name="other")), weights, ["{}"], True
        ),
    ]
    first = [call() for call in calls]
    assert len(set(first)) == len(made) == len(calls)
    assert [call() for call in calls] == first
    assert len(made) == len(calls)  # nothing was made again


def test_host_code_with_addresses_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of one process; each compile would leave an object that nothing finds."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    monkeypatch.setattr(host_api, "compile_host_object", lambda *_: b"object")
    weights = lay_out(variants()[0].program.constants)
    assert weights.placements
    for image, kept in ((False, 0), (True, 1)):
        build_host_object(variants(), weights, ["{}"], image)
        found = [
            entry for entry in default_cache().entries() if b"object" in entry.path.read_bytes()
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
    folder, *rest = llvm_version._identity()
    monkeypatch.setattr(llvm_version, "_identity", lambda: (folder, *rest[1:], "another file"))
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
