"""A fused graph -> the rows that it reduces: one or several reductions over the same innermost
axes, and what is made of them.

In a row kernel all reductions run over the same axes of values of one shape, those axes are the
innermost ones, and the result has an element for each element of that shape, or one for each row.
Softmax, the norms and their gradients are such kernels. ``row_form`` says whether a graph is one,
by the formulas of its elements alone: whatever they read of a row is read in its own order, so that
both targets walk rows as contiguous memory. An element index is over the *base axes* ``p0 p1 …``
(which row) and ``r0 r1 …`` (where in it)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .. import dim, scalar
from ..dim import Extent, Symbol
from ..graph import Graph, Node, Value
from ..op import OPS
from ..ops.reduction import ReduceAttrs
from ..ops.views import divides_by_free_dims
from ..scalar import Checked, Expr, Guarded, Index
from ..tensor_type import TensorType
from .elements import Axis, Elements
from .ir import LANES, Buffer, Load, slope_along

VIEWS = frozenset(
    {"reshape", "broadcast"}
)  # of one value for each row: nothing is computed in them
FEW_ROWS = 8  # fewer rows than this, if they are long, are better shared out by element
LONG_ROW = 1 << 16


@dataclass(frozen=True, eq=False)
class RowForm:
    """The rows of a kernel. ``index``: an element of the shape that is reduced, over the base axes;
    ``out_index``: the output's; ``per_row``: values with one element a row that elements are made
    of, in the order in which they are made."""

    elements: Elements
    pure: tuple[Axis, ...]
    reduced: tuple[Axis, ...]
    index: tuple[Extent, ...]
    out_index: tuple[Extent, ...]
    is_row: bool  # the output has an element for each element of a row
    reductions: tuple[Node, ...]
    per_row: tuple[Value, ...]

    @property
    def count(self) -> Extent:
        """How many rows there are."""
        return dim.product([axis.extent for axis in self.pure])

    @property
    def length(self) -> Extent:
        """How many elements a row has."""
        return dim.product([axis.extent for axis in self.reduced])

    @property
    def row(self) -> Extent:
        """The number of a row."""
        return _flat(self.pure)

    @property
    def place(self) -> Extent:
        """The number of an element of a row."""
        return _flat(self.reduced)

    def is_dense(self, load: Load) -> bool:
        """Whether a load reads one value for each element, where it lies in the row."""
        return load.buffer.offset(load.extents) == self.row * self.length + self.place

    def is_of_row(self, load: Load) -> bool:
        """Whether a load reads one value for each row."""
        return load.buffer.offset(load.extents) == self.row

    def row_index(self, value: Value) -> tuple[Extent, ...]:
        """The element of a value that has one for each row."""
        return _reshaped_index(value.type, self.pure)

    def node_of(self, value: Value) -> Node:
        """The node that makes a value of the kernel."""
        return self.elements.graph.producers[value]


def row_form(graph: Graph) -> RowForm | None:
    """The rows of a fused graph; None if it has none, or no reduction whose result is used for all
    elements of its row."""
    reductions = tuple(node for node in graph.nodes if isinstance(node.attrs, ReduceAttrs))
    if (
        not reductions
        or any(_is_other_anchor(node) for node in graph.nodes)
        or not _agree(reductions)
    ):
        return None
    shape, axes = reductions[0].inputs[0].shape, reductions[0].attrs.axes
    (output,) = graph.outputs
    if any(value.layout is not None for node in graph.nodes for value in (*node.inputs, output)):
        return None
    form = _form(graph, shape, axes, reductions)
    return form if form is not None and _is_worthwhile(form) and _reads_rows(form) else None


def _is_other_anchor(node: Node) -> bool:
    """Whether a node reduces by other loops, or has no element formula."""
    if node.op.name == "constant" or isinstance(node.attrs, ReduceAttrs):
        return False
    if node.op.compute is None:
        return True
    return bool(
        node.op.compute(
            node.attrs, [v.type for v in node.inputs], [v.type for v in node.outputs]
        ).reduce
    )


def _agree(reductions: Sequence[Node]) -> bool:
    """Whether all reduce the same axes of one shape, and those are the innermost ones."""
    first = reductions[0]
    shape, axes = first.inputs[0].shape, first.attrs.axes
    if any(node.inputs[0].shape != shape or node.attrs.axes != axes for node in reductions):
        return False
    long = [place for place, extent in enumerate(shape) if extent != 1]
    inner = [place for place in long if place in axes]
    return bool(inner) and long[-len(inner) :] == inner


def _form(
    graph: Graph, shape: Sequence[Extent], axes: Sequence[int], reductions: tuple[Node, ...]
) -> RowForm | None:
    (output,) = graph.outputs
    long = [place for place, extent in enumerate(shape) if extent != 1]
    pure = tuple(
        Axis.of(f"p{i}", shape[place]) for i, place in enumerate(p for p in long if p not in axes)
    )
    reduced = tuple(
        Axis.of(f"r{i}", shape[place]) for i, place in enumerate(p for p in long if p in axes)
    )
    count = dim.product([axis.extent for axis in pure])
    size = count * dim.product([axis.extent for axis in reduced])
    is_row = output.type.elements == size
    per_row = _per_row(graph, reductions, count, size)
    if not is_row and (output.type.elements != count or len(reductions) == 1):
        return None
    try:
        index = _reshaped_index(TensorType(output.dtype, tuple(shape)), (*pure, *reduced))
        out_index = _reshaped_index(output.type, (*pure, *reduced) if is_row else pure)
    except ValueError:  # a free dim that cannot be taken apart
        return None
    return RowForm(
        Elements(graph, None), pure, reduced, index, out_index, is_row, reductions, per_row
    )


def _per_row(
    graph: Graph, reductions: Sequence[Node], count: Extent, size: Extent
) -> tuple[Value, ...]:
    """The results of reductions, and what is made of them row by row and then read for each
    element."""
    known = {node.output for node in reductions}
    found: list[Value] = []
    for node in graph.nodes:
        if node.op.name == "constant":
            continue
        if node.output in known:
            found.append(node.output)
        elif node.output.type.elements == count and not known.isdisjoint(node.inputs):
            known.add(node.output)
            readers = graph.users.get(node.output, ())
            if node.op.name not in VIEWS and any(
                reader.output.type.elements == size for reader in readers
            ):
                found.append(node.output)
    return tuple(found)


def _is_worthwhile(form: RowForm) -> bool:
    """Not where few long rows would leave threads without work: element by element there is enough
    for all."""
    if not (isinstance(form.count, int) and isinstance(form.length, int)):
        return 0 not in (form.count, form.length)
    return form.count * form.length > 0 and (form.count >= FEW_ROWS or form.length <= LONG_ROW)


def _reads_rows(form: RowForm) -> bool:
    """Whether each row is made of itself alone, and whatever is read along it lies in its order."""
    leaves = {value: Buffer("v", value.dtype, value.shape) for value in form.per_row}
    given = {value: _reader(buffer) for value, buffer in leaves.items()}
    elements = form.elements
    try:
        whole = elements.with_given(given)
        roots = [whole.element(node.inputs[0], form.index, None) for node in form.reductions]
        for value in form.per_row:
            if form.node_of(value) not in form.reductions:
                others = {k: g for k, g in given.items() if k is not value}
                own = elements.with_given(others)
                roots.append(own.element(value, form.row_index(value), None))
        if elements.output not in given:
            roots.append(whole.element(elements.output, form.out_index, None))
    except ValueError:  # an index computed at run time, or a free dim that cannot be taken apart
        return False
    numbers = frozenset(leaves.values())
    return all(_is_readable(form, node, numbers) for node in scalar.post_order(roots))


def _reader(buffer: Buffer) -> Callable[[Sequence[Extent | Expr]], Expr]:
    return lambda index: Load(buffer, tuple(index))


def _is_readable(form: RowForm, node: Expr, per_row: frozenset[Buffer]) -> bool:
    match node:
        case Guarded() | Checked():
            return False
        case Index(extent):
            return _knows_row(form, [extent])
        case Load() if node.index_expressions:
            return False
        case Load(buffer) if buffer in per_row:
            return form.is_of_row(node)
        case Load():
            return form.is_dense(node) or form.is_of_row(node) or _can_decode(form, node)
    return True


def _can_decode(form: RowForm, load: Load) -> bool:
    """Whether a load that is neither an element nor a number of the row follows from the number of
    the row by divisions, and runs evenly along it."""
    slope = slope_along(load.buffer.offset(load.extents), form.reduced[-1].symbol)
    return slope in (0, 1) and _knows_row(form, load.extents)


def _knows_row(form: RowForm, extents: Sequence[Extent]) -> bool:
    """Whether extents follow from the number of the row, for no free dim stands between its axes, or
    from the axes, which loops bind where lanes lie along a row."""
    is_short = isinstance(form.length, int) and form.length < LANES
    is_known = not is_short or all(isinstance(axis.extent, int) for axis in form.pure[1:])
    return is_known or dim.symbols_of(list(extents)).isdisjoint(axis.symbol for axis in form.pure)


def _flat(axes: Sequence[Axis]) -> Extent:
    total: Extent = 0
    for axis in axes:
        total = total * axis.extent + axis.position
    return total


def _reshaped_index(type_: TensorType, axes: Sequence[Axis]) -> tuple[Extent, ...]:
    """The index into a value of the element whose number the axes give; ValueError if a free dim is
    in the way."""
    reshape = OPS["reshape"]
    extents = tuple(axis.extent for axis in axes)
    assert reshape.compute is not None
    if divides_by_free_dims(type_.shape, extents):
        raise ValueError(f"an element of {type_} does not follow from its number")
    found: list[Sequence[Extent]] = []

    def read(_position: int, index: Sequence[Extent | Expr]) -> Expr:
        found.append([part for part in index if not isinstance(part, Expr)])
        return scalar.literal(0, type_.dtype)

    compute = reshape.compute(reshape.attrs(extents), [type_], [type_.with_shape(extents)])
    compute.term(tuple(axis.position for axis in axes), (), read)
    return tuple(found[0])


def decoded(axes: Sequence[Axis], number: Extent) -> Mapping[Symbol, Extent]:
    """The positions along axes of an element, from its number; the extents behind the first must be
    known."""
    found: dict[Symbol, Extent] = {}
    for axis in reversed(axes[1:]):
        assert isinstance(axis.extent, int)
        found[axis.symbol], number = number % axis.extent, number // axis.extent
    if axes:
        found[axes[0].symbol] = number
    return found


__all__ = ["RowForm", "decoded", "row_form"]
