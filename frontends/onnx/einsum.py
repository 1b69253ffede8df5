"""Einsum -> transposed, batched products, two operands at a time.

Axes of an ellipsis get letters of their own, counted from the last; a letter that stands twice in a
term is a diagonal.
"""

from __future__ import annotations

from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import MAX_RANK

from .context import Context
from .handler import HandlerTable
from .names import printable
from .node import ModelNode

EINSUM: Final = HandlerTable()
# letters that no equation holds
ELLIPSIS: Final = "".join(chr(0xE000 + k) for k in range(MAX_RANK))

Operand = tuple[str, Value]  # a letter for each axis


@EINSUM.on("Einsum", first=12)
def einsum(context: Context, node: ModelNode) -> Value:
    """The sum over every letter that the result lacks, of the operands' products."""
    terms, result = _parsed(node)
    operands = [
        _diagonal(context, term, value) for term, value in zip(terms, node.present, strict=True)
    ]
    operands = _without_repeated(context, operands)
    _check_extents(node, operands)
    while len(operands) > 1:
        first, second, *rest = operands
        wanted = result + "".join(term for term, _ in rest)
        operands = [_pair(context, first, second, wanted), *rest]
    term, value = _summed(context, *operands[0], result)
    return _arranged(context, term, value, result)


def _parsed(node: ModelNode) -> tuple[list[str], str]:
    """Letters of the operands and of the result, those of ellipses put in."""
    equation = node.text("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = [
        _with_letters(node, term, value)
        for term, value in zip(left.split(","), node.present, strict=False)
    ]
    used = "".join(terms)
    hidden = "".join(letter for letter in ELLIPSIS if letter in used)
    if not arrow:
        result = hidden + "".join(sorted(c for c in set(used) - set(hidden) if used.count(c) == 1))
    result = result.replace("...", hidden)
    is_sound = (
        left.count(",") == len(node.inputs) - 1
        and set(result) <= set(used)
        and len(set(result)) == len(result)
    )
    if not is_sound or not all(c.isalpha() or c in hidden for c in used):
        raise node.fault(
            f"the equation {printable(equation)!r} does not fit its inputs.", "Export it again."
        )
    return terms, result


def _with_letters(node: ModelNode, term: str, value: Value) -> str:
    """A letter for each axis of an operand."""
    missing = value.type.rank - len(term.replace("...", ""))
    is_open = term.count("...") == 1
    if missing < 0 or (missing and not is_open) or term.replace("...", "").count("."):
        raise node.misshapen(
            f"the term {printable(term)!r} does not fit {value.type}.", "Export it again."
        )
    return term.replace("...", ELLIPSIS[MAX_RANK - missing :])


def _diagonal(context: Context, term: str, value: Value) -> Operand:
    """The diagonal of axes that share a letter: of the flat tensor, every element e + 1 after
    the last.
    """
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            rest = [axis for axis in range(len(term)) if axis not in (first, second)]
            extent = value.shape[first]
            if value.shape[second] != extent or not isinstance(extent, int):
                raise ValueError(
                    f"there is no diagonal of {extent} and {value.shape[second]} elements"
                )
            moved = context.transpose(value, [*rest, first, second])
            flat = context.reshape(moved, (*moved.shape[:-2], extent * extent))
            value = context.slice(
                flat,
                (0,) * flat.type.rank,
                (*flat.shape[:-1], extent),
                (*(1,) * len(rest), extent + 1),
            )
            term = "".join(term[axis] for axis in rest) + letter
    return term, value


def _without_repeated(context: Context, operands: list[Operand]) -> list[Operand]:
    """An axis of extent 1 goes where another operand is longer."""
    longer = {
        c
        for term, value in operands
        for c, extent in zip(term, value.shape, strict=True)
        if extent != 1
    }
    result = []
    for term, value in operands:
        kept = [axis for axis, c in enumerate(term) if c not in longer or value.shape[axis] != 1]
        shape = tuple(value.shape[axis] for axis in kept)
        result.append(("".join(term[axis] for axis in kept), context.reshape(value, shape)))
    return result


def _check_extents(node: ModelNode, operands: list[Operand]) -> None:
    known: dict[str, Extent] = {}
    for term, value in operands:
        for letter, extent in zip(term, value.shape, strict=True):
            if known.setdefault(letter, extent) != extent:
                raise node.misshapen(f"the letter {printable(letter)!r} stands for {known[letter]} and {extent}.",
                                     "Export it again.")  # fmt: skip


def _summed(context: Context, term: str, value: Value, wanted: str) -> Operand:
    """Sums over the letters that nobody else needs."""
    axes = tuple(axis for axis, letter in enumerate(term) if letter not in wanted)
    if not axes:
        return term, value
    return "".join(c for c in term if c in wanted), context(
        "reduce_sum", value, axes=axes, keep=False
    )


def _arranged(context: Context, term: str, value: Value, order: str) -> Value:
    return context.transpose(value, [term.index(letter) for letter in order])


def _pair(context: Context, first: Operand, second: Operand, wanted: str) -> Operand:
    """[batch, rows, inner] @ [batch, inner, columns]."""
    a, x = _summed(context, *first, wanted + second[0])
    b, y = _summed(context, *second, wanted + first[0])
    batch = "".join(c for c in a if c in b and c in wanted)
    inner = "".join(c for c in a if c in b and c not in wanted)
    rows, columns = ("".join(c for c in t if c not in batch + inner) for t in (a, b))
    extents = dict(zip(a + b, x.shape + y.shape, strict=True))

    def grouped(term: str, value: Value, *groups: str) -> Value:
        moved = _arranged(context, term, value, batch + "".join(groups))
        lead = tuple(extents[c] for c in batch)
        return context.reshape(
            moved, (*lead, *(dim.product([extents[c] for c in group]) for group in groups))
        )

    out = context("matmul", grouped(a, x, rows, inner), grouped(b, y, inner, columns))
    order = batch + rows + columns
    return order, context.reshape(out, tuple(extents[c] for c in order))
