"""Faults as a user of the command line meets them: one clear message, the right exit code, no
traceback, no file left.

README.md in this folder lists the cases. Every bad model of ``test_bad_models`` goes through
``netloom compile`` too.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from netloom.compiler.targets.cpu.features import FEATURES, Feature
from netloom.frontends.dsl import zoo  # noqa: F401  (imported once, so that single tests are quick)
from netloom.frontends.onnx import from_onnx

from ..cli.calling import call, spawn
from .test_bad_models import CASES, conv
from .test_model_files import CONTENTS, DATA, EXTERNAL, outside, save
from .test_odd_models import HOSTILE

NETWORK = """
import netloom as nl

@nl.network
def small(x):
    return nl.dense(nl.relu(x), 2)

def graph():
    return small.graph(x=nl.tensor("N", 4))

def raises():
    raise ValueError("no such luck")

def returns_a_number():
    return 7

value = 3
"""


def two_inputs() -> onnx.ModelProto:
    """y = a + b for float32[4]."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("a", "b")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "sum", ports, [onnx.ValueInfoProto(name="y")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound things to start from: sum.onnx, sum.so, net.py, a.npy (an array that fits sum)."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "sum.onnx").write_bytes(two_inputs().SerializeToString())
    (folder / "net.py").write_text(NETWORK, encoding="utf-8")
    np.save(folder / "a.npy", np.ones(4, np.float32))
    call("compile", folder / "sum.onnx", "-o", folder / "sum.so")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that must stay empty."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def refused(code: int, says: str, *arguments: str | Path, left: Path | None = None) -> str:
    """The one message of a call that fails with the code; the folder ``left`` must be empty
    then.
    """
    result = call(*arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.count("netloom: ") == 1 and result.stderr.startswith("netloom: ")
    assert says in result.stderr, result.stderr
    assert all(c.isprintable() or c == "\n" for c in result.stderr) and len(result.stderr) < 5000
    assert left is None or list(left.iterdir()) == []
    return result.stderr


def test_control(place: Path, out: Path) -> None:
    """What the cases spoil is sound."""
    call(
        "run",
        place / "sum.so",
        "--in",
        f"a={place}/a.npy",
        "--in",
        "b=rand",
        "--out",
        f"y={out}/y.npy",
    )
    assert [path.name for path in out.iterdir()] == ["y.npy"]
    call("inspect", f"{place}/net.py:graph")


# -- models ----------------------------------------------------------------------------------------


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
    for op in ("Conw", "NonMaxSuppression", "com.vendor.FusedThing"):
        assert op in message and op in result.stdout
    assert result.stdout.count(" NO ") == 3


def test_models_that_are_not_there(place: Path, out: Path) -> None:
    refused(
        2, "No such file or directory", "compile", place / "none.onnx", "-o", out / "m.so", left=out
    )
    refused(3, "is a directory", "compile", place, "-o", out / "m.so", left=out)
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
    for name, says in (
        (f"{place}/net.py:none", "has no function 'none'"),
        (f"{place}/net.py:raises", "raises in "),
        (f"{place}/net.py:raises", "ValueError: no such luck"),
        (f"{place}/net.py:returns_a_number", "returned a int, not a graph"),
        (f"{place}/net.py:value", "is neither a network nor a function"),
        (f"{place}/net.py:small", "Give --shape x:"),
        (f"{broken}:f", "SyntaxError"),
    ):
        refused(2, says, "compile", name, "-o", out / "m.so", left=out)


@dataclass(frozen=True)
class Wrong:
    """Arguments that are wrong, and what the message says."""

    arguments: tuple[str, ...]
    says: str


WRONG = (
    Wrong(("--dim", "M=3"), "M"),
    Wrong(("--dim", "N=0"), "0"),
    Wrong(("--dim", "N=9..3"), "9"),
    Wrong(("--shape", "z:1x4"), "no input 'z'"),
    Wrong(("--shape", "x:1x4x4"), "does not fit the input 'x'"),
    Wrong(("--shape", "x:1x5"), "extent 4"),
    Wrong(("--cpu", "z80"), "no CPU level 'z80'"),
    Wrong(("--accuracy", "sloppy"), "no accuracy 'sloppy'"),
    Wrong(("--conv-strategy", "magic"), "no strategy 'magic'"),
    Wrong(("--conv-strategy", "n7=direct"), "no convolution 'n7'"),
    Wrong(("--emit", "so,poem"), "no form 'poem'"),
    Wrong(("--train", "loss=joy"), "no loss 'joy'"),
    Wrong(("--train", "optimizer=luck"), "no optimizer 'luck'"),
    Wrong(("--train", "optimizer=adam:speed=1"), "no setting 'speed'"),
    Wrong(("--train", "optimizer=adam:lr=fast"), "must be a number"),
    Wrong(("--train", "colour=red"), "neither loss="),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: " ".join(wrong.arguments))
def test_wrong_options(wrong: Wrong, place: Path, out: Path) -> None:
    refused(
        2,
        wrong.says,
        "compile",
        f"{place}/net.py:graph",
        "-o",
        out / "m.so",
        *wrong.arguments,
        left=out,
    )


@pytest.mark.parametrize(
    "arguments",
    [("--dim", "N"), ("--dim", "N=x"), ("--shape", "x"), ("--threads", "0"), ("--nothing",)],
)
def test_options_of_a_wrong_form(arguments: tuple[str, ...], place: Path, out: Path) -> None:
    result = call("compile", f"{place}/net.py:graph", "-o", out / "m.so", *arguments, code=2)
    assert result.stderr.count("Error: ") == 1 and not list(out.iterdir())


# -- places that cannot be written -----------------------------------------------------------------


@pytest.mark.parametrize("verb", ["compile", "export", "run", "train"])
@pytest.mark.parametrize(
    "kind", ["no folder", "a folder", "below a file", "a long name", "a pipe", "a NUL"]
)
def test_outputs_that_cannot_be_written(
    verb: str, kind: str, place: Path, out: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.so")
    target = {
        "no folder": f"{out}/none/m.so",
        "a folder": str(out),
        "below a file": f"{place}/a.npy/m.so",
        "a long name": f"{out}/{'m' * 300}.so",
        "a pipe": f"{tmp_path}/pipe.so",
        "a NUL": f"{out}/m\0.so",
    }[kind]
    match verb:
        case "run":
            arguments = ("run", str(place / "sum.so"), "--out", f"y={target}")
        case "train":
            arguments = ("train", f"{place}/net.py:graph", "--data", "digits", "-o", target)
        case _:
            arguments = (verb, f"{place}/net.py:graph", "-o", target)
    refused(2, "cannot be written", *arguments, left=out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(place: Path, out: Path) -> None:
    out.chmod(0o500)
    refused(
        2, "its folder is read-only", "compile", place / "sum.onnx", "-o", out / "m.so", left=out
    )


def test_a_read_only_folder_as_another_user_sees_it(
    place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(
        2, "its folder is read-only", "compile", place / "sum.onnx", "-o", out / "m.so", left=out
    )


# -- tools and machines ----------------------------------------------------------------------------


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


# -- inputs ----------------------------------------------------------------------------------------


def _array(array: np.ndarray) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        np.save(folder / "x.npy", array)
        return f"a={folder}/x.npy"

    return make


def _file(name: str, content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return f"a={folder}/{name}"

    return make


def _pickled(folder: Path) -> str:
    np.save(folder / "x.npy", np.array([object()]), allow_pickle=True)
    return f"a={folder}/x.npy"


def _npz(folder: Path) -> str:
    np.savez(folder / "x.npz", x=np.ones(4, np.float32))
    return f"a={folder}/x.npz"


INPUTS: dict[str, tuple[Callable[[Path], str], str]] = {
    "dtype": (_array(np.ones(4)), 'The input "a" must be float32[4], but float64[4] was given'),
    "integers": (_array(np.ones(4, np.int32)), "but int32[4] was given"),
    "rank": (_array(np.ones((1, 4), np.float32)), "[1, 4]"),
    "shape": (_array(np.ones(5, np.float32)), "5"),
    "empty": (_array(np.ones(0, np.float32)), "0"),
    "pickle": (_pickled, "cannot be read"),
    "several arrays": (_npz, "holds several arrays"),
    "no array": (_file("x.npy", b"nothing"), "cannot be read"),
    "empty file": (_file("x.npy", b""), "cannot be read"),
    "cut short": (_file("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'"), "cannot be read"),
    "lying header": (_file("x.npy", b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }".ljust(117) + b"\n" + bytes(8)), "cannot be read"),  # noqa: E501
    "no file": (lambda folder: f"a={folder}/none.npy", "No such file"),
    "an image": (_file("x.png", b"\x89PNG\r\n\x1a\n"), "an image fits [1, 1 or 3, h, w]"),
    "unknown name": (lambda _: "z=rand", "no input 'z'. It has 'a', 'b'"),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_wrong_inputs(name: str, place: Path, tmp_path: Path, out: Path) -> None:
    make, says = INPUTS[name]
    refused(
        5,
        says,
        "run",
        place / "sum.so",
        "--in",
        make(tmp_path),
        "--in",
        "b=rand",
        "--out",
        f"y={out}/y.npy",
        left=out,
    )


def test_a_missing_input(place: Path) -> None:
    refused(
        5,
        "the input 'b' is missing. Give all of 'a', 'b'",
        "run",
        place / "sum.so",
        "--in",
        f"a={place}/a.npy",
    )


def test_an_unknown_output(place: Path, out: Path) -> None:
    refused(
        5, "no output 'z'. It has 'y'", "run", place / "sum.so", "--out", f"z={out}/z.npy", left=out
    )


def test_an_index_out_of_range_while_running(tmp_path: Path, out: Path) -> None:
    """What cannot be checked when compiling is checked by the kernel."""
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]),
        helper.make_tensor_value_info("i", TensorProto.INT64, [2]),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "i"], ["y"])], "g", ports, [onnx.ValueInfoProto(name="y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for indices, is_right in (
        ([3, -4], True),
        ([0, 4], False),
        ([-5, 0], False),
        ([1 << 40, 0], False),
    ):
        np.save(tmp_path / "i.npy", np.array(indices, np.int64))
        arguments = (
            "run",
            tmp_path / "m.onnx",
            "--in",
            "x=rand",
            "--in",
            f"i={tmp_path}/i.npy",
            "--out",
            f"y={out}/y.npy",
        )
        if is_right:
            call(*arguments)
            (out / "y.npy").unlink()
        else:
            refused(5, "index", *arguments, left=out)


def test_unusual_arrays_are_read(place: Path, tmp_path: Path) -> None:
    """Other byte orders, layouts and strides are no fault."""
    for number, array in enumerate((np.arange(4, dtype=">f4"), np.asfortranarray(np.arange(4, dtype=np.float32)),
                                    np.arange(8, dtype=np.float32)[::-2])):  # fmt: skip
        np.save(tmp_path / f"{number}.npy", array)
        call(
            "run",
            place / "sum.so",
            "--in",
            f"a={tmp_path}/{number}.npy",
            "--in",
            f"b={place}/a.npy",
            "--out",
            f"y={tmp_path}/y.npy",
        )
        assert np.array_equal(np.load(tmp_path / "y.npy"), array + 1)


def test_labels_that_cannot_be_read(place: Path) -> None:
    refused(2, "labels cannot be read", "run", place / "sum.so", "--labels", place / "none.txt")


# -- programs and checkpoints ----------------------------------------------------------------------


def test_damaged_programs(place: Path, tmp_path: Path) -> None:
    data = (place / "sum.so").read_bytes()
    copy = tmp_path / "copy.so"
    for content, says in (
        (data[:1000], "is not a netloom program, or it is cut off"),
        (b"text", "is not a netloom program"),
        (data[:-64] + bytes(8) + data[-64:], "was written with"),
        (DATA, "is not a netloom program"),
    ):
        copy.write_bytes(content)
        for verb in ("run", "inspect", "bench"):
            refused(5, says, verb, copy)
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    copy.write_bytes(changed)
    refused(5, "have changed since it was written", "inspect", copy, "--verify")
    refused(5, "No such file", "run", tmp_path / "none.so")


def test_programs_of_others(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.so"
    shutil.copy(place / "sum.so", copy)
    copy.chmod(0o666)
    refused(5, "can be written by everybody", "run", copy)


@pytest.mark.parametrize("user", [0, 4711])
def test_programs_that_another_user_could_change(
    user: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a program runs its code: it must be root's or the user's own."""
    owner = (place / "sum.so").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner if user == 0 else user)
    if user == 0 or owner == 0:
        call("run", place / "sum.so")
    else:
        refused(5, "belongs to another user", "run", place / "sum.so")


def test_a_program_where_a_model_is_needed(place: Path, out: Path) -> None:
    refused(3, "shared object", "compile", place / "sum.so", "-o", out / "m.so", left=out)
    refused(3, "shared object", "explain", place / "sum.so")
    refused(2, "Give the model", "compare", place / "sum.so")
    refused(2, "Give --shape, --accuracy", "run", place / "sum.so", "--accuracy", "strict")


def test_damaged_checkpoints(place: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((8, 4), np.float32), y=np.zeros(8, np.int64))
    saved = tmp_path / "c.safetensors"
    arguments = (
        "train",
        f"{place}/net.py:graph",
        "--data",
        tmp_path / "d.npz",
        "--optimizer",
        "sgd",
        "--checkpoint",
        saved,
    )
    call(*arguments)
    data = saved.read_bytes()
    before = sorted(path.name for path in tmp_path.iterdir())
    for content in (data[:-1], b"nothing"):
        saved.write_bytes(content)
        refused(5, "is not a valid checkpoint", *arguments, "--resume")
        assert saved.read_bytes() == content
    saved.write_bytes(data)
    refused(
        2, "the checkpoint is of a run with seed 0, not 1", *arguments, "--resume", "--seed", "1"
    )
    refused(2, "there is nothing to resume from", *arguments[:-2], "--resume")
    assert saved.read_bytes() == data and sorted(path.name for path in tmp_path.iterdir()) == before


def test_data_sets_that_are_not_there(place: Path, tmp_path: Path) -> None:
    refused(2, "no data set 'cats'", "train", f"{place}/net.py:graph", "--data", "cats")
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 but no more")
    refused(5, "is not a .npz file", "train", f"{place}/net.py:graph", "--data", tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", x=np.ones(3))
    refused(
        5, "lacks the array 'y'", "train", f"{place}/net.py:graph", "--data", tmp_path / "e.npz"
    )


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


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_as_arguments(name: str, place: Path, out: Path) -> None:
    text = HOSTILE[name]
    refused(2, "", "compile", f"zoo:{text}", "-o", out / "m.so", left=out)
    refused(2, "", "compile", f"{place}/net.py:{text}", "-o", out / "m.so", left=out)
    refused(2, "", "compile", place / "sum.onnx", "-o", out / "m.so", "--cpu", text, left=out)
    refused(
        5, "", "run", place / "sum.so", "--in", f"{text}=rand", "--out", f"y={out}/y.npy", left=out
    )
    for missing in (f"{out}/{text}.onnx", f"{out}/{text}.py:graph"):
        refused(2, "", "compile", missing, "-o", out / "m.so", left=out)


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name not in ("nul", "long", "path", "unicode", "shell")]
)
def test_hostile_names_of_files(name: str, place: Path, out: Path) -> None:
    """Tools are called without a shell, on names of our own: any name that a file can have will
    do.
    """
    target = out / f"{HOSTILE[name]}.so".replace("/", "_")
    call("compile", place / "sum.onnx", "-o", target)
    assert sorted(path.suffix for path in out.iterdir()) == [".h", ".so"]
    assert call("run", target).stdout.startswith("y: float32 [4]")


def test_controls_convolutions(tmp_path: Path, out: Path) -> None:
    """The sound form of most bad models compiles."""
    (tmp_path / "m.onnx").write_bytes(conv().SerializeToString())
    call("compile", tmp_path / "m.onnx", "-o", out / "m.so")
    assert sorted(path.name for path in out.iterdir()) == ["m.h", "m.so"]
