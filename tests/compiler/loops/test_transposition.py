"""Kernels that transpose and move elements, against NumPy on every CPU level: tiles, operands with
small steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.layout import Layout, channel_blocked
from netloom.compiler.loops.axes import iteration_space
from netloom.compiler.loops.build import build_kernel
from netloom.compiler.loops.elements import Elements
from netloom.compiler.loops.interpret import run_kernel
from netloom.compiler.loops.ir import LANES, Kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.loops.transposition import planned_transposition
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.op import OPS, Array
from netloom.compiler.passes.layouts.packed_layouts import panels
from netloom.compiler.scalar import cast_array
from netloom.compiler.targets.cpu.llvm import kernels_as_assembly, kernels_as_llvm
from netloom.compiler.targets.cpu.machine import CPUS, Cpu, host_cpus
from netloom.compiler.tensor_type import (
    BOOL,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT8,
    INT32,
    DType,
    TensorType,
)

from .case_kernels import in_memory
from .test_lowering import compiled

DTYPES = (FLOAT32, FLOAT64, FLOAT16, INT8, BOOL)
LEVELS = tuple({cpu.llvm_name: cpu for cpu in host_cpus()}.values())
N = symbol("N", 1)
SYMBOLS = {"N": 21}
SQUARE = "[l, u]"  # how the text of a kernel reads a tile along its other axis


def transposed(
    shape: tuple[dim.Extent, ...], permutation: tuple[int, ...], dtype: DType = FLOAT32
) -> Graph:
    b = Builder("transpose")
    return b.build(
        [b("transpose", b.input(TensorType(dtype, shape), "x"), permutation=permutation)]
    )


def reordered(
    shape: tuple[dim.Extent, ...],
    before: Layout | None,
    after: Layout | None,
    dtype: DType = FLOAT32,
) -> Graph:
    b, type = Builder("reorder"), TensorType(dtype, shape)
    x = Value(type, "x", before)
    b.inputs.append(x)
    record = OPS["reorder"]
    return b.build([b.add(record, [x], record.attrs(after), "y", [Value(type, "y", after)]).output])


def fused() -> Graph:
    """x transposed, its absolute value in float32, plus y as it lies, plus z for each row."""
    b = Builder("fused")
    x, y, z = (
        b.input(TensorType(t, s), n)
        for n, t, s in (("x", FLOAT16, (37, 21)), ("y", FLOAT32, (21, 37)), ("z", FLOAT32, (21, 1)))
    )
    transposed = b("cast", b("abs", b("transpose", x, permutation=(1, 0))), dtype=FLOAT32)
    return b.build([b("add", b("add", transposed, y), z)])


def joined() -> Graph:
    """Two transposed operands behind each other: each is read only where it is."""
    b = Builder("joined")
    x, y = (
        b.input(TensorType(FLOAT32, shape), label)
        for label, shape in (("x", (40, 18)), ("y", (40, 20)))
    )
    parts = [b("transpose", value, permutation=(1, 0)) for value in (x, y)]
    return b.build([b("concat", *parts, axis=0)])


def random_transpositions(count: int) -> list[Graph]:
    """Ranks of 2 to 5, any order of axes, extents of 1 to 40."""
    rng = np.random.default_rng(3)
    graphs = []
    for number in range(count):
        rank = int(rng.integers(2, 6))
        shape = tuple(int(e) for e in rng.integers(1, (41, 41, 13, 7)[rank - 2], rank))
        graphs.append(
            transposed(shape, tuple(map(int, rng.permutation(rank))), DTYPES[number % len(DTYPES)])
        )
    return graphs


BLOCKS = channel_blocked(4)
PANELS = panels(Value(TensorType(FLOAT32, (40, 530))))
INTO_PANELS = (
    ((40, 530), FLOAT32),
    ((17, 300), FLOAT64),
    ((70, 512), FLOAT16),
    ((16, 24), FLOAT32),
)
GRAPHS = (
    *random_transpositions(12),
    *(transposed((33, 40), (1, 0), dtype) for dtype in DTYPES),
    *(
        transposed(shape, (1, 0))
        for shape in ((16, 16), (15, 17), (300, 20), (20, 600), (3, 40), (40, 3))
    ),
    transposed((3, 0, 20, 30), (0, 1, 3, 2)),
    transposed((N, 20), (1, 0)),
    transposed((3, 18, N), (0, 2, 1)),
    transposed((N, 5, 16), (0, 2, 1)),
    *(reordered((2, c, 5, 7), None, BLOCKS) for c in (3, 16, 40)),
    *(reordered((2, c, 5, 7), BLOCKS, None) for c in (3, 16, 40)),
    reordered((N, 32, 4, 4), BLOCKS, None, FLOAT64),
    reordered((1, 18, 3, 3), None, BLOCKS, FLOAT16),
    *(reordered(shape, None, PANELS, dtype) for shape, dtype in INTO_PANELS),
    fused(),
    joined(),
)


@cache
def kernels(cpu: Cpu) -> list[Kernel]:
    return [build_kernel("kernel", graph, cpu.machine) for graph in GRAPHS]


@cache
def problem(number: int) -> tuple[Sequence[Array], Array]:
    """The inputs of a graph and its result, as they lie in memory; every element is another."""
    graph = GRAPHS[number]
    rng = np.random.default_rng(number)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.type.evaluate(SYMBOLS)
        feeds[value.label] = cast_array(
            rng.permutation(int(np.prod(shape))).reshape(shape) % 251 - 120.0, value.dtype
        )
    values = interpret(graph, feeds, values=True)
    (output,) = graph.outputs
    return [np.ascontiguousarray(in_memory(v, values[v])) for v in graph.inputs], in_memory(
        output, values[output]
    )


@pytest.mark.parametrize("cpu", LEVELS, ids=lambda cpu: cpu.name)
def test_transpositions_are_those_of_numpy(cpu: Cpu) -> None:
    code = compiled(kernels(cpu), cpu)
    for number, kernel in enumerate(kernels(cpu)):
        arrays, expected = problem(number)
        symbols = {s.name: SYMBOLS[s.name] for s in kernel.symbols}
        found, _ = code.run(kernel, arrays, symbols)
        assert found.tobytes() == expected.tobytes(), print_kernel(kernel)


@pytest.mark.parametrize("number", range(len(GRAPHS)))
def test_transpositions_in_the_interpreter(number: int) -> None:
    """Nothing is read outside, nothing twice written by two items, and all rules are proved."""
    kernel = kernels(CPUS["x86-64-v4"])[number]
    arrays, expected = problem(number)
    run = run_kernel(kernel, arrays, {s.name: SYMBOLS[s.name] for s in kernel.symbols})
    assert run.output.tobytes() == expected.tobytes()
    assert not verify_kernel(kernel)


def test_rows_that_go_into_panels_are_read_in_order() -> None:
    """Eight vectors of a row at a time, each for another panel; of short rows one."""
    for (shape, dtype), together in zip(INTO_PANELS, (8, 8, 8, 1), strict=True):
        graph = reordered(shape, None, PANELS, dtype)
        text = print_kernel(build_kernel("kernel", graph, CPUS["x86-64-v4"].machine))
        assert ("unrolled p0u < 8:" in text) == (together == 8), text


def test_large_sides_go_in_tiles() -> None:
    """Each element is loaded and stored in a whole vector; 64 shuffles transpose a tile."""
    for graph in (
        transposed((64, 48), (1, 0)),
        reordered((1, 32, 4, 8), None, BLOCKS),
        reordered((1, 32, 4, 8), BLOCKS, None),
    ):
        kernel = build_kernel("kernel", graph, CPUS["x86-64-v4"].machine)
        assert SQUARE in print_kernel(kernel)
        text = kernels_as_llvm({"kernel": kernel}, CPUS["x86-64-v4"])
        assert text.count("shufflevector") == 4 * LANES
        assert "extractelement" not in text and "insertelement" not in text


def test_overlapping_tiles_need_no_masks() -> None:
    text = kernels_as_llvm(
        {"k": build_kernel("kernel", transposed((50, 37), (1, 0)), CPUS["x86-64-v4"].machine)},
        CPUS["x86-64-v4"],
    )
    assert "masked" not in text and text.count("shufflevector") == 4 * LANES


def test_a_kernel_over_its_operand_stores_each_element_once() -> None:
    """y + x', stored where y is: a tile that overlapped another would add x' twice."""
    b = Builder("update")
    x, y = b.input(TensorType(FLOAT32, (50, 37)), "x"), b.input(TensorType(FLOAT32, (37, 50)), "y")
    kernel = build_kernel(
        "kernel",
        b.build([b("add", y, b("transpose", x, permutation=(1, 0)))]),
        CPUS["x86-64-v4"].machine,
    )
    arrays = [np.ones((50, 37), np.float32), np.ones((37, 50), np.float32)]
    assert SQUARE in print_kernel(kernel)
    lanes = run_kernel(kernel, arrays).lanes
    assert (
        sum(count for store, count in lanes.items() if store.buffer is kernel.buffers[-1])
        == 37 * 50
    )


@pytest.mark.parametrize("name", CPUS)
def test_every_level_transposes_tiles_by_shuffles(name: str) -> None:
    """No element of a whole tile goes through a scalar register."""
    kernel = build_kernel("kernel", transposed((64, 48), (1, 0)), CPUS[name].machine)
    lines = kernels_as_assembly({"kernel": kernel}, CPUS[name]).splitlines()
    moves = [line for line in lines if "movss" in line or "ldr\ts" in line or "str\ts" in line]
    assert not moves and len(lines) < 1500


STEPPED = {
    "pairs": (
        2,
        "max_pool",
        (2, 3, 6, 44),
        {"kernel": (2, 2), "stride": (2, 2), "lo": (0, 0), "hi": (0, 0)},
    ),
    "borders": (
        2,
        "max_pool",
        (1, 2, 9, 57),
        {"kernel": (3, 3), "stride": (2, 2), "lo": (1, 1), "hi": (1, 1)},
    ),
    "threes": (
        3,
        "max_pool",
        (1, 2, 7, 103),
        {"kernel": (2, 3), "stride": (2, 3), "lo": (0, 1), "hi": (0, 0)},
    ),
    "fours": (
        4,
        "max_pool",
        (2, 1, 4, 300),
        {"kernel": (4, 4), "stride": (4, 4), "lo": (0, 0), "hi": (0, 0)},
    ),
    "bytes": (
        2,
        "max_pool",
        (2, 3, 6, 44),
        {"kernel": (2, 2), "stride": (2, 2), "lo": (0, 0), "hi": (0, 0)},
    ),
}


@pytest.mark.parametrize("cpu", LEVELS, ids=lambda cpu: cpu.name)
def test_small_steps_are_vectors(cpu: Cpu) -> None:
    """Row-major pooling: every second, third or fourth element, to the end of the input."""
    made, wanted = [], []
    for name, (step, op, shape, attrs) in STEPPED.items():
        b = Builder(name)
        x = b.input(TensorType(INT8 if name == "bytes" else FLOAT32, shape), "x")
        graph = b.build([b(op, x, dilation=(1, 1), **attrs)])
        kernel = build_kernel("kernel", graph, cpu.machine)
        assert f"{step}*l" in print_kernel(kernel)
        array = (
            np.random.default_rng(step)
            .permutation(int(np.prod(shape)))
            .reshape(shape)
            .astype(x.dtype.numpy)
        )
        made.append((kernel, array))
        wanted.append(interpret(graph, {"x": array})[0])
    code = compiled([kernel for kernel, _ in made], cpu)
    for (kernel, array), expected in zip(made, wanted, strict=True):
        assert code.run(kernel, [array], {})[0].tobytes() == expected.tobytes(), print_kernel(
            kernel
        )


def test_rows_of_an_image_are_read_as_vectors() -> None:
    """56 x 56 pooled to 28 x 28: no lane is loaded alone."""
    b = Builder("pool")
    x = b.input(TensorType(FLOAT32, (2, 16, 56, 56)), "x")
    graph = b.build(
        [b("max_pool", x, kernel=(2, 2), stride=(2, 2), dilation=(1, 1), lo=(0, 0), hi=(0, 0))]
    )
    text = kernels_as_llvm(
        {"k": build_kernel("kernel", graph, CPUS["x86-64-v4"].machine)}, CPUS["x86-64-v4"]
    )
    assert "extractelement" not in text


LARGE = (
    transposed((64, 48), (1, 0)),
    transposed((80, 33), (1, 0)),  # the last tile of its source overlaps
    transposed((48, 64), (1, 0), FLOAT64),
    reordered((1, 32, 4, 8), None, BLOCKS),
    reordered((1, 32, 4, 8), BLOCKS, None),
    reordered((40, 304), None, PANELS),
)
HALF_LINES = (transposed((50, 37), (1, 0)), transposed((64, 48), (1, 0), FLOAT16), fused())


def streaming(cpu: Cpu) -> list[Kernel]:
    """Kernels for a machine whose last-level cache holds nothing."""
    machine = replace(cpu.machine, last_level_cache=0)
    return [build_kernel("kernel", graph, machine) for graph in LARGE]


@pytest.mark.parametrize("cpu", LEVELS, ids=lambda cpu: cpu.name)
def test_stores_past_the_caches(cpu: Cpu) -> None:
    """Wherever the output starts: at a line, or at none."""
    kernels = streaming(cpu)
    code = compiled(kernels, cpu)
    for graph, kernel in zip(LARGE, kernels, strict=True):
        assert "stream y[" in print_kernel(kernel) and not verify_kernel(kernel)
        rng = np.random.default_rng(1)
        feeds = {
            value.label: rng.integers(-99, 99, value.type.static_shape).astype(value.dtype.numpy)
            for value in graph.inputs
        }
        values = interpret(graph, feeds, values=True)
        (output,) = graph.outputs
        arrays = [np.ascontiguousarray(in_memory(v, values[v])) for v in graph.inputs]
        expected = in_memory(output, values[output])
        assert run_kernel(kernel, arrays).output.tobytes() == expected.tobytes()
        for shift in (0, output.dtype.bytes):
            assert code.run(kernel, arrays, {}, shift=shift)[0].tobytes() == expected.tobytes()


def test_only_whole_lines_go_past_the_caches() -> None:
    """Rows of 64 do, rows of 50 do not; a fence follows. What the last-level cache
    holds stays there."""
    machine = replace(CPUS["x86-64-v4"].machine, last_level_cache=0)
    for graph in HALF_LINES:
        assert "stream" not in print_kernel(build_kernel("kernel", graph, machine))
    cpu = CPUS["x86-64-v4"]
    texts = [kernels_as_llvm({"k": kernel}, cpu) for kernel in streaming(cpu)]
    assert ["!nontemporal" in text for text in texts] == [True] * len(LARGE)
    assert all(("sse.sfence" in text) == ("!nontemporal" in text) for text in texts)
    assert texts[0].count("!nontemporal") == LANES
    text = kernels_as_assembly({"k": streaming(cpu)[0]}, cpu)
    assert text.count("vmovnt") == LANES and text.count("sfence") == 1
    assert "stream" not in print_kernel(build_kernel("kernel", LARGE[0], cpu.machine))


def test_results_and_operands_share_the_last_level_cache() -> None:
    """Together they may fill half of it."""
    graph = transposed((64, 48), (1, 0))
    moved = 2 * 64 * 48 * 4
    for cache_bytes, streams in ((2 * moved, False), (2 * moved - 2, True)):
        machine = replace(CPUS["x86-64-v4"].machine, last_level_cache=cache_bytes)
        text = print_kernel(build_kernel("kernel", graph, machine))
        assert ("stream y[" in text) == streams


@pytest.mark.parametrize(("width", "streamed"), [(LANES, 1024), (4 * LANES, LANES)])
def test_what_goes_past_the_caches_is_written_in_long_runs(width: int, streamed: int) -> None:
    """Rows of one tile give 16 runs at a time; wider ones are read whole, and written in lines."""
    graph = transposed((4096, width), (1, 0))
    machine = replace(CPUS["x86-64-v4"].machine, last_level_cache=0)
    found = planned_transposition(iteration_space(Elements(graph, None)), machine)
    assert found is not None and found.bypasses_cache
    assert (found.target.axis.extent, found.target.chunk) == (4096, streamed)


def gathered(shape: tuple[int, ...], indices: tuple[int, ...], axis: int, dtype: DType) -> Graph:
    b = Builder("gather")
    x, i = b.input(TensorType(dtype, shape), "x"), b.input(TensorType(INT32, indices), "i")
    return b.build([b("gather", x, i, axis=axis)])


@pytest.mark.parametrize("cpu", LEVELS, ids=lambda cpu: cpu.name)
def test_rows_are_gathered_as_vectors(cpu: Cpu) -> None:
    graphs = [
        gathered((9, width), (3, 5), 0, dtype)
        for width in (64, 20, 3)
        for dtype in (FLOAT32, FLOAT16, BOOL)
    ]
    graphs += [gathered((3, 9, 40), (7,), 1, FLOAT32), gathered((3, 40, 9), (17,), 1, FLOAT32)]
    graphs += [gathered((5, 40), (33,), 1, FLOAT64)]
    kernels = [build_kernel("kernel", graph, cpu.machine) for graph in graphs]
    code = compiled(kernels, cpu)
    rng = np.random.default_rng(0)
    for graph, kernel in zip(graphs, kernels, strict=True):
        x, i = graph.inputs
        array = rng.integers(0, 2 if x.dtype is BOOL else 99, x.type.static_shape)
        extent = x.type.static_shape[graph.nodes[0].attrs.axis]
        at = rng.integers(-extent, extent, i.type.static_shape).astype(np.int32)
        arrays = [array.astype(x.dtype.numpy), at]
        (expected,) = interpret(graph, dict(zip("xi", arrays, strict=True)))
        found, is_wrong = code.run(kernel, arrays, {})
        assert found.tobytes() == expected.tobytes() and not is_wrong, print_kernel(kernel)
        assert code.run(kernel, [arrays[0], np.full_like(at, extent)], {})[1]
    text = kernels_as_llvm({"k": kernels[0]}, cpu)
    assert "load <16 x float>" in text and "insertelement" not in text


def test_copies_of_a_window_share_vectors() -> None:
    """Pooling 2 x 2 reads each row once: 2 vectors of 16 for 16 results, and their elements by one
    shuffle for each place of the window."""
    b = Builder("pool")
    x = b.input(TensorType(FLOAT32, (1, 16, 64, 64)), "x")
    graph = b.build(
        [b("max_pool", x, kernel=(2, 2), stride=(2, 2), dilation=(1, 1), lo=(0, 0), hi=(0, 0))]
    )
    cpu = CPUS["x86-64-v4"]
    kernel = build_kernel("kernel", graph, cpu.machine)
    text = kernels_as_llvm({"k": kernel}, cpu)
    results = len(re.findall(r"store <16 x float> .*, align 4\b", text))
    assert len(re.findall(r"load <16 x float>, .*, align 4\b", text)) == 4 * results > 0
    assert text.count("shufflevector") == 4 * results
