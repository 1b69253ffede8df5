"""Every verb on small models: what it prints, as text and as JSON, and what it writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import netloom as nl
from netloom.cli import main
from netloom.cli.compile import EMITTERS
from netloom.compiler.op import OPS
from netloom.compiler.strategies import STRATEGIES

from .calling import ROOT, call, spawn, start

NETWORK = """
import netloom as nl

@nl.network
def small(x):
    x = nl.max_pool2d(nl.relu(nl.conv2d(x, 4, 3, padding=1)), 2)
    return nl.dense(nl.flatten(x), 3)

def graph():
    return small.graph(x=nl.tensor("N", 1, 8, 8))

def number():
    return 7

def broken():
    return 1 / 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network in Python, the same as ONNX, and its program."""
    place = tmp_path_factory.mktemp("cli")
    (place / "net.py").write_text(NETWORK, encoding="utf-8")
    call("export", f"{place}/net.py:graph", "-o", place / "net.onnx")
    call("compile", place / "net.onnx", "-o", place / "net.so")
    return place


def data_of(*arguments: str | Path, code: int = 0) -> Any:
    return json.loads(call(*arguments, "--json", code=code).stdout)


def test_help_names_every_verb_and_exit_code() -> None:
    text = " ".join(call("--help").output.split())
    assert all(verb in text for verb in main.commands) and "5 a fault while running" in text
    for verb in main.commands:
        page = call(verb, "--help").output
        assert "--json" in page and "--quiet" in page and "--verbose" in page, verb


def test_help_imports_neither_numpy_nor_the_compiler() -> None:
    code = (
        "import sys; from netloom.cli import main; main(['--help'], standalone_mode=False); "
        "print({'numpy', 'llvmlite', 'onnx', 'rich', 'netloom.compiler', 'netloom.runtime'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


# -- compile ---------------------------------------------------------------------------------------


def test_compile_says_precision_and_target_first(folder: Path, tmp_path: Path) -> None:
    lines = call(
        "compile", folder / "net.onnx", "-o", tmp_path / "a.so", "--cpu", "x86-64-v3"
    ).output.splitlines()
    assert lines[0] == "precision float32, target x86-64-v3, accuracy default"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h", "a.so"]
    row = data_of("compile", folder / "net.onnx", "-o", tmp_path / "a.so", "--threads", "3")
    assert row["kernels"] > 0 and [item["form"] for item in row["files"]] == ["so", "header"]
    assert data_of("inspect", tmp_path / "a.so")["threads"] == 3
    assert call("compile", folder / "net.onnx", "-o", tmp_path / "a.so", "-q").output == ""


def test_compile_writes_every_form(folder: Path, tmp_path: Path) -> None:
    call("compile", folder / "net.onnx", "-o", tmp_path / "a.so", "--emit", ",".join(EMITTERS))
    assert {path.name for path in tmp_path.iterdir()} == {
        "a" + emitter.suffix for emitter in EMITTERS.values()
    }
    text = {form: (tmp_path / f"a{EMITTERS[form].suffix}").read_bytes() for form in EMITTERS}
    assert (
        text["graph"].startswith(b'graph "')
        and b"max_pool" in text["graph"]
        and b"= kernel(" not in text["graph"]
    )
    assert b"= kernel(" in text["kernels"]
    assert b"define void @" in text["llvm"] and b".text" in text["asm"]
    assert text["so"].startswith(b"\x7fELF") and text["obj"].startswith(b"\x7fELF")
    assert b"nl_get_api" in text["header"]
    assert text["dot"].startswith(b'digraph "run" {') and b"->" in text["dot"]
    assert onnx.load_from_string(text["onnx"]).graph.node
    assert call("compile", folder / "net.onnx", "--emit", "loops").output.encode() == text["loops"]


def test_the_suffix_says_what_to_write(folder: Path, tmp_path: Path) -> None:
    call("compile", folder / "net.onnx", "-o", tmp_path / "a.ll")
    call("compile", folder / "net.onnx", "-o", tmp_path / "b.o")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ll", "b.h", "b.o"]


C_MAIN = """
#include <stdio.h>
#include "net.h"

