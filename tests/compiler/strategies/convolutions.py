"""Random convolutions, and each as a node in three roles: forward, input gradient, weight gradient.

A role's node has two operands. Its exact result is the graph interpreter's in float64 (which
tests/test_cases.py holds against an oracle of its own).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.graph import Builder, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, DType, TensorType

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]

ROLES = {
    "forward": "conv",
    "input_gradient": "conv_input_gradient",
    "weight_gradient": "conv_weight_gradient",
}
# channels or filters by group: of many, most fill blocks of 16
FEW, MANY = (1, 2, 3, 5, 7), (16, 17, 32, 35)
MOST_PRODUCTS = 3e7  # of one convolution: what keeps a sweep fast
REACH = 64  # the largest number that a free dim may stand for


@dataclass(frozen=True)
class Convolution:
    """x [batch, channels, spatial..] by w [filters, channels / groups, kernel..]; ``free``: the
    axis of x that is a free dim.
    """

    batch: int
    channels: int
    filters: int
    spatial: Shape
    kernel: Shape
    stride: Shape
    dilation: Shape
    lo: Shape
    hi: Shape
    groups: int = 1
    is_constant: bool = True  # the weights
    free: int | None = None

    @property
    def reach(self) -> Shape:
        """How many elements a window spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def x(self) -> Shape:
        return (self.batch, self.channels, *self.spatial)

    @property
    def w(self) -> Shape:
        return (self.filters, self.channels // self.groups, *self.kernel)

    @property
    def y(self) -> Shape:
        room = zip(self.spatial, self.lo, self.hi, self.reach, self.stride, strict=True)
        return (self.batch, self.filters, *((e + a + b - r) // s + 1 for e, a, b, r, s in room))

    @property
    def products(self) -> int:
        """Multiply-adds of each role."""
        return prod(self.y) * prod(self.w[1:])

    def shapes(self, role: str) -> tuple[Shape, Shape]:
        """The operands of a role."""
        return {
            "forward": (self.x, self.w),
            "input_gradient": (self.y, self.w),
            "weight_gradient": (self.x, self.y),
        }[role]

    def terms(self, role: str) -> int:
        """How many products one element of a role's result adds, at most."""
        inner = {"forward": self.w[1:], "input_gradient": (self.filters // self.groups, *self.kernel),
                 "weight_gradient": (self.batch, *self.y[2:])}  # fmt: skip
        return prod(inner[role])

    def symbols(self, number: int) -> dict[Symbol, int]:
        """The free dim, named apart from those of other convolutions, and the number that it
        stands for.
        """
        if self.free is None:
            return {}
        axis = self.free - 2
        least = 1 if self.free == 0 else max(1, self.reach[axis] - self.lo[axis] - self.hi[axis])
        return {Symbol(f"N{number}", least, REACH): self.x[self.free]}


# rare variants: tails of rows and columns at once (on AVX2), copies of contiguous memory (im2col),
# joined axes
CORNERS = (
    Convolution(1, 3, 3, (9, 16), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    Convolution(2, 3, 3, (11, 16), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    Convolution(5, 16, 32, (13,), (3,), (3,), (3,), (0,), (0,)),
    Convolution(3, 20, 1, (8, 8), (1, 1), (1, 1), (1, 1), (0, 0), (0, 0)),
)


def add_node(
    b: Builder,
    role: str,
    case: Convolution,
    name: str,
    number: int = 0,
    weights: Array | None = None,
) -> Value:
    """The node of a role, its operands inputs called NAME.0 and NAME.1; ``weights`` are constant
    if they are given.
    """
    return _node(b, role, case, name, [Dim.of(s) for s in case.symbols(number)], weights, FLOAT32)


def _node(
    b: Builder,
    role: str,
    case: Convolution,
    name: str,
    dims: list[Dim],
    weights: Array | None,
    dtype: DType,
) -> Value:
    """The node of a role over inputs of a dtype."""
    x: tuple[Extent, ...] = tuple(
        dims[0] if dims and axis == case.free else e for axis, e in enumerate(case.x)
    )
    attrs = {name: getattr(case, name) for name in ("stride", "dilation", "lo", "hi", "groups")}
    room = zip(x[2:], case.lo, case.hi, case.reach, case.stride, strict=True)
    y = (x[0], case.filters, *((e + a + c - r) // s + 1 for e, a, c, r, s in room))
    first = b.input(TensorType(dtype, y if role == "input_gradient" else x), f"{name}.0")
    if weights is not None:
        second = b.constant(weights)
    else:
        second = b.input(TensorType(dtype, y if role == "weight_gradient" else case.w), f"{name}.1")
    extra = {
        "forward": {},
        "input_gradient": {"spatial": x[2:]},
        "weight_gradient": {"kernel": case.kernel},
    }[role]
    return b(ROLES[role], first, second, label=name, **attrs, **extra)


def exact(role: str, case: Convolution, operands: tuple[Array, Array]) -> Array:
    """The result of a role in float64."""
    b = Builder("exact")
    graph = b.build([_node(b, role, case, "x", [], None, FLOAT64)])
    feeds = {f"x.{i}": array.astype(np.float64) for i, array in enumerate(operands)}
    return interpret(graph, feeds)[0]


def drawn(rng: np.random.Generator) -> Iterator[Convolution]:
    """CORNERS, then random convolutions without end: a third plain ones (3 x 3, stride 1), others
    of stride 1 with any taps and groups, a few with long sums, depthwise, 1 x 1."""
    yield from CORNERS
    while True:
        kind = rng.random()
        case = _plain(rng) if kind < 1 / 3 else _tiled(rng) if kind < 1 / 2 else _any(rng)
        if case.products <= MOST_PRODUCTS:
            yield case


def strided(rng: np.random.Generator) -> Iterator[Convolution]:
    """Random convolutions of two spatial axes without end, with strides up to 4, most of them equal,
    windows of up to 11 taps and groups of whole vectors."""
    while True:
        groups = int(rng.choice([1, 1, 1, 2]))
        c, o = (groups * int(rng.choice([16, 32])) if groups > 1 else e for e in _channels(rng))
        stride = tuple(int(s) for s in rng.choice([1, 2, 2, 3, 4], 2))
        taps = tuple(int(k) for k in rng.choice([1, 2, 3, 4, 5, 7, 11], 2))
        if rng.random() < 2 / 3:
            stride, taps = (max(stride),) * 2, (max(taps),) * 2
        case = _fitting(
            rng, channels=c, filters=o, groups=groups, kernel=taps, stride=stride, dilation=(1, 1)
        )
        if case.products <= MOST_PRODUCTS:
            yield case


def _integers(rng: np.random.Generator, low: int, high: int, count: int) -> Shape:
    return tuple(int(i) for i in rng.integers(low, high + 1, count))


def _fitting(rng: np.random.Generator, **parts: Any) -> Convolution:
    """A convolution whose windows fit, of random padding on each side, batch and kind of
    weights.
    """
    rank = len(parts["kernel"])
    lo, hi = (_integers(rng, 0, 3, rank) if rng.random() < 0.8 else (0,) * rank for _ in range(2))
    span = [(k - 1) * d + 1 for k, d in zip(parts["kernel"], parts["dilation"], strict=True)]
    more = _integers(rng, 0, 4 if rank == 3 else 17, rank)
    spatial = tuple(max(r - a - c, 1) + m for r, a, c, m in zip(span, lo, hi, more, strict=True))
    free = None if rng.random() < 0.7 else int(rng.choice([0, *range(2, rank + 2)]))
    batch = int(rng.choice([1, 1, 2, 3, 5]))
    return Convolution(
        batch,
        spatial=spatial,
        lo=lo,
        hi=hi,
        is_constant=bool(rng.random() < 0.6),
        free=free,
        **parts,
    )


def _channels(rng: np.random.Generator) -> tuple[int, int]:
    """Channels and filters: a third of the time both are many."""
    extents = MANY if rng.random() < 1 / 3 else (*FEW, *MANY)
    return int(rng.choice(extents)), int(rng.choice(extents))


def _plain(rng: np.random.Generator) -> Convolution:
    ones = (1, 1)
    c, o = _channels(rng)
    if rng.random() < 0.1:
        c, o = (int(rng.choice([65, 130])) for _ in range(2))
    return _fitting(rng, channels=c, filters=o, kernel=(3, 3), stride=ones, dilation=ones)


def _tiled(rng: np.random.Generator) -> Convolution:
    """Stride 1 in two dimensions, 1 to 7 taps along each axis, groups of whole vectors."""
    groups = int(rng.choice([1, 1, 2, 3]))
    c, o = (groups * int(rng.choice([16, 32])) if groups > 1 else e for e in _channels(rng))
    taps = [int(k) for k in rng.choice([1, 2, 3, 5, 5, 7], 2)]
    kernel = (taps[0], taps[0]) if rng.random() < 0.5 else (taps[0], taps[1])
    return _fitting(
        rng, channels=c, filters=o, groups=groups, kernel=kernel, stride=(1, 1), dilation=(1, 1)
    )


def _any(rng: np.random.Generator) -> Convolution:
    rank = int(rng.choice([1, 2, 2, 2, 3]))
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    c, o = (groups * e for e in _channels(rng))
    kernel, stride, dilation = (
        _integers(rng, 1, most, rank) for most in (7 if rank < 3 else 4, 3, 3)
    )
    match rng.choice(["any", "depthwise", "long", "pointwise"], p=[0.65, 0.15, 0.1, 0.1]):
        case "depthwise":
            groups = c = int(rng.choice([3, 16, 19, 32]))
            o = groups * int(rng.choice([1, 1, 2]))
        case "long":
            groups, c, o = 1, int(rng.choice([130, 521])), int(rng.choice([130, 17, 4]))
        case "pointwise":
            kernel = stride = dilation = (1,) * rank
    return _fitting(
        rng, channels=c, filters=o, groups=groups, kernel=kernel, stride=stride, dilation=dilation
    )
