"""The programs in examples/ compile, run and do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import netloom as nl
from netloom.runtime.session import Session, load

from ..cli.calling import ROOT, call

EXAMPLES = ROOT / "examples"
PAGE = 40  # lines of C that the whole interface may need
POINTS = np.array([[0, 0], [2, 0], [0, 2]], np.float32)


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """points.so and points.h."""
    return compiled(tmp_path_factory.mktemp("inference"))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(
        tmp_path_factory.mktemp("training"), "--train", "loss=cross_entropy,optimizer=adam"
    )


def compiled(folder: Path, *options: str) -> Path:
    call("compile", f"{EXAMPLES}/c/network.py:graph", "-o", folder / "points.so", *options)
    return folder


def built(name: str, folder: Path) -> Path:
    """A C example, compiled without a warning."""
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{folder}",
               EXAMPLES / "c" / f"{name}.c",
               "-o", folder / name, "-ldl"]  # fmt: skip
    subprocess.run(command, check=True)
    return folder / name


def run(*command: str | Path, code: int = 0) -> tuple[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done
    return done.stdout, done.stderr


def expected_scores(session: Session) -> np.ndarray:
    return np.asarray(session.evaluate(session.create_state(), POINTS))


# -- C ---------------------------------------------------------------------------------------------


def test_the_tour_fits_a_page_and_does_all(training: Path) -> None:
    """Opens a training build, runs it, trains one step, and gets a clear error for a wrong
    shape.
    """
    assert len((EXAMPLES / "c" / "tour.c").read_text(encoding="utf-8").splitlines()) <= PAGE
    out, err = run(built("tour", training), training / "points.so")
    scores, step, complaint = out.splitlines()
    session = load(training / "points.so", threads=1)
    assert scores == "scores {:.7g} {:.7g}".format(*map(float, expected_scores(session)[2]))
    loss, _ = session.train_step(
        session.create_state(), POINTS, np.array([0, 1, 1]), np.float32(0.01)
    )
    assert step == f"step 1, loss {float(loss):.7g}"
    assert (
        complaint
        == 'The input "x" must be float32[N, 2] (here float32[3, 2]), but float32[3, 5] was given.'
        and err == ""
    )


def test_the_tour_says_what_it_cannot_open(training: Path) -> None:
    program = built("tour", training)
    assert run(program, training / "none.so", code=1) == (
        "",
        "give a program of this version, such as ./points.so\n",
    )


def test_the_tour_needs_a_training_build(training: Path, inference: Path) -> None:
    out, err = run(built("tour", training), inference / "points.so", code=1)
    assert (out, err) == ("", "This program was built for inference only: it has no state.\n")


def test_inference_from_c(inference: Path) -> None:
    program = built("infer", inference)
    out, _ = run(program, inference / "points.so", "0,0", "2,0", "0,2")
    scores = np.asarray(load(inference / "points.so", threads=1)(POINTS))
    assert [line.split()[-1] for line in out.splitlines()] == [
        str(place) for place in scores.argmax(1)
    ]
    assert run(program, inference / "points.so", "north", code=1)[1] == "north: is not X,Y\n"


def test_training_from_c(training: Path) -> None:
    out, _ = run(built("train", training), training / "points.so")
    losses = [float(line.split()[-1]) for line in out.splitlines() if line.startswith("step")]
    assert len(losses) == 6 and losses[-1] < losses[0] / 3
    assert out.splitlines()[-1].endswith("of 128 new points are right")


# -- Python ----------------------------------------------------------------------------------------


def test_strategies(tmp_path: Path) -> None:
    arguments = ("--channels", "16", "--size", "14", "--seconds", "0.01")
    out, _ = run(sys.executable, EXAMPLES / "strategies.py", *arguments)
    rows = {line.split()[0]: line for line in out.splitlines()}
    for name, budget in (
        ("direct", 2e-6),
        ("im2col", 2e-6),
        ("winograd_f2", 2e-6),
        ("winograd_f4", 1e-5),
    ):
        assert float(rows[name].split()[-1]) <= budget
    assert out.splitlines()[-1].startswith("chosen unless asked otherwise: ")
    out, _ = run(sys.executable, EXAMPLES / "strategies.py", "--kernel", "5", *arguments)
    assert "does not apply: its kernel is [5, 5]" in out


def test_training(tmp_path: Path) -> None:
    out, _ = run(
        sys.executable,
        EXAMPLES / "training.py",
        "--epochs",
        "12",
        "--output",
        tmp_path / "spiral.so",
    )
    assert "from the shared object" in out.splitlines()[-1] and sorted(
        p.name for p in tmp_path.iterdir()
    ) == ["spiral.h", "spiral.so"]


def test_an_onnx_model(tmp_path: Path) -> None:
    nl.to_onnx(nl.zoo.mlp(features=6, hidden=(5,), classes=3), tmp_path / "mlp.onnx")
    out, _ = run(
        sys.executable,
        EXAMPLES / "onnx_model.py",
        tmp_path / "mlp.onnx",
        "--output",
        tmp_path / "m.so",
    )
    assert out.startswith("input x: float32[N, 6]\noutput y: float32[N, 3]\n")
    assert "m.so: [(2, 3)]\n" in out and "distance from ONNX Runtime" in out
    out, _ = run(sys.executable, EXAMPLES / "onnx_model.py", tmp_path / "mlp.onnx", "--dim", "N=7")
    assert "input x: float32[7, 6]\n" in out and "[(7, 3)]\n" in out
