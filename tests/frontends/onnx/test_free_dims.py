"""Models as PyTorch exports them, with free dims: they are imported, compiled and run without
flags.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import numpy_helper

from netloom.compiler import dim
from netloom.compiler.driver import Options, compile_graph, plan_graph
from netloom.compiler.interpret import interpret
from netloom.errors import NetloomError, ShapeError, UnsupportedOpError, UsageError
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

Array = npt.NDArray[Any]
RNG = np.random.default_rng(11)


def model_of(signature: str, body: str, **initializers: Array) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({signature}) => (float y) {{ {body} }}'
    )
    model.graph.output[0].ClearField("type")
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in initializers.items()
    )
    return model


def assert_right(model: onnx.ModelProto, *shapes: tuple[int, ...]) -> None:
    """Interpreted and compiled, equal to ONNX Runtime for inputs x of several shapes."""
    graph = from_onnx(model)
    compiled = Session.in_process(compile_graph(graph, Options()).image, threads=2)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for shape in shapes:
        x = RNG.standard_normal(shape).astype(np.float32)
        expected = session.run(None, {"x": x})[0]
        for found in (interpret(graph, {"x": x})[0], compiled.run(None, {"x": x})[0]):
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


MASK = np.tril(np.ones((1, 8, 8), bool))
CAUSAL = """s = Shape<start = 1, end = 2>(x)  xt = Transpose<perm = [0, 2, 1]>(x)  a = MatMul(x, xt)
            m = Slice(mask, zero, s, one)  n = Slice(m, zero, s, two)  low = Constant<value_float = -1e9>()
            w = Where(n, a, low)  p = Softmax(w)  y = MatMul(p, x)"""


def causal() -> onnx.ModelProto:
    return model_of(
        "float[B, T, 4] x",
        CAUSAL,
        mask=MASK,
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
    )


def test_a_mask_limits_the_length() -> None:
    graph = from_onnx(causal())
    assert {symbol.name: (symbol.lo, symbol.hi) for symbol in graph.symbols} == {
        "B": (1, 1_000_000_000),
        "T": (1, 8),
    }
    assert_right(causal(), (2, 5, 4), (1, 8, 4), (3, 1, 4))


def test_a_range_that_is_given_is_kept() -> None:
    with pytest.raises(ShapeError, match="do not broadcast"):
        from_onnx(causal(), dims={"T": range(1, 10)})
    assert from_onnx(causal(), dims={"T": range(1, 5)}).symbols[1].hi == 4


def test_a_number_in_a_shape_decides_a_dim() -> None:
    model = model_of(
        "float[B, T, 6] x", "r = Reshape(x, shape)  y = Relu(r)", shape=np.array([0, 5, 2, 3])
    )
    assert [str(value.type) for value in from_onnx(model).inputs] == ["float32[B, 5, 6]"]
    assert_right(model, (2, 5, 6))


def test_a_squeezed_dim_is_one() -> None:
    model = model_of("float[B, T, 6] x", "y = Squeeze(x, axis)", axis=np.array([0]))
    assert [str(value.type) for value in from_onnx(model).inputs] == ["float32[1, T, 6]"]
    assert_right(model, (1, 5, 6))
    with pytest.raises(ShapeError, match="axis 0 of float32"):
        from_onnx(model, dims={"B": 2})


def test_a_number_that_cannot_be_is_refused() -> None:
    with pytest.raises(ShapeError, match="cannot become"):
        from_onnx(model_of("float[B, T, 6] x", "y = Reshape(x, shape)", shape=np.array([0, 5, 4])))


def test_group_normalization_of_older_exports() -> None:
    body = """r = Reshape(x, grouped)  n = InstanceNormalization<epsilon = 0.001>(r, scale, bias)  s = Shape(x)
              b = Reshape(n, s)  y = Relu(b)"""
    model = model_of("float[B, 4, H, W] x", body, grouped=np.array([0, 2, -1]), scale=RNG.random(2).astype(np.float32),
                     bias=RNG.random(2).astype(np.float32))  # fmt: skip
    assert "group_norm" in {node.op.name for node in from_onnx(model).nodes}
    assert_right(model, (2, 4, 3, 5), (1, 4, 6, 2))


def test_linear_layers_on_flattened_rows() -> None:
    body = """r = Reshape(x, flat)  g = Gemm<transB = 1>(r, w, c)  s = Shape<end = 2>(x)  t = Concat<axis = 0>(s, last)
              y = Reshape(g, t)"""
    model = model_of("float[T, B, 6] x", body, flat=np.array([-1, 6]), w=RNG.random((5, 6)).astype(np.float32),
                     c=RNG.random(5).astype(np.float32), last=np.array([5]))  # fmt: skip
    assert_right(model, (3, 2, 6), (1, 7, 6))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_that_round_up(op: str) -> None:
    model = model_of(
        "float[B, 2, H, W] x",
        f"y = {op}<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)",
    )
    assert_right(model, (1, 2, 7, 8), (2, 2, 9, 6), (1, 2, 4, 5))


@pytest.mark.parametrize("body", [
    "r = Reshape(x, flat)  y = Softmax(r)",
    "a = Relu(x)  r = Reshape(a, flat)  y = ReduceSum<keepdims = 0>(r, zero)",
    "t = Transpose<perm = [1, 0, 2]>(x)  r = Reshape(t, flat)  n = Neg(r)  y = Concat<axis = 0>(r, n)",
    "s = Shape(x)  p = Gather(s, swapped)  r = Reshape(x, p)  t = Transpose<perm = [2, 0, 1]>(r)  y = Exp(t)",
], ids=["softmax", "sum", "concat", "swapped"])  # fmt: skip
def test_reshapes_that_join_free_dims(body: str) -> None:
    """No formula over extents takes the joined axis apart again: such a reshape is another name
    of the same memory.
    """
    model = model_of(
        "float[A, B, 6] x",
        body,
        flat=np.array([-1, 6]),
        zero=np.array([0]),
        swapped=np.array([1, 0, 2]),
    )
    assert_right(model, (3, 2, 6), (1, 7, 6), (5, 1, 6))


def test_a_reshape_alone_has_no_launch() -> None:
    model = model_of(
        "float[A, B, 6] x",
        "a = Exp(x)  r = Reshape(a, flat)  y = Softmax<axis = 0>(r)",
        flat=np.array([-1, 6]),
    )
    (entry,) = plan_graph(from_onnx(model)).program.entries
    kernels = [launch.kernel.split("_", 2)[2] for launch in entry.launches]
    assert kernels[0] == "exp" and "reshape" not in kernels and "copy" not in kernels


def test_long_sums_under_two_free_dims() -> None:
    """What an item keeps of long sums never grows with a free dim."""
    w = (RNG.standard_normal((1100, 24)) / 30).astype(np.float32)
    assert_right(
        model_of("float[A, B, 1100] x", "y = MatMul(x, w)", w=w), (2, 3, 1100), (3, 40, 1100)
    )


def test_products_of_free_dims_of_bounded_length() -> None:
    mask = np.tril(np.ones((1, 64, 64), bool))
    model = model_of(
        "float[B, T, 4] x",
        CAUSAL,
        mask=mask,
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
    )
    assert_right(model, (2, 5, 4), (1, 33, 4), (1, 64, 4))


U_NET = """a = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(x)
           b = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(a)
           c = Resize<mode = "nearest">(b, , double)  d = Concat<axis = 1>(c, a)
           e = Resize<mode = "nearest">(d, , double)  y = Concat<axis = 1>(e, x)"""
DOUBLE = np.array([1, 1, 2, 2], np.float32)


def test_halves_that_are_doubled_again_decide_multiples() -> None:
    model = model_of("float[B, 2, H, W] x", U_NET, double=DOUBLE)
    assert [str(value.type) for value in from_onnx(model).inputs] == ["float32[B, 2, 4*H, 4*W]"]
    assert_right(model, (1, 2, 8, 4), (2, 2, 4, 20))


def test_multiples_that_the_caller_leaves_out_are_advised() -> None:
    model = model_of("float[B, 2, H, 8] x", U_NET, double=DOUBLE)
    with pytest.raises(ShapeError) as caught:
        from_onnx(model, dims={"H": range(8, 65)})
    assert caught.value.hint == "It fits where H is a multiple of 4."
    (value,) = from_onnx(model, dims={"H": range(8, 65, 4)}).inputs
    assert str(value.type) == "float32[B, 2, 4*H, 8]"
    with pytest.raises(UsageError, match="cannot lie in"):
        from_onnx(model, dims={"H": range(9, 65, 4)})


def range_of(model: onnx.ModelProto, name: str) -> tuple[int, int | None]:
    """The numbers that a free dim may be once the model is imported."""
    (found,) = (symbol for symbol in from_onnx(model).symbols if symbol.name == name)
    assert not isinstance(found.hi, dim.Dim)
    return found.lo, found.hi


def test_rows_cut_from_a_table_and_expanded_limit_the_length() -> None:
    """The segments of BERT: a buffer of zeros, cut to the sequence and spread over the batch."""
    body = """s = Shape(x)  t = Gather(s, one)  e = Slice(table, zero, t, one)
              w = Expand(e, s)  y = Add(x, w)"""
    model = model_of(
        "float[B, T] x", body, table=RNG.standard_normal((1, 8)).astype(np.float32),
        zero=np.array([0]), one=np.array([1]),
    )  # fmt: skip
    assert range_of(model, "T") == (1, 8)
    assert_right(model, (2, 5), (1, 8), (3, 1))


REFLECTED = 'd = Conv<strides = [2, 2]>(x, w)  y = Pad<mode = "reflect">(d, pads)'


def reflected() -> onnx.ModelProto:
    """Mirror images of 3 need 4 elements, which 2 n + 1 of the input give."""
    return model_of(
        "float[1, 1, H, W] x", REFLECTED, w=np.ones((1, 1, 3, 3), np.float32),
        pads=np.array([0, 0, 3, 0, 0, 0, 0, 1]),
    )  # fmt: skip


def test_mirror_images_need_a_least_size() -> None:
    assert (range_of(reflected(), "H")[0], range_of(reflected(), "W")[0]) == (9, 5)
    assert_right(reflected(), (1, 1, 9, 5), (1, 1, 12, 11))


def test_a_size_too_small_for_mirror_images_is_advised() -> None:
    with pytest.raises(ShapeError, match="It fits where H is 9 at least"):
        from_onnx(reflected(), dims={"H": range(2, 40)})


def test_rows_that_are_turned_back() -> None:
    """Normalized over channels [n, c, t] that are turned for it: an element of the result does not
    follow from its number."""
    body = """r = Transpose<perm = [0, 2, 1]>(x)  z = LayerNormalization<axis = -1>(r, scale, scale)
              y = Transpose<perm = [0, 2, 1]>(z)"""
    model = model_of("float[B, 6, T] x", body, scale=np.ones(6, np.float32))
    assert_right(model, (2, 6, 5), (1, 6, 1))


def test_an_axis_that_may_be_empty_is_read_backwards() -> None:
    model = model_of(
        "float[N] x",
        "r = Slice(x, last, before, axis, last)  y = Add(r, x)",
        last=np.array([-1]), before=np.array([-(2**63)]), axis=np.array([0]),
    )  # fmt: skip
    graph = from_onnx(model, dims={"N": range(9)})
    for length in (0, 1, 5):
        x = np.arange(length, dtype=np.float32)
        assert np.array_equal(interpret(graph, {"x": x})[0], x[::-1] + x)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pads_up_to_a_multiple(mode: str) -> None:
    """As windows of attention and TensorFlow's strided convolutions need them."""
    body = f"""size = Shape<start = 1, end = 2>(x)  rest = Mod(size, four)  more = Sub(four, rest)
               high = Mod(more, four)  pads = Concat<axis = 0>(zero, low, zero, zero, high, zero)
               p = Pad<mode = "{mode}">(x, pads)  y = Neg(p)"""
    four, low, zero = (np.array([number]) for number in (4, 1, 0))
    pads = {"four": four, "low": low, "zero": zero}
    assert_right(model_of("float[B, H, 6] x", body, **pads), (2, 8, 6), (1, 5, 6), (1, 11, 6))


