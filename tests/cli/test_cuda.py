"""``--target cuda`` on a machine without a device: the program file is written, and running it
says what is missing.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from netloom.compiler.targets.cuda.compile import is_available

from .calling import call

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
SMALL = """
import netloom as nl

@nl.network
def small(x):
    x = nl.max_pool2d(nl.conv2d(x, 6, 5), 2)
    return nl.dense(nl.flatten(x), 16)

def graph():
    return small.graph(x=nl.tensor("N", 1, 28, 28))
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A product, a pool and a convolution, as the command names a graph."""
    path = tmp_path_factory.mktemp("network") / "net.py"
    path.write_text(SMALL, encoding="utf-8")
    return f"{path}:graph"


@needs_compiler
def test_compile_writes_a_program_and_run_needs_a_device(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.nlc"
    said = call("compile", "--target", "cuda", network, "-o", path, "--json").output
    row = json.loads(said[said.index("{") :])
    assert row["files"] == [{"form": "nlc", "file": str(path), "bytes": path.stat().st_size}]
    assert row["architectures"] == ["sm_80", "sm_90a"]
    really = importlib.import_module

    def without_bindings(name: str, *rest: Any) -> Any:
        if name.startswith("cuda."):
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_bindings)
    assert "running on a GPU needs the package cuda-bindings" in call("run", path, code=4).output


@needs_compiler
def test_a_training_program_and_a_precision(tmp_path: Path) -> None:
    recipe, path = "loss=cross_entropy,optimizer=sgd", tmp_path / "net.py"
    source = "import netloom as nl\n\n@nl.network\ndef one(x):\n    return nl.dense(x, 3)\n\n\n"
    path.write_text(source + "def graph():\n    return one.graph(x=nl.tensor(4, 5))\n")
    said = call(
        "compile",
        "--target",
        "cuda",
        "--precision",
        "tf32",
        "--train",
        recipe,
        f"{path}:graph",
        "-o",
        tmp_path / "m.nlc",
    ).output
    assert "precision tf32, target cuda (sm_80, sm_90a)" in said


@pytest.mark.parametrize(("arguments", "message"), [
    (("--target", "cuda", "zoo:mlp"), "Give -o model.nlc"),
    (("--target", "cuda", "zoo:mlp", "--emit", "llvm", "-o", "m.nlc"),
     "the cuda target writes program files"),
    (("--precision", "bf16", "zoo:mlp", "-o", "m.so"), "the cpu target has no precision bf16"),
])  # fmt: skip
def test_what_does_not_go_together(arguments: tuple[str, ...], message: str) -> None:
    assert message in call("compile", *arguments, code=2).output


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "m.nlc").write_bytes(b"nothing")
    assert "is not a netloom program for CUDA" in call("run", tmp_path / "m.nlc", code=5).output


# -- inspect ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuda") / "m.nlc"
    call("compile", "--target", "cuda", network, "-o", path)
    return path


@needs_compiler
def test_inspect_says_what_a_program_file_holds(program: Path) -> None:
    text = call("inspect", program, "--verify").output
    lines = text.splitlines()
    assert lines[1] == "target: cuda, sm_80, sm_90a" and lines[-1] == "contents: verified"
    assert "  precision  f32" in text and "  inputs       x float32[N, 1, 28, 28]" in text
    kernels = [line for line in lines if line.startswith("  k_")]
    assert any("product, tile" in line for line in kernels) and any(
        "rows, " in line for line in kernels
    )
    assert all(
        "256 threads, " in k and " registers on sm_80" in k and " bytes shared" in k
        for k in kernels
    )
    data = json.loads(call("inspect", program, "--json").stdout)
    assert data["target"] == "cuda" and data["options"]["precision"] == "f32"
    assert {"form", "registers", "shared"} <= set(data["kernels"][0])


@needs_compiler
def test_a_damaged_file_is_one_sentence(program: Path, tmp_path: Path) -> None:
    data = program.read_bytes()
    wrong = tmp_path / "wrong.nlc"
    for contents, message in (
        (data[:-1], "have changed since it was written"), (data[:40], "it is cut off"),
        (b"", "it is cut off"),
        (data[:99] + b"?" + data[100:], "have changed since it was written"),
    ):  # fmt: skip
        wrong.write_bytes(contents)
        error = call("inspect", wrong, code=5).stderr
        assert message in error and len(error.splitlines()) == 1


def test_explain_says_the_strategies_and_forms_without_the_tools() -> None:
    said = json.loads(call("explain", "--target", "cuda", "zoo:lenet5", "--json").stdout)
    assert all(row["strategy"].startswith(("direct", "winograd")) for row in said["convolutions"])
    reasons = {
        c["verdict"]
        for row in said["convolutions"]
        for c in row["candidates"]
        if c["strategy"].startswith("fft")
    }
    assert reasons == {"rejected: the cuda target has no code for its transforms"}
    assert any(launch["kernel"].startswith("product, tile") for launch in said["launches"])
    (first, *_) = said["convolutions"]
    assert "; predicted: " in first["candidates"][0]["verdict"]
    assert all(" block" in row["grid"] for row in said["launches"])
    squeezenet = call("explain", "--target", "cuda", "light:squeezenet").output
    assert (
        "chosen: the least estimated time; predicted: 3 kernels, 48 blocks in 1 wave" in squeezenet
    )
    text = call("explain", "--target", "cuda", "--precision", "tf32", "zoo:lenet5").output
    assert (
        text.startswith("target cuda, precision tf32") and "memory: " in text and ", tf32  " in text
    )
    assert (
        "there is no convolution 'none'"
        in call(
            "explain", "--target", "cuda", "--conv-strategy", "none=direct", "zoo:lenet5", code=2
        ).output
    )


# -- tuning ----------------------------------------------------------------------------------------


NETWORK = """
import netloom as nl

