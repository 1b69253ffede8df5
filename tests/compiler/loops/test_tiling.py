"""Plans of tiled kernels: what every plan keeps to, and which axes give lanes, rows and columns."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Dim, Extent, Symbol, bounds, evaluate, product, symbol, symbols_of
from netloom.compiler.driver import PIPELINE, Options
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops import items
from netloom.compiler.loops.axes import iteration_space
from netloom.compiler.loops.build import Machine, anchor_of, build_kernel
from netloom.compiler.loops.elements import Elements
from netloom.compiler.loops.ir import LANE, LANES, For, Store, walk
from netloom.compiler.loops.items import ITEM_WORK, NEAR_BYTES, TOTALS
from netloom.compiler.loops.plan import CHAIN, Plan, is_large
from netloom.compiler.loops.row_form import row_form
from netloom.compiler.loops.strides import depends
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.loops.tiling import plan_tiles
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.op import OPS
from netloom.compiler.targets.cpu.machine import host_cpu
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, TensorType
from tests.compiler.loops.case_graphs import one
from tests.compiler.loops.case_kernels import fused
from tests.compiler.loops.cases import CASES
from tests.compiler.loops.test_lowering import compiled


def plan_of(graph: Graph, machine: Machine) -> Plan:
    return plan_tiles(iteration_space(Elements(graph, anchor_of(graph))), machine)


def plan_of_one(op: str, *shapes: tuple[int, ...], **attrs: Any) -> Plan:
    """The plan of a graph of one node, which must be one kernel."""
    (kernel,) = [
        node
        for node in PIPELINE.run(one(op, *shapes, **attrs)(), Options())[0].nodes
        if node.op is OPS["kernel"]
    ]
    return plan_of(kernel.attrs.body, Machine())


def sums(machine: Machine) -> Iterator[tuple[str, Plan]]:
    """The plans of all cases' kernels that sum, or take a maximum."""
    for case in CASES:
        for node in fused(case).nodes:
            if node.op is OPS["kernel"]:
                anchor = anchor_of(node.attrs.body)
                if (
                    anchor is not None
                    and 0 not in anchor.output.shape  # which have no loops to plan
                    and anchor.op.compute is not None
                    and row_form(node.attrs.body) is None
                ):
                    yield case.name, plan_of(node.attrs.body, machine)


@pytest.mark.parametrize("vectors", [4, 8, 32])
def test_tiles_fit_the_registers(vectors: int) -> None:
    for name, plan in sums(Machine(vectors)):
        counts = plan.tile.counts
        held, columns = (
            prod(counts.values()),
            counts.get(plan.tile.columns.symbol, 1) if plan.tile.columns else 1,
        )
        room = vectors // 2 if plan.space.elements.out.dtype is FLOAT64 else vectors
        assert held == 1 or held + columns + 1 <= room, name


def test_no_chain_is_longer_than_allowed() -> None:
    for name, plan in sums(Machine()):
        if plan.space.elements.computed.combine == "add" and plan.sum_dtype.is_float:
            extents = [axis.extent for axis in plan.chains.inner]
            # where a chunk is whole
            first = {s.name: 5000 if s.name in "NM" else 0 for s in symbols_of(extents)}
            assert prod(evaluate(extent, first) for extent in extents) <= CHAIN, name


def test_only_the_outermost_axis_of_items_is_symbolic() -> None:
    plans = [plan for _, plan in sums(Machine())]
    assert any(isinstance(plan.items, Dim) for plan in plans)
    assert not [
        plan for plan in plans if any(isinstance(axis.extent, Dim) for axis in plan.outer[1:])
    ]


