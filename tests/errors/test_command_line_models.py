"""Models as ``netloom compile`` meets them: every bad one of ``test_bad_models`` and
``test_model_files``, models that are not there, sizes beyond the budget, hostile names.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ..cli.calling import call
from .command_line import refused
from .test_bad_models import CASES, conv
from .test_model_files import CONTENTS, EXTERNAL, outside, save
from .test_odd_models import HOSTILE


@pytest.mark.parametrize("name", CASES)
def test_bad_models(name: str, tmp_path: Path, out: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(CASES[name].make().SerializeToString())
    message = refused(3, "", "compile", tmp_path / "m.onnx", "-o", out / "m.so", left=out)
    assert all(
        words in message for words in CASES[name].says if words != "culprit" or "culprit" in message
    )


@pytest.mark.parametrize("name", CONTENTS)
def test_files_that_are_no_models(name: str, tmp_path: Path, out: Path) -> None:
    content, says = CONTENTS[name]
    (tmp_path / "m.onnx").write_bytes(content)
    refused(3, says, "compile", tmp_path / "m.onnx", "-o", out / "m.so", left=out)


@pytest.mark.parametrize("name", EXTERNAL)
def test_external_data(name: str, tmp_path: Path, out: Path) -> None:
    entries, prepare, says = EXTERNAL[name]
    path = save(tmp_path, outside(**entries))
    prepare(path.parent / "t.bin")
    refused(3, says, "compile", path, "-o", out / "m.so", left=out)


def test_all_unknown_ops_at_once(tmp_path: Path, out: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(CASES["all_unknown_ops_at_once"].make().SerializeToString())
    message = refused(3, "3 ops", "compile", tmp_path / "m.onnx", "-o", out / "m.so", left=out)
    result = call("check", tmp_path / "m.onnx", code=3)
    for op in ("Conw", "TfIdfVectorizer", "com.vendor.FusedThing"):
        assert op in message and op in result.stdout
    assert result.stdout.count(" NO ") == 3


def test_models_that_are_not_there(place: Path, out: Path) -> None:
    refused(
        2, "No such file or directory", "compile", place / "none.onnx", "-o", out / "m.so", left=out
    )
    refused(3, "is a directory", "compile", place, "-o", out / "m.so", left=out)
    refused(2, "no function in it", "compile", place / "m.py", "-o", out / "m.so", left=out)
    refused(
        2,
        "the zoo has no network 'nothing'. It has mlp",
        "compile",
        "zoo:nothing",
        "-o",
        out / "m.so",
        left=out,
    )
    refused(
        2, "there is no file", "compile", f"{place}/none.py:graph", "-o", out / "m.so", left=out
    )


def test_users_own_files(place: Path, tmp_path: Path, out: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n", encoding="utf-8")
    ends = tmp_path / "ends.py"
    ends.write_text("raise SystemExit(0)\n", encoding="utf-8")
    for name, says in (
        (f"{place}/net.py:none", "has no function 'none'"),
        (f"{place}/net.py:raises", "raises in "),
        (f"{place}/net.py:raises", "ValueError: no such luck"),
        (f"{place}/net.py:returns_a_number", "returned a int, not a graph"),
        (f"{place}/net.py:value", "is neither a network nor a function"),
        (f"{place}/net.py:small", "Give --shape x:"),
        (f"{broken}:f", "SyntaxError"),
        (f"{ends}:f", "SystemExit"),
    ):
        refused(2, says, "compile", name, "-o", out / "m.so", left=out)


def test_controls_convolutions(tmp_path: Path, out: Path) -> None:
    """The sound form of most bad models compiles."""
    (tmp_path / "m.onnx").write_bytes(conv().SerializeToString())
    call("compile", tmp_path / "m.onnx", "-o", out / "m.so")
    assert sorted(path.name for path in out.iterdir()) == ["m.h", "m.so"]


# -- sizes -----------------------------------------------------------------------------------------

HUGE = """
import netloom as nl

@nl.network
def spread(x):
    table = nl.exp(nl.reshape(x, (-1, 1)) * nl.reshape(x, (1, -1)))
    return nl.reduce_sum(table, axes=(0,)) + nl.reduce_sum(table, axes=(1,))

def graph(size=1 << 18):
    return spread.graph(x=nl.tensor(size))

def small():
    return graph(64)
"""


def test_intermediate_results_beyond_the_budget(tmp_path: Path, out: Path) -> None:
    """Memory is counted while compiling: a table of 2^36 numbers is refused before anything is
    allocated.
    """
    (tmp_path / "huge.py").write_text(HUGE, encoding="utf-8")
    refused(
        3,
        "GiB of memory; the budget is 64 GiB",
        "compile",
        f"{tmp_path}/huge.py:graph",
        "-o",
        out / "m.so",
        left=out,
    )
    call("compile", f"{tmp_path}/huge.py:small", "-o", out / "m.so")


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_empty_arrays_run(shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Concat", ["h", "x"], ["y"], axis=0),
             helper.make_node("ReduceSum", ["y"], ["s"])]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y"), onnx.ValueInfoProto(name="s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    call("compile", tmp_path / "m.onnx", "-o", tmp_path / "m.so")
    call("run", tmp_path / "m.so", "--out", f"y={tmp_path}/y.npy", "--out", f"s={tmp_path}/s.npy")
    assert (
        np.load(tmp_path / "y.npy").shape == (2 * shape[0], *shape[1:])
        and np.load(tmp_path / "s.npy").sum() == 0
    )


# -- hostile names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_in_models(name: str, tmp_path: Path, out: Path) -> None:
    """Names of tensors, nodes and the graph are data: they compile and run, and are shown
    without control characters.
    """
    text = HOSTILE[name]
    nodes = [
        helper.make_node("Neg", [text], [text + "h"], name=text),
        helper.make_node("Neg", [text + "h"], [text + "y"]),
    ]
    graph = helper.make_graph(nodes, text, [helper.make_tensor_value_info(text, TensorProto.FLOAT, [4])],
                              [onnx.ValueInfoProto(name=text + "y")])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    call("compile", tmp_path / "m.onnx", "-o", out / "m.so")
    assert sorted(path.name for path in out.iterdir()) == ["m.h", "m.so"]
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", out / "m.so"], capture_output=True, text=True, check=True
    ).stdout
    # a tensor named malloc replaces nobody's
    assert [line.split()[-1] for line in listed.splitlines()] == ["nl_get_api"]
    for arguments in (("run", out / "m.so"), ("inspect", out / "m.so"), ("explain", tmp_path / "m.onnx"),
                      ("compile", tmp_path / "m.onnx", "--emit", "dot")):  # fmt: skip
        output = call(*arguments).output
        assert all(c.isprintable() or c == "\n" for c in output), arguments
