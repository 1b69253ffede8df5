"""NaN, infinities, denormals and integers that have no quotient: compiled code does what
docs/reliability.md says.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder
from netloom.compiler.tensor_type import FLOAT32, INT32, DType, TensorType
from netloom.runtime.session import Session

Array = npt.NDArray[Any]
NAN, INF = float("nan"), float("inf")
LEAST = -(1 << 31)
CONTROL = 0xFFC0  # MXCSR without the flags that arithmetic sets: rounding, masks, denormals


@pytest.fixture(scope="module")
def results() -> dict[str, Array]:
    """What every op here gives for x and for the pairs (i, j)."""
    x = np.array([NAN, INF, -INF, 1e30, -300, 0.5, 1.5, 2.5, -0.0, 1e-40], np.float32)
    i = np.array([LEAST, LEAST, 1, -7, 7, 7, 0, 0, 0, 0], np.int32)
    j = np.array([-1, 0, 0, 2, -2, 2, 1, 1, 1, 1], np.int32)
    b = Builder("special")
    values = b.input(TensorType(FLOAT32, x.shape), "x")
    dividend, divisor = (b.input(TensorType(INT32, i.shape), name) for name in "ij")
    made = {"relu": b("max", values, 0.0), "int8": b("cast", values, dtype=DType("int8")),
            "uint8": b("cast", values, dtype=DType("uint8")),
            "int32": b("cast", values, dtype=INT32), "round": b("round", values),
            "half": b("mul", values, 0.5),
            "quotient": b("div", dividend, divisor)}  # fmt: skip
    session = Session.in_process(
        compile_graph(b.build(list(made.values()), list(made))).image, threads=1
    )
    return dict(zip(made, session.run(None, {"x": x, "i": i, "j": j}), strict=True))


def test_nan_and_infinity_propagate(results: dict[str, Array]) -> None:
    np.testing.assert_array_equal(
        results["relu"], np.array([NAN, INF, 0, 1e30, 0, 0.5, 1.5, 2.5, 0, 1e-40], np.float32)
    )


def test_floats_to_integers_saturate_and_nan_is_zero(results: dict[str, Array]) -> None:
    assert results["int8"].tolist() == [0, 127, -128, 127, -128, 0, 1, 2, 0, 0]
    assert results["uint8"].tolist() == [0, 255, 0, 255, 0, 0, 1, 2, 0, 0]
    assert results["int32"].tolist() == [0, -LEAST - 1, LEAST, -LEAST - 1, -300, 0, 1, 2, 0, 0]


def test_integers_without_a_quotient_never_trap(results: dict[str, Array]) -> None:
    """LEAST / -1 wraps, x / 0 is 0; the others are cut towards zero."""
    assert results["quotient"].tolist() == [LEAST, 0, 0, -3, -3, 3, 0, 0, 0, 0]


def test_halves_round_to_even(results: dict[str, Array]) -> None:
    assert results["round"][5:8].tolist() == [0, 2, 2]
    assert np.signbit(results["round"][8])


def test_denormals_are_kept(results: dict[str, Array]) -> None:
    assert results["half"][9] == np.float32(1e-40) / 2 != 0


def pooled(op: str, **attributes: Any) -> Array:
    b = Builder("pool")
    x = b.input(TensorType(FLOAT32, (1, 1, 1, 4)), "x")
    y = b(op, x, kernel=(1, 2), stride=(1, 2), dilation=(1, 1), lo=(0, 0), hi=(0, 0), **attributes)
    session = Session.in_process(compile_graph(b.build([y], ["y"])).image, threads=1)
    return np.asarray(session(np.array([[[[1, NAN, NAN, 3]]]], np.float32)))


def test_pooling_keeps_nan() -> None:
    assert np.isnan(pooled("max_pool")).all()


def convolved(strategy: str, x: Array) -> Array:
    """A 3x3 convolution with weights that are nowhere zero."""
    w = np.random.default_rng(0).uniform(0.5, 1, (16, 16, 3, 3)).astype(np.float32)
    b = Builder("conv")
    value = b.input(TensorType(FLOAT32, x.shape), "x")
    y = b(
        "conv", value, b.constant(w), stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=1
    )
    compiled = compile_graph(b.build([y], ["y"]), Options(override=strategy))
    assert [decision.strategy for decision in compiled.decisions] == [strategy]
    return np.asarray(Session.in_process(compiled.image, threads=1)(x))


@pytest.mark.parametrize("strategy, tile", [("direct", 1), ("winograd_f4", 4), ("fft_8", 6)])
def test_a_nan_spreads_over_its_window_or_tile_and_no_further(strategy: str, tile: int) -> None:
    x = np.random.default_rng(1).standard_normal((1, 16, 16, 16)).astype(np.float32)
    x[0, 3, 6, 9] = NAN
    found = np.isnan(convolved(strategy, x)).all(axis=(0, 1))
    rows, columns = np.nonzero(found)
    assert found[5:8, 8:11].all()  # every window that holds it
    lo, hi = 5 // tile * tile, -(-8 // tile) * tile
    assert (
        lo <= rows.min()
        and rows.max() < hi
        and 8 // tile * tile <= columns.min()
        and columns.max() < -(-11 // tile) * tile
    )
    assert found.sum() == (9 if tile == 1 else (hi - lo) * (-(-11 // tile) - 8 // tile) * tile)


def test_the_callers_floating_point_mode_is_left_alone() -> None:
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    environment = ctypes.create_string_buffer(64)

    def control() -> int:
        libm.fegetenv(environment)
        # fenv_t of x86-64 ends with MXCSR
        return int.from_bytes(environment.raw[28:32], "little") & CONTROL

    b = Builder("mode")
    x = b.input(TensorType(FLOAT32, (1000,)), "x")
    session = Session.in_process(compile_graph(b.build([b("exp", x)], ["y"])).image, threads=2)
    before = control()
    assert before & 0x1F80 == 0x1F80  # the masks are where they are looked for
    session(np.linspace(-100, 100, 1000, dtype=np.float32))
    assert control() == before