def test_pads_to_the_size_before_a_pool() -> None:
    body = """p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)  u = Resize(p, , scales)
              sx = Shape<start = 2>(x)  su = Shape<start = 2>(u)  d = Sub(sx, su)  l = Div(d, two)
              r = Sub(d, l)  pads = Concat<axis = 0>(none, l, none, r)  v = Pad(u, pads)
              y = Add(x, v)"""
    fixed = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "two": np.array([2, 2]),
        "none": np.zeros(2, np.int64),
    }
    assert_right(model_of("float[B, 2, H, W] x", body, **fixed), (1, 2, 6, 9), (2, 2, 5, 4))


# -- free dims that are one: exporters name each input's batch anew -----------------------------------


JOINED = {
    "float[A, T, 4] x, float[B, S, 4] z": "y = Mul(x, z)",
    "float[A, 3] x, float[B, 5] z": "y = Concat<axis = 1>(x, z)",
    "float[A, 3, T] x, float[B, S, 2] z": "y = MatMul(x, z)",
    "float[A, 2, T] x, float[B, 2, S] z": """xp = MaxPool<kernel_shape = [2], strides = [2]>(x)
        zp = AveragePool<kernel_shape = [2], strides = [2]>(z)  y = Add(xp, zp)""",
    "float[A, 3] x, float[B, 3] z, float[C, 3] v": "p = Add(z, v)  y = Sub(p, x)",
}


