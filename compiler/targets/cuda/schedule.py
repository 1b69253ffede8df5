"""A fused kernel -> how a grid of threads computes it: one of the forms of forms.py, chosen from
shapes and indices alone.

Grids and the order of every sum depend on shapes only; no chain of float32 additions is longer than
512.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netloom.errors import MemoryBudgetError

from ... import dim, scalar
from ...dim import Dim, Extent, Quotient, Remainder, Symbol
from ...graph import Graph
from ...loops.elements import Axis, Elements, accumulated_in
from ...loops.ir import Buffer, Load, extents_in, slope_along
from ...loops.row_form import row_form
from ...scalar import Call, Expr, Guarded, Literal
from ...tensor_type import FLOAT32
from .addends import in_parts, whole_product
from .copied_slices import source_of, stages
from .elements import device_elements, stored, summed
from .forms import (
    FEW_TERMS,
    THREADS,
    TILES,
    DeviceKernel,
    Engine,
    Form,
    FusedAttention,
    FusedGradient,
    FusedWinograd,
    Operand,
    Pointwise,
    Product,
    RowPasses,
    Rows,
    Tile,
    Transform,
    blocks,
    count,
    nominal,
)
from .row_passes import pass_form
from .tilings import NO_TILINGS, Tilings, needs_registers, tiled
from .transforms import transform_form
from .windows import by_windows, is_dense

MOST = (1 << 31) - 1  # bytes of a buffer, terms of a sum: indices are int32 (runtime/cuda/plan.py)
WIDTH = 4  # elements of the widest access
# from here on, one thread a row fills the device, if rows lie next to each other
MANY_ROWS = 1 << 16


def plan_kernel(
    graph: Graph, engine: Engine = Engine.FFMA, tilings: Tilings = NO_TILINGS
) -> DeviceKernel:
    """The form of a kernel's graph, products of float32 by that engine, and by a tiling that was
    measured for their size; MemoryBudgetError if a buffer or a sum is too large for int32 indices.
    """
    rows = row_form(graph)
    graph, parts = (graph, 1) if rows else whole_product(graph)
    elements = rows.elements if rows else device_elements(graph)
    buffers = elements.arguments
    if parts > 1:
        buffers = (*buffers[:-1], replace(elements.out, shape=(parts, *elements.out.shape)))
    axes = tuple(Axis.of(f"p{place}", extent) for place, extent in enumerate(elements.out.shape))
    form = pass_form(rows) if rows else tiled(_form(elements, axes, engine), tilings)
    if parts > 1:
        form = in_parts(form, parts)
    kernel = DeviceKernel(buffers, _free_symbols(buffers, form), blocks(form), form)
    _check_sizes(kernel, graph)
    return kernel


def _check_sizes(kernel: DeviceKernel, graph: Graph) -> None:
    """Those that are known; a run checks the others."""
    sizes = {"a tensor of {} bytes": [b.dtype.numpy.itemsize * dim.product(b.shape) for b in kernel.buffers],
             "a sum of {} terms": [kernel.terms]}  # fmt: skip
    for what, found in sizes.items():
        most = max((size for size in found if isinstance(size, int)), default=0)
        if most > MOST:
            raise MemoryBudgetError(
                f"{what.format(most)} is too large for the cuda target, which takes {MOST}.",
                node=graph.nodes[-1].label if graph.nodes else "",
                hint="Choose a smaller batch, or compile for the cpu target.",
            )


def _form(elements: Elements, axes: tuple[Axis, ...], engine: Engine) -> Form:
    if elements.anchor is not None and elements.compute is None:
        return transform_form(elements, engine)
    position = tuple(axis.position for axis in axes)
    compute = elements.compute
    if compute is None:
        return Pointwise(axes, position, stored(elements, position, None))
    terms = tuple(Axis.of(f"r{place}", extent) for place, extent in enumerate(compute.reduce))
    term = summed(elements, position, tuple(axis.position for axis in terms))
    if compute.combine == "add" and term.dtype is FLOAT32:
        product = _product(elements, axes, terms, term, engine)
        if product is not None:
            return product
    sum_dtype = accumulated_in(term.dtype)
    lanes, is_adjacent = _lanes(axes, terms, term)
    return Rows(axes, position, terms, term, compute.combine, elements.neutral(sum_dtype),
                stored(elements, position, sum_dtype), lanes, is_adjacent)  # fmt: skip


def _free_symbols(buffers: Sequence[Buffer], form: Form) -> tuple[Symbol, ...]:
    """The model's free dims that the kernel needs."""
    match form:
        case Pointwise(value=value):
            expressions, own = [value], form.axes
        case Rows():
            expressions, own = [form.value, form.term], form.axes + form.terms
        case RowPasses():
            expressions, own = list(form.expressions), form.axes + form.terms
        case Product():
            expressions = [form.value, form.left.value, form.right.value]
            own = form.batch + form.left.axes + form.right.axes + form.terms
        case Transform():
            expressions = [
                *(e for row in form.reads for e in row),
                *(put.value for row in form.puts for put in row),
            ]
            own = form.axes
        case FusedWinograd():
            expressions = [put.value for row in form.puts for put in row]
            own = (*form.tiles, form.filters)
        case FusedAttention():
            expressions = [form.value, form.q, form.k, form.v, *([form.mask] if form.mask else [])]
            own = (*form.heads, form.row, form.column, form.key, form.depth)
        case FusedGradient():
            expressions = list(form.expressions)
            own = (*form.heads, form.row, form.key, form.depth, form.width, form.column)
    extents = [e for buffer in buffers for e in buffer.shape] + [axis.extent for axis in own]
    found = dim.symbols_of(extents).union(*map(_symbols, expressions)) - {
        axis.symbol for axis in own
    }
    return tuple(sorted(found, key=lambda symbol: symbol.name))


