"""Orders of scalar expressions, and guards around them."""

from __future__ import annotations

from netloom.compiler.dim import Dim, Symbol, evaluate, inside, unproved
from netloom.compiler.scalar import Argument, Cast, Guarded, Literal, guarded, literal, post_order
from netloom.compiler.tensor_type import FLOAT32, FLOAT64

I = Dim.of(Symbol("i", 0, 9))
X = Argument(0, FLOAT32)


def test_post_order_has_each_node_once() -> None:
    total = X + X
    square = total * total
    assert post_order([square, total]) == [X, total, square]


def test_closed_nodes_are_not_entered() -> None:
    kept, root = -X, Guarded((I - 3,), -X, literal(0, FLOAT32))
    assert post_order([kept + root], closed=(Guarded,))[:3] == [X, kept, root]


def test_known_nodes_are_left_out() -> None:
    half = X * 0.5
    wide = Cast(half, FLOAT64)
    assert post_order([wide], known=[id(half)]) == [wide]


def test_conditions_that_ranges_prove_are_left_out() -> None:
    assert guarded(inside([I], [10]), X) is X
    assert unproved([I, I - 1, 9 - I]) == (I - 1,)
    match guarded([I, I - 1], X, 2.0):
        case Guarded((condition,), value, Literal(2.0, dtype)):
            assert (condition, value, dtype) == (I - 1, X, FLOAT32)
        case other:
            raise AssertionError(other)


def test_inside_is_exact() -> None:
    held = {
        i
        for i in range(10)
        if all(evaluate(condition, {"i": i}) >= 0 for condition in inside([I - 2], [5]))
    }
    assert held == {2, 3, 4, 5, 6}
