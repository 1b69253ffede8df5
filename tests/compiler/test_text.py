"""The text form: exact, canonical, and it parses back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim, Symbol, symbol
from netloom.compiler.graph import Builder, Graph, Node
from netloom.compiler.layout import channel_blocked
from netloom.compiler.op import OPS
from netloom.compiler.tensor_type import (
    BFLOAT16,
    BOOL,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT64,
    UINT8,
    DType,
    TensorType,
)
from netloom.compiler.text import (
    constants_of,
    is_identical,
    parse_attribute,
    parse_graph,
    print_attribute,
    print_graph,
)
from netloom.errors import ModelError, UnsupportedOpError

from .nested import NESTED, nested

EXAMPLE = """\
graph "example" {
  dim N = 1..64
  input %0: float32[N, 8] "x"
  state "w" %1: float32[8, 4] = fill(float32[8, 4], 0.5)
  %2: float32[N, 4] @ "0 1/16 1%16" = matmul(%0, %1) "layer"
  %3: float32[N, 4] "another label" = relu(%2) "activation"
  %4: float32[N] = reduce_sum(%3) {axes = (1,)}
  output "y" = %4
  output "the same" = %4
  next "w" = %1
}
"""


def test_example_is_what_it_says() -> None:
    text = EXAMPLE.replace('  next "w" = %1\n', "")
    graph = parse_graph(text)
    assert print_graph(graph) == text
    assert print_graph(parse_graph(EXAMPLE)) == text  # a state that becomes itself is unchanged
    assert graph.nodes[0].output.layout is not None
    assert graph.nodes[1].output.label == "another label"
    assert graph.symbols == (Symbol("N", 1, 64),)


N, M = symbol("N", 1), symbol("none", 0, 7)
SYMBOLS = {"N": Symbol("N", 1), "none": Symbol("none", 0, 7)}


@pytest.mark.parametrize(
    "item",
    [
        None, True, False, 0, -3, 10**30, 0.0, -0.0, 0.1, 1e300, 5e-324, math.inf, -math.inf, 1e16, "", "a\n\"b\\, (c)",
        "é\u2028\0", (), (1,), (1, (2, 3), ()), N, M, N * 2 + 1, (N,), (N, N // 3, N * M), dim.minimum(N, M),
        ((N // 2) * dim.minimum(N, M),), -1 * N + 3, *DType, channel_blocked(4), TensorType(FLOAT32, (N, 3)),
        Constant(np.arange(6, dtype=np.int64).reshape(2, 3)), Constant(np.zeros((0, 3), np.float32)),
        Constant(np.array([1.5, -0.0, math.inf], np.float16)), Constant(np.array([True, False])),
        Constant(np.array([0.1, 3e38], ml_dtypes.bfloat16)), Constant(np.array(0.1, np.float32)),
        Constant.splat(7, TensorType(UINT8, (1000, 1000))), Constant.splat(math.nan, TensorType(FLOAT64, (3,))),
        Constant.splat(0.1, TensorType(BFLOAT16, (5, 5))), Constant.splat(True, TensorType(BOOL, (5,))),
        Constant.splat(-0.0, TensorType(FLOAT16, (5,))),
    ],
    ids=repr,
)  # fmt: skip
def test_attributes_parse_back(item: object) -> None:
    text = print_attribute(item)
    assert "\n" not in text
    parsed = parse_attribute(text, SYMBOLS, {})
    assert type(parsed) is type(item)
    assert parsed == item
    if isinstance(item, float) and isinstance(parsed, float):
        assert math.copysign(1, parsed) == math.copysign(1, item)


def test_nan_parses_back() -> None:
    assert math.isnan(parse_attribute(print_attribute(math.nan), {}, {}))


def test_odd_nans_and_large_constants_are_named_by_digest() -> None:
    odd = Constant(np.array([0x7FC12345, 0], np.uint32).view(np.float32))
    large = Constant(np.arange(17))
    for constant in (odd, large):
        text = print_attribute(constant)
        assert text == f'digest("{constant.digest}")'
        assert parse_attribute(text, {}, {constant.digest: constant}) is constant


def test_an_attribute_without_text_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        print_attribute(object())


def test_names_are_data() -> None:
    name = 'x"\n} %0 = neg(%0) \\ \0 \u2028 %s {}'
    b = Builder(name)
    x = b.input(TensorType(FLOAT32, (2,)), name)
    w = b.state(name, Constant(np.zeros(2, np.float32)))
    y = b("add", x, w, label=name)
    b.update_state(w, y)
    graph = b.build([y], [name])
    parsed = parse_graph(print_graph(graph))
    assert is_identical(parsed, graph)
    assert (parsed.name, parsed.nodes[0].label, parsed.output_names[0], parsed.states[0].name) == (
        name,
    ) * 4


def test_differences_are_seen() -> None:
    def make(value: float, label: str = "", dtype: DType = FLOAT32) -> Graph:
        b = Builder("g")
        return b.build([b("mul", b.input(TensorType(dtype, (2,)), "x"), value, label=label)])

    assert is_identical(make(0.5), make(0.5))
    for other in (make(0.25), make(0.5, "name"), make(0.5, dtype=FLOAT64)):
        assert not is_identical(make(0.5), other)


def test_large_constants_are_looked_up() -> None:
    b = Builder("g")
    graph = b.build([b.constant(np.arange(100, dtype=np.float32))])
    constants = constants_of(graph)
    assert len(constants) == 1
    assert is_identical(parse_graph(print_graph(graph), constants), graph)
    with pytest.raises(ModelError, match="line 2 is not understood"):
        parse_graph(print_graph(graph))


def test_nested_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, NESTED.name, NESTED)
    graph = nested(2)
    text = print_graph(graph)
    assert (
        text
        == """\
