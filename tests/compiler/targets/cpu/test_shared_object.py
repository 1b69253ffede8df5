"""The file: what it needs, exports and records; its bytes; its header in C; writing whole or not
at all; linkers.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim
from netloom.compiler.program import Entry, Port, Program
from netloom.compiler.targets.cpu import shared_object, weights_object
from netloom.compiler.targets.cpu.header import generic_header, identifiers, model_header
from netloom.compiler.targets.cpu.link import LIBRARIES
from netloom.compiler.targets.cpu.shared_object import write_shared_object
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import LinkError, UsageError
from netloom.runtime.program import verify_file
from netloom.runtime.session import load
from tests.compiler.targets.cpu import small_programs as small

HERE = Path(__file__).parent


def tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


def dense() -> Program:
    bias = Constant.splat(0.5, TensorType(FLOAT32, (2000,)))
    return small.dense(np.arange(8000, dtype=np.float32).reshape(4, 2000) % 7, bias)


@needs("readelf")
def test_needs_and_exports(tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    write_shared_object([Variant(dense(), small.kernels(), ["avx2"])], path)
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", tool("readelf", "-dW", str(path)))) <= {
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
    }
    defined = [line.split()[7] for line in tool("readelf", "-W", "--dyn-syms", str(path)).splitlines()
               if re.search(r"\b(GLOBAL|WEAK)\b", line) and " UND " not in line]  # fmt: skip
    assert defined == ["nl_get_api"]
    versions = re.findall(r"GLIBC_(\d+)\.(\d+)", tool("readelf", "-VW", str(path)))
    assert versions
    assert max((int(major), int(minor)) for major, minor in versions) <= (2, 28)
    assert "TEXTREL" not in tool("readelf", "-dW", str(path))
    flags = re.findall(r"GNU_STACK.*?(RWE|RW)", tool("readelf", "-lW", str(path)))
    assert flags == ["RW"]


@needs("ldd")
def test_the_loader_finds_everything(tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    write_shared_object([Variant(small.doubling(), small.kernels())], path)
    names = {line.split()[0].rpartition("/")[2] for line in tool("ldd", str(path)).splitlines()}
    assert names <= {
        "linux-vdso.so.1",
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "ld-linux-x86-64.so.2",
    }


@needs("cc")
def test_from_c(tmp_path: Path) -> None:
    write_shared_object(
        [Variant(small.doubling(Dim.of(small.N), name="doubling"), small.kernels())],
        tmp_path / "doubling.so",
    )
    write_shared_object([Variant(small.training(), small.kernels())], tmp_path / "trained.so")
    driver = tmp_path / "driver"
    tool(
        "cc",
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-I",
        str(tmp_path),
        str(HERE / "driver.c"),
        "-o",
        str(driver),
        "-ldl",
    )
    paths = [str(tmp_path / f"{name}.so") for name in ("doubling", "trained")]
    result = subprocess.run([driver, *paths], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        result.stdout
        == 'The input "x" must be float32[N, 4] (here float32[3, 4]), but float32[3, 5] was given.\n'
    )


def test_the_weights_are_small_and_results_equal_those_in_process(tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    constant = Constant.splat(3.0, TensorType(FLOAT32, (1 << 20,)))
    program = small.dense(np.ones((1, 1 << 20), np.float32), constant)  # ones are a long run too
    write_shared_object([Variant(program, small.kernels())], path)
    assert path.stat().st_size < 64 * 1024
    y = load(path)(np.array([[2.0], [-1.0]], np.float32))
    assert (y[0] == 5).all()
    assert (y[1] == 2).all()


@needs("readelf")
@pytest.mark.parametrize("large", [False, True])
def test_sections_of_the_weights(
    large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the linker gets the weights themselves, large ones go into a section of their own."""
    monkeypatch.setattr(weights_object, "_LARGE", 1 if large else 1 << 30)
    monkeypatch.setattr(shared_object, "with_weights_behind", lambda *_: None)
    path = tmp_path / "model.so"
    write_shared_object([Variant(dense(), small.kernels())], path)
    assert (".lrodata" in tool("readelf", "-SW", str(path))) == large
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(
        load(path)(x), x @ (np.arange(8000, dtype=np.float32).reshape(4, 2000) % 7) + 0.5
    )