def _symbols(root: Expr) -> frozenset[Symbol]:
    """All symbols in an expression's indices, conditions and extents."""
    return dim.symbols_of(
        [extent for node in scalar.post_order([root]) for extent in extents_in(node)]
    )


def _loads(root: Expr) -> list[Load]:
    return [node for node in scalar.post_order([root]) if isinstance(node, Load)]


def _slope(load: Load, axis: Axis) -> int | None:
    """How far apart in memory an operand's elements lie along an axis; None if not evenly or not
    known.
    """
    return (
        None
        if load.index_expressions
        else slope_along(load.buffer.offset(load.extents), axis.symbol)
    )


def _longest_operand(root: Expr) -> Load | None:
    """The load over the largest buffer: the one whose access pattern matters."""
    return max(_loads(root), key=lambda load: nominal(dim.product(load.buffer.shape)), default=None)


def _last(axes: Sequence[Axis]) -> Axis | None:
    """The innermost axis that is an axis at all."""
    return next((axis for axis in reversed(axes) if axis.extent != 1), None)


def _is_adjacent_along(root: Expr, axis: Axis | None) -> bool:
    load = _longest_operand(root)
    return axis is not None and load is not None and _slope(load, axis) == 1


def _lanes(axes: Sequence[Axis], terms: Sequence[Axis], term: Expr) -> tuple[int, bool]:
    """How many threads share a sum, and whether neighbours take neighbouring rows."""
    number, rows = nominal(count(terms)), nominal(count(axes))
    is_adjacent = _is_adjacent_along(term, _last(axes)) and not _is_adjacent_along(
        term, _last(terms)
    )
    if number < FEW_TERMS or (is_adjacent and rows >= MANY_ROWS):
        return 1, True
    if is_adjacent:
        return 8, True
    lanes = 32
    while lanes < THREADS and lanes * 4 < number:
        lanes *= 2
    return lanes, False


# -- products --------------------------------------------------------------------------------------


def _product(
    elements: Elements, axes: Sequence[Axis], terms: tuple[Axis, ...], term: Expr, engine: Engine
) -> Product | None:
    """The product form, if the term is a product of two formulas, each with axes of its own, and
    large enough.
    """
    axes, position = _ungrouped(axes, term)
    if len(axes) != len(elements.out.shape):
        term = summed(elements, position, tuple(axis.position for axis in terms))
    factors = _factors(term)
    if factors is None or not terms:
        return None
    seen = [_symbols(factor) for factor in factors]
    batch = tuple(axis for axis in axes if axis.extent != 1 and all(axis.symbol in s for s in seen))
    own = [tuple(a for a in axes if a.symbol in mine and a not in batch and a.extent != 1)
           for mine in seen]  # fmt: skip
    batch += tuple(
        a for a in axes if a.extent != 1 and a not in batch and not any(a in part for part in own)
    )
    if min(nominal(count(part)) for part in own) < 16 or nominal(count(terms)) < 8:
        return None
    sides = [_operand(value, part, terms) for value, part in zip(factors, own, strict=True)]
    if engine is Engine.FFMA and all(source_of(side) for side in sides):
        sides = [by_windows(side, terms) for side in sides]
    last = _last(axes)
    if last in sides[0].axes:  # the columns run along the output's memory
        sides.reverse()
    zero = {axis.symbol: 0 for axis in axes if axis.extent == 1}
    where = tuple(dim.substitute(p, zero) for p in position)
    value = stored(elements, where, FLOAT32)
    tile = _tile(batch, sides, engine)
    number = stages(engine, tile.rows, tile.columns, tile.depth, (sides[0], sides[1]))
    return Product(batch, sides[0], sides[1], terms, where, value, tile, engine, stages=number)


