"""Models whose every dim is free: weights, shapes and windows say what these must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest

from netloom.compiler.interpret import interpret
from netloom.errors import ShapeError, UnsupportedOpError
from netloom.frontends.onnx import from_onnx

from .test_free_dims import RNG, Array, model_of


def assert_means_the_same(model: onnx.ModelProto, *shape: int) -> None:
    """Interpreted, equal to ONNX Runtime for an input x of that shape."""
    x = RNG.standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(interpret(from_onnx(model), {"x": x})[0], expected, 2e-5, 2e-5)


def weights(*shape: int) -> Array:
    return RNG.random(shape).astype(np.float32)


# signature, body, initializers, the input's type
WRITTEN: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "Conv": ("N, C, H, W", "y = Conv(x, w)", {"w": weights(4, 3, 3, 3)}, "N, 3, H, W"),
    "groups": ("N, C, L", "y = Conv<group = 3>(x, w)", {"w": weights(6, 2, 3)}, "N, 6, L"),
    "ConvTranspose": ("N, C, L", "y = ConvTranspose(x, w)", {"w": weights(3, 4, 3)}, "N, 3, L"),
    "MatMul": ("N, T, F", "y = MatMul(x, w)", {"w": weights(5, 2)}, "N, T, 5"),
    "Gemm": ("N, F", "y = Gemm<transB = 1>(x, w)", {"w": weights(2, 5)}, "N, 5"),
    "Add": ("N, F", "y = Add(x, w)", {"w": weights(5)}, "N, 5"),
    "PRelu": ("N, C, H, W", "y = PRelu(x, w)", {"w": weights(3, 1, 1)}, "N, 3, H, W"),
    "BatchNormalization": (
        "N, C, L", "y = BatchNormalization(x, w, w, w, w)", {"w": weights(3)}, "N, 3, L",
    ),
    "InstanceNormalization": (
        "N, C, L", "y = InstanceNormalization(x, w, w)", {"w": weights(3)}, "N, 3, L",
    ),
    "LayerNormalization": (
        "N, T, F", "y = LayerNormalization(x, w, w)", {"w": weights(5)}, "N, T, 5",
    ),
    "GRU": (
        "2, N, F", "z, y = GRU<hidden_size = 2>(x, w, r)",
        {"w": weights(1, 6, 3), "r": weights(1, 6, 2)}, "2, N, 3",
    ),
    "Split": (
        "N, C", "a, b = Split<axis = 1>(x, parts)  y = Add(a, b)", {"parts": np.array([2, 2])},
        "N, 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_weights_decide_dims(name: str) -> None:
    extents, body, initializers, expected = WRITTEN[name]
    model = model_of(f"float[{extents}] x", body, **initializers)
    assert [str(value.type) for value in from_onnx(model).inputs] == [f"float32[{expected}]"]
    numbers = {"N": 2, "C": 1, "T": 3, "H": 4, "W": 5, "L": 6}
    assert_means_the_same(model, *(numbers.get(e) or int(e) for e in expected.split(", ")))


def test_a_number_that_the_caller_leaves_out_is_advised() -> None:
    model = model_of("float[N, F] x", "y = MatMul(x, w)", w=weights(5, 2))
    with pytest.raises(ShapeError) as caught:
        from_onnx(model, dims={"F": range(6, 9)})
    assert caught.value.hint == "It fits where F is 5."


WINDOWS = """s = Shape(x)  n = Gather(s, zero)  h = Gather(s, one)  v = Gather(s, two)
             rows = Div(h, seven)  columns = Div(v, seven)
             t = Concat<axis = 0>(n, rows, seven, columns, seven, last)  r = Reshape(x, t)
             y = ReduceMean<axes = [2, 4]>(r)"""


def test_windows_decide_multiples_of_both_sizes() -> None:
    numbers = {"zero": 0, "one": 1, "two": 2, "seven": 7, "last": 3}
    model = model_of(
        "float[N, H, W, 3] x", WINDOWS, **{name: np.array([n]) for name, n in numbers.items()}
    )
    assert [str(value.type) for value in from_onnx(model).inputs] == ["float32[N, 7*H, 7*W, 3]"]
    assert_means_the_same(model, 1, 7, 14, 3)
    assert_means_the_same(model, 2, 21, 7, 3)


def test_rows_that_are_joined_decide_multiples() -> None:
    model = model_of("float[N, T, 8] x", "r = Reshape(x, s)  y = Relu(r)", s=np.array([0, -1, 32]))
    assert [str(value.type) for value in from_onnx(model).inputs] == ["float32[N, 4*T, 8]"]
    assert_means_the_same(model, 2, 12, 8)


def test_heads_of_patches_behind_a_class_token() -> None:
    """As DINOv2 has them: H W + 1 rows are cut into heads, whose size is left open."""
    body = """p = Conv<strides = [7, 7]>(x, w)  f = Reshape(p, rows)  t = Transpose<perm = [0, 2, 1]>(f)
              c = Concat<axis = 1>(token, t)  s = Shape<end = 2>(c)
              n = Concat<axis = 0>(s, heads, rest)  h = Reshape(c, n)  y = Transpose<perm = [0, 2, 1, 3]>(h)"""
    numbers = {"rows": np.array([0, 0, -1]), "heads": np.array([2]), "rest": np.array([-1])}
    model = model_of(
        "float[1, C, H, W] x", body, w=weights(6, 3, 7, 7), token=weights(1, 1, 6), **numbers
    )
    assert_means_the_same(model, 1, 3, 14, 23)
    assert_means_the_same(model, 1, 3, 21, 7)


def test_an_even_kernel_whose_last_position_is_cut_off_needs_an_element() -> None:
    """As wav2vec 2.0 has it: the position of n // 2 - 1 frames, and max(n // 2 - 1, 0) of them."""
    body = """f = Conv<strides = [2]>(x, v)  p = Conv<pads = [2, 2]>(f, w)  q = Slice(p, first, last, axis)
              y = Add(f, q)"""
    numbers = {"first": np.array([0]), "last": np.array([-1]), "axis": np.array([2])}
    model = model_of(
        "float[N, 1, T] x", body, v=weights(2, 1, 4), w=weights(2, 2, 4), **numbers
    )  # fmt: skip
    (length,) = (symbol for symbol in from_onnx(model).symbols if symbol.name == "T")
    assert length.lo == 2
    assert_means_the_same(model, 2, 1, 9)
    with pytest.raises(ShapeError, match="It fits where T is 2 at least"):
        from_onnx(model, dims={"T": range(1, 9)})


