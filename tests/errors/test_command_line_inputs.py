"""Files that a run or a training reads: inputs, labels, programs, checkpoints, data sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ..cli.calling import call
from .command_line import refused
from .test_model_files import DATA


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