@nl.network
def small(x):
    return nl.conv2d(x, 16, 3, padding=1)

def graph():
    return small.graph(x=nl.tensor(1, 16, 8, 8))
"""


@needs_compiler
def test_candidates_are_written_and_times_taken(tmp_path: Path) -> None:
    """The times here are made up: runtime/cuda/test_tune.py has a device with a clock."""
    from netloom.runtime.cuda.tune import read_candidates

    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    model, data = f"{tmp_path / 'net.py'}:graph", tmp_path / "candidates"
    said = call("compile", "--target", "cuda", model, "--tune-candidates", data).stdout
    assert "python -m netloom.runtime.cuda.tune candidates -o times.json" in said
    found = read_candidates(data)
    rows = [{"text": layer.text, "constants": layer.constants,
             "seconds": {s: float(rank + 1) for rank, s in enumerate(layer.programs)}}
            for layer in found.layers]  # fmt: skip
    times = tmp_path / "times.json"
    table = {
        "format": 2,
        "version": found.version,
        "precision": "f32",
        "device": {"name": "Fake", "capability": "9.0"},
        "layers": rows,
    }
    times.write_text(json.dumps(table))
    row = json.loads(
        call(
            "compile",
            "--target",
            "cuda",
            model,
            "-o",
            tmp_path / "m.nlc",
            "--tuned",
            times,
            "--json",
        ).stdout
    )
    assert row["tuning"] == {"machine": "Fake, 9.0", "layers": len(rows), "measured": len(rows)}
    assert "layers with a choice timed on Fake, 9.0" in call("inspect", tmp_path / "m.nlc").stdout
    said = call("explain", "--target", "cuda", model, "--tuned", times).stdout
    assert "chosen: measured 1000.000 ms, the least" in said
    error = call(
        "compile",
        "--target",
        "cuda",
        "--precision",
        "tf32",
        model,
        "-o",
        tmp_path / "m.nlc",
        "--tuned",
        times,
        code=2,
    )
    assert "was measured at the precision 'f32', not 'tf32'" in error.stderr


@needs_compiler
def test_a_training_steps_layers_are_candidates(tmp_path: Path) -> None:
    """Those of one matrix product, and of both its gradients."""
    from netloom.runtime.cuda.tune import read_candidates

    source = "import netloom as nl\n\n@nl.network\ndef one(x):\n    return nl.dense(x, 600)\n\n\n"
    source += "def graph():\n    return one.graph(x=nl.tensor(500, 700))\n"
    (tmp_path / "net.py").write_text(source, encoding="utf-8")
    recipe = ("--train", "loss=cross_entropy,optimizer=sgd")
    data = tmp_path / "c"
    call(
        "compile",
        "--target",
        "cuda",
        f"{tmp_path / 'net.py'}:graph",
        "--tune-candidates",
        data,
        *recipe,
    )
    layers = read_candidates(data).layers
    assert any("transpose_a = true" in layer.text for layer in layers)
    assert all("product" in layer.programs and not layer.constants for layer in layers)


@pytest.mark.parametrize("arguments", [
    ("zoo:mlp",), ("--target", "cuda", "zoo:mlp", "-o", "m.nlc"),
    ("--target", "cuda", "zoo:mlp", "--emit", "graph"),
])  # fmt: skip
def test_candidates_are_a_file_of_their_own(arguments: tuple[str, ...], tmp_path: Path) -> None:
    error = call("compile", *arguments, "--tune-candidates", tmp_path / "c", code=2).stderr
    assert "candidates are of a network for --target cuda" in error and not list(tmp_path.iterdir())
