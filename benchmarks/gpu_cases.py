"""The single kernels that benchmarks/gpu.py measures: cases, their graphs, inputs and exact results.

``graph_of`` needs the compiler; all else NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from netloom.benchmarks import exact

if TYPE_CHECKING:
    from netloom.compiler.graph import Graph

Array = npt.NDArray[Any]
PRECISIONS = ("f32", "3xtf32", "tf32", "bf16")
# of 3 x 3 convolutions; auto: what is predicted to be fastest
STRATEGIES = ("auto", "direct", "winograd_f2", "winograd_f2_fused", "winograd_f4")
MEMORY_BOUND = ("relu", "add", "transpose", "softmax")
SAMPLES = 64  # results of a case that are compared with float64


@dataclass(frozen=True)
class Case:
    """One program. ``kind``: matmul, conv, attention (of queries x; w: the keys' shape and the
    values') or one of MEMORY_BOUND; ``strategy``: of the convolution; ``pad``: its zeros on each side.
    """

    name: str
    kind: str
    x: tuple[int, ...]
    w: tuple[int, ...] = ()
    stride: int = 1
    pad: int = 0
    precision: str = "f32"
    strategy: str = "direct"

    @property
    def file(self) -> str:
        return self.name.replace(" ", "_") + ".nlc"

    @property
    def layer(self) -> tuple[Any, ...]:
        """What cases share that compute the same in other ways."""
        return self.kind, self.x, self.w, self.stride, self.pad

    @property
    def output(self) -> tuple[int, ...]:
        match self.kind:
            case "matmul":
                return (self.x[0], self.w[1])
            case "conv":
                extents = ((e + 2 * self.pad - self.w[2]) // self.stride + 1 for e in self.x[2:])
                return (self.x[0], self.w[0], *extents)
            case "transpose":
                return self.x[::-1]
        return self.x

    @property
    def flops(self) -> float:
        """Of the op as written, whatever the strategy."""
        by_kind = {"matmul": self.x[-1], "conv": int(np.prod(self.w[1:]))}
        if self.kind == "attention":
            by_kind["attention"] = 2 * self.w[-2]
        terms = by_kind.get(self.kind, 0)
        return 2.0 * terms * float(np.prod(self.output))

    @property
    def bytes(self) -> float:
        """That must move at least once."""
        shapes = [self.x, self.w, self.output] + [self.w] * (self.kind == "attention")
        return 4.0 * float(sum(np.prod(shape) for shape in shapes if shape))


VGG = ((3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56),
       (256, 512, 28), (512, 512, 28), (512, 512, 14))  # fmt: skip
RESNET = (
    (3, 64, 224, 7, 2),
    (64, 64, 56, 1, 1),
    (64, 64, 56, 3, 1),
    (64, 256, 56, 1, 1),
    (256, 128, 56, 1, 2),
    (128, 128, 28, 3, 1),
    (512, 256, 28, 1, 2),
    (256, 256, 14, 3, 1),
    (1024, 512, 14, 1, 2),
    (512, 512, 7, 3, 1),
    (512, 2048, 7, 1, 1),
)


def case_from(record: Mapping[str, Any]) -> Case:
    """A case from its fields as JSON has them."""
    return Case(**{**record, "x": tuple(record["x"]), "w": tuple(record["w"])})


# batch, heads, queries, keys, depth: encoders of 12 heads, a large decoder's prompt, and one token
ATTENTION = ((1, 12, 512, 512, 64), (16, 12, 512, 512, 64), (4, 32, 2048, 2048, 128),
             (8, 32, 1, 4096, 128))  # fmt: skip


def cases(size: str) -> list[Case]:
    """The cases of a size: ``toy`` for the emulator, ``full`` for a GPU, the shortest first."""
    if size == "toy":
        return [
            *_memory_bound(1000, (12, 40)),
            *(Case(f"matmul 64 {p}", "matmul", (64, 64), (64, 64), precision=p) for p in PRECISIONS),
            *(Case(f"conv {s}", "conv", (1, 16, 6, 6), (16, 16, 3, 3), pad=1, strategy=s)
              for s in STRATEGIES),
            *_attention((1, 2, 20, 40, 16), precisions=("f32", "bf16")),
        ]  # fmt: skip
    found = _memory_bound(1 << 28, (1 << 14, 1 << 14))
    found += [
        Case(f"matmul {n} {p}", "matmul", (n, n), (n, n), precision=p)
        for n in (1024, 2048, 4096, 8192)
        for p in PRECISIONS
    ]
    found += _attention(*ATTENTION)
    for n in (1, 16, 64):
        found += [case for layer in VGG for case in _vgg(n, *layer)]
        found += [case for layer in RESNET for case in _resnet(n, *layer)]
    return found


def _memory_bound(elements: int, matrix: tuple[int, int]) -> list[Case]:
    return [
        Case("relu", "relu", (elements,)),
        Case("add", "add", (elements,), (elements,)),
        Case("transpose", "transpose", matrix),
        Case("softmax", "softmax", matrix),
    ]


def _attention(*shapes: tuple[int, ...], precisions: Sequence[str] = PRECISIONS) -> list[Case]:
    """Those in float32 go without the precision in their names."""
    return [
        Case(f"attention {n}x{h} {t}-{s} {d}" + (f" {p}" if p != "f32" else ""), "attention",
             (n, h, t, d), (n, h, s, d), precision=p, strategy="auto")
        for n, h, t, s, d in shapes
        for p in precisions
    ]  # fmt: skip


def _vgg(n: int, c: int, o: int, extent: int) -> list[Case]:
    name, shapes = f"vgg {c}-{o} {extent} n{n}", ((n, c, extent, extent), (o, c, 3, 3))
    own = [Case(f"{name} {s}", "conv", *shapes, pad=1, strategy=s) for s in STRATEGIES]
    return [*own, Case(f"{name} 3xtf32", "conv", *shapes, pad=1, precision="3xtf32")]


def _resnet(n: int, c: int, o: int, extent: int, kernel: int, stride: int) -> list[Case]:
    name, shapes = (
        f"resnet {c}-{o} {extent} {kernel}x{kernel} n{n}",
        ((n, c, extent, extent), (o, c, kernel, kernel)),
    )
    return [
        Case(f"{name} {p}", "conv", *shapes, stride, kernel // 2, p, "auto") for p in ("f32", "3xtf32")
    ]  # fmt: skip


def graph_of(case: Case) -> Graph:
    """The case as a graph; weights are inputs, so that program files stay small."""
    from netloom.compiler.graph import Builder
    from netloom.compiler.tensor_type import FLOAT32, TensorType

    b = Builder(case.kind)
    x = b.input(TensorType(FLOAT32, case.x), "x")
    w = b.input(TensorType(FLOAT32, case.w), "w") if case.w else x
    pads = (case.pad, case.pad)
    match case.kind:
        case "relu":
            y = b("relu", x)
        case "transpose":
            y = b("transpose", x, permutation=(1, 0))
        case "softmax":
            y = b("softmax", x, axis=1)
        case "conv":
            y = b(
                "conv", x, w, stride=(case.stride,) * 2, dilation=(1, 1), lo=pads, hi=pads, groups=1
            )
        case "attention":
            v = b.input(TensorType(FLOAT32, case.w), "v")
            y = b("attention", x, w, v, scale=case.x[-1] ** -0.5)
        case kind:
            y = b(kind, x, w)
    return b.build([y], ["y"])


def inputs_of(case: Case) -> dict[str, Array]:
    """Random numbers, the weights scaled as He et al. do: the same for all cases of a layer."""
    return dict(_inputs(case.kind, case.x, case.w))


@lru_cache(maxsize=1)
def _inputs(kind: str, x: tuple[int, ...], w: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    found = {"x": rng.standard_normal(x, np.float32)}
    if w:
        terms = int(np.prod(w[1:])) if kind == "conv" else x[-1] if kind == "matmul" else 2
        found["w"] = rng.standard_normal(w, np.float32) * np.float32((2 / terms) ** 0.5)
    if kind == "attention":
        found["v"] = rng.standard_normal(w, np.float32)
    return found


def error_of(case: Case, inputs: Mapping[str, Array], y: Array) -> float:
    """Relative L2 distance of some results from float64."""
    return exact.sampled_error(y, lambda place: _exactly(case, inputs, place), SAMPLES)


def _exactly(case: Case, inputs: Mapping[str, Array], place: Sequence[int]) -> float:
    """One result in float64."""
    x, at = inputs["x"], tuple(place)
    match case.kind:
        case "matmul":
            return exact.product(x, inputs["w"], place)
        case "conv":
            return exact.convolution(x, inputs["w"], case.stride, case.pad, place)
        case "add":
            return float(x[at]) + float(inputs["w"][at])
        case "transpose":
            return float(x[at[::-1]])
        case "attention":
            return exact.attention(x, inputs["w"], inputs["v"], case.x[-1] ** -0.5, place)
        case "softmax":
            row = np.exp(x[at[0]].astype(np.float64))
            return float(row[at[1]] / row.sum())
    return max(float(x[at]), 0.0)
