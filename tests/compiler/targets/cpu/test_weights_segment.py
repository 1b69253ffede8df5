"""The weights behind a linked file: mapped read-only, last in memory, never seen by the linker."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from netloom.compiler.targets.cpu import link, shared_object
from netloom.compiler.targets.cpu.link import Linker
from netloom.compiler.targets.cpu.shared_object import write_shared_object
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.targets.cpu.weights_segment import with_weights_behind
from netloom.runtime.program import verify_file
from netloom.runtime.session import load
from tests.compiler.targets.cpu import small_programs as small
from tests.compiler.targets.cpu.test_shared_object import dense, needs, tool

X = np.ones((2, 4), np.float32)
EXPECTED = X @ (np.arange(8000, dtype=np.float32).reshape(4, 2000) % 7) + np.float32(0.5)
PAGE = 1 << 12


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETLOOM_CACHE", "off")


def written(path: Path) -> Path:
    write_shared_object([Variant(dense(), small.kernels())], path)
    return path


@needs("readelf")
def test_the_segment(tmp_path: Path) -> None:
    path = written(tmp_path / "model.so")
    lines = tool("readelf", "-lW", str(path)).splitlines()
    loads = [line.split() for line in lines if line.split()[:1] == ["LOAD"]]
    starts = [int(load[2], 16) for load in loads]
    assert starts == sorted(starts) and len(loads) >= 3
    offset, address, _, in_file, in_memory, flags, align = loads[-1][1:]
    assert (in_file, in_memory, flags) == (hex32(32000), hex32(32000), "R")
    assert int(offset, 16) % int(align, 16) == int(address, 16) % int(align, 16) == 0
    assert "warning" not in tool("readelf", "-aW", str(path)).lower()
    weights = (np.arange(8000, dtype=np.float32) % 7).tobytes()
    assert path.read_bytes()[int(offset, 16) :][:32000] == weights


def hex32(value: int) -> str:
    return f"0x{value:06x}"


def test_weights_cannot_be_written(tmp_path: Path) -> None:
    path = written(tmp_path / "model.so")
    session = load(path)
    rows = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    flags = [row[1] for row in rows if row[-1] == str(path)]
    assert flags[-1] == "r--p" and "rwxp" not in flags
    np.testing.assert_array_equal(session(X), EXPECTED)


@needs("strip")
def test_a_stripped_file_still_runs(tmp_path: Path) -> None:
    """Tools that rewrite ELF files find segments and sections that agree."""
    path = written(tmp_path / "model.so")
    tool("strip", str(path))
    assert "nl_get_api" in tool("nm", "-D", str(path))
    weights = (np.arange(8000, dtype=np.float32) % 7).tobytes()
    assert weights in path.read_bytes()


def test_where_the_room_cannot_be_used_the_linker_gets_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_size = written(tmp_path / "usual.so").stat().st_size
    monkeypatch.setattr(shared_object, "with_weights_behind", lambda *_: None)
    path = written(tmp_path / "model.so")
    verify_file(path)
    np.testing.assert_array_equal(load(path)(X), EXPECTED)
    assert abs(path.stat().st_size - small_size) < 4 * PAGE


@pytest.mark.parametrize("name", ["ld.bfd", "ld.gold", "ld.lld"])
def test_linkers_that_lay_out_otherwise(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    for module in (link, shared_object):
        monkeypatch.setattr(module, "find_linker", lambda _architecture: Linker((found,)))
    path = written(tmp_path / "model.so")
    verify_file(path)
    np.testing.assert_array_equal(load(path)(X), EXPECTED)


def test_files_without_room(tmp_path: Path) -> None:
    """Of weights that are in another place there is no room."""
    write_shared_object([Variant(small.doubling(), small.kernels())], tmp_path / "model.so")
    assert with_weights_behind((tmp_path / "model.so").read_bytes(), PAGE) is None


def test_the_linker_runs_once_for_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second time its work comes from the cache; other weights of the same size do not matter."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path / "cache"))
    first = written(tmp_path / "a.so").read_bytes()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("the linker ran again"))
    assert written(tmp_path / "b.so").read_bytes() == first
    bias = dense().constants[1]
    other = small.dense(np.arange(8000, dtype=np.float32).reshape(4, 2000) % 11, bias)
    write_shared_object([Variant(other, small.kernels())], tmp_path / "c.so")
    expected = X @ (np.arange(8000, dtype=np.float32).reshape(4, 2000) % 11) + np.float32(0.5)
    np.testing.assert_array_equal(load(tmp_path / "c.so")(X), expected)
