"""The command line on small models: each verb once, and each kind of fault with its exit code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from netloom.cli import main


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "lenet.onnx"
    result = call("export", "zoo:lenet5", "-o", path)
    assert result.exit_code == 0, result.output
    return path


def test_compile_run_inspect(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "lenet.so"
    result = call("compile", model, "-o", program)
    assert result.exit_code == 0 and "float32" in result.output
    assert program.with_suffix(".h").exists()
    assert call("inspect", program).exit_code == 0
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    name = "x"
    result = call("run", program, "--in", f"{name}={tmp_path / 'x.npy'}")
    assert result.exit_code == 0, result.output
    assert "[2, 10]" in result.output


@pytest.mark.parametrize("verb", ["explain", "check", "inspect", "compare"])
def test_verbs_on_a_model(verb: str, model: Path) -> None:
    result = call(verb, model)
    assert result.exit_code == 0, result.output
    assert result.output


@pytest.mark.parametrize("verb", ["ops", "passes", "strategies", "doctor"])
def test_lists(verb: str) -> None:
    assert call(verb).exit_code == 0


def test_explain_names_costs_and_rejections(model: Path) -> None:
    output = call("explain", model).output
    assert "chosen: " in output and "rejected: its kernel is [5, 5]" in output


def test_a_distance_above_the_tolerance_is_1(model: Path) -> None:
    assert call("compare", model, "--tolerance", "-1").exit_code == 1


HOSTILE = ['a"b', "a'b", "a\nb", "%s%n", "x" * 10_000, "../../x"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_usage_errors(name: str, tmp_path: Path) -> None:
    result = call("compile", f"zoo:{name}", "-o", tmp_path / "x.so")
    assert result.exit_code == 2 and "Traceback" not in result.output and not list(tmp_path.iterdir())


def test_faults(model: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(model.read_bytes()[:1000])
    out = tmp_path / "out"
    out.mkdir()
    assert call("compile", truncated, "-o", out / "x.so").exit_code == 3
    assert call("compile", tmp_path / "missing.onnx", "-o", out / "x.so").exit_code == 2
    assert call("compile", model, "-o", tmp_path / "no" / "folder" / "x.so").exit_code != 0
    assert call("compile", model, "-o", out / "x.so", "--cpu", "z80").exit_code == 2
    assert call("compile", model, "-o", out / "x.so", "--conv-strategy", "magic").exit_code == 2
    assert call("compile", model, "-o", out / "x.so", "--accuracy", "sloppy").exit_code == 2
    assert call("run", model, "--in", "nothing=rand").exit_code == 5
    assert not list(out.iterdir())


def test_wrong_shape_names_the_input(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 28, 28), np.float32))
    result = call("run", model, "--in", f"x={tmp_path / 'x.npy'}")
    assert result.exit_code == 5 and "28" in result.output
