"""Blocks of long sums: what a work item keeps near, how many items are left, and what they add up to."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Symbol, bounds
from netloom.compiler.loops.axes import iteration_space
from netloom.compiler.loops.blocks import NEAR_ROWS
from netloom.compiler.loops.build import Machine, anchor_of, build_kernel
from netloom.compiler.loops.elements import Elements
from netloom.compiler.loops.items import TOTALS
from netloom.compiler.loops.plan import LEAST_ITEMS, Plan
from netloom.compiler.loops.tiling import plan_tiles
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.targets.cpu.machine import host_cpu
from tests.compiler.loops.case_graphs import one
from tests.compiler.loops.test_lowering import compiled

FEW, MANY = Machine(vectors=8, has_masks=False), Machine(vectors=32)


def plan_of(machine: Machine, *shapes: tuple[Extent, ...]) -> Plan:
    """Of the product of two matrices."""
    graph = one("matmul", *shapes)()
    return plan_tiles(iteration_space(Elements(graph, anchor_of(graph))), machine)


def most(plan: Plan) -> dict[str, int]:
    """Tiles inside a work item, by the first letters of their axes' names."""
    found = {axis.name[:2]: bounds(plan.tiles(axis))[1] for axis in plan.inner}
    return {name: count for name, count in found.items() if count is not None}


@pytest.mark.parametrize("size", [1024, 2000, 2048])
def test_tiles_of_one_vector_of_columns_are_blocked_too(size: int) -> None:
    """Whether or not tiles divide the rows; before, 2048 rows of tiles of 6 were read anew for each
    vector of columns."""
    plan = plan_of(FEW, (size, size), (size, size))
    assert plan.tile.columns is None and plan.tile.rows is not None
    assert plan.chains.outer and len(plan.inner) == 2
    rows, columns = most(plan)["p0"], most(plan)["p1"]
    assert 1 < rows * columns * plan.tile.counts[plan.tile.rows.symbol] <= TOTALS
    assert rows > 1 and columns > 1


@pytest.mark.parametrize("terms", [1024, 600])
def test_what_rows_read_of_a_chunk_stays_near(terms: int) -> None:
    plan = plan_of(FEW, (3000, terms), (terms, 1024))
    assert plan.tile.rows is not None
    (chunk,) = (bounds(axis.extent)[1] for axis in plan.chains.inner)
    rows = max(bounds(axis.extent)[1] or 0 for axis in plan.inner if axis.name.startswith("p0"))
    assert chunk is not None and 0 < rows * chunk * 4 <= NEAR_ROWS


@pytest.mark.parametrize("machine", [FEW, MANY])
@pytest.mark.parametrize(("rows", "columns"), [(400, 400), (600, 600), (2100, 300), (900, 2000)])
def test_items_are_left(machine: Machine, rows: int, columns: int) -> None:
    plan = plan_of(machine, (rows, 1024), (1024, columns))
    assert isinstance(plan.items, int) and plan.items >= LEAST_ITEMS


@pytest.mark.parametrize("machine", [FEW, MANY])
@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize(("rows", "terms", "columns"), [(400, 1024, 400), (49, 2048, 512)])
def test_a_batch_of_one_has_items_for_all_threads(
    machine: Machine, least: int, rows: int, terms: int, columns: int
) -> None:
    """Where the batch is free; before, it had one item, whether its results were cut into blocks
    or kept whole."""
    batch = Dim.of(Symbol("N", least))
    plan = plan_of(machine, (batch, rows, terms), (batch, terms, columns))
    items = dim.substitute(plan.items, {symbol: 1 for symbol in dim.symbols_of([plan.items])})
    assert plan.inner and isinstance(items, int) and items >= LEAST_ITEMS


@pytest.mark.parametrize(("rows", "terms", "columns"), [(229, 520, 179), (400, 530, 96)])
def test_blocks_with_ends_add_up(rows: int, terms: int, columns: int) -> None:
    """Rows and columns that neither tiles nor blocks divide: exact numbers, no bit differs."""
    shapes = (rows, terms), (terms, columns)
    assert len(plan_of(FEW, *shapes).inner) == 2
    kernel = build_kernel("kernel", one("matmul", *shapes)(), FEW)
    assert not verify_kernel(kernel)
    random = np.random.default_rng(0)
    x, y = (random.integers(-4, 5, shape).astype(np.float32) for shape in shapes)
    found, _ = compiled([kernel], host_cpu()).run(kernel, [x, y], {})
    np.testing.assert_array_equal(found, x @ y)
