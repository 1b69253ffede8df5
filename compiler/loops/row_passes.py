"""A row kernel -> its passes, in order: what each computes of an element or of a row, over the base
axes, and what is kept.

An element that a later pass needs again is made anew, or kept: ``Keep`` says which the target has
room for. To keep one costs a store and a load for each pass; x - max costs less than that, an
exponential about twenty instructions. So, where there is room for one value only (the output's
row), it is one that takes a division, a root or more."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from .. import scalar
from ..graph import Node, Value
from ..scalar import Call, Cast, Expr
from .elements import Elements, Given
from .ir import Buffer, Load
from .row_form import RowForm

# functions that are an instruction or two
CHEAP = frozenset(
    {"add", "sub", "mul", "fma", "neg", "abs", "max", "min", "select"}
    | {"less", "less_equal", "equal", "not_equal", "and", "or", "xor", "not"}
    | {"floor", "ceil", "round", "trunc"}
)


class Keep(enum.Enum):
    """Which elements that are reduced are kept for later passes."""

    NOTHING = "nothing"
    ONE = "one"  # at a time, in the output's row: it must be of the output's dtype
    COMPUTED = "computed"  # all that are not loads
    ALL = "all"


@dataclass(frozen=True, eq=False)
class Pass:
    """``root``: the element that is reduced, the number of a row or the stored element. ``leaf``:
    stands for the result in later passes; ``keeps``: stands there for the element itself, if it is
    kept."""

    makes: Node | Value | None  # a reduction, a number of the row, or the output
    root: Expr
    leaf: Buffer
    keeps: Buffer | None = None


@dataclass(frozen=True, eq=False)
class Passes:
    steps: tuple[Pass, ...]

    @property
    def roots(self) -> tuple[Expr, ...]:
        return tuple(step.root for step in self.steps)

    @property
    def leaves(self) -> frozenset[Buffer]:
        """The buffers that stand for results and for elements that are kept."""
        return frozenset(
            leaf for step in self.steps for leaf in (step.leaf, step.keeps) if leaf is not None
        )


def row_passes(form: RowForm, keep: Keep) -> Passes:
    """The passes of a row kernel."""
    known: dict[Value, Given] = {}  # numbers of the row
    kept: dict[Value, Given] = {}
    steps: list[Pass] = []
    order: list[Node] = [form.node_of(value) for value in form.per_row]
    for place, node in enumerate(order):
        is_reduction = node in form.reductions
        value = node.inputs[0] if is_reduction else node.output
        index = form.index if is_reduction else form.row_index(value)
        root = form.elements.with_given({**known, **kept}).element(value, index, None)
        leaf, keeps = Buffer("v", node.output.dtype, node.output.shape), None
        later = [*_roots(form, order[place + 1 :]), form.elements.output]
        known[node.output] = _given(form, form.elements.with_given(known), node.output, leaf)
        if is_reduction and _is_kept(form, keep, value, root, later, known.keys(), kept):
            keeps = Buffer("h", value.dtype, value.shape)
            if keep is Keep.ONE:
                kept.clear()
            kept[value] = _given(form, form.elements.with_given(dict(known)), value, keeps)
        steps.append(Pass(node if is_reduction else node.output, root, leaf, keeps))
    output = form.elements.output
    root = form.elements.with_given({**known, **kept}).element(output, form.out_index, None)
    return Passes((*steps, Pass(None, root, form.elements.out)))


def _roots(form: RowForm, nodes: Sequence[Node]) -> list[Value]:
    return [
        value
        for node in nodes
        for value in (node.inputs[:1] if node in form.reductions else node.inputs)
    ]


def _given(form: RowForm, elements: Elements, value: Value, leaf: Buffer) -> Given:
    """What stands for an element that is known: only where it is one of the present row at the
    present place."""

    def read(index: Sequence[object]) -> Expr:
        load = Load(leaf, tuple(index))  # type: ignore[arg-type]
        if form.is_dense(load) or form.is_of_row(load):
            return load
        return elements.element(value, load.index, None)

    return read


def _is_kept(
    form: RowForm,
    keep: Keep,
    value: Value,
    root: Expr,
    later: Sequence[Value],
    known: Set[Value],
    kept: Mapping[Value, Given],
) -> bool:
    """Whether an element is kept for later passes."""
    if value in kept or not _is_used(form, value, later, known):
        return False
    match keep:
        case Keep.ALL:
            return True
        case Keep.COMPUTED:
            return value in form.elements.graph.producers
        case Keep.ONE:
            is_needed = any(_is_used(form, other, later, {*known, value}) for other in kept)
            return value.dtype is form.elements.output.dtype and _is_dear(root) and not is_needed
    return False


def _is_used(form: RowForm, value: Value, later: Sequence[Value], known: Set[Value]) -> bool:
    """Whether later passes are made of a value, other than through what is known."""
    producers = form.elements.graph.producers
    stack, seen = list(later), set(known)
    while stack:
        found = stack.pop()
        if found is value:
            return True
        if found not in seen:
            seen.add(found)
            stack += producers[found].inputs if found in producers else ()
    return False


def _is_dear(root: Expr) -> bool:
    """Whether making an element costs more than reading it."""
    nodes = scalar.post_order([root])
    return any(
        (isinstance(n, Call) and n.function not in CHEAP) or isinstance(n, Cast) for n in nodes
    )


__all__ = ["Keep", "Pass", "Passes", "row_passes"]