# -- what decides one dim decides those that are one with it -----------------------------------------

EIGHTS, FOURS = np.array([-1, 8]), np.array([-1, 4])
HALVED = "h = Reshape(z, eights)  g = Reshape(h, fours)  y = Mul(x, g)"  # S is even, and T is S


def types_of(model: onnx.ModelProto, **dims: Any) -> list[str]:
    return [str(value.type) for value in from_onnx(model, dims=dims).inputs]


def test_a_number_is_that_of_every_dim_that_is_one_with_it() -> None:
    signature = "float[A, F] x, float[B, G] z"
    for body in (
        "s = Add(x, z)  y = MatMul(s, w)",
        "p = MatMul(z, w)  s = Mul(x, z)  q = MatMul(s, w)  y = Add(p, q)",
    ):
        model = model_of(signature, body, w=weights(5, 2))
        assert types_of(model) == ["float32[A, 5]"] * 2
    model = model_of("float[N, 3] x", "y = Add(x, w)", w=weights(7, 3))
    assert types_of(model) == ["float32[7, 3]"] and types_of(model, N=1) == ["float32[1, 3]"]


@pytest.mark.parametrize(
    ("dims", "found"),
    [
        ({}, "2*T"), ({"T": range(2, 65, 2)}, "2*T"), ({"S": range(4, 65, 4)}, "4*S"), ({"T": 6}, "6"),
    ],
)  # fmt: skip
def test_a_factor_is_that_of_both_dims(dims: dict[str, Any], found: str) -> None:
    model = model_of("float[T, 4] x, float[S, 4] z", HALVED, eights=EIGHTS, fours=FOURS)
    assert types_of(model, **dims) == [f"float32[{found}, 4]"] * 2
    inputs = {name: weights(6 if found != "4*S" else 8, 4) for name in "xz"}
    (result,) = interpret(from_onnx(model, dims=dims), inputs)
    np.testing.assert_allclose(result, inputs["x"] * inputs["z"], 1e-6)


