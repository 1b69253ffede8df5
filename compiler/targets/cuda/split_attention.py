"""Attention of few blocks = parts of its keys, and a kernel that merges them (as Flash-Decoding
does, Dao et al. 2023). Where a gradient asks for the numbers of its queries, they come from its
parts, of which there may be one.

``attention_parts`` is attention over one part of the keys after another, not divided yet: [parts,
.., l, e + 2], whose last two columns are each row's largest score and the sum of exp(score -
largest). ``attention_merged`` adds the parts up in order, each times exp(its largest - the largest
of all), and divides. How many parts there are depends on shapes alone; none has more than CHAIN
tiles of keys where the number of keys is known, since each tile is an addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf
from typing import TypeAlias

import numpy as np

from ... import scalar
from ...dim import Extent, bounds, product
from ...graph import Graph, Node, Value, finish, rebuilder
from ...op import OPS, Array, Compute, NotDifferentiable, Op, Read
from ...ops.attention import AttentionAttrs, exact_scores
from ...scalar import Expr
from ...tensor_type import TensorType
from .attention_form import block_tile, whole_type
from .attention_warps import WarpTile
from .devices import BLOCKS
from .forms import CHAIN, Engine, nominal

FEWEST_TILES = 2  # of keys in a part: shorter ones cost more to merge than they save
MOST_PARTS = 16  # one thread merges them
Whole: TypeAlias = tuple[tuple[Value, ...], AttentionAttrs]


@dataclass(frozen=True)
class PartsAttrs(AttentionAttrs):
    """``parts``: of the keys."""

    parts: int = 1


@dataclass(frozen=True)
class NumbersAttrs(AttentionAttrs):
    """``which``: "base", what a query's exponents count from, or "inverse", one over the sum of its
    weights."""

    which: str = "base"


def split_attention(graph: Graph, engine: Engine = Engine.FFMA) -> Graph:
    """The graph with each attention of few blocks, or of known queries' numbers, in parts."""
    b, mapping = rebuilder(graph)
    asked = {_whole(node) for node in graph.nodes if node.op is NUMBERS}
    known: dict[Whole, Value] = {}

    def parts_for(node: Node, inputs: Sequence[Value], parts: int) -> Value:
        if (found := known.get(_whole(node))) is None:
            attrs = PartsAttrs(**vars(_whole(node)[1]), parts=parts)
            found = known[_whole(node)] = b.add(PARTS, inputs, attrs, node.label).output
        return found

    for node in graph.nodes:
        inputs = [mapping[v] for v in node.inputs]
        is_fused = node.op.name == "attention_fused"
        parts = parts_of(node, engine) if is_fused or node.op is NUMBERS else 1
        if node.op is NUMBERS:
            found = parts_for(node, inputs, parts)
            mapping[node.output] = b.add(NUMBER, [found], node.attrs, node.label).output
        elif parts == 1 and not (is_fused and _whole(node) in asked):
            mapping.update(zip(node.outputs, b.copy(node, inputs), strict=True))
        else:
            found = parts_for(node, inputs, parts)
            mapping[node.output] = b.add(MERGED, [found], node.attrs, node.label).output
    return finish(b, graph, mapping)


def _whole(node: Node) -> Whole:
    """What an attention is of, and how."""
    attrs = node.attrs
    return node.inputs, AttentionAttrs(attrs.scale, attrs.is_causal, attrs.fill, attrs.has_zeros)


