"""Random ops: their distributions (Kolmogorov and Smirnov's distance, frequencies), which draws are
equal, and the same numbers from interpreter and program.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import parser
from scipy import stats  # type: ignore[import-untyped]

import netloom as nl
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret
from netloom.errors import NetloomError
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

Array = npt.NDArray[Any]
HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'
MANY = 20_000
FAR = 1.95 / MANY**0.5  # a distance that one of a thousand samples exceeds


def graph_of(text: str, **options: Any) -> Graph:
    return from_onnx(parser.parse_model(HEAD + text), **options)


def drawn(text: str, **given: Array) -> list[Array]:
    return [np.asarray(value) for value in interpret(graph_of(text), given)]


def floats(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


@pytest.mark.parametrize(("op", "attributes", "expected"), [
    ("RandomNormal", "", stats.norm()),
    ("RandomNormal", ", mean=2.0, scale=3.0, seed=5.0", stats.norm(2, 3)),
    ("RandomNormal", ", mean=-1.0, scale=0.5, dtype=11", stats.norm(-1, 0.5)),
    ("RandomUniform", "", stats.uniform()),
    ("RandomUniform", ", low=-1.0, high=3.0, seed=0.0", stats.uniform(-1, 4)),
])  # fmt: skip
def test_distributions(op: str, attributes: str, expected: Any) -> None:
    (x,) = drawn(f"g () => (y) {{ y = {op}<shape=[{MANY // 4}, 4]{attributes}>() }}")
    assert x.shape == (MANY // 4, 4)
    assert x.dtype == (np.float64 if "dtype=11" in attributes else np.float32)
    assert stats.kstest(x.reshape(-1), expected.cdf).statistic < FAR
    neighbours = np.corrcoef(x[:, 0], x[:, 1])[0, 1]  # words of one block
    assert abs(neighbours) < 4 / (MANY / 4) ** 0.5


def test_like() -> None:
    """The dtype is the input's if none is given."""
    x = np.zeros((2, 3), np.float16)
    a, b = drawn("""g (float16[2, 3] x) => (a, b) { a = RandomNormalLike(x)
                    b = RandomUniformLike<dtype=1>(x) }""", x=x)  # fmt: skip
    assert (a.shape, a.dtype, b.shape, b.dtype) == ((2, 3), np.float16, (2, 3), np.float32)
    with pytest.raises(NetloomError, match="random numbers are floats"):
        graph_of("g (int64[2] x) => (y) { y = RandomNormalLike(x) }")


def test_seeds() -> None:
    """Nodes of one seed draw the same; without a seed, each draws for itself."""
    a, b, c, d, e = drawn("""g () => (a, b, c, d, e) {
        a = RandomNormal<shape=[8], seed=1.0>()  b = RandomNormal<shape=[8], seed=1.0>()
        c = RandomNormal<shape=[8], seed=2.0>()
        d = RandomNormal<shape=[8]>()  e = RandomNormal<shape=[8]>() }""")  # fmt: skip
    np.testing.assert_array_equal(a, b)
    assert len({x.tobytes() for x in (a, c, d, e)}) == 4


def test_loops_draw_on() -> None:
    """Copies of an unrolled body, turns, and turns within turns draw numbers of their own."""
    body = """<body = b (int64 i, bool c0) => (bool c1, float[3] o)
              { c1 = Identity(c0)  o = RandomUniform<shape=[3], seed=1.0>() }>"""
    nested = f"""<body = outer (int64 j, bool c2) => (bool c3, float[m, 3] p)
                 {{ c3 = Identity(c2)  p = Loop(k, c) {body} }}>"""
    text = """g (int64 k) => (y, z) {
        c = Constant<value = bool {1}>()  few = Constant<value_int = 4>()
        y = Loop(%s, c) %s
        z = RandomUniform<shape=[3]>() }"""
    few, _ = drawn(text % ("few", body), k=np.array(0))
    assert len(np.unique(few)) == few.size == 12
    for inner, size in ((body, 30), (nested, 300)):
        graph = graph_of(text % ("k", inner), dims={"k": range(100)})
        turns, _ = interpret(graph, {"k": np.array(10)})
        assert turns.size == size == len(np.unique(turns))


