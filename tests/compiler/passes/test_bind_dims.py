"""Free dims become numbers or narrower ranges; impossible bindings are refused."""

from __future__ import annotations

import pytest

from netloom.compiler.dim import Symbol
from netloom.compiler.passes.bind_dims import bind_dims
from netloom.compiler.text import parse_graph
from netloom.errors import ShapeError, UsageError

TEXT = """
graph "g" {
  dim M = 1..
  dim N = 1..64
  input %0: float32[N, M] "x"
  %1: float32[N*M] = reshape(%0) {shape = (N*M,)}
  output "y" = %1
}
"""


def test_a_narrower_range() -> None:
    graph = bind_dims(parse_graph(TEXT), {"N": (4, 16), "M": 3})
    assert graph.symbols == (Symbol("N", 4, 16),)
    assert str(graph.outputs[0].type) == "float32[3*N]"


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"K": 1}, "no free dim K. The free dims are: M, N."),
        ({"N": 65}, r"dim N = 65\.\.65 is outside its range 1\.\.64"),
        ({"N": 0}, "outside its range"),
        ({"N": (1, None)}, "outside its range"),
        ({"N": (3, 2)}, "outside its range"),
        ({"M": 0}, r"outside its range 1\.\."),
    ],
)
def test_impossible_bindings(bindings: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind_dims(parse_graph(TEXT), bindings)


def test_a_binding_that_breaks_an_op_names_the_node() -> None:
    text = """
graph "g" {
  dim N = 1..64
  input %0: float32[N] "x"
  input %1: float32[4] "y"
  %2: float32[4] = add(%0, %1) "sum"
  output "z" = %2
}
"""
    with pytest.raises(ShapeError, match="sum: add"):
        bind_dims(parse_graph(text), {"N": 5})