def parts_of(node: Node, engine: Engine = Engine.FFMA) -> int:
    """Into how many parts the keys are cut: as many as the device has room for."""
    *heads, queries, _ = whole_type(node).shape
    tile = block_tile(node, engine)
    keys = _most(node.inputs[1].shape[-2])
    blocks = nominal(product(heads)) * -(-_most(queries) // tile.rows)
    room = min(BLOCKS // max(blocks, 1), -(-keys // tile.keys) // FEWEST_TILES)
    # of the source that is taken where registers do not suffice
    shorter = tile.lighter() if isinstance(tile, WarpTile) else None
    longest = CHAIN * (shorter or tile).keys
    return max(1, min(max(room, -(-keys // longest)), MOST_PARTS))


def _most(extent: Extent) -> int:
    """The largest that an extent may be; what forms take it for if that is not known."""
    high = bounds(extent)[1]
    return nominal(extent) if high is None else int(high)


def _parts_infer(attrs: PartsAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (whole,) = OPS["attention_fused"].infer(attrs, inputs)
    *rest, width = whole.shape
    return [whole.with_shape((attrs.parts, *rest, width + 2))]


def _parts_reference(
    attrs: PartsAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    """All in the first part: which keys are in which, is left to the code."""
    merged = _merged_infer(attrs, outputs)
    (whole,) = OPS["attention_fused"].reference(attrs, inputs, merged)
    found = np.zeros((attrs.parts, *whole.shape[:-1], whole.shape[-1] + 2), whole.dtype)
    found[0, ..., :-2], found[0, ..., -1], found[1:, ..., -2] = whole, 1, -inf
    return [found]


def _merged_infer(_attrs: AttentionAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (parts,) = inputs
    width = parts.shape[-1]
    assert isinstance(width, int)
    return [parts.with_shape((*parts.shape[1:-1], width - 2))]


def _merged_reference(
    attrs: AttentionAttrs, inputs: Sequence[Array], _outputs: Sequence[TensorType]
) -> Sequence[Array]:
    made, largest, totals = np.split(inputs[0].astype(np.float64), (-2, -1), axis=-1)
    with np.errstate(all="ignore"):
        base = largest.max(axis=0)
        factors = np.exp(largest - np.where(base == -inf, 0, base))
        total = (factors * totals).sum(axis=0)
        merged = (factors * made).sum(axis=0) / total
    merged = np.where(total == 0, 0, merged) if attrs.has_zeros else merged
    return [merged.astype(inputs[0].dtype)]


def _merged_compute(
    attrs: AttentionAttrs, inputs: Sequence[TensorType], _outputs: Sequence[TensorType]
) -> Compute:
    parts, *_, columns = inputs[0].shape
    assert isinstance(parts, int) and isinstance(columns, int)

    def term(index: tuple[Extent, ...], _reduce: tuple[Extent, ...], read: Read) -> Expr:
        base, factors, total = _totals(parts, columns, index[:-1], read)
        made = _all_at(parts, (*index[:-1], index[-1]), read)
        merged = _sum(factors, made) / total
        if not attrs.has_zeros:
            return merged
        zero = scalar.literal(0, base.dtype)
        return scalar.select(scalar.call("equal", total, zero), zero, merged)

    return Compute(term)


def _all_at(parts: int, index: tuple[Extent, ...], read: Read) -> list[Expr]:
    return [read(0, [part, *index]) for part in range(parts)]


def _totals(
    parts: int, columns: int, row: tuple[Extent, ...], read: Read
) -> tuple[Expr, list[Expr], Expr]:
    """What a query's exponents count from, each part's factor, and the sum of weights."""
    largest, totals = (_all_at(parts, (*row, columns - place), read) for place in (2, 1))
    most = reduce(scalar.maximum, largest)
    zero = scalar.literal(0, most.dtype)
    base = scalar.select(scalar.call("equal", most, -inf), zero, most)
    factors = [scalar.exp(one - base) for one in largest]
    return base, factors, _sum(factors, totals)


def _numbers_infer(attrs: NumbersAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (whole,) = OPS["attention"].infer(attrs, inputs)
    return [whole.with_shape(whole.shape[:-1])]


def _numbers_reference(
    attrs: NumbersAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    """All weights count from 0."""
    q, k, _, *mask = inputs
    if attrs.which == "base":
        return [np.zeros(outputs[0].static_shape, q.dtype)]
    with np.errstate(all="ignore"):
        total = np.exp(exact_scores(attrs, q, k, mask)).sum(axis=-1)
        is_empty = (total == 0) & attrs.has_zeros
        return [np.where(is_empty, 0, 1 / total).astype(q.dtype)]


def _number_infer(_attrs: NumbersAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (parts,) = inputs
    return [parts.with_shape(parts.shape[1:-1])]


def _number_reference(
    attrs: NumbersAttrs, inputs: Sequence[Array], _outputs: Sequence[TensorType]
) -> Sequence[Array]:
    _, largest, totals = np.split(inputs[0].astype(np.float64), (-2, -1), axis=-1)
    with np.errstate(all="ignore"):
        base = largest.max(axis=0)
        base = np.where(base == -inf, 0, base)
        total = (np.exp(largest - base) * totals).sum(axis=0)
        inverse = np.where((total == 0) & attrs.has_zeros, 0, 1 / total)
    found = base if attrs.which == "base" else inverse
    return [found[..., 0].astype(inputs[0].dtype)]


def _number_compute(
    attrs: NumbersAttrs, inputs: Sequence[TensorType], _outputs: Sequence[TensorType]
) -> Compute:
    parts, *_, columns = inputs[0].shape
    assert isinstance(parts, int) and isinstance(columns, int)

    def term(index: tuple[Extent, ...], _reduce: tuple[Extent, ...], read: Read) -> Expr:
        base, _, total = _totals(parts, columns, index, read)
        if attrs.which == "base":
            return base
        inverse = scalar.literal(1, base.dtype) / total
        if not attrs.has_zeros:
            return inverse
        zero = scalar.literal(0, base.dtype)
        return scalar.select(scalar.call("equal", total, zero), zero, inverse)

    return Compute(term)


def _sum(factors: Sequence[Expr], terms: Sequence[Expr]) -> Expr:
    """In order of the parts."""
    total = factors[0] * terms[0]
    for factor, value in zip(factors[1:], terms[1:], strict=True):
        total = scalar.call("fma", factor, value, total)
    return total


_SPLIT = NotDifferentiable("it is made after differentiation")
PARTS = Op("attention_parts", "attention over parts of the keys, each with its largest score and sum",
           _parts_infer, _parts_reference, _SPLIT, PartsAttrs, "attention")  # fmt: skip
MERGED = Op("attention_merged", "attention from its parts", _merged_infer, _merged_reference,
            _SPLIT, AttentionAttrs, "attention", _merged_compute)  # fmt: skip

NUMBERS = Op("attention_numbers", "of each query of an attention, one number", _numbers_infer,
             _numbers_reference, _SPLIT, NumbersAttrs, "attention")  # fmt: skip
NUMBER = Op("attention_number", "of each query, one number from an attention's parts",
            _number_infer, _number_reference, _SPLIT, NumbersAttrs, "attention",
            _number_compute)  # fmt: skip

__all__ = [
    "MERGED",
    "NUMBERS",
    "PARTS",
    "NumbersAttrs",
    "PartsAttrs",
    "parts_of",
    "split_attention",
]
