"""Large tensors taken out of a model's bytes: always the same model, whatever the bytes are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from netloom.errors import ModelError, UsageError
from netloom.frontends.onnx import large_tensors
from netloom.frontends.onnx.importer import from_onnx
from netloom.frontends.onnx.large_tensors import TOKEN, take_apart
from netloom.frontends.onnx.model_bytes import read_ahead, read_bytes

ROWS = 300


def model(rows: int = ROWS) -> onnx.ModelProto:
    """y = x w + b, with the large w and the small b."""
    w = np.arange(rows * 200, dtype=np.float32).reshape(rows, 200)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])],
        "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 200])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(w[0], "b")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def parsed(data: bytes) -> onnx.ModelProto | None:
    """What protobuf reads; None if it refuses."""
    found = onnx.ModelProto()
    try:
        found.ParseFromString(data)
    except DecodeError:
        return None
    return found


def joined(data: bytes) -> onnx.ModelProto | None:
    """What protobuf reads of the model taken apart, with the tensors put back."""
    apart = take_apart(data)
    found = parsed(apart.model)
    for tensor in found.graph.initializer if found is not None else ():
        if tensor.raw_data in apart.data:
            tensor.raw_data = bytes(apart.data.pop(tensor.raw_data))
    assert found is None or not apart.data
    return found


def test_large_tensors_are_views() -> None:
    data = model().SerializeToString()
    apart = take_apart(data)
    ((token, view),) = apart.data.items()
    assert view.obj is data and len(view) == ROWS * 200 * 4
    assert len(apart.model) < 2000 and apart.model.count(token) == 1 and len(token) == TOKEN
    assert joined(data) == model()


def test_the_graph_is_the_same(tmp_path: Path) -> None:
    """From bytes and from a file, where tensors are views; and from a ModelProto, where none is."""
    data = model().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    texts = {str(from_onnx(source)) for source in (data, tmp_path / "m.onnx", model())}
    assert len(texts) == 1


def test_models_that_stay_whole() -> None:
    small = model(8).SerializeToString()
    twice = model().SerializeToString() * 2  # protobuf joins the two graphs
    for data in (b"", small, twice, b"\x0b" + twice, bytes(100_000), b"\xff" * 100_000):
        apart = take_apart(data)
        assert apart.model is data and not apart.data


def test_raw_data_that_stand_twice_stay() -> None:
    """The last ones count, for protobuf."""
    tensor = model().graph.initializer[0].SerializeToString()
    w = tensor + b"\x4a\x00"
    graph = onnx.GraphProto(name="g").SerializeToString() + b"\x2a" + varint(len(w)) + w
    data = onnx.ModelProto(ir_version=9).SerializeToString() + b"\x3a" + varint(len(graph)) + graph
    found = parsed(data)
    assert found is not None and found.graph.initializer[0].raw_data == b""
    assert take_apart(data).model is data


def varint(value: int) -> bytes:
    return large_tensors._varint(value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_models_are_the_same_or_refused_either_way(draws: st.DataObject) -> None:
    """Bytes changed anywhere outside the large tensor, or the end cut off."""
    data = bytearray(model().SerializeToString())
    start = bytes(data).index(np.arange(100, dtype=np.float32).tobytes())
    places = st.integers(0, start - 1) | st.integers(start + ROWS * 800, len(data) - 1)
    for place in draws.draw(st.lists(places, max_size=4)):
        data[place] = draws.draw(st.integers(0, 255))
    if draws.draw(st.booleans()):
        del data[draws.draw(st.integers(start, len(data) - 1)) :]
    assert joined(bytes(data)) == parsed(bytes(data))


def test_a_wrong_size_is_named() -> None:
    broken = model()
    broken.graph.initializer[0].dims[0] = ROWS - 1
    with pytest.raises(
        ModelError, match=f"it needs {(ROWS - 1) * 800} bytes, but has {ROWS * 800}"
    ):
        from_onnx(broken.SerializeToString())


def test_a_file_that_is_read_ahead_is_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    assert str(from_onnx(read_ahead(path))) == str(from_onnx(path))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        from_onnx(read_ahead(tmp_path / "missing.onnx"))


def test_what_is_read_is_the_file_and_cannot_be_changed(tmp_path: Path) -> None:
    for size in (0, 1, 4097, 5 << 20):
        expected = np.random.default_rng(size).bytes(size)
        (tmp_path / "file").write_bytes(expected)
        found = read_bytes(tmp_path / "file")
        assert found == expected and found.readonly


def test_reading_ahead_does_not_wait_for_onnx() -> None:
    code = "import sys, netloom.frontends.onnx.model_bytes; print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
