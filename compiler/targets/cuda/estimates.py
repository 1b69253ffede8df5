"""A kernel's form, or a layer by a strategy -> predicted seconds on a device, and the waves in which
its blocks run. Predictions: nothing here was measured.

A layer is planned as the program would plan it, its products cut into the same tiles and parts, and
its kernels' times are added up. A kernel that multiplies takes its waves: of the blocks that a
device holds at once, the last ones may leave multiprocessors idle, and a block that is alone on one
hides fewer of its waits. A kernel that moves bytes reaches a device's rate only with a block on
every multiprocessor. Whatever depends on constants alone was computed when compiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ... import dim
from ...dim import Extent
from ...graph import Builder, Graph, Node, Value
from ...passes.bind_dims import substitute_symbols
from ...passes.eliminate_dead import eliminate_dead
from ...passes.fuse import fuse
from ...strategies import BY_NAME, Strategy
from ...strategies.strategy import CONVOLUTIONS, image_dims, nominal, nominal_number
from ...strategies.winograd import WINOGRAD_F2_FUSED
from ...text import parse_graph, print_graph
from .addends import whole_product
from .devices import FIGURES
from .forms import (
    DeviceKernel,
    Engine,
    Form,
    FusedWinograd,
    Operand,
    Product,
    RowPasses,
    Rows,
    count,
)
from .schedule import plan_kernel
from .source import resident_blocks
from .split_products import split_products
from .tilings import NO_TILINGS, Size, Tiling, Tilings, size_of
from .winograd import DEPTH, ENTRIES, TILES

# of the time that its instructions need, a loop without waits: an estimate
SUSTAINED = 0.9
PLAIN_SUMS = 0.1  # of the multiply-add rate, sums without register tiles: an estimate
ALONE = 0.6  # of a multiprocessor's rate, one block where two fit
# multiply-adds of an instruction's time on float32 units, by warpgroups: 3xtf32 waits once a slice of
# 12 instructions, the others are fed by the L2 cache (docs/gpu.md, predictions)
TENSOR_CORES = {Engine.TF32X3: 1.5, Engine.TF32: 2.7, Engine.BF16: 3.0}
OVERHEAD = 64  # instructions of a thread beside multiply-adds and fragments in a slice: counted
WINDOWS = 48  # more of them where an operand is windows: counted
SHARED_WINDOWS = 3.0  # reads of an element of windows that one read from beyond serves: an estimate
FUSED_WIDE, FUSED_NARROW = 0.80, 0.70  # multiply-adds of the fused kernel's instructions: counted
KNOWN: Mapping[str, Strategy] = {**BY_NAME, WINOGRAD_F2_FUSED.name: WINOGRAD_F2_FUSED}


@dataclass(frozen=True)
class Estimate:
    """A kernel's predicted seconds; ``blocks`` of its grid, and the ``waves`` in which they run (0:
    it moves bytes and multiplies nothing)."""

    seconds: float
    blocks: int
    waves: int


@dataclass(frozen=True)
class Planned:
    """A layer's kernels in order: what each takes, and the products among them, whole, with the
    number of parts into which they are cut."""

    kernels: tuple[Estimate, ...]
    products: tuple[tuple[Product, int], ...]
    batch: int

    @property
    def seconds(self) -> float:
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def sizes(self) -> tuple[Size, ...]:
        return tuple(size_of(form, self.batch) for form, _ in self.products)

    def __str__(self) -> str:
        """For people: how many kernels, and how the products among them fill a device."""
        number = len(self.kernels)
        grids = [
            f"{k.blocks} blocks in {_counted(k.waves, 'wave')}" for k in self.kernels if k.waves
        ]
        return f"predicted: {_counted(number, 'kernel')}" + "".join(f", {grid}" for grid in grids)


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def planned_layer(
    graph: Graph, node: Node, strategy: str, engine: Engine, batch: int,
    tiling: Tiling | None = None,
) -> Planned:  # fmt: skip
    """A node by a strategy, its products by a tiling if one is given; a node without strategies is
    what it is. Free dims count for ``batch`` where seconds are concerned, those of an image for
    what its strategies take them for."""
    b = Builder("layer")
    names = [f"operand{place}" for place in range(len(node.inputs))]
    inputs = [b.input(v.type, name) for name, v in zip(names, node.inputs, strict=True)]
    added = b.add(node.op, inputs, node.attrs, "layer")
    constants = tuple(
        name
        for name, value in zip(names, node.inputs, strict=True)
        if graph.constant_of(value) is not None
    )
    layer = b.build(added.outputs, ["y"])
    if node.op.name in CONVOLUTIONS:
        layer = substitute_symbols(layer, image_dims(node))
    return _planned(print_graph(layer), constants, strategy, engine, batch, tiling)


@lru_cache(maxsize=4096)
def _planned(
    text: str, constants: tuple[str, ...], strategy: str, engine: Engine, batch: int,
    tiling: Tiling | None,
) -> Planned:  # fmt: skip
    tilings = NO_TILINGS if tiling is None else Tilings(everywhere=tiling, batch=batch)
    graph = _by(parse_graph(text), strategy)
    graph = split_products(fuse(eliminate_dead(graph)), engine, tilings)
    made = {value for value in graph.inputs if value.label in constants}
    kernels: list[Estimate] = []
    products: list[tuple[Product, int]] = []
    for node in graph.nodes:
        if set(node.inputs) <= made:  # when compiling
            made.update(node.outputs)
        elif node.op.name == "kernel":
            kernel = plan_kernel(node.attrs.body, engine, tilings)
            kernels.append(estimate(kernel, node, made, batch))
            if isinstance(kernel.form, Product):
                products.append(_whole(node, engine, tilings))
    return Planned(tuple(kernels), tuple(products), batch)


def _by(graph: Graph, strategy: str) -> Graph:
    """The graph of a layer, expanded by a strategy if there is one for it."""
    (node,) = graph.nodes
    if strategy not in KNOWN or node.op.name not in KNOWN[strategy].ops:
        return graph
    b = Builder("layer")
    inputs = [b.input(value.type, value.label) for value in graph.inputs]
    return b.build([KNOWN[strategy].expand(b, graph, node, inputs)], ["y"])


def _whole(node: Node, engine: Engine, tilings: Tilings) -> tuple[Product, int]:
    body, parts = whole_product(node.attrs.body)
    form = plan_kernel(body, engine, tilings).form
    assert isinstance(form, Product)
    return form, parts


# -- one kernel ------------------------------------------------------------------------------------


def estimate(
    kernel: DeviceKernel, node: Node, constant: set[Value] | None = None, batch: int = 1
) -> Estimate:
    """What a kernel's node takes; ``constant``: values that wait in the device's memory."""
    blocks = _number(kernel.items, batch)
    moved = _moving(node, constant or set(), batch)
    busy = min(1.0, blocks / FIGURES.multiprocessors) if blocks else 1.0
    work = _work(kernel.form, batch)
    if work is None:
        added = _added(kernel.form, batch) / (
            FIGURES.products * FIGURES.multiprocessors * PLAIN_SUMS
        )
        return Estimate(FIGURES.launch + max(moved, added) / busy, blocks, 0)
    products, near = work
    at_once = resident_blocks(kernel.form)
    rate = FIGURES.products * _share(kernel.form)
    seconds = max(
        _rounds(blocks, at_once) * products / rate,
        blocks * near / (FIGURES.near * busy),
        moved / busy,
    )
    return Estimate(
        FIGURES.launch + seconds, blocks, -(-blocks // (FIGURES.multiprocessors * at_once))
    )


def grid_text(kernel: DeviceKernel) -> str:
    """A kernel's grid for people: its blocks and, if it multiplies and no free dim decides it, the
    waves in which they run on the device that plans take for granted."""
    if not isinstance(kernel.items, int):
        return f"{kernel.items} blocks"
    text = _counted(kernel.items, "block")
    if not isinstance(kernel.form, Product | FusedWinograd):
        return text
    at_once = FIGURES.multiprocessors * resident_blocks(kernel.form)
    return f"{text} in {_counted(-(-kernel.items // at_once), 'wave')}"


def _added(form: Form, batch: int) -> float:
    """Terms of all the sums that threads take one by one."""
    if not isinstance(form, Rows | RowPasses):
        return 0.0
    return float(_number(count(form.axes), batch) * _number(count(form.terms), batch))


def _rounds(blocks: int, at_once: int) -> float:
    """The time of so many blocks, in times that a multiprocessor at its full rate takes for one."""
    full, rest = divmod(blocks, FIGURES.multiprocessors * at_once)
    if not rest:
        return float(full * at_once)
    together = -(-rest // FIGURES.multiprocessors)
    hidden = ALONE + (1 - ALONE) * (together - 1) / (at_once - 1) if at_once > 1 else 1.0
    return full * at_once + together / hidden


def _work(form: Form, batch: int) -> tuple[float, float] | None:
    """Multiply-adds of a block, and the bytes that it reads through the L2 cache; None if a
    kernel does little but move."""
    match form:
        case Product(tile=tile):
            terms = _number(form.chain, batch)
            places = _read_anew(form.left, tile.rows) + _read_anew(form.right, tile.columns)
            return float(tile.rows * tile.columns * terms), 4.0 * terms * places
        case FusedWinograd(block_filters=filters):
            channels = form.x.shape[1]
            assert isinstance(channels, int)
            deep = -(-channels // DEPTH) * DEPTH
            return float(ENTRIES * filters * TILES * deep), 4.0 * ENTRIES * deep * (filters + TILES)
    return None


def _read_anew(side: Operand, size: int) -> float:
    """Elements of a term of a tile's side that come from beyond a multiprocessor's own cache:
    neighbouring windows share all but a column."""
    return size / SHARED_WINDOWS if side.windows is not None else size


def _share(form: Form) -> float:
    """Multiply-adds in a thread's instructions, as part of all, less what waits."""
    match form:
        case Product(tile=tile, engine=Engine.FFMA):
            products = tile.depth * tile.thread_rows * tile.thread_columns
            fragments = tile.depth * (tile.thread_rows + tile.thread_columns) / 4
            windows = WINDOWS if form.left.windows or form.right.windows else 0
            return SUSTAINED * products / (products + fragments + OVERHEAD + windows)
        case Product(engine=engine):
            return TENSOR_CORES[engine]
        case FusedWinograd(block_filters=filters):
            return SUSTAINED * (FUSED_WIDE if filters == 64 else FUSED_NARROW)
    return 1.0


def _moving(node: Node, constant: set[Value], batch: int) -> float:
    """Seconds to move what a kernel reads and writes once: weights from the device's memory, all
    else through the cache if it fits."""
    seconds = 0.0
    for value in dict.fromkeys((*node.inputs, *node.outputs)):
        size = prod(nominal(value, batch)) * value.dtype.bytes
        is_far = value in constant or size > FIGURES.cache
        seconds += size / (FIGURES.far if is_far else FIGURES.near)
    return seconds


def _number(extent: Extent, batch: int) -> int:
    return dim.evaluate(
        extent, {symbol.name: nominal_number(symbol, batch) for symbol in dim.symbols_of([extent])}
    )


__all__ = ["Estimate", "Planned", "estimate", "grid_text", "planned_layer"]