def test_a_factor_that_the_caller_leaves_out_is_advised() -> None:
    model = model_of("float[T, 4] x, float[S, 4] z", HALVED, eights=EIGHTS, fours=FOURS)
    with pytest.raises(UnsupportedOpError, match="It fits where T is a multiple of 2"):
        from_onnx(model, dims={"T": range(1, 65)})
    with pytest.raises(ShapeError, match="It fits where S is T"):
        from_onnx(model, dims={"T": range(1, 65), "S": range(2, 65, 2)})


def test_a_shape_that_another_input_decides_unites_dims() -> None:
    body = "s = Shape<end = 1>(z)  n = Concat<axis = 0>(s, rest)  h = Reshape(x, n)  y = Relu(h)"
    model = model_of("float[B, 12] x, float[A, 3] z", body, rest=np.array([3, 4]))
    assert types_of(model) == ["float32[B, 12]", "float32[B, 3]"]


MEMORY = """a = Shape<end = 1>(t)  h = Constant<value_ints = [-1, 2]>()  s = Concat<axis = 0>(a, h)
            m = Reshape(x, s)  u = Unsqueeze(t, one)  y = Add(m, u)"""


def test_the_rest_of_a_reshape_unites_dims() -> None:
    """A decoder names the batch of what it reads by its own input."""
    model = model_of("float[N, 3, 2] x, float[M, 1] t", MEMORY, one=np.array([1], np.int64))
    graph = from_onnx(model)
    assert [str(value.type) for value in graph.inputs] == ["float32[N, 3, 2]", "float32[N, 1]"]
    given = {"x": weights(4, 3, 2), "t": weights(4, 1)}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    np.testing.assert_allclose(interpret(graph, given)[0], session.run(None, given)[0], 1e-6)
    with pytest.raises(UnsupportedOpError) as caught:
        from_onnx(model, dims={"N": range(1, 9), "M": range(1, 5)})
    assert caught.value.hint == "It fits where M is N."


@pytest.mark.parametrize("exponent", [2, 3])
def test_powers_of_extents(exponent: int) -> None:
    """Images whose sides have one name: their elements are a power of it."""
    axes = ", ".join("H" * exponent)
    body = """h = Shape<start = 1, end = 2>(x)  e = Pow(h, k)  b = Shape<end = 1>(x)
              s = Concat<axis = 0>(b, e)  y = Reshape(x, s)"""
    model = model_of(f"float[N, {axes}] x", body, k=np.array(exponent, np.int64))
    graph = from_onnx(model)
    assert str(graph.outputs[0].type) == f"float32[N, {'*'.join('H' * exponent)}]"
    assert_means_the_same(model, 2, *(3,) * exponent)


def test_sizes_that_give_one_number_of_patches() -> None:
    """Embeddings of 4 x 4 patches of 8 fit sides of 32 to 39."""
    body = """f = Conv<strides = [8, 8]>(x, w)  h = Shape<start = 2, end = 3>(f)  e = Mul(h, h)
              b = Shape<end = 2>(f)  s = Concat<axis = 0>(b, e)  r = Reshape(f, s)  y = Add(r, p)"""
    given = {"w": weights(2, 3, 8, 8), "p": weights(1, 2, 16)}
    model = model_of("float[N, 3, H, H] x", body, **given)
    graph = from_onnx(model)
    assert [(s.name, s.lo, s.hi) for s in graph.symbols if s.name == "H"] == [("H", 32, 39)]
    assert str(graph.outputs[0].type) == "float32[N, 2, 16]"
    assert_means_the_same(model, 2, 3, 37, 37)


def test_dims_of_one_axis_are_united_first() -> None:
    """Rows and columns are free, and so is the batch that the new shape names."""
    body = """a = Shape<end = 1>(t)  h = Constant<value_ints = [-1]>()  s = Concat<axis = 0>(a, h)
              m = Reshape(x, s)  y = Add(m, t)"""
    model = model_of("float[N, S] x, float[M, 1] t", body)
    assert [str(v.type) for v in from_onnx(model).inputs] == ["float32[N, S]", "float32[N, 1]"]