@pytest.mark.parametrize(
    ("shape", "row"),
    [((7, 7), "p3"), (("H", 9), "p3"), (("H", "W"), "p3"), ((5, 5), "p3"), ((40, "W"), "p2")],
)
def test_rows_lie_along_the_width_of_an_image_and_not_along_a_free_batch(
    shape: tuple[str | int, ...], row: str
) -> None:
    """One sample must fill a tile: a batch whose size is free may be 1. A known extent long enough
    for whole tiles is better than a free one."""
    extents = [Dim.of(Symbol(e, 1)) if isinstance(e, str) else e for e in ("N", 32, *shape)]
    b = Builder("image")
    x = b.input(TensorType(FLOAT32, tuple(extents)), "x")
    w = b.constant(np.ones((64, 32, 3, 3), np.float32))
    graph = b.build(
        [b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=1)]
    )
    (plan,) = (
        plan_of(node.attrs.body, Machine())
        for node in PIPELINE.run(graph, Options(override="direct"))[0].nodes
        if node.op is OPS["kernel"] and any(n.op is OPS["conv"] for n in node.attrs.body.nodes)
    )
    assert plan.tile.rows and plan.tile.rows.name == row


def test_columns_lie_along_the_height_of_an_image_and_not_along_a_free_batch() -> None:
    """Three filters, with lanes along the width: one sample fills a tile."""
    b = Builder("image")
    x = b.input(TensorType(FLOAT32, (Dim.of(Symbol("N", 1)), 16, 16, 16)), "x")
    w = b.constant(np.ones((16, 3, 4, 4), np.float32))
    attrs = {"stride": (2, 2), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    graph = b.build([b("conv_input_gradient", x, w, spatial=(32, 32), **attrs)])
    (plan,) = (
        plan_of(node.attrs.body, Machine())
        for node in PIPELINE.run(graph, Options(override="direct"))[0].nodes
        if node.op is OPS["kernel"]
        and any(n.op.name == "conv_input_gradient" for n in node.attrs.body.nodes)
    )
    assert plan.tile.columns and plan.tile.columns.name == "p2g"


def test_a_product_has_lanes_along_its_columns() -> None:
    plan = plan_of_one("matmul", (96, 700), (700, 128))
    assert plan.tile.has_lanes and not plan.tile.lanes_reduce
    assert plan.tile.rows and plan.tile.rows.name == "p0k"  # a part of p0
    assert plan.tile.columns and plan.tile.columns.name == "p1v"
    inside = product([plan.tiles(axis) for axis in plan.inner])
    work = inside * prod(plan.tile.counts.values()) * 700 * LANES
    assert isinstance(work, int) and work >= ITEM_WORK
    assert [axis.name for axis in plan.chains.outer] == ["r0o"]


def test_the_product_of_a_gradient_of_weights_has_lanes_along_its_columns() -> None:
    """x' dy: along its rows lanes would be as near in x, but each stored for itself."""
    plan = plan_of_one("matmul", (1024, 96), (1024, 128), transpose_a=True)
    (lanes,) = (axis for axis in plan.space.pure if axis.name == "p1v")
    assert plan.tile.has_lanes and not plan.tile.lanes_reduce and lanes.extent == 128 // LANES


def test_a_sum_of_rows_has_lanes_along_its_terms() -> None:
    assert plan_of_one("reduce_sum", (64, 256), axes=(1,)).tile.lanes_reduce


@pytest.mark.parametrize("rows", [250, 256, 257, 999, 2048])
@pytest.mark.parametrize("columns", [196 * 16, 1000, 2049, 4096])
@pytest.mark.parametrize("terms", [600, 1152])
def test_blocks_of_long_sums_verify(rows: int, columns: int, terms: int) -> None:
    """No loop of a block is empty, whatever is left for the last one: what it clears is what it
    adds to.
    """
    graph = one("matmul", (rows, terms), (terms, columns))()
    for node in PIPELINE.run(graph, Options())[0].nodes:
        if node.op is OPS["kernel"]:
            for vectors in (16, 32):
                verify_kernel(build_kernel("kernel", node.attrs.body, Machine(vectors)))


# -- products with few rows or columns: each element of the large operand is read once, in whole vectors


LONG, WIDE = 1024, 1536
SKINNY = [
    (few, few_is_left, is_swapped)
    for few in (1, 2, 3, 4, 8) for few_is_left in (False, True) for is_swapped in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("few", "few_is_left", "is_swapped"), SKINNY)
def test_skinny_products_are_bound_by_memory(few: int, few_is_left: bool, is_swapped: bool) -> None:
    """x[few, k] w[k, n], x w', w[m, k] x[k, few] and w' x: the large operand is read in vectors,
    each for all of the few rows or columns, up to as many as a tile has; no more than eight of
    its rows at a time unless these serve each other."""
    if few_is_left:
        graph = one(
            "matmul",
            (few, LONG),
            (WIDE, LONG) if is_swapped else (LONG, WIDE),
            transpose_b=is_swapped,
        )()
    else:
        graph = one(
            "matmul",
            (LONG, WIDE) if is_swapped else (WIDE, LONG),
            (LONG, few),
            transpose_a=is_swapped,
        )()
    kernels = [n for n in PIPELINE.run(graph, Options())[0].nodes if n.op is OPS["kernel"]]
    sizes = [max(value.type.elements for value in n.inputs) for n in kernels]
    (product_,) = (
        n for n in kernels if any(inner.op.name == "matmul" for inner in n.attrs.body.nodes)
    )
    # others are small copies
    assert sorted(sizes)[-1] == LONG * WIDE and all(
        size <= few * LONG for size in sorted(sizes)[:-1]
    )
    plan = plan_of(product_.attrs.body, Machine())
    tile = plan.tile
    (read,) = (
        load
        for load in plan.space.loads
        if load.buffer.shape and prod(load.buffer.shape) == LONG * WIDE
    )
    assert depends(read, LANE), "the large operand is read element by element"
    shared = prod(size for symbol, size in tile.counts.items() if not depends(read, symbol))
    assert shared == (few if few <= 4 else 4), (
        f"a vector of the large operand serves {shared} results"
    )
    streams = prod(size for symbol, size in tile.counts.items() if depends(read, symbol))
    assert streams <= 14 and (shared > 1 or streams == 8)
    assert isinstance(plan.items, int) and plan.items >= 8, "threads have no work"


def test_control_few_columns_as_lanes_would_waste_most_of_each_vector() -> None:
    """What the row-major operand would give: lanes along 4 columns, which fill a quarter of a
    vector.
    """
    graph = one("matmul", (WIDE, LONG), (LONG, 4))()
    plan = plan_of(graph, Machine())
    assert plan.tile.has_lanes and not plan.tile.lanes_reduce
    extents = [axis.extent for axis in plan.space.pure]
    assert product(extents) == WIDE and extents[-1] == 1


def batch_sum(rows: int, width: int, op: str = "reduce_sum") -> Graph:
    return one(op, (8, rows, width), axes=(1,), keep=False)()


@pytest.mark.parametrize("op", ["reduce_sum", "reduce_max"])
@pytest.mark.parametrize(
    ("rows", "width", "at_once"), [(512, 160, 1), (300, 250, 1), (700, 250, 2)]
)
def test_long_sums_read_row_after_row(rows: int, width: int, at_once: int, op: str) -> None:
    """A row at a time, or so few that no chain of what they give is longer than CHAIN; the last
    vector, which is not full, is alone under conditions."""
    graph = batch_sum(rows, width, op)
    plan = plan_of(graph, Machine())
    assert product([chunk.extent for chunk in plan.chains.inner]) == at_once
    assert product([chunk.extent for chunk in plan.chains.outer]) == rows // at_once
    assert plan.items == 8 and plan.inner
    kernel = build_kernel("kernel", graph, Machine())
    assert not verify_kernel(kernel)
    x = np.random.default_rng(0).integers(-99, 99, (8, rows, width)).astype(np.float32)
    expected = (np.sum if op == "reduce_sum" else np.max)(x, axis=1)
    found, _ = compiled([kernel], host_cpu()).run(kernel, [x], {})
    assert found.tobytes() == expected.tobytes()


def test_short_sums_do_not() -> None:
    """Nor those that would leave one work item."""
    for graph in (
        batch_sum(64, 160),
        batch_sum(4, 1 << 15),
        one("reduce_sum", (512, 250), axes=(0,))(),
    ):
        assert not plan_of(graph, Machine()).chains.outer


def test_large_results_go_past_the_last_level_cache() -> None:
    b = Builder("rows")
    x, y = (b.input(TensorType(FLOAT32, s), n) for n, s in (("x", (64, 48)), ("y", (1, 48))))
    graph = b.build([b("add", x, y)])
    for size, streams in ((64 * 48 * 4, False), (64 * 48 * 4 - 1, True)):
        machine = Machine(last_level_cache=size)
        kernel = build_kernel("kernel", graph, machine)
        assert ("stream y[" in print_kernel(kernel)) == streams
        assert is_large(kernel.buffers[-1], machine) == streams


# -- long sums -------------------------------------------------------------------------------------


def convolution_body(
    channels: int, extent: int, batch: Extent, filters: int | None = None, taps: int = 3
) -> Graph:
    """The kernel of a direct convolution, with as many filters as channels unless given."""
    b = Builder("layer")
    x = b.input(TensorType(FLOAT32, (batch, channels, extent, extent)), "x")
    w = b.constant(np.zeros((filters or channels, channels, taps, taps), np.float32))
    border = (taps // 2,) * 2
    window: Any = dict(stride=(1, 1), dilation=(1, 1), lo=border, hi=border)
    fused_graph, _ = PIPELINE.run(b.build([b("conv", x, w, **window)]), Options(override="direct"))
    (body,) = (
        node.attrs.body
        for node in fused_graph.nodes
        if node.op is OPS["kernel"] and any(n.op.name == "conv" for n in node.attrs.body.nodes)
    )
    return body


def convolution_plan(channels: int, extent: int, batch: int) -> Plan:
    """The plan of a direct 3 x 3 convolution."""
    return plan_of(convolution_body(channels, extent, batch), Machine())


@pytest.mark.parametrize(("batch", "is_read_again"), [(1, False), (4, True), (16, True)])
def test_filters_of_a_chunk_stay_near_where_many_rows_read_them(
    batch: int, is_read_again: bool
) -> None:
    plan = convolution_plan(512, 7, batch)
    columns, terms = plan.tile.columns, product([axis.extent for axis in plan.chains.inner])
    assert columns and isinstance(terms, int)
    assert (columns in plan.inner and columns.name == "p1k") == is_read_again  # a part of p1
    most = bounds(columns.extent)[1]
    assert most is not None and (most * LANES * terms * 4 <= NEAR_BYTES) == is_read_again


@pytest.mark.parametrize(
    ("channels", "filters", "extent", "innermost"),
    [
        (64, 256, 28, "columns"),  # 0.06 MB of weights stay near
        (128, 512, 28, "rows"),  # 0.25 MB do too, and come meanwhile
        (256, 1024, 14, "rows"),  # 1 MB of weights does not, 0.2 MB of an image does
        (2048, 512, 7, "rows"),  # 4 MB and 0.4 MB
        (1024, 512, 14, "columns"),  # neither stays; of a long sum a part of the columns does
    ],
)
def test_what_stays_in_the_cache_is_swept_innermost(
    channels: int, filters: int, extent: int, innermost: str
) -> None:
    plan = plan_of(convolution_body(channels, extent, 1, filters, taps=1), Machine())
    assert plan.tile.rows and plan.tile.columns
    order = [axis.name[:2] for axis in (*plan.outer, *plan.inner)]  # a part of p1 is p1k
    of_rows = max(i for i, name in enumerate(order) if name == plan.tile.rows.name[:2])
    of_columns = max(i for i, name in enumerate(order) if name == plan.tile.columns.name[:2])
    assert ("columns" if of_columns > of_rows else "rows") == innermost


@pytest.mark.parametrize(("extent", "filters", "totals"), [(9, 736, TOTALS), (14, 3000, 1 << 16)])
def test_chunks_of_columns_are_not_cut_again(
    extent: int, filters: int, totals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """46 blocks of filters in four chunks, and more of them in so many that an item, if it kept
    that much, might have several: the last chunk is a short one."""
    monkeypatch.setattr(items, "TOTALS", totals)
    body = convolution_body(736, extent, symbol("N"), filters, taps=1)
    names = {axis.name for axis in plan_of(body, Machine()).inner}
    assert "p1k" in names and not names & {"p1c", "p1ck"}
    assert not verify_kernel(build_kernel("kernel", body, Machine()))


def test_rows_of_neighbours_are_preferred_to_those_of_far_images() -> None:
    plan = convolution_plan(512, 7, 16)
    assert plan.tile.rows and plan.tile.rows.name == "p3"


@pytest.mark.parametrize(
    ("extent", "vectors", "row"),
    [
        (7, 32, "p3"),  # 7 rows by 3 columns
        (7, 8, "p2p3"),  # 6 of the 7 in one row of the image
        (14, 8, "p2p3"),
        (12, 8, "p3"),  # two tiles
        (30, 8, "p3"),
    ],
)
def test_rows_go_on_in_the_next_row_of_an_image_where_tiles_fill_no_row(
    extent: int, vectors: int, row: str
) -> None:
    """Each row of a tile then finds its place by a division, once for all terms."""
    body = convolution_body(64, extent, 1)
    plan = plan_of(body, Machine(vectors))
    assert plan.tile.rows and plan.tile.rows.name == row
    kernel = build_kernel("kernel", body, Machine(vectors))
    assert not verify_kernel(kernel)
    assert (f"p2p3u)//{extent}" in print_kernel(kernel)) == (row == "p2p3")


def test_sums_along_a_free_axis_and_one_without_elements() -> None:
    """The terms are 0, and yet no loop over them can be copied out."""
    make = one("reduce_sum", (symbol("N", 0, 99), 8, 0, 8), axes=(0, 2), keep=False)
    verify_kernel(build_kernel("kernel", make(), Machine()))


def test_results_are_stored_behind_their_last_terms() -> None:
    """Not in a loop of their own behind all terms."""
    kernel = build_kernel("kernel", one("matmul", (64, 2048), (2048, 64))(), Machine())
    chunks = [s for s in walk(kernel.body) if isinstance(s, For) and s.variable.name == "r0o"]
    stores = [s for s in walk(kernel.body) if isinstance(s, Store) and not s.buffer.is_local]
    assert chunks and stores
    assert {id(s) for s in stores} <= {id(s) for chunk in chunks for s in walk(chunk)}
    assert not verify_kernel(kernel)


def free_product(*batch: int) -> Plan:
    """Of [.., M, 64] by [.., 64, N]."""
    b, (m, n) = Builder("product"), (symbol(name, 1) for name in "MN")
    x = b.input(TensorType(FLOAT32, (*batch, m, 64)), "x")
    return plan_of(
        b.build([b("matmul", x, b.input(TensorType(FLOAT32, (*batch, 64, n)), "y"))]), Machine()
    )


def free_rows(batch: int) -> Plan:
    """Of [batch, M, 64] by [batch, 64, 64]."""
    b = Builder("rows")
    x = b.input(TensorType(FLOAT32, (batch, symbol("M", 1), 64)), "x")
    y = b.input(TensorType(FLOAT32, (batch, 64, 64)), "y")
    return plan_of(b.build([b("matmul", x, y)]), Machine())


def test_free_rows_are_swept_where_products_are_items_enough() -> None:
    """Columns of one product then stay near: Winograd's entries are such products."""
    many, few = free_rows(36), free_rows(2)
    assert [axis.extent for axis in many.outer][:1] == [36]
    assert [axis.extent for axis in many.swept] == [symbol("M", 1)]
    assert few.outer[0].extent == symbol("M", 1) and not few.swept


def test_free_columns_are_tiled_by_a_number_that_extents_are_likely_multiples_of() -> None:
    tile = free_product().tile
    assert tile.columns is not None and tile.counts[tile.columns.symbol] in (2, 4)
