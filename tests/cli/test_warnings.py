"""What the command line says of a model that is imported not quite as it says."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from .calling import call


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A model that gives its output a wrong shape."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [n])
        for name, n in (("x", 3), ("y", 4))
    )
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "wrong.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_a_warning_is_one_line_on_standard_error(wrong: Path) -> None:
    result = call("explain", wrong)
    assert result.stderr == (
        "netloom: the model says that 'y' is [4], but it is float32[3]. What was computed holds.\n"
    )
    assert call("explain", wrong, "--json").stderr == ""


def test_a_program_that_is_kept_is_warned_of_again(
    wrong: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path / "cache"))
    first, again = (call("compile", wrong, "-o", tmp_path / "m.so") for _ in range(2))
    assert "as compiled before" in again.stdout
    assert first.stderr == again.stderr != ""
    said = json.loads(call("compile", wrong, "-o", tmp_path / "m.so", "--json").stdout)
    assert said["kept"] and "'y' is [4]" in said["warnings"][0]