graph "level 1" {
  input %0: float32[2] "x"
  %1: float32[2] = nested_test(%0) {name = "body 1", body = graph} "node 1"
  with graph "level 0" {
    input %0: float32[2] "x"
    %1: float32[2] = nested_test(%0) {name = "body 0", body = graph} "node 0"
    with graph "innermost" {
      input %0: float32[2] "x"
      %1: float32[2] = neg(%0)
      output "output0" = %1
    }
    output "output0" = %1
  }
  output "output0" = %1
}
"""
    )
    assert print_graph(parse_graph(text)) == text


def test_several_outputs() -> None:
    def infer(_: object, inputs: Sequence[TensorType]) -> list[TensorType]:
        return [inputs[0], inputs[0].with_dtype(INT64)]

    two = dataclasses.replace(OPS["neg"], name="two", infer=infer)
    b = Builder("g")
    x = b.input(TensorType(FLOAT32, (2,)), "x")
    node: Node = b.add(two, [x], two.attrs(), "both")
    line = print_graph(b.build(node.outputs)).splitlines()[2]
    assert line == '  %1: float32[2], %2: int64[2] = two(%0) "both"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends before"),
        ("nonsense", "line 1 .* must begin with"),
        ('graph "g" {', "ends before"),
        ('graph "g" {\n}\n}', "line 3 .*after the graph"),
        ('graph "g" {\n%0: float32[2] = neg(%1)\n}', "line 2 is not understood: '%1'"),
        ('graph "g" {\ninput %0: float33[2] "x"\n}', "line 2 .*float33"),
        ('graph "g" {\ninput %0: float32[K] "x"\n}', "line 2 .*'K'"),
        (
            'graph "g" {\ninput %0: float32[2] "x"\ninput %0: float32[2] "y"\n}',
            "line 3 .*no new value",
        ),
        (
            'graph "g" {\ninput %0: float32[2] "x"\n%1: float32[] = reduce_sum(%0) {axis = 0}\n}',
            "line 3 .*axis",
        ),
        ('graph "g" {\nwith graph "h" {\n}\n}', "line 3 .*no attribute waits"),
        ('graph "g" {\noutput "y" = %0\n}', "line 2"),
    ],
)
def test_bad_texts(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_graph(text)


def test_unknown_op() -> None:
    with pytest.raises(UnsupportedOpError, match=r"line 2: there is no op named 'frobnicate'"):
        parse_graph('graph "g" {\n%0: float32[] = frobnicate()\n}')


def test_dims_named_like_words() -> None:
    assert print_attribute(M) == "(none)"
    assert isinstance(parse_attribute("(none)", SYMBOLS, {}), Dim)
