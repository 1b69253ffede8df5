"""What is missing on the machine: a linker, a CPU feature, a package. The message says how to
get it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from netloom.compiler.targets.cpu.features import FEATURES, Feature
from netloom.frontends.onnx import from_onnx

from ..cli.calling import spawn
from .command_line import refused, two_inputs


def test_no_linker(place: Path, out: Path) -> None:
    _, err = spawn("compile", "sum.onnx", "-o", out / "m.so", folder=place, code=4, PATH=str(out))
    assert (
        err.startswith("netloom: No linker was found")
        and "Install binutils" in err
        and not list(out.iterdir())
    )
    spawn("compile", "sum.onnx", "-o", out / "m.o", folder=place, PATH=str(out))
    # objects are joined without one
    assert sorted(path.name for path in out.iterdir()) == ["m.h", "m.o"]
    stdout, _ = spawn("run", "sum.onnx", folder=place, PATH=str(out))
    assert stdout.startswith("y: ")  # programs in process need none


def test_a_linker_that_fails(place: Path, out: Path, tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "ld"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho cannot link today >&2\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    _, err = spawn(
        "compile", "sum.onnx", "-o", out / "m.so", folder=place, code=4, PATH=f"{fake.parent}:/bin"
    )
    assert "failed: cannot link today" in err and not list(out.iterdir())


def test_a_cpu_without_the_feature(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from netloom.compiler.driver import compile_graph

    monkeypatch.setitem(FEATURES, "imagined", Feature(0x70000000, 0, 0, 0))
    compiled = compile_graph(from_onnx(two_inputs()))
    demanding = dataclasses.replace(
        compiled, cpu=dataclasses.replace(compiled.cpu, required=("imagined",))
    )
    demanding.save(out / "m.so")
    refused(4, "needs the CPU feature imagined, which this machine lacks", "run", out / "m.so")
    assert sorted(path.name for path in out.iterdir()) == ["m.h", "m.so"]


def test_packages_that_are_missing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    refused(4, "pip install onnxruntime", "compare", place / "sum.onnx", "--with", "onnxruntime")
    picture = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g",
                                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
                                [onnx.ValueInfoProto(name="y")])  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(
        helper.make_model(picture, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    refused(4, "pip install pillow", "run", tmp_path / "m.onnx", "--in", "x=cat.png")
