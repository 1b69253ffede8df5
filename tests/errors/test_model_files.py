"""Files that are no models, and external data that must not be read. See README.md in this
folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from netloom.errors import ModelError, UsageError
from netloom.frontends.onnx import check, from_onnx

WEIGHTS = np.arange(4, dtype=np.float32)


def sound() -> onnx.ModelProto:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "t"], ["y"])],
        "g",
        [info],
        [onnx.ValueInfoProto(name="y")],
        [helper.make_tensor("t", TensorProto.FLOAT, [4], WEIGHTS)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def outside(**entries: str) -> onnx.TensorProto:
    """float32[4] in an external file."""
    tensor = onnx.TensorProto(
        name="t", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": "t.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def save(folder: Path, tensor: onnx.TensorProto) -> Path:
    model = sound()
    model.graph.initializer[0].CopyFrom(tensor)
    path = folder / "model" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


# -- not a model -----------------------------------------------------------------------------------

DATA = sound().SerializeToString()
CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"this is no model\n" * 20, "not an ONNX model"),
    "truncated": (DATA[: len(DATA) * 2 // 3], "cut short"),
    "first_bytes_only": (DATA[:2], "cut short"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "gzip": (b"\x1f\x8b" + bytes(100), "gzip"),
    "pickle": (b"\x80\x02}q\x00.", "pickle"),
    "elf": (b"\x7fELF" + bytes(100), "shared object"),
    "lfs_pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        "Git LFS",
    ),
    "web_page": (b"<!DOCTYPE html><html></html>", "markup"),
    "json": (b'{"irVersion": 8}', "JSON"),
    "random": (np.random.default_rng(0).bytes(4096), "not an ONNX model"),
    "zeros": (bytes(4096), "not an ONNX model"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_not_a_model(name: str, tmp_path: Path) -> None:
    data, words = CONTENTS[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for read in (from_onnx, check):
        with pytest.raises(ModelError, match=words) as caught:
            read(path)
        assert caught.value.exit_code == 3
        assert "m.onnx" in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize("end", range(0, len(DATA), 7))
def test_every_truncation_is_refused_or_complete(end: int) -> None:
    with pytest.raises(ModelError):
        from_onnx(DATA[:end])


def test_missing_file_is_a_mistake_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"m\.onnx cannot be read") as caught:
        from_onnx(tmp_path / "m.onnx")
    assert caught.value.exit_code == 2


def test_name_with_nul() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        from_onnx("m\0.onnx")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a directory"):
        from_onnx(tmp_path)


def test_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="not a regular file"):
        from_onnx(tmp_path / "m.onnx")


def test_wrong_kind_of_source() -> None:
    source: Any = 5
    with pytest.raises(UsageError, match="not int"):
        from_onnx(source)


# -- external data ---------------------------------------------------------------------------------


def test_external_data_are_read(tmp_path: Path) -> None:
    path = save(tmp_path, outside(offset="16", length="16"))
    (path.parent / "t.bin").write_bytes(bytes(16) + WEIGHTS.tobytes() + bytes(4))
    graph = from_onnx(path)
    (constant,) = (node.attrs.value for node in graph.nodes if node.op.name == "constant")
    np.testing.assert_array_equal(constant.array, WEIGHTS)


def test_external_data_in_a_subfolder_are_read(tmp_path: Path) -> None:
    path = save(tmp_path, outside(location="data/t.bin"))
    (path.parent / "data").mkdir()
    (path.parent / "data" / "t.bin").write_bytes(WEIGHTS.tobytes())
    assert from_onnx(path).outputs


def plain(path: Path) -> None:
    path.write_bytes(WEIGHTS.tobytes())


def link(path: Path) -> None:
    target = path.parent.parent / "secret"
    plain(target)
    path.symlink_to(target)


def inner_link(path: Path) -> None:
    plain(path.parent / "u.bin")
    path.symlink_to("u.bin")


def linked_folder(path: Path) -> None:
    (path.parent.parent / "elsewhere").mkdir()
    plain(path.parent.parent / "elsewhere" / "t.bin")
    (path.parent / "data").symlink_to("../elsewhere")


def hard_link(path: Path) -> None:
    plain(path.parent.parent / "secret")
    os.link(path.parent.parent / "secret", path)


def nothing(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()


EXTERNAL: dict[str, tuple[dict[str, str], Callable[[Path], None], str]] = {
    "absolute": ({"location": "/etc/passwd"}, plain, "does not lie inside"),
    "above": ({"location": "../secret"}, plain, "does not lie inside"),
    "above_by_way_of_below": ({"location": "data/../../secret"}, plain, "does not lie inside"),
    "no_location": ({"location": ""}, plain, "does not lie inside"),
    "itself": ({"location": "."}, plain, "does not lie inside"),
    "nul": ({"location": "t\0.bin"}, plain, "does not lie inside"),
    "symbolic_link": ({}, link, "cannot be opened"),
    "symbolic_link_inside": ({}, inner_link, "cannot be opened"),
    "linked_folder": ({"location": "data/t.bin"}, linked_folder, "cannot be opened"),
    "hard_link": ({}, hard_link, "2 hard links"),
    "fifo": ({}, os.mkfifo, "not a regular file"),
    "folder": ({}, folder, "not a regular file"),
    "missing": ({}, nothing, "cannot be opened"),
    "name_too_long": ({"location": "t" * 10_000}, plain, "cannot be opened"),
    "offset_is_no_number": ({"offset": "0x0"}, plain, "not a number"),
    "offset_is_negative": ({"offset": "-4"}, plain, "not a number"),
    "offset_has_other_digits": ({"offset": "\u0664"}, plain, "not a number"),
    "offset_is_enormous": ({"offset": "9" * 5000}, plain, "not a number"),
    "offset_is_outside": ({"offset": "4"}, plain, "do not lie inside"),
    "length_too_short": ({"length": "12"}, plain, "needs 16 bytes"),
    "length_too_long": ({"length": "20"}, plain, "needs 16 bytes"),
}


@pytest.mark.parametrize("name", EXTERNAL)
def test_external_data_refused(name: str, tmp_path: Path) -> None:
    entries, prepare, words = EXTERNAL[name]
    path = save(tmp_path, outside(**entries))
    prepare(path.parent / "t.bin")
    with pytest.raises(ModelError, match=words) as caught:
        from_onnx(path)
    assert "'t'" in str(caught.value)
    assert caught.value.hint
    assert len(str(caught.value)) < 600


def test_external_data_only_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, outside())
    plain(path.parent / "t.bin")
    assert from_onnx(path).outputs  # the control
    monkeypatch.chdir(path.parent)
    for source in (path.read_bytes(), onnx.load(path, load_external_data=False)):
        with pytest.raises(ModelError, match="not given by path"):
            from_onnx(source)


def test_external_and_internal_data(tmp_path: Path) -> None:
    tensor = outside()
    tensor.raw_data = bytes(16)
    path = save(tmp_path, tensor)
    plain(path.parent / "t.bin")
    with pytest.raises(ModelError, match="both external and internal"):
        from_onnx(path)


def test_external_location_twice(tmp_path: Path) -> None:
    tensor = outside()
    tensor.external_data.add(key="location", value="/etc/passwd")
    path = save(tmp_path, tensor)
    plain(path.parent / "t.bin")
    with pytest.raises(ModelError, match="twice"):
        from_onnx(path)


def in_attribute(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = sound()
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["t"], value=tensor))
    return model


def in_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    add = helper.make_node("Add", ["x", "t"], ["z"])
    taken = helper.make_graph([add], "b", [], [onnx.ValueInfoProto(name="z")], [tensor])
    other = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "b", [], [onnx.ValueInfoProto(name="z")]
    )
    model = sound()
    model.graph.initializer[0].CopyFrom(helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    model.graph.node[0].CopyFrom(
        helper.make_node("If", ["c"], ["y"], then_branch=taken, else_branch=other)
    )
    return model


def in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    body = [
        helper.make_node("Constant", [], ["t"], value=tensor),
        helper.make_node("Add", ["a", "t"], ["b"]),
    ]
    function = helper.make_function("local", "f", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    model = sound()
    del model.graph.initializer[:]
    model.graph.node[0].CopyFrom(helper.make_node("f", ["x"], ["y"], domain="local"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


@pytest.mark.parametrize("place", [in_attribute, in_branch, in_function])
def test_the_same_rules_hold_everywhere(
    place: Callable[[onnx.TensorProto], onnx.ModelProto], tmp_path: Path
) -> None:
    plain(tmp_path / "secret")
    inside = tmp_path / "model"
    inside.mkdir()
    plain(inside / "t.bin")
    path = inside / "m.onnx"
    path.write_bytes(place(outside()).SerializeToString())
    assert from_onnx(path).outputs  # the control
    path.write_bytes(place(outside(location="../secret")).SerializeToString())
    with pytest.raises(ModelError, match="does not lie inside"):
        from_onnx(path)