def test_a_training_build(tmp_path: Path) -> None:
    path = tmp_path / "trained.so"
    write_shared_object([Variant(small.training(), small.kernels())], path)
    session = load(path, threads=2)
    state = session.create_state()
    session.train_step(state, np.ones(6, np.float32), 1.0)
    np.testing.assert_array_equal(state["layer.w"], np.arange(6) - 1.0)
    assert session.metadata["training"] is True


_WRITE = """
import sys
from pathlib import Path
from tests.compiler.targets.cpu.test_shared_object import Variant, dense, small, write_shared_object
write_shared_object([Variant(dense(), small.kernels(), ["fma", "avx2"])], Path(sys.argv[1]) / "model.so")
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    results = []
    for seed in ("1", "2"):
        folder = tmp_path / f"folder of seed {seed}"
        (folder / "tmp").mkdir(parents=True)
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "TMPDIR": str(folder / "tmp"),
            "LD_RUN_PATH": str(folder),
        }
        subprocess.run(
            [sys.executable, "-c", _WRITE, str(folder)],
            check=True,
            env=environment,
            cwd=Path(__file__).parents[4],
        )
        results.append([(folder / name).read_bytes() for name in ("model.so", "model.h")])
        assert list((folder / "tmp").iterdir()) == []
    assert results[0] == results[1]
    assert str(tmp_path).encode() not in results[0][0]


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "text"), [
    ("missing/model.so", "its folder does not exist. Make the folder first"),
    (".", "it is a folder"),
    ("model.h", "the suffix .h is the header's"),
])  # fmt: skip
def test_places_that_cannot_be_written(tmp_path: Path, place: str, text: str) -> None:
    with pytest.raises(UsageError, match=text) as error:
        write_shared_object([Variant(small.doubling(), [b"never read"])], tmp_path / place)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("taken", ["model.so", "model.h"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, taken: str) -> None:
    os.mkfifo(tmp_path / taken)
    with pytest.raises(UsageError, match="it is no regular file"):
        write_shared_object([Variant(small.doubling(), [b"never read"])], tmp_path / "model.so")
    assert [place.name for place in tmp_path.iterdir()] == [taken]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.so"
    write_shared_object([Variant(small.doubling(), small.kernels())], path)
    old = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_shared_object([Variant(dense(), small.kernels())], path)
    assert path.read_bytes() == old
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.h", "model.so"]


def test_a_program_in_use_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    write_shared_object([Variant(small.doubling(), small.kernels())], path)
    first, x = load(path), np.ones((5, 4), np.float32)
    write_shared_object([Variant(small.chain(2, 5), small.kernels())], path)
    second = load(path)
    assert first(x)[0, 0] == 2
    assert second(x)[0, 0] == 4


def test_the_record_of_the_contents(tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    write_shared_object([Variant(small.doubling(), small.kernels())], path)
    verify_file(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Exception, match="have changed since it was written"):
        verify_file(path)


# -- linkers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("linker", ["ld", "cc", "ld.lld"])
def test_every_linker(linker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which(linker)
    if found is None:
        pytest.skip(f"{linker} is not installed")
    monkeypatch.setattr(shutil, "which", lambda name: found if name == linker else None)
    write_shared_object([Variant(dense(), small.kernels())], tmp_path / "model.so")
    x = np.ones((2, 4), np.float32)
    expected = x @ (np.arange(8000, dtype=np.float32).reshape(4, 2000) % 7) + np.float32(0.5)
    np.testing.assert_array_equal(load(tmp_path / "model.so")(x), expected)


def test_the_stand_ins_are_true() -> None:
    """This machine's libraries define every function under the version that programs ask for."""
    for library in LIBRARIES:
        loaded = ctypes.CDLL(library.name)
        dlvsym = ctypes.CDLL(None).dlvsym
        dlvsym.restype, dlvsym.argtypes = (
            ctypes.c_void_p,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p],
        )
        for version, names in library.functions.items():
            missing = [n for n in names if not dlvsym(loaded._handle, n.encode(), version.encode())]
            assert missing == []