int main(void) {
    const nl_api *api = nl_get_api(NL_ABI_VERSION);
    nl_model *model;
    nl_context *context;
    char error[256];
    static float x[2][1][8][8], y[2][3];
    if (api->open(&model, error, sizeof error)) return 1;
    if (api->context_create(model, NULL, &context, error, sizeof error)) return 2;
    for (int i = 0; i < 128; i++) (&x[0][0][0][0])[i] = (float)i / 128;
    if (MODEL_run(context, 2, &x[0][0][0][0], &y[0][0])) return 3;
    for (int i = 0; i < 6; i++) printf("%.9g ", (&y[0][0])[i]);
    api->context_destroy(context);
    api->close(model);
    return 0;
}
"""


def test_an_object_is_linked_into_a_program(folder: Path, tmp_path: Path) -> None:
    call("compile", folder / "net.onnx", "-o", tmp_path / "net.o")
    name = data_of("inspect", folder / "net.so")["name"]
    (tmp_path / "main.c").write_text(C_MAIN.replace("MODEL", name), encoding="utf-8")
    command = ["cc", "-Wall", "-Werror", "main.c", "net.o", "-o", "main", "-lm", "-lpthread"]
    subprocess.run(command, cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout
    np.save(tmp_path / "x.npy", (np.arange(128, dtype=np.float32) / 128).reshape(2, 1, 8, 8))
    call("run", folder / "net.so", "--in", f"x={tmp_path}/x.npy", "--out", f"y={tmp_path}/y.npy")
    assert np.array_equal(np.array(out.split(), np.float32), np.load(tmp_path / "y.npy").ravel())


def test_dump_holds_a_text_for_each_pass(folder: Path, tmp_path: Path) -> None:
    call("compile", folder / "net.onnx", "-o", tmp_path / "a.so", "--dump", tmp_path / "dump")
    names = sorted(path.name for path in (tmp_path / "dump" / "run").iterdir())
    assert names[0] == "00_input.txt" and any(
        name.endswith("_select_strategies.txt") for name in names
    )


def test_compile_for_training(folder: Path, tmp_path: Path) -> None:
    call(
        "compile",
        f"{folder}/net.py:graph",
        "-o",
        tmp_path / "a.so",
        "--train",
        "loss=cross_entropy,optimizer=sgd:lr=0.1,momentum=0.9",
    )
    facts = data_of("inspect", tmp_path / "a.so")
    assert facts["training"] and [entry["name"] for entry in facts["entries"]] == [
        "run",
        "train_step",
    ]
    assert any("velocity" in state["name"] for state in facts["states"])


def test_shapes_and_dims(folder: Path) -> None:
    for option in (("--shape", "x:5x1x8x8"), ("--dim", "N=5")):
        for model in (f"{folder}/net.py:graph", f"{folder}/net.onnx"):
            assert "float32[5, 1, 8, 8]" in call("inspect", model, *option).output, (model, option)
    assert (
        "float32[N, 1, 8, 8]"
        in call("inspect", f"{folder}/net.py:small", "--shape", "x:Nx1x8x8").output
    )
    for model in (f"{folder}/net.py:graph", f"{folder}/net.onnx"):
        assert "2..4" in call("inspect", model, "--dim", "N=2..4").output
        assert "float32[2*N, 1, 8, 8]" in call("inspect", model, "--dim", "N=2..8:2").output


# -- run -------------------------------------------------------------------------------------------


def test_run_on_files(folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "labels.txt").write_text("ant\nbee\ncow\n", encoding="utf-8")
    arguments = ("--in", f"x={tmp_path}/x.npy", "--labels", tmp_path / "labels.txt")
    (row,) = data_of("run", folder / "net.so", *arguments, "--out", f"y={tmp_path}/y.npy")
    y = np.load(tmp_path / "y.npy")
    assert row["shape"] == [1, 3] and row["nan"] == 0 and row["max"] == float(y.max())
    assert [entry["class"] for entry in row["top5"]] == np.argsort(-y[0]).tolist()
    assert row["top5"][0]["label"] == ["ant", "bee", "cow"][int(y.argmax())]
    (again,) = data_of("run", f"{folder}/net.py:graph", *arguments)
    assert again["mean"] == pytest.approx(row["mean"], rel=1e-5)
    text = call("run", folder / "net.so", *arguments).output
    assert text.startswith("y: float32 [1, 3]  min ") and f"1. {row['top5'][0]['label']} (" in text


def test_run_on_an_image(folder: Path, tmp_path: Path) -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(picture).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", ((picture / 255 - 0.5) / 0.25).astype(np.float32)[None, None])
    (image,) = data_of(
        "run", folder / "net.so", "--in", f"x={tmp_path}/x.png", "--mean", "0.5", "--std", "0.25"
    )
    (array,) = data_of("run", folder / "net.so", "--in", f"x={tmp_path}/x.npy")
    assert image == array


def test_run_counts_nan(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
    assert "NaN 3" in call("run", folder / "net.so", "--in", f"x={tmp_path}/x.npy").output


def test_random_inputs_depend_on_the_seed_and_dims(folder: Path) -> None:
    first, again = (data_of("run", folder / "net.so", "--dim", "N=4") for _ in range(2))
    other = data_of("run", folder / "net.so", "--dim", "N=4", "--seed", "1")
    assert first == again != other and first[0]["shape"] == [4, 3]


def test_dims_of_a_model_are_bound_before_it_runs(folder: Path) -> None:
    (row,) = data_of("run", folder / "net.onnx", "--dim", "N=4")
    assert row["shape"] == [4, 3]
    assert data_of("compare", folder / "net.onnx", "--dim", "N=4")["agrees"]


# -- inspect, check, compare -----------------------------------------------------------------------


def test_inspect_a_program(folder: Path) -> None:
    text = call("inspect", folder / "net.so", "--verify").output
    assert (
        "float32[N, 1, 8, 8]" in text and "contents: verified" in text and "source hash: " in text
    )


def test_inspect_counts_the_work(folder: Path) -> None:
    facts = data_of("inspect", folder / "net.onnx")
    assert (
        facts["connections"] == 64 * 4 * 9 + 64 * 3 and facts["FLOPs"] == 2 * facts["connections"]
    )
    assert facts["units"] == 64 * 4 + 3 and facts["ops"]["conv"] == 1


def test_check(folder: Path) -> None:
    assert "supported" in call("check", folder / "net.onnx").output
    assert {row["op"] for row in data_of("check", folder / "net.onnx")} >= {
        "Conv",
        "Relu",
        "MaxPool",
    }


@pytest.mark.parametrize("other", ["reference", "onnxruntime", "program"])
def test_compare(folder: Path, other: str) -> None:
    result = data_of(
        "compare",
        folder / "net.onnx",
        "--with",
        str(folder / "net.so") if other == "program" else other,
    )
    assert result["agrees"] and [row["output"] for row in result["outputs"]] == ["y"]


def test_compare_every_node(folder: Path) -> None:
    rows = data_of("compare", folder / "net.onnx", "--per-node")["outputs"]
    assert [row["output"].split()[1] for row in rows][:2] == ["conv", "add"] and len(rows) >= 5


def test_a_distance_beyond_the_tolerance_is_1(folder: Path) -> None:
    result = call("compare", folder / "net.onnx", "--tolerance", "-1", code=1)
    assert (
        "'y' is the first of 1 outputs beyond the tolerance" in result.stderr
        and "FAR" in result.stdout
    )


def test_another_program_is_a_failed_comparison(folder: Path, tmp_path: Path) -> None:
    source = (folder / "net.py").read_text(encoding="utf-8").replace("nl.relu(", "nl.tanh(")
    (tmp_path / "other.py").write_text(source, encoding="utf-8")
    call("compare", f"{tmp_path}/other.py:graph", "--with", folder / "net.so", code=1)


# -- lists -----------------------------------------------------------------------------------------


def test_lists() -> None:
    assert set(data_of("ops")) == set(OPS)
    assert [row["name"] for row in data_of("strategies")] == [
        strategy.name for strategy in STRATEGIES
    ]
    assert [row["name"] for row in data_of("passes")][-1] == "fuse"
    assert sum(row["host"] for row in data_of("targets")) == 1
    for verb in ("ops", "strategies", "passes", "targets"):
        assert len(call(verb).output.splitlines()) >= 3


def test_doctor_tries_the_machine() -> None:
    facts = data_of("doctor")
    assert facts["compile and run"] == facts["link and load"] == "ok" and facts["processors"] >= 1


# -- train -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(folder: Path) -> Path:
    """Images whose class is the third that is bright."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 300)
    x = generator.normal(0, 0.1, (300, 1, 8, 8)).astype(np.float32)
    for place, label in enumerate(y):
        x[place, :, :, 3 * label : 3 * label + 2] += 1
    np.savez(folder / "data.npz", x=x[:200], y=y[:200], test_x=x[200:], test_y=y[200:])
    return folder / "data.npz"


