"""Convolutions as compiled, against the interpreter, on random shapes.

Small integers make every partial sum exact, so every algorithm and every order of sums must give equal results
(the zero's sign is free): indexing, padding and tail bugs show at tolerance 0. Winograd's F(4,3) is held to its budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.strategies import BY_NAME, STRATEGIES
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session


@dataclass(frozen=True)
class Shape:
    """One convolution: [n, c, spatial...] by [o, c / groups, kernel...]."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    attrs: dict[str, tuple[int, ...] | int]


def draw(rng: np.random.Generator, winograd: bool) -> Shape:
    """A random shape; channels are multiples of 16 about half the time."""
    rank = 2 if winograd else int(rng.choice([1, 2, 2, 2, 3]))
    groups = 1 if winograd else int(rng.choice([1, 1, 1, 2, 3]))
    c, o = (int(groups * (rng.choice([1, 2, 3, 5, 16]) if rng.random() < 0.6 else 16)) for _ in range(2))
    if not winograd and rng.random() < 0.15:  # depthwise
        c = o = groups = int(rng.choice([3, 16, 32]))
    kernel = (3, 3) if winograd else tuple(int(k) for k in rng.integers(1, 5, rank))
    stride = (1,) * rank if winograd else tuple(int(s) for s in rng.integers(1, 4, rank))
    dilation = (1,) * rank if winograd else tuple(int(d) for d in rng.integers(1, 3, rank))
    lo, hi = (tuple(int(p) for p in rng.integers(0, 3, rank)) for _ in range(2))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    spatial = tuple(int(max(r - p - q, 1) + rng.integers(0, 20 if rank < 3 else 5)) for r, p, q in zip(reach, lo, hi, strict=True))
    attrs = {"stride": stride, "dilation": dilation, "lo": lo, "hi": hi, "groups": groups}
    return Shape((int(rng.integers(1, 4)), c, *spatial), (o, c // groups, *kernel), attrs)


def integers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """|x| <= 3, three in ten non-zero."""
    return (rng.integers(-3, 4, shape) * (rng.random(shape) < 0.3)).astype(np.float32)


def forward(shape: Shape, w: np.ndarray) -> Graph:
    b = Builder("conv")
    x = b.input(TensorType(FLOAT32, shape.x), "x")
    return b.build([b("conv", x, b.constant(w), **shape.attrs)], ["y"])


def ran(graph: Graph, feeds: dict[str, np.ndarray], **options: str) -> np.ndarray:
    compiled = compile_graph(graph, Options(**options))
    return np.asarray(Session.in_process(compiled.image, threads=2).run(None, feeds)[0])


@pytest.mark.parametrize("strategy", [s.name for s in STRATEGIES if s.name != "winograd_f4"])
def test_forward_is_exact_on_integers(strategy: str, shapes: int) -> None:
    rng = np.random.default_rng([1, len(strategy)])
    used = 0
    for _ in range(shapes):
        shape = draw(rng, strategy.startswith("winograd"))
        x, w = integers(rng, shape.x), integers(rng, shape.w)
        assert 9.0 * np.prod(shape.w[1:]) < 1 << 22
        graph = forward(shape, w)
        compiled = compile_graph(graph, Options(override=strategy))
        used += compiled.decisions[0].strategy == strategy
        found = Session.in_process(compiled.image, threads=2).run(None, {"x": x})[0]
        np.testing.assert_array_equal(found, interpret(graph, {"x": x})[0], err_msg=str(shape))
    assert used > shapes // 4, "too few shapes select the strategy"


def test_a_weight_off_by_one_is_found() -> None:
    """The control: the sweep would notice."""
    rng = np.random.default_rng(2)
    shape = Shape((1, 16, 9, 9), (16, 16, 3, 3), {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1})
    x, w = np.ones(shape.x, np.float32), integers(rng, shape.w)
    wrong = w.copy()
    wrong[7, 3, 1, 2] += 1
    assert np.any(ran(forward(shape, wrong), {"x": x}) != interpret(forward(shape, w), {"x": x})[0])


@pytest.mark.parametrize("strategy", ["direct", "winograd_f2", "winograd_f4"])
def test_error_is_within_the_budget(strategy: str, shapes: int) -> None:
    """Relative L2 against float64 on normal data, C up to 64."""
    rng = np.random.default_rng(3)
    for _ in range(max(shapes // 6, 3)):
        shape = draw(rng, True)
        c, o = 16 * int(rng.integers(1, 5)), 16 * int(rng.integers(1, 4))
        x = rng.standard_normal((shape.x[0], c, *shape.x[2:])).astype(np.float32)
        w = rng.standard_normal((o, c, 3, 3)).astype(np.float32)
        shape = Shape(x.shape, w.shape, shape.attrs)
        b = Builder("oracle")
        from netloom.compiler.tensor_type import FLOAT64

        wide = b.input(TensorType(FLOAT64, shape.x), "x")
        oracle = b.build([b("conv", wide, b.constant(w.astype(np.float64)), **shape.attrs)])
        expected = interpret(oracle, {"x": x.astype(np.float64)})[0]
        found = ran(forward(shape, w), {"x": x}, override=strategy)
        assert np.linalg.norm(found - expected) <= BY_NAME[strategy].budget * np.linalg.norm(expected), shape


@pytest.mark.parametrize("gradient", ["conv_input_gradient", "conv_weight_gradient"])
def test_gradients_are_exact_on_integers(gradient: str, shapes: int) -> None:
    rng = np.random.default_rng([4, len(gradient)])
    for _ in range(shapes):
        shape = draw(rng, False)
        probe = forward(shape, np.zeros(shape.w, np.float32))
        y = tuple(int(e) for e in probe.outputs[0].shape if isinstance(e, int))
        b = Builder(gradient)
        if gradient == "conv_input_gradient":
            arrays = {"dy": integers(rng, y), "w": integers(rng, shape.w)}
            extra = {"spatial": shape.x[2:]}
        else:
            arrays = {"x": integers(rng, shape.x), "dy": integers(rng, y)}
            extra = {"kernel": shape.w[2:]}
        inputs = [b.input(TensorType(FLOAT32, a.shape), name) for name, a in arrays.items()]
        graph = b.build([b(gradient, *inputs, **shape.attrs, **extra)])
        np.testing.assert_array_equal(ran(graph, arrays), interpret(graph, arrays)[0], err_msg=f"{gradient} {shape}")