@pytest.mark.parametrize("signature", JOINED)
def test_free_dims_that_must_be_equal_become_one(signature: str) -> None:
    model = model_of(signature, JOINED[signature])
    graph = from_onnx(model)
    assert {symbol.name for symbol in graph.symbols} <= {"A", "T"}
    compiled = Session.in_process(compile_graph(graph, Options()).image, threads=1)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    extents = {"A": 3, "B": 3, "C": 3, "T": 6, "S": 6}
    inputs = {
        i.name: RNG.standard_normal([extents.get(e, e) for e in i.shape]).astype(np.float32)
        for i in session.get_inputs()
    }
    (expected,) = session.run(None, inputs)
    for found in (interpret(graph, inputs)[0], compiled.run(None, inputs)[0]):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_boxes_and_scores_have_one_number() -> None:
    model = model_of(
        "float[1, P, 4] boxes, float[1, 2, Q] scores",
        "kept = NonMaxSuppression(boxes, scores, ten)  y = Cast<to = 1>(kept)",
        ten=np.array([10]),
    )
    assert [str(v.type) for v in from_onnx(model).inputs] == [
        "float32[1, P, 4]",
        "float32[1, 2, P]",
    ]


SUM: dict[str, Any] = {"signature": "float[A, 3] x, float[B, 3] z", "body": "y = Add(x, z)"}


