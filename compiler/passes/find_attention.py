"""Attention found among products and a softmax: softmax(scale * Q K' + mask) V becomes one op, for
strategies to choose from.

Q K' may be scaled before or after the product, and masked by adding numbers, by a condition, or by
both a mask and the condition that no query sees a later key. A condition that is that triangle
becomes ``is_causal``. Where rows whose mask is -inf are made zeros (the ONNX standard's Attention),
the op has zeros wherever all scores are -inf. The softmax of short floats is one of float32, between
two casts. It holds only where nobody else reads the scores or the weights made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import inf
from typing import Any

import numpy as np

from ..constant import Constant
from ..graph import Graph, Node, Value
from ..ops.attention import AttentionAttrs
from ..rewrite import (
    Applied,
    Explain,
    Match,
    Pattern,
    PatternBuilder,
    Rewriter,
    Rule,
    RuleSet,
    apply_rules,
)
from ..tensor_type import BOOL, FLOAT32, TensorType, broadcast_shapes

SCALES = {"": "{}", "*": "{} * x", "/": "{} / x"}
MASKS = {"": "{}", "+": "{} + mask", "?": "select(mask, {}, fill)", "!": "select(mask, fill, {})"}
TRIANGLES = {"": "{}", "?": "select(triangle, {}, hidden)"}
WIDTHS = {"": "softmax({})", "f": "cast(softmax(cast({})))"}
EMPTY = {"": "{}", "?": "select(max(mask) = -inf, 0, {})"}


def find_attention(graph: Graph, explain: Explain | None = None) -> Graph:
    """The graph with every attention as one op."""
    has_short = any(node.op.name == "matmul" and _is_short(node.output) for node in graph.nodes)
    return apply_rules(graph, _rules(tuple(WIDTHS) if has_short else ("",)), explain)


@cache
def _rules(widths: tuple[str, ...]) -> RuleSet:
    """Those of the keys of WIDTHS: each rule is tried at each product, which takes time."""
    forms = (
        _Form(*parts)
        for parts in product(SCALES, MASKS, TRIANGLES, EMPTY, widths)
        if not parts[3] or parts[1:3] == ("+", "")
    )
    return RuleSet([*(form.rule() for form in forms), *_scaled_operands()])


# -- products and a softmax ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """What is done to the scores between the product and the softmax, as a key of each table."""

    scale: str
    mask: str
    triangle: str
    empty: str
    width: str

    def rule(self) -> Rule:
        """The rule that makes this form one op."""
        scores = "q k'"
        for table, key in (
            (SCALES, self.scale),
            (MASKS, self.mask),
            (TRIANGLES, self.triangle),
            (WIDTHS, self.width),
            (EMPTY, self.empty),
        ):
            scores = table[key].format(scores)
        return Rule(
            f"{scores} v => attention(q, k, v)",
            self._pattern,
            self._made,
            self._check,
        )

    def _pattern(self, p: PatternBuilder) -> Applied:
        scores: Applied = p(
            "matmul", p.q, p.k, transpose_a=False, transpose_b=p.is_transposed, node="made"
        )
        match self.scale:
            case "*":
                scores = p("mul", scores, p.factor, node="scaled")
            case "/":
                scores = p("div", scores, p.factor, node="scaled")
        match self.mask:
            case "+":
                scores = p("add", scores, p.mask, node="masked")
            case "?":
                scores = p("select", p.mask, scores, p.fill, node="masked")
            case "!":
                scores = p("select", p.mask, p.fill, scores, node="masked")
        if self.triangle:
            scores = p("select", p.triangle, scores, p.hidden, node="hiding")
        if self.width:
            scores = p("cast", scores, node="wide")
        axes: Any = p.axes
        power = p(
            "exp", p("sub", scores, p("reduce_max", scores, axes=axes, keep=True)), node="power"
        )
        weights = p("div", power, p("reduce_sum", power, axes=axes, keep=True), node="weights")
        if self.width:
            weights = p("cast", weights, node="narrow")
        if self.empty:
            largest = p("reduce_max", p.mask, axes=p.mask_axes, keep=True)
            weights = p("select", p("equal", largest, -inf), 0.0, weights, node="kept")
        return p("matmul", weights, p.v, transpose_a=False, transpose_b=p.is_v_transposed)

    def _check(self, m: Match) -> bool | str:
        scores = m.made.output.type
        if m.axes != (scores.rank - 1,):
            return "the softmax is along another axis"
        if not scores.dtype.is_float:
            return "the scores are no floats"
        if self.width and not (
            _is_short(m.made.output)
            and m.wide.output.dtype is FLOAT32
            and m.narrow.output.dtype is scores.dtype
        ):
            return "the softmax is of another type than float32 of short floats"
        if self.scale and _number(m, m.factor) is None:
            return "the scores are not scaled by one number"
        if self.mask and broadcast_shapes([m.mask.shape, scores.shape]) != scores.shape:
            return "the mask has axes of its own"
        if self.mask in ("?", "!") and _number(m, m.fill) is None:
            return "what is put behind the mask is not one number"
        if self.triangle and not (
            _is_triangle(m, m.triangle, scores) and _number(m, m.hidden) == -inf
        ):
            return "the outer condition does not hide the keys behind each query"
        steps = [
            m.bound[name].output
            for name in ("made", "scaled", "masked", "hiding", "wide")
            if name in m.bound
        ]
        made = [m.bound[name].output for name in ("weights", "narrow", "kept") if name in m.bound]
        if self.empty and (
            m.mask_axes != (m.mask.type.rank - 1,) or m.mask.shape[-1] != scores.shape[-1]
        ):
            return "rows without keys are told otherwise"
        is_read = any(m.rewriter.uses(value) != 1 for value in (*steps[:-1], *made))
        if is_read or any(m.rewriter.uses(value) != 2 for value in (steps[-1], m.power.output)):
            return "something else reads the scores or weights"
        return True

    def _made(self, b: Rewriter, m: Match) -> Value:
        k = m.k if m.is_transposed else _swapped(b, m.k)
        v = _swapped(b, m.v) if m.is_v_transposed else m.v
        attrs = AttentionAttrs(is_causal=bool(self.triangle), has_zeros=bool(self.empty))
        if self.scale:
            factor = _number(m, m.factor)
            assert factor is not None
            attrs = replace(attrs, scale=factor if self.scale == "*" else 1.0 / factor)
        mask: list[Value] = []
        if self.mask:
            attrs, mask = self._masked(b, m, attrs)
        return b("attention", m.q, k, v, *mask, **vars(attrs))

    def _masked(
        self, b: Rewriter, m: Match, attrs: AttentionAttrs
    ) -> tuple[AttentionAttrs, list[Value]]:
        scores = m.made.output.type
        if self.mask == "+":
            if _hides_behind(b.constant_of(m.mask), scores):
                return replace(attrs, is_causal=True), []
            return attrs, [m.mask]
        fill = _number(m, m.fill)
        assert fill is not None
        if fill == -inf and self.mask == "?" and _is_triangle(m, m.mask, scores):
            return replace(attrs, is_causal=True), []
        return replace(attrs, fill=fill), [m.mask if self.mask == "?" else b("not", m.mask)]


def _is_short(value: Value) -> bool:
    return value.dtype.is_float and value.dtype.bytes < FLOAT32.bytes


def _number(m: Match, value: Value) -> float | None:
    """The number that a value holds everywhere."""
    constant = m.rewriter.constant_of(value)
    return float(constant.splat_value) if constant is not None and constant.is_splat else None


def _swapped(b: Rewriter, x: Value) -> Value:
    """The last two axes exchanged; of what is such an exchange already, its source."""
    rank = x.type.rank
    order = (*range(rank - 2), rank - 1, rank - 2)
    node = b.producers.get(x)
    if node is not None and node.op.name == "transpose":
        inner = tuple(node.attrs.permutation[axis] for axis in order)
        source = node.inputs[0]
        return source if inner == tuple(range(rank)) else b("transpose", source, permutation=inner)
    return b("transpose", x, permutation=order)


def _is_triangle(m: Match, value: Value, scores: TensorType) -> bool:
    """Whether a condition holds just where a key is not behind its query."""
    constant = m.rewriter.constant_of(value)
    if constant is not None:
        return (
            value.dtype is BOOL
            and _is_matrix(constant, scores)
            and _equals_triangle(constant.array)
        )
    node = m.rewriter.producers.get(value)
    if node is None or node.op.name != "less_equal" or value.shape != scores.shape[-2:]:
        return False
    return [_counted_axis(m.rewriter.producers.get(side)) for side in node.inputs] == [1, 0]


def _counted_axis(node: Node | None) -> int | None:
    return node.attrs.axis if node is not None and node.op.name == "iota" else None


def _hides_behind(constant: Constant | None, scores: TensorType) -> bool:
    """Whether added numbers are 0 where a key is not behind its query, else -inf."""
    if constant is None or not _is_matrix(constant, scores):
        return False
    array = constant.array
    return bool(np.all((array == 0) | (array == -inf))) and _equals_triangle(array == 0)


def _is_matrix(constant: Constant, scores: TensorType) -> bool:
    shape = constant.type.shape
    return shape[-2:] == scores.shape[-2:] and all(extent == 1 for extent in shape[:-2])


def _equals_triangle(array: Any) -> bool:
    matrix = array.reshape(array.shape[-2:])
    return bool(np.array_equal(matrix, np.tri(*matrix.shape, dtype=np.bool_)))


# -- scaled operands -------------------------------------------------------------------------------


def _scaled_operands() -> Iterator[Rule]:
    for operand, masked in product("qk", (False, True)):
        yield _scaled_operand(operand, masked)


def _scaled_operand(operand: str, is_masked: bool) -> Rule:
    """attention(q * x, k, v; scale) => attention(q, k, v; scale * x), or of k."""
    mask = ", mask" if is_masked else ""
    name = f"attention(q, k * x, v{mask})" if operand == "k" else f"attention(q * x, k, v{mask})"

    def pattern(p: PatternBuilder) -> Applied:
        operands: list[Pattern] = [p.q, p.k, p.v, *([p.mask] if is_masked else [])]
        place = "qk".index(operand)
        operands[place] = p("mul", operands[place], p.factor)
        return p("attention", *operands, node="whole")

    def made(b: Rewriter, m: Match) -> Value:
        factor = _number(m, m.factor)
        assert factor is not None
        attrs = replace(m.whole.attrs, scale=m.whole.attrs.scale * factor)
        return b("attention", m.q, m.k, m.v, *([m.mask] if is_masked else []), **vars(attrs))

    def check(m: Match) -> bool | str:
        is_kept = m.bound[operand].type == m.whole.inputs["qk".index(operand)].type
        return (is_kept and _number(m, m.factor) is not None) or "it is not scaled by one number"

    return Rule(f"{name} => attention(q, k, v{mask}; scale * x)", pattern, made, check)
