"""Compiling the same model in the same way again copies the program; anything else compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from netloom.cli import kept_programs
from netloom.compiler.cache import default_cache

from .calling import ROOT, call

_MODEL = """
<ir_version: 8, opset_import: ["": 17]>
scale (float[N, 4] x) => (float[N, 4] y) <float[4] w = {%s, 2, 3, 4}> { y = Mul(x, w) }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small model and a cache of its own."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path, "1")
    return tmp_path


def write_model(folder: Path, first: str) -> None:
    """y = x * w; the digits of the first weight do not change the size of the file."""
    onnx.save(onnx.parser.parse_model(_MODEL % first), folder / "m.onnx")


def compiled(folder: Path, *options: str, name: str = "m.so") -> dict[str, Any]:
    """What compiling the model says, and the bytes of both files."""
    out = call("compile", folder / "m.onnx", "-o", folder / name, "--json", *options).stdout
    said: dict[str, Any] = json.loads(out)
    return {**said, "bytes": [(folder / name).with_suffix(s).read_bytes() for s in (".so", ".h")]}


def libraries() -> list[Path]:
    return [entry.path for entry in kept_programs.programs_of(default_cache()).entries()]


def test_the_same_again_is_a_copy(folder: Path) -> None:
    first, again = compiled(folder), compiled(folder, name="again.so")
    assert (first["kept"], again["kept"]) == (False, True)
    assert first["bytes"] == again["bytes"]
    assert first["kernels"] == again["kernels"] == 1 and first["cpu"] == again["cpu"]
    assert os.stat(folder / "again.so").st_mode == os.stat(folder / "m.so").st_mode
    assert not os.path.samefile(folder / "again.so", libraries()[0])  # who changes one, changes one
    text = call("compile", folder / "m.onnx", "-o", folder / "m.so").output
    assert "1 kernels, " in text and text.endswith(" s, as compiled before\n")


def test_a_copy_needs_no_compiler(folder: Path) -> None:
    code = ("import sys; from netloom.cli import main; "
            "main(['compile', 'm.onnx', '-o', 'm.so', '-q'], standalone_mode=False); "
            "print(*({'numpy', 'onnx', 'llvmlite', 'netloom.compiler.graph'} & {*sys.modules}))")  # fmt: skip
    found = [
        subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
                       check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert len(found[0]) == 4 and found[1] == []


@pytest.mark.parametrize(
    "options", [("--threads", "2"), ("--accuracy", "fast"), ("--dim", "N=3"), ("--shape", "x:2x4"),
                ("--conv-strategy", "direct"), ("--cpu", "x86-64-v3")],
    ids=lambda options: options[0],
)  # fmt: skip
def test_other_options_are_another_program(folder: Path, options: tuple[str, str]) -> None:
    compiled(folder)
    assert not compiled(folder, *options)["kept"]
    assert compiled(folder, *options)["kept"]


def test_another_model_of_the_same_size_is_another_program(folder: Path) -> None:
    first = compiled(folder)
    size = (folder / "m.onnx").stat().st_size
    write_model(folder, "9")
    assert (folder / "m.onnx").stat().st_size == size
    second = compiled(folder)
    assert not second["kept"] and second["bytes"] != first["bytes"]
    write_model(folder, "1")
    assert compiled(folder)["kept"] and compiled(folder)["bytes"] == first["bytes"]


@pytest.mark.parametrize("what", ["flipped", "short", "absent", "empty"])
def test_a_damaged_library_is_compiled_again(folder: Path, what: str) -> None:
    first = compiled(folder)
    (library,) = libraries()
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    contents = {"flipped": data, "short": data[:-200], "empty": b""}
    library.unlink()
    if what in contents:
        library.write_bytes(contents[what])
        library.chmod(0o600)
    second = compiled(folder)
    assert not second["kept"] and second["bytes"] == first["bytes"]
    third = compiled(folder)
    assert third["kept"] and third["bytes"] == first["bytes"]
    assert sorted(p.name for p in folder.iterdir()) == ["cache", "m.h", "m.onnx", "m.so"]


def test_what_lies_behind_a_library_is_not_copied(folder: Path) -> None:
    first = compiled(folder)
    with libraries()[0].open("ab") as file:
        file.write(b"more")
    again = compiled(folder)
    assert again["kept"] and again["bytes"] == first["bytes"]


def test_files_beside_the_model_decide_too(folder: Path) -> None:
    model = onnx.load(folder / "m.onnx")
    tensor = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    del model.graph.initializer[:]
    model.graph.initializer.append(tensor)
    onnx.save(
        model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    compiled(folder)
    assert not compiled(folder)["kept"] and libraries() == []


def test_what_is_asked_for_besides_is_made(folder: Path) -> None:
    compiled(folder)
    assert "fuse" in call("compile", folder / "m.onnx", "-o", folder / "m.so", "-v").output
    call("compile", folder / "m.onnx", "-o", folder / "m.so", "--dump", folder / "passes")
    assert any((folder / "passes").iterdir())
    call("compile", folder / "m.onnx", "-o", folder / "m.so", "--emit", "so,loops")
    assert (folder / "m.loops.txt").exists()


def test_large_libraries_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_programs, "LARGEST", 1000)
    compiled(folder)
    assert not compiled(folder)["kept"] and libraries() == []


def test_the_library_that_was_used_longest_ago_goes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = compiled(folder)["files"][0]["bytes"]
    os.utime(libraries()[0], (1, 1))
    monkeypatch.setattr(kept_programs, "LIMIT", size + size // 2)
    compiled(folder, "--dim", "N=3")
    assert len(libraries()) == 1 and not compiled(folder)["kept"]


def test_without_a_cache_nothing_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETLOOM_CACHE", "off")
    compiled(folder)
    assert not compiled(folder)["kept"] and not (folder / "cache").exists()


def test_the_cache_shows_and_clears_programs(folder: Path) -> None:
    compiled(folder)
    row = json.loads(call("cache", "show", "--json").stdout)
    assert row["programs"] == 1 and row["program_bytes"] == libraries()[0].stat().st_size
    assert "programs   1, " in call("cache", "show").output
    call("cache", "clear")
    assert libraries() == [] and not compiled(folder)["kept"]
