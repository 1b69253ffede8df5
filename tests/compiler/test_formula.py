"""Elementwise ops from one formula: what their type rule refuses, and slopes far from zero and at
kinks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.special import expit

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.op import Array
from netloom.compiler.passes.differentiate import differentiate
from netloom.compiler.tensor_type import BOOL, FLOAT32, DType, TensorType
from netloom.errors import ShapeError
from netloom.runtime.session import Session


def apply(op: str, *inputs: tuple[DType, tuple[int, ...]]) -> None:
    b = Builder("graph")
    b(op, *(b.input(TensorType(dtype, shape), f"x{i}") for i, (dtype, shape) in enumerate(inputs)))


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        ("add", [(FLOAT32, (3,))], "add takes 2 inputs, not 1"),
        ("relu", [(FLOAT32, (3,)), (FLOAT32, (3,))], "relu takes 1 inputs, not 2"),
        ("add", [(FLOAT32, (3,)), (FLOAT32, (4,))], "do not broadcast together"),
        ("exp", [(BOOL, (3,))], "exp does not take bool"),
    ],
)
def test_what_does_not_fit_is_refused(
    op: str, inputs: list[tuple[DType, tuple[int, ...]]], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        apply(op, *inputs)


# -- slopes ----------------------------------------------------------------------------------------

PLACES = np.array([-1000, -100, -89, -20, -12, -1, 0, 1, 12, 20, 89, 100, 1000], np.float64)
SLOPES: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda x: expit(x) * expit(-x),
    "silu": lambda x: expit(x) * (1 + x * expit(-x)),
    "softplus": expit,
    "relu": lambda x: (x > 0) * 1.0,
}
BASES, EXPONENTS = (
    np.array(numbers, np.float32) for numbers in ([0, 0, 0, 0, 2, -2, -2], [0, 1, 2, 3, 0, 2, 3])
)


def slopes_of(ops: Sequence[str], dtype: DType) -> Graph:
    """The slopes of ops of one argument ``x``."""
    b = Builder("slopes")
    x = b.input(TensorType(dtype, PLACES.shape), "x")
    found = [differentiate(b, b("reduce_sum", b(op, x), axes=(0,)), [x])[0] for op in ops]
    return b.build(found, ops)


@pytest.mark.parametrize("op", SLOPES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_slopes_are_finite_where_a_part_of_the_formula_is_not(op: str, dtype: str) -> None:
    """exp(12) is no float16, and exp(89) no float32. In x (1 - s), x is up to 20 where a rounding
    of 1 - s counts.
    """
    kind = DType(dtype)
    (found,) = interpret(slopes_of([op], kind), {"x": PLACES.astype(kind.numpy)})
    rounding = {"bfloat16": 2.0**-6, "float16": 2.0**-9, "float32": 2.0**-19}.get(dtype, 2.0**-48)
    np.testing.assert_allclose(found.astype(np.float64), SLOPES[op](PLACES), 0, rounding)


def test_compiled_slopes() -> None:
    x = PLACES.astype(np.float32)
    session = Session.in_process(compile_graph(slopes_of(list(SLOPES), FLOAT32)).image, threads=1)
    for found, (op, slope) in zip(session.run(None, {"x": x}), SLOPES.items(), strict=True):
        np.testing.assert_allclose(found, slope(PLACES), 0, 2.0**-19, err_msg=op)


def test_powers_at_zero_have_slopes() -> None:
    """x^0 is 1 around 0 too, and 0^y is 0."""
    b = Builder("powers")
    x, y = (b.input(TensorType(FLOAT32, BASES.shape), name) for name in "xy")
    slopes = differentiate(b, b("reduce_sum", b("pow", x, y), axes=(0,)), [x, y])
    by_base, by_exponent = interpret(b.build(slopes), {"x": BASES, "y": EXPONENTS})
    np.testing.assert_allclose(by_base, [0, 1, 0, 0, 0, -4, 12], 1e-6)
    np.testing.assert_allclose(by_exponent[:5], [0, 0, 0, 0, np.log(2)], 1e-6)