@pytest.mark.parametrize(
    ("dims", "found"),
    [({}, "A"), ({"B": range(1, 9)}, "B"), ({"A": 4}, "4"), ({"B": 4}, "4"), ({"B": "A"}, "A")],
)
def test_the_dim_that_the_caller_chose_is_kept(dims: dict[str, Any], found: str) -> None:
    assert [str(v.type) for v in from_onnx(model_of(**SUM), dims=dims).inputs] == [
        f"float32[{found}, 3]"
    ] * 2


def test_dims_that_the_caller_keeps_apart_are_named() -> None:
    with pytest.raises(ShapeError) as caught:
        from_onnx(model_of(**SUM), dims={"A": range(1, 9), "B": range(1, 5)})
    assert caught.value.hint == "It fits where B is A."
    with pytest.raises(UsageError, match="defined by it"):
        from_onnx(model_of(**SUM), dims={"A": "B", "B": "A"})
    for dims in ({"A": "Q"}, {"A": "Q", "Q": 4}):
        with pytest.raises(
            UsageError, match="A cannot be 'Q', which the model has not. It has A, B"
        ):
            from_onnx(model_of(**SUM), dims=dims)


def test_axes_of_a_kernel_say_nothing_of_the_image() -> None:
    """What does not fit is the padding; H is not the kernel's height."""
    body = 'y = LpPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)'
    with pytest.raises(UnsupportedOpError, match="depends on the free dim H"):
        from_onnx(model_of("float[N, 3, H, 8] x", body))
    conv = "y = Conv<kernel_shape = [3, 3], group = 2>(x, w)"
    with pytest.raises(NetloomError):
        from_onnx(model_of("float[N, 3, H, W] x", conv, w=np.ones((4, 1, 3, 3), np.float32)))


# -- SAME, as TensorFlow pads: by the remainder of the image's size ----------------------------------

SAME_WINDOWS = {
    "lower": 'y = Conv<auto_pad = "SAME_LOWER", strides = [2, 3]>(x, w)',
    "mean": 'y = AveragePool<auto_pad = "SAME_UPPER", strides = [2, 2], kernel_shape = [3, 5]>(x)',
    "pool": 'y = MaxPool<auto_pad = "SAME_UPPER", ceil_mode = 1, strides = [3, 2], kernel_shape = [3, 2]>(x)',
    "residual": """a = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)
        b = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, v)  y = Add(a, b)""",
}


@pytest.mark.parametrize("body", SAME_WINDOWS)
def test_same_padding_follows_the_size_of_the_image(body: str) -> None:
    weights = {
        "w": RNG.standard_normal((3, 3, 3, 3)).astype(np.float32),
        "v": RNG.standard_normal((3, 3, 1, 1)).astype(np.float32),
    }
    used = {name: w for name, w in weights.items() if f", {name})" in SAME_WINDOWS[body]}
    model = model_of("float[1, 3, H, W] x", SAME_WINDOWS[body], **used)
    assert_right(model, (1, 3, 6, 7), (1, 3, 7, 9), (1, 3, 5, 8))