def test_no_linker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        LinkError,
        match=r"No linker was found: neither ld.*Install binutils, or run: pip install ziglang",
    ) as error:
        write_shared_object([Variant(small.doubling(), small.kernels())], tmp_path / "model.so")
    assert error.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_that_calls_an_unknown_function_is_refused(tmp_path: Path) -> None:
    def stray(body: small.Body) -> None:
        from llvmlite import ir

        body.builder.call(
            ir.Function(
                body.builder.module, ir.FunctionType(ir.VoidType(), []), "system_call_of_doom"
            ),
            [],
        )

    with pytest.raises(LinkError, match="system_call_of_doom"):
        write_shared_object(
            [Variant(small.doubling(), [small.kernel_object(double=stray)])], tmp_path / "model.so"
        )
    assert list(tmp_path.iterdir()) == []


# -- header ----------------------------------------------------------------------------------------


def test_names_in_headers_are_identifiers() -> None:
    names = [
        "x",
        "X",
        "x y",
        "x_y",
        "*/ int evil; /*",
        "3d",
        "",
        "for",
        "a" * 1000,
        "nl_run",
        "\0",
        "ä",
    ]
    words = identifiers(names, "input", set())
    assert len({word.lower() for word in words}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", word) for word in words)
    assert "evil; /*" not in model_header(
        small.doubling(name="*/ evil; /*", x="*/ evil; /*", y="y")
    )


@needs("cc")
@pytest.mark.parametrize("language", ["c", "c++"])
def test_headers_compile(tmp_path: Path, language: str) -> None:
    if language == "c++" and shutil.which("c++") is None:
        pytest.skip("c++ is not installed")
    extent = (Dim.of(small.N) + 3) // 2 * 5 - 1
    port = Port("*/ x", small.float32(Dim.of(small.N)))
    words = ("for", "linux", "nullptr", "NULL", "int64_t", "int32_t", "DLTensor", "and_eq")
    ports = (port, *(Port(word, small.float32()) for word in words))
    entry = Entry("run", ports, (Port("out", small.float32(extent)),), (), ())
    (tmp_path / "a.h").write_text(
        model_header(small.program([entry], symbols=[small.N], name="while"))
    )
    (tmp_path / "b.h").write_text(model_header(small.training()))
    (tmp_path / "netloom.h").write_text(generic_header())
    source = tmp_path / "all.c"
    source.write_text(
        '#include "netloom.h"\n#include "a.h"\n#include "b.h"\nint main(void) { return 0; }\n'
    )
    standard = "c99" if language == "c" else "c++17"
    tool(
        "cc",
        "-x",
        language,
        f"-std={standard}",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-fsyntax-only",
        str(source),
    )


def test_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    program = small.chain(3)
    program = small.program(
        program.entries,
        symbols=program.symbols,
        name='a\n"source_hash":"---"',
        source_hash="abc",
        options={"cpu": "x86-64-v3"},
    )
    write_shared_object([Variant(program, small.kernels(), ["fma", "avx2", "sse2"])], path)
    data = load(path).metadata
    assert json.loads(json.dumps(data)) == data
    assert data["name"] == 'a\n"source_hash":"---"'
    assert data["features"] == ["avx2", "fma"]
    assert data["dims"] == [{"name": "N", "lo": 1, "hi": 64}]
    assert data["entries"][0]["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 4]}]
    assert data["entries"][0]["launches"] == 3
    assert (data["source_hash"], data["options"]) == ("abc", {"cpu": "x86-64-v3"})
