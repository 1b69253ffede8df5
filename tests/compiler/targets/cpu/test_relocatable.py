"""Objects that are linked into a C program: joined from those of kernels, host code and weights."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.constant import Constant
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.targets.cpu import relocatable
from netloom.compiler.targets.cpu.header import model_header
from netloom.compiler.targets.cpu.machine import host_cpus
from netloom.compiler.targets.cpu.relocatable import _read, join_objects, relocatable_object
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import LinkError
from tests.compiler.targets.cpu import small_programs as small

MAIN = """
#include <stdio.h>
#include "m.h"

int main(void) {
    const nl_api *api = nl_get_api(NL_ABI_VERSION);
    nl_model *model;
    nl_context *context;
    char error[256] = "";
    if (api->open(&model, error, sizeof error)) return puts(error);
    if (api->context_create(model, NULL, &context, error, sizeof error)) return puts(error);
    static float x[2 * ROW], y[2 * OUT];
    for (int i = 0; i < 2 * ROW; i++) x[i] = (float)(i % 13) / 4 - 1;
    if (RUN(context, 2, x, y)) return puts(api->last_error(context));
    fwrite(y, sizeof(float), 2 * OUT, stdout);
    api->context_destroy(context), api->close(model);
    return 0;
}
"""


def answer(data: bytes, header: str, folder: Path, **names: object) -> np.ndarray:
    """What a C program with the object computes."""
    (folder / "m.o").write_bytes(data)
    (folder / "m.h").write_text(header)
    (folder / "main.c").write_text(MAIN)
    defined = [f"-D{name}={value}" for name, value in names.items()]
    command = [
        "cc",
        "-std=c99",
        "-Wall",
        "-Werror",
        *defined,
        "main.c",
        "m.o",
        "-o",
        "main",
        "-lm",
        "-lpthread",
    ]
    linked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (linked.returncode, linked.stderr) == (0, "")
    return np.frombuffer(
        subprocess.run([folder / "main"], capture_output=True, check=True).stdout, np.float32
    ).reshape(2, -1)


needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed")


@needs_cc
@pytest.mark.parametrize("bias", ["bytes", "fill"])
def test_in_a_c_program(bias: str, tmp_path: Path) -> None:
    weights = np.arange(8000, dtype=np.float32).reshape(4, 2000) % 7
    constant = (
        Constant.splat(0.5, TensorType(FLOAT32, (2000,)))
        if bias == "fill"
        else Constant(np.arange(2000), FLOAT32)
    )
    program = small.dense(weights, constant)
    y = answer(
        relocatable_object([Variant(program, small.kernels())]),
        model_header(program),
        tmp_path,
        ROW=4,
        OUT=2000,
        RUN="small_run",
    )
    x = (np.arange(8, dtype=np.float32) % 13 / 4 - 1).reshape(2, 4)
    np.testing.assert_array_equal(y, x @ weights + np.asarray(constant.array))


@needs_cc
def test_a_network_of_all_levels_in_a_c_program(tmp_path: Path) -> None:
    """Its own bits are those of the program in this process."""
    graph = nl.zoo.lenet5().inference_form()
    compiled = compile_graph(graph, Options(",".join(cpu.name for cpu in host_cpus()), threads=1))
    data = relocatable_object(compiled.variants)
    y = answer(data, model_header(compiled.program), tmp_path, ROW=784, OUT=10, RUN="lenet5_run")
    x = (np.arange(2 * 784, dtype=np.float32) % 13 / 4 - 1).reshape(2, 1, 28, 28)
    np.testing.assert_array_equal(y, nl.compile(nl.zoo.lenet5(), threads=1)(x))


def test_the_only_visible_symbol() -> None:
    _, symbols = _read(relocatable_object([Variant(small.doubling(), small.kernels())]))
    assert [s.name for s in symbols if s.section and not s.is_local and s.other == 0] == [
        "nl_get_api"
    ]
    places = [place for place, symbol in enumerate(symbols) if symbol.is_local]
    assert places == list(range(len(places)))  # locals come first


def test_two_definitions_of_a_symbol() -> None:
    with pytest.raises(LinkError, match="Two objects define the symbol 'double'"):
        join_objects([small.kernels()[0], small.kernels()[0]], 62)


def test_more_sections_than_a_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relocatable, "_RESERVED", 12)
    with pytest.raises(LinkError, match="too many sections for an object. Write a .so file"):
        relocatable_object([Variant(small.doubling(), small.kernels())])