def test_train_an_onnx_model(samples: Path, tmp_path: Path) -> None:
    model = nl.network(lambda x: nl.dense(nl.flatten(x), 3)).named("linear")
    nl.to_onnx(model.graph(x=nl.tensor("N", 1, 8, 8)), tmp_path / "linear.onnx")
    found = data_of("train", tmp_path / "linear.onnx", "--data", samples, "--epochs", "1",
                    "--optimizer", "sgd:lr=0.1", "--require", "0.9")  # fmt: skip
    assert len(found) == 1 and found[0]["validation"] > 0.9


def test_train_resume_and_compile(folder: Path, samples: Path, tmp_path: Path) -> None:
    arguments = (
        "train",
        f"{folder}/net.py:graph",
        "--data",
        samples,
        "--optimizer",
        "adam:lr=1e-2",
        "--batch",
        "20",
    )
    whole = data_of(*arguments, "--epochs", "3")
    saved = ("--checkpoint", tmp_path / "c.safetensors")
    data_of(*arguments, "--epochs", "1", *saved)
    resumed = data_of(
        *arguments,
        "--epochs",
        "3",
        *saved,
        "--resume",
        "-o",
        tmp_path / "net.so",
        "--require",
        "0.9",
    )
    assert resumed == whole and whole[-1]["validation"] > 0.9
    assert call("run", tmp_path / "net.so").exit_code == 0
    call(*arguments, "--epochs", "3", *saved, "--resume", "--require", "1.1", code=1)


def test_sigint_saves_the_checkpoint(folder: Path, samples: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    arguments = (
        "train",
        f"{folder}/net.py:graph",
        "--data",
        samples,
        "--epochs",
        "100000",
        "--checkpoint",
        checkpoint,
    )
    process = start(*arguments, folder=tmp_path)
    while not checkpoint.exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "holds everything, and --resume goes on from there" in err
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


# -- how it prints ---------------------------------------------------------------------------------


def test_no_colour_off_a_terminal(folder: Path) -> None:
    out, err = spawn("explain", "net.onnx", folder=folder)
    assert "\x1b" not in out + err


def test_errors_as_json(tmp_path: Path) -> None:
    result = call("inspect", "zoo:nothing", "--json", code=2)
    row = json.loads(result.stderr)
    assert row["error"] == "UsageError" and row["exit_code"] == 2 and "lenet5" in row["hint"]


def test_verbose_adds_what_the_passes_took(folder: Path, tmp_path: Path) -> None:
    assert (
        "select_strategies"
        in call("compile", folder / "net.onnx", "-o", tmp_path / "a.so", "-v").stderr
    )
