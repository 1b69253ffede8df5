# ruff: noqa: E501 - one row for each case
"""Export: graphs with states, free dims and ops that ONNX lacks; files that are whole or not
there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest

from netloom.compiler import dim
from netloom.compiler.constant import Constant
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.tensor_type import BOOL, FLOAT32, INT32, INT64, UINT32, DType, TensorType
from netloom.errors import UnsupportedOpError, UsageError
from netloom.frontends.dsl.zoo import NETWORKS
from netloom.frontends.onnx import from_onnx, to_onnx

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)
N = dim.symbol("N", 1)


def r(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def agree(graph: Graph, feeds: dict[str, Array], opset: int = 18) -> onnx.ModelProto:
    """The export is valid, and ONNX Runtime and our own importer agree with the interpreter."""
    model = to_onnx(graph, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    expected = interpret(graph, feeds)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for actual, meant in zip(session.run(None, feeds), expected, strict=True):
        assert actual.shape == meant.shape
        assert actual.dtype == meant.dtype
        np.testing.assert_allclose(actual, meant, rtol=2e-5, atol=2e-6)
    for again, meant in zip(interpret(from_onnx(model), feeds), expected, strict=True):
        np.testing.assert_allclose(again, meant, rtol=2e-5, atol=2e-6)
    return model


def build(shape: tuple[Any, ...], *ops: Any, dtype: DType = FLOAT32) -> Graph:
    """x through functions builder, value -> value."""
    b = Builder("net")
    value = b.input(TensorType(dtype, shape), "x")
    for op in ops:
        value = op(b, value)
    return b.build([value], ["y"])


def network() -> Graph:
    """A small classifier with a free batch, its parameters states."""
    b = Builder("classifier")
    x = b.input(TensorType(FLOAT32, (N, 1, 12, 12)), "image")
    w = b.state("conv/kernel", Constant(r(4, 1, 3, 3)))
    c = b.state("conv/bias", Constant(r(4)))
    d = b.state("dense/kernel", Constant(r(144, 10)))
    h = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=1)
    h = b("relu", b("add", h, b("reshape", c, shape=(4, 1, 1))))
    h = b("max_pool", h, kernel=(2, 2), stride=(2, 2), dilation=(1, 1), lo=(0, 0), hi=(0, 0))
    h = b("matmul", b("reshape", h, shape=(N, 144)), d)
    return b.build([b("softmax", h, axis=1)], ["probabilities"])


@pytest.mark.parametrize("batch", [1, 5])
def test_network_with_a_free_batch(batch: int) -> None:
    model = agree(network(), {"image": r(batch, 1, 12, 12)})
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert {t.name for t in model.graph.initializer} >= {"conv/kernel", "conv/bias", "dense/kernel"}
    assert [node.op_type for node in model.graph.node] == [
        "Conv",
        "Reshape",
        "Add",
        "Relu",
        "MaxPool",
        "Reshape",
        "MatMul",
        "Softmax",
    ]


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_opsets(opset: int) -> None:
    model = agree(network(), {"image": r(2, 1, 12, 12)}, opset)
    assert model.opset_import[0].version == opset
    reduced = build(
        (3, 4),
        lambda b, v: b("reduce_mean", v, axes=(1,), keep=True),
        lambda b, v: b("reduce_sum", v, axes=(0,), keep=False),
    )
    agree(reduced, {"x": r(3, 4)}, opset)


@pytest.mark.parametrize("opset", [12, 29])
def test_opset_out_of_range(opset: int) -> None:
    with pytest.raises(UsageError, match="13 to 28"):
        to_onnx(network(), opset=opset)


@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_zoo_network(name: str) -> None:
    graph = NETWORKS[name](batch="N")
    shape = tuple(e if isinstance(e, int) else 3 for e in graph.inputs[0].shape)
    agree(graph, {"x": r(*shape)})


def test_residual_network_is_valid_and_holds_nothing_unread() -> None:
    graph = NETWORKS["resnet18"](batch="N", classes=10)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert str(from_onnx(model).outputs[0].type) == "float32[N, 10]"


def test_training_form_with_dropout_has_no_onnx_form() -> None:
    with pytest.raises(UnsupportedOpError, match=r"random_bits.*inference form"):
        to_onnx(NETWORKS["alexnet"](batch=1, classes=2, training=True))


def test_states_are_exported_and_their_updates_are_not() -> None:
    b = Builder("net")
    x = b.input(TensorType(FLOAT32, (3,)), "x")
    s = b.state("s", Constant(r(3)))
    b.update_state(s, b("add", s, x))
    graph = b.build([b("mul", x, s)], ["y"])
    model = agree(graph, {"x": r(3)})
    assert [node.op_type for node in model.graph.node] == ["Mul"]


Steps = dict[str, tuple[tuple[Any, ...], tuple[Any, ...], Any]]
CASES: Steps = {
    "slice_backwards": ((5, 4), (lambda b, v: b("slice", v, start=(4, 3), size=(5, 2), step=(-1, -2)),), {}),
    "slice_free_backwards": ((N, 4), (lambda b, v: b("slice", v, start=(N - 1, 0), size=(N, 4), step=(-1, 1)),), {}),
    "reshape_free": ((N, 4, 6), (lambda b, v: b("reshape", v, shape=(2 * N, 2, 6)),), {}),
    "reshape_two_free": ((N, 4, 6), (lambda b, v: b("reshape", v, shape=(4 * N, 6)), lambda b, v: b("reshape", v, shape=(2, N, 12))), {}),
    "broadcast_free": ((N, 1), (lambda b, v: b("broadcast", v, shape=(3, N, 2)),), {}),
    "pad": ((3, 4), (lambda b, v: b("pad", v, lo=(1, 0), hi=(0, 2), value=1.5, mode="constant"),), {}),
    "trunc": ((9,), (lambda b, v: b("trunc", b("mul", v, 3.0)),), {}),
    "fma": ((9,), (lambda b, v: b("fma", v, v, v),), {}),
    "not_equal": ((9,), (lambda b, v: b("not_equal", v, v),), {}),
    "silu": ((9,), (lambda b, v: b("silu", v),), {}),
    "gelu": ((9,), (lambda b, v: b("gelu", v, approximate=True), lambda b, v: b("gelu", v, approximate=False)), {}),
    "square": ((9,), (lambda b, v: b("square", v),), {}),
    "clip_one_side": ((9,), (lambda b, v: b("clip", v, lo=None, hi=0.3),), {}),
    "matmul_transposed": ((3, 4), (lambda b, v: b("matmul", v, v, transpose_a=True, transpose_b=False), lambda b, v: b("matmul", v, v, transpose_b=True)), {}),
    "iota": ((N, 3), (lambda b, v: b("add", v, b("iota", shape=(N, 3), axis=0, dtype=FLOAT32)),), {}),
    "one_hot": ((4,), (lambda b, v: b("one_hot", v, depth=3, dtype=FLOAT32),), {"dtype": INT32}),
    "argmax": ((3, 4), (lambda b, v: b("argmax", v, axis=1, keep=False, last=False),), {}),
    "average_pool_ceil": ((1, 2, 5, 5), (lambda b, v: b("average_pool", v, kernel=(2, 2), stride=(2, 2), dilation=(1, 1), lo=(0, 0), hi=(1, 1), count_padding=True, extra=(1, 1)),), {}),
    "conv_input_gradient": ((N, 4, 3, 3), (lambda b, v: b("conv_input_gradient", v, b.constant(r(4, 2, 3, 3)), stride=(2, 2), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=1, spatial=(6, 5)),), {}),
    "bits": ((4,), (lambda b, v: b("xor", b("not", v), b.constant(np.arange(4, dtype=np.int32))),), {"dtype": INT32}),
    "logic": ((4,), (lambda b, v: b("and", v, b("not", v)),), {"dtype": BOOL}),
    "cast": ((4,), (lambda b, v: b("cast", v, dtype=FLOAT32),), {"dtype": INT64}),
}  # fmt: skip


def sample(shape: tuple[Any, ...], dtype: DType) -> Array:
    extents = tuple(e if isinstance(e, int) else 3 for e in shape)
    return r(*extents) if dtype is FLOAT32 else RNG.integers(0, 2, extents).astype(dtype.numpy)


@pytest.mark.parametrize("name", CASES)
def test_op(name: str) -> None:
    shape, steps, options = CASES[name]
    agree(build(shape, *steps, **options), {"x": sample(shape, options.get("dtype", FLOAT32))})


def test_large_splats_stay_small() -> None:
    big = Constant.splat(0.5, TensorType(FLOAT32, (1 << 12, 1 << 12)))
    graph = build(
        (1 << 12,), lambda b, v: b("matmul", b("reshape", v, shape=(1, 1 << 12)), b.constant(big))
    )
    model = to_onnx(graph)
    assert model.ByteSize() < 2000
    onnx.checker.check_model(model, full_check=True)
    (constant,) = (n.attrs.value for n in from_onnx(model).nodes if n.op.name == "constant")
    assert constant == big


def test_outputs_that_are_inputs_constants_or_equal() -> None:
    b = Builder("net")
    x = b.input(TensorType(FLOAT32, (3,)), "x")
    y = b("neg", x)
    graph = b.build([x, y, y, b.constant(r(2))], ["a", "b", "c", "d"])
    agree(graph, {"x": r(3)})


def test_all_missing_ops_at_once() -> None:
    b = Builder("net")
    key = b.input(TensorType(UINT32, (4,)), "key")
    bits = b("random_bits", key, shape=(4,))
    shifted: Value = b("shift_right", bits, bits)
    with pytest.raises(UnsupportedOpError, match="random_bits"):
        to_onnx(b.build([shifted], ["y"]))


def test_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    model = to_onnx(network(), path)
    assert onnx.load(path) == model
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]
    assert to_onnx(network(), path).SerializeToString(deterministic=True) is not None


def test_export_is_repeatable() -> None:
    graph = network()
    assert to_onnx(graph).SerializeToString(deterministic=True) == to_onnx(graph).SerializeToString(
        deterministic=True
    )


def test_path_that_cannot_be_written(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (tmp_path / "missing" / "net.onnx", tmp_path, pipe):
        with pytest.raises(UsageError, match="cannot be written") as caught:
            to_onnx(network(), path)
        assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == [pipe]