def test_bernoulli() -> None:
    p = np.repeat(floats(0, 0.25, 0.9, 1), 5000).reshape(4, 5000)
    y, z = drawn("""g (float[4, 5000] x) => (y, z) { y = Bernoulli<dtype=9>(x)
                    h = Cast<to=10>(x)  z = Bernoulli<seed=1.0>(h) }""", x=p)  # fmt: skip
    assert (y.dtype, z.dtype) == (np.bool_, np.float16)
    for x in (y, z):
        np.testing.assert_allclose(x.astype(np.float64).mean(1), p[:, 0], atol=0.03)
        assert not x[0].any()
        assert x[3].all()


def test_multinomial() -> None:
    """The inputs are logarithms, up to a summand; classes of probability 0 are never drawn."""
    p = np.array([[0, 0.5, 0, 0.3, 0.2, 0], [0.1, 0.2, 0.3, 0.2, 0.1, 0.1]])
    with np.errstate(divide="ignore"):
        x = (np.log(p) + [[7], [-3]]).astype(np.float32)
    y, z = drawn("""g (float[2, 6] x) => (y, z) { y = Multinomial<sample_size=5000, dtype=7>(x)
                    z = Multinomial(x) }""", x=x)  # fmt: skip
    assert (y.shape, y.dtype, z.shape, z.dtype) == ((2, 5000), np.int64, (2, 1), np.int32)
    found = np.stack([np.bincount(row, minlength=6) / 5000 for row in y])
    np.testing.assert_allclose(found, p, atol=0.03)
    assert not found[p == 0].any()


DROPOUT = """g (float[100, 50] x, bool t, float ratio) => (y, mask, z) {
    yes = Constant<value = bool {1}>()
    y, mask = Dropout<seed=1>(x, ratio, t)
    z = Dropout(x, , yes) }"""


def test_dropout() -> None:
    x = np.random.default_rng(0).random((100, 50), np.float32) + 1
    y, mask, z = drawn(DROPOUT, x=x, t=np.array(True), ratio=np.float32(0.2))
    np.testing.assert_allclose(y, np.where(mask, x / np.float32(0.8), 0), rtol=1e-6)
    assert abs(mask.mean() - 0.8) < 0.03
    assert abs((z == 0).mean() - 0.5) < 0.03
    y, mask, _ = drawn(DROPOUT, x=x, t=np.array(False), ratio=np.float32(0.2))
    np.testing.assert_array_equal(y, x)
    assert mask.all()


def test_programs_draw_what_the_interpreter_draws() -> None:
    """The same for any number of threads, in every run; free shapes too."""
    graph = graph_of("""g (float[n, 3] x, int64 k) => (a, b, e) {
        a = Bernoulli(x)  b = Multinomial<sample_size=5>(x)  c = Constant<value = bool {1}>()
        e = Loop(k, c) <body = s (int64 i, bool c0) => (bool c1, float[3] o)
            { c1 = Identity(c0)  o = RandomUniform<shape=[3]>() }> }""",
                     dims={"k": range(1000)})  # fmt: skip
    given = {"x": np.random.default_rng(1).random((7, 3), np.float32), "k": np.array(40)}
    image = compile_graph(graph).image
    for threads in (1, 2):
        session = Session.in_process(image, threads=threads)
        for _ in range(2):
            for found, meant in zip(session.run(None, given), interpret(graph, given), strict=True):
                np.testing.assert_array_equal(found, meant)


def test_training_draws_anew() -> None:
    """Each step of a training has numbers of its own: its key counts the steps."""
    model = parser.parse_model(HEAD + """g (float[n, 3] x) => (y)
        <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
        yes = Constant<value = bool {1}>()  d = Dropout<seed=1>(x, , yes)  y = MatMul(d, w) }""")  # fmt: skip
    step = nl.trainable(from_onnx(model)).training_form()
    assert [state.name for state in step.states if not state.is_unchanged] == ["generator.key"]
