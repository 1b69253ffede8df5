"""Small graphs whose kernels take every way through loops/build.py, and those kernels with arrays to run them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import PIPELINE, TRAINING_PIPELINE, Options
from netloom.compiler.graph import Builder, Graph, Node, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.build import build_kernel
from netloom.compiler.loops.ir import Kernel
from netloom.compiler.op import OPS, Array
from netloom.compiler.passes.differentiate import gradient_graph
from netloom.compiler.targets.cpu.machine import CPUS
from netloom.compiler.tensor_type import BOOL, FLOAT32, FLOAT64, INT32, INT64, UINT32, DType, TensorType

MACHINE = CPUS["x86-64-v4"].machine
N = symbol("N", 1)


@dataclass(frozen=True)
class Case:
    """A graph, the number for its free dim, and whether small integers make its results exact."""

    name: str
    make: Callable[[], Graph]
    n: int = 0
    is_exact: bool = True
    is_training: bool = False
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)  # values of integer inputs


@dataclass(frozen=True)
class Launch:
    """One kernel of a case with its arrays as they lie in memory, and what it must give."""

    node: Node
    kernel: Kernel
    arrays: list[Array]
    expected: Array
    symbols: dict[str, int]


def one(op: str, *shapes: tuple[Extent, ...], dtype: DType = FLOAT32, **attrs: Any) -> Callable[[], Graph]:
    """A graph of one node."""

    def make() -> Graph:
        b = Builder(op)
        return b.build([b(op, *(b.input(TensorType(dtype, s), f"x{i}") for i, s in enumerate(shapes)), **attrs)], ["y"])

    return make


def weights(*shape: int) -> Array:
    """Small integers, three in ten of them not zero."""
    rng = np.random.default_rng(sum(shape))
    return np.asarray(rng.integers(-3, 4, shape) * (rng.random(shape) < 0.3), np.float32)


def convolution(
    x: tuple[Extent, ...], w: tuple[int, ...], stride: int = 1, pad: int = 1, groups: int = 1, residual: bool = False,
    dilation: int = 1,
) -> Callable[[], Graph]:  # fmt: skip
    """A convolution with constant weights, bias and ReLU; ``residual``: its input is added."""

    def make() -> Graph:
        b, rank = Builder("convolution"), len(x) - 2
        value = b.input(TensorType(FLOAT32, x), "x")
        attrs = {"stride": (stride,) * rank, "dilation": (dilation,) * rank, "lo": (pad,) * rank, "hi": (pad,) * rank}
        y = b("conv", value, b.constant(weights(*w)), groups=groups, **attrs)
        y = b("add", y, b.constant(np.arange(w[0], dtype=np.float32).reshape(w[0], *([1] * rank))))
        y = b("add", y, value) if residual else y
        return b.build([b("relu", y)], ["y"])

    return make


def gradients(op: str, *shapes: tuple[Extent, ...], **attrs: Any) -> Callable[[], Graph]:
    """The gradients of a node by all its inputs."""

    def make() -> Graph:
        graph = one(op, *shapes, **attrs)()
        return gradient_graph(graph, "y", [f"x{i}" for i in range(len(shapes))])

    return make


def two_layers() -> Graph:
    """Two convolutions, one strided, a pool and a product: layouts meet, and a batch is free."""
    b = Builder("layers")
    x = b.input(TensorType(FLOAT32, (N, 3, 6, 6)), "x")
    attrs = {"dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    y = b("relu", b("conv", x, b.constant(weights(20, 3, 3, 3)), stride=(1, 1), **attrs))
    y = b("conv", y, b.constant(weights(16, 20, 3, 3)), stride=(2, 2), **attrs)
    y = b("max_pool", y, kernel=(2, 2), stride=(1, 1), dilation=(1, 1), lo=(0, 0), hi=(0, 0))
    return b.build([b("matmul", b("reshape", y, shape=(N, 64)), b.constant(weights(64, 5)))], ["y"])


def chain() -> Graph:
    """Elementwise ops, one used twice in a formula, a number and an index."""
    b = Builder("chain")
    x = b.input(TensorType(FLOAT64, (N, 5)), "x0")
    y = b("mul", b("sigmoid", x), b("iota", shape=(N, 5), axis=1, dtype=FLOAT64))
    return b.build([b("add", b("gelu", y), 0.5)], ["y"])


def gathered() -> Graph:
    b = Builder("gather")
    x, i = b.input(TensorType(FLOAT32, (5, 19)), "x0"), b.input(TensorType(INT64, (4,)), "i")
    return b.build([b("gather", x, i, axis=0), b("gather_gradient", b("gather", x, i, axis=0), i, axis=0, extent=5)])


def selected() -> Graph:
    b = Builder("select")
    c, x, y = (b.input(TensorType(t, s), f"x{i}") for i, (t, s) in enumerate([(BOOL, (4, 5)), (FLOAT32, (4, 5)), (FLOAT32, (5,))]))
    return b.build([b("select", c, x, y)])


WINDOW: dict[str, Any] = {"kernel": (3, 2), "stride": (2, 2), "dilation": (1, 1), "lo": (1, 0), "hi": (1, 1)}
PLAIN: dict[str, Any] = {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
CASES = (
    Case("matmul_odd", one("matmul", (5, 7), (7, 33))),
    Case("matmul_rows_tail", one("matmul", (31, 3), (3, 16))),
    Case("matmul_columns_tail", one("matmul", (2, 3), (3, 110))),
    Case("matmul_long_sum", one("matmul", (1, 700), (700, 10))),
    Case("matmul_prime_sum", one("matmul", (2, 1031), (1031, 4))),
    Case("matmul_transposed_b", one("matmul", (17, 20), (6, 20), transpose_b=True)),
    Case("matmul_transposed_a", one("matmul", (20, 17), (20, 6), transpose_a=True)),
    Case("matmul_batched", one("matmul", (2, 1, 4, 5), (3, 5, 6), dtype=FLOAT64)),
    Case("matmul_integers", one("matmul", (3, 5), (5, 4), dtype=INT32)),
    Case("matmul_empty", one("matmul", (4, 0), (0, 3))),
    Case("matmul_symbolic", one("matmul", (N, 7), (7, 33)), n=11),
    Case("matmul_symbolic_full", one("matmul", (N, 7), (7, 33)), n=18),
    Case("matmul_symbolic_sum", one("matmul", (3, N), (N, 5)), n=530),
    Case("add_long", one("add", (5000,), (5000,))),
    Case("add_symbolic", one("add", (N, 5), (N, 5)), n=7),
    Case("add_broadcast", one("add", (4, 1, 5), (3, 1))),
    Case("chain", chain, n=5, is_exact=False),
    Case("sum_all", one("reduce_sum", (2000,), axes=(0,))),
    Case("sum_axes", one("reduce_sum", (3, 5, 7), axes=(0, 2), keep=True)),
    Case("mean", one("reduce_mean", (3, 40, 5), dtype=FLOAT64, axes=(1,)), is_exact=False),
    Case("max_rows", one("reduce_max", (3, 37), axes=(1,))),
    Case("min_columns", one("reduce_min", (3, 37), dtype=INT64, axes=(0,))),
    Case("argmax", one("argmax", (5, 19), axis=1)),
    Case("softmax", one("softmax", (4, 21), axis=1), is_exact=False),
    Case("log_softmax", one("log_softmax", (N, 21, 3), axis=1), n=2, is_exact=False),
    Case("lrn", one("lrn", (2, 7, 5, 5), size=5, alpha=0.1, beta=0.75, bias=2.0), is_exact=False),
    Case("max_pool", one("max_pool", (2, 3, 9, 8), **WINDOW)),
    Case("average_pool", one("average_pool", (2, 3, 9, 8), **WINDOW, count_padding=False), is_exact=False),
    Case("transpose", one("transpose", (3, 4, 5), permutation=(2, 0, 1))),
    Case("reshape", one("reshape", (3, 4, 10), shape=(6, 20))),
    Case("slice", one("slice", (9, 10), dtype=INT32, start=(8, 1), size=(4, 3), step=(-2, 3))),
    Case("pad", one("pad", (3, 5), lo=(1, 2), hi=(0, 3), value=1.5)),
    Case("pad_reflect", one("pad", (3, 5), lo=(1, 2), hi=(2, 3), mode="reflect")),
    Case("concat", one("concat", (3, 5), (3, 20), (3, 1), axis=1)),
    Case("concat_rows", one("concat", (2, 5), (3, 5), axis=0)),
    Case("depth_to_space", one("depth_to_space", (1, 8, 3, 3), block=2)),
    Case("gather", gathered, inputs={"i": (0, 4, -1, -5)}),
    Case("select", selected),
    Case("random_bits", one("random_bits", (4,), dtype=UINT32, shape=(3, 19))),
    Case("conv_plain", convolution((1, 3, 6, 7), (5, 3, 3, 3))),
    Case("conv_blocked", convolution((1, 16, 5, 4), (32, 16, 3, 3), stride=2)),
    Case("conv_blocked_tails", convolution((2, 19, 4, 5), (20, 19, 1, 1), pad=0)),
    Case("conv_residual", convolution((1, 20, 4, 3), (20, 20, 1, 1), pad=0, residual=True)),
    Case("conv_grouped", convolution((1, 6, 5, 5), (9, 2, 3, 3), groups=3)),
    Case("conv_grouped_blocked", convolution((1, 32, 3, 3), (32, 16, 1, 1), groups=2, pad=0)),
    Case("conv_depthwise", convolution((1, 17, 5, 4), (17, 1, 3, 3), groups=17, stride=2)),
    Case("conv_dilated", convolution((1, 4, 7, 7), (5, 4, 2, 2), dilation=2)),
    Case("conv_1d", convolution((2, 3, 20), (4, 3, 4), stride=3)),
    Case("conv_symbolic", convolution((N, 5, 4, 4), (6, 5, 3, 3)), n=5),
    Case("winograd", convolution((1, 18, 3, 5), (17, 18, 3, 3)), is_exact=False),
    Case("winograd_symbolic", convolution((N, 16, 4, 4), (16, 16, 3, 3)), n=2, is_exact=False),
    Case("conv_transposed", one("conv_input_gradient", (1, 4, 3, 3), (4, 3, 3, 3), spatial=(6, 5), stride=(2, 2), dilation=(1, 1),
                                lo=(1, 1), hi=(1, 1), groups=1)),
    Case("conv_gradients", gradients("conv", (2, 3, 5, 5), (4, 3, 3, 3), **PLAIN), is_training=True),
    Case("conv_gradients_symbolic", gradients("conv", (N, 2, 4, 4), (3, 2, 3, 3), **PLAIN), n=3, is_training=True),
    Case("matmul_gradients", gradients("matmul", (N, 7), (7, 5)), n=6, is_training=True),
    Case("pool_gradients", gradients("max_pool", (2, 3, 9, 8), **WINDOW), is_training=True),
    Case("softmax_gradients", gradients("softmax", (4, 21), axis=1), is_exact=False, is_training=True),
    Case("two_layers", two_layers, n=2),
)  # fmt: skip


def fused(case: Case) -> Graph:
    """The kernels of a case, as a graph."""
    return (TRAINING_PIPELINE if case.is_training else PIPELINE).run(case.make(), Options())[0]


def feeds(case: Case, graph: Graph) -> dict[str, Array]:
    """Small integers for every input."""
    rng = np.random.default_rng(7)
    found: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.type.evaluate({"N": case.n})
        numbers = case.inputs.get(value.label, rng.integers(-3 if value.dtype.is_signed else 0, 4, shape))
        found[value.label] = np.asarray(numbers).astype(value.dtype.numpy)
    return found


def kernel_of(node: Node) -> Kernel:
    """The loops of a kernel node."""
    return build_kernel("kernel", node.attrs.body, MACHINE)


def launches(case: Case) -> Iterator[Launch]:
    """Every kernel of a case, with the values that the graph's interpretation gives its inputs and its output."""
    graph = fused(case)
    values = interpret(graph, feeds(case, graph), values=True)
    for node in graph.nodes:
        if node.op is OPS["kernel"]:
            arrays = [in_memory(v, values[v]) for v in node.inputs]
            yield Launch(node, kernel_of(node), arrays, in_memory(node.output, values[node.output]), {"N": case.n})


def in_memory(value: Value, array: Array) -> Array:
    """An array as it lies in memory under its value's layout."""
    return array if value.layout is None else np.asarray(value.layout.pack(array))


__all__ = ["CASES", "Case", "Launch", "fused", "kernel_of", "launches"]