def test_a_mask_cut_to_a_length_has_that_length() -> None:
    body = """t = Shape<start = 1>(x)  c = Slice(m, zero, t, one)  y = Add(x, c)"""
    model = model_of(
        "float[N, T] x, float[M, L] m",
        body,
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
    )
    assert [str(v.type) for v in from_onnx(model).inputs] == ["float32[N, T]", "float32[N, T]"]


def test_a_number_within_what_was_found_before() -> None:
    """A table of 9 rows limits the length; a weight then decides it."""
    body = """t = Shape<start = 1, end = 2>(x)  c = Slice(table, zero, t, zero)  p = Add(x, c)
              r = Transpose<perm = [0, 2, 1]>(p)  y = MatMul(r, w)"""
    given = {"table": weights(9, 2), "zero": np.array([0], np.int64), "w": weights(6, 4)}
    model = model_of("float[N, T, 2] x", body, **given)
    assert str(from_onnx(model).inputs[0].type) == "float32[N, 6, 2]"
    assert_means_the_same(model, 2, 6, 2)


def interval(model: onnx.ModelProto) -> tuple[int, Any]:
    """The numbers that N may be once the model is imported."""
    (found,) = (symbol for symbol in from_onnx(model).symbols if symbol.name == "N")
    return found.lo, found.hi


@pytest.mark.parametrize("op", ["GatherElements", "ScatterElements"])
def test_indices_that_may_be_longer_are_refused(op: str) -> None:
    model = model_of(
        "float[N, T] x, int64[M, T] i", f"y = {op}<axis = 1>(x, i{', x' * (op[0] == 'S')})"
    )
    with pytest.raises(ShapeError, match=f"{op} 'y': indices are int64"):
        from_onnx(model)


SECOND = "c = Slice(x, first, last, axis)  y = Squeeze(c, axis)"
UPDATED = "u = Slice(x, axis, last, axis)  y = ScatterND(x, places, u)"
PICKED = "y = GatherElements<axis = 1>(x, places)"
REPLACED = "u = GatherElements<axis = 1>(x, places)  y = ScatterElements<axis = 1>(x, places, u)"


@pytest.mark.parametrize("body", [SECOND, UPDATED, PICKED, REPLACED])
def test_rows_that_must_be_there_give_a_least_number(body: str) -> None:
    """The second row of x, without its axis; the first two, written over others; an element of
    each of the first two, alone and written elsewhere.
    """
    numbers = {"first": 1, "last": 2, "axis": 0}
    fixed = {name: np.array([n]) for name, n in numbers.items()}
    model = model_of("float[N, 3] x", body, **fixed, places=np.array([[1], [0]]))
    assert interval(model)[0] == 2
    assert_means_the_same(model, 2, 3)
    assert_means_the_same(model, 7, 3)
    with pytest.raises(ShapeError, match="It fits where N is 2 at least"):
        from_onnx(model, dims={"N": range(1, 9)})


def test_an_axis_turned_round_as_tensorflow_exports_it() -> None:
    """From 10^9 down to -10^9, which is all but the first of 10^9 elements."""
    body = "r = Slice(x, first, last, axis, step)  y = Sub(x, r)"
    numbers = {"first": 10**9, "last": -(10**9), "axis": 0, "step": -1}
    model = model_of("float[N] x", body, **{name: np.array([n]) for name, n in numbers.items()})
    assert interval(model) == (1, 10**9 - 1)
    assert_means_the_same(model, 1)
    assert_means_the_same(model, 6)


def test_sums_of_dims_unite_in_the_order_of_the_inputs() -> None:
    """Text behind an image, and the positions of both, each with a name of its own."""
    model = model_of(
        "float[N, 2] x, float[T, 2] c, float[P, 2] px, float[Q, 2] pc",
        "t = Concat<axis = 0>(c, x)  p = Concat<axis = 0>(pc, px)  y = Mul(t, p)",
    )
    assert types_of(model) == ["float32[N, 2]", "float32[T, 2]"] * 2
    kept = types_of(model, P="T", Q="N")
    assert kept == [f"float32[{name}, 2]" for name in "NTTN"]