def _operand(value: Expr, axes: tuple[Axis, ...], terms: tuple[Axis, ...]) -> Operand:
    """A side of a product with the widest access that it allows."""
    is_along_terms = _is_adjacent_along(value, _last(terms))
    is_aligned = isinstance(value, Load) and _is_aligned_along(
        value, terms if is_along_terms else axes
    )
    return Operand(value, axes, is_along_terms, WIDTH if is_aligned else 1)


def _is_aligned_along(load: Load, axes: Sequence[Axis]) -> bool:
    """Whether WIDTH positions of the axes that follow each other, from a multiple of WIDTH on,
    are one aligned piece of memory.
    """
    inner = _last(axes)
    if inner is None or _slope(load, inner) != 1:
        return False
    run = axes if is_dense(load, axes) else [inner]
    extent = count(run)
    if not isinstance(extent, int) or extent % WIDTH:
        return False
    offset, symbols = load.buffer.offset(load.extents), {axis.symbol for axis in run}
    assert isinstance(offset, Dim)
    return all(
        factor % WIDTH == 0
        for atoms, factor in offset.terms
        if len(atoms) != 1 or atoms[0] not in symbols
    )


def _tile(batch: Sequence[Axis], sides: Sequence[Operand], engine: Engine) -> Tile:
    """The tile, with the engine's depth; half as wide where splitting operands and decoding
    indices need the registers.
    """
    tile = _fitting_tile(batch, sides)
    if needs_registers(tile, sides, engine):
        tile = replace(tile, columns=64, thread_columns=4)
    return replace(tile, depth=engine.depth or tile.depth)


def _fitting_tile(batch: Sequence[Axis], sides: Sequence[Operand]) -> Tile:
    """The largest tile of which there are enough blocks to fill a device, else the smallest."""
    for tile in TILES:
        rows, columns = (nominal(count(side.axes)) for side in sides)
        number = nominal(count(batch)) * -(-rows // tile.rows) * -(-columns // tile.columns)
        if number >= 128 and min(rows / tile.rows, columns / tile.columns) >= 1:
            return tile
    return TILES[-1]


def _factors(term: Expr) -> tuple[Expr, Expr] | None:
    """Two factors; the guard of a guarded product stays with the factor that it shares most
    symbols with.
    """
    match term:
        case Call("mul", (left, right), _):
            return left, right
        case Guarded(conditions, Call("mul", (left, right), _), Literal(value=0)):
            mine = dim.symbols_of(list(conditions))
            zero = scalar.literal(0, FLOAT32)
            if len(mine & _symbols(left)) >= len(mine & _symbols(right)):
                return Guarded(conditions, left, zero), right
            return left, Guarded(conditions, right, zero)
    return None


def _ungrouped(axes: Sequence[Axis], term: Expr) -> tuple[list[Axis], tuple[Extent, ...]]:
    """Axes with those of grouped convolutions taken apart: channel = group * size + own."""
    result: list[Axis] = []
    position: list[Extent] = []
    for axis in axes:
        divisor = _divisor_of(axis, term)
        if divisor is None or not isinstance(axis.extent, int) or axis.extent % divisor:
            result.append(axis)
            position.append(axis.position)
            continue
        group = Axis.of(f"{axis.symbol.name}g", axis.extent // divisor)
        own = Axis.of(f"{axis.symbol.name}o", divisor)
        result += [group, own]
        position.append(group.position * divisor + own.position)
    return result, tuple(position)


def _divisor_of(axis: Axis, term: Expr) -> int | None:
    """By what an operand divides this index, if by one number."""
    divisors = set()
    for node in scalar.post_order([term]):
        for extent in extents_in(node):
            for atoms, _ in extent.terms if isinstance(extent, Dim) else ():
                divisors |= {
                    atom.divisor
                    for atom in atoms
                    if isinstance(atom, Quotient | Remainder) and atom.numerator == axis.position
                }
    return divisors.pop() if len(divisors) == 1 else None


__all__ = ["plan_kernel"]
