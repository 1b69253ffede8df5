"""Scales and shifts by constants move into the weights and the bias of the convolution or product
before them.

A batch normalization in inference form is ``y * s + t`` with constants per channel, so this folds
it away. The result is rounded differently (each rule moves one rounding from the activations to the
weights), within the ops' budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..dim import Extent
from ..graph import Graph, Value
from ..rewrite import Applied, Explain, Match, PatternBuilder, Rewriter, Rule, RuleSet, apply_rules
from .fold_constants import fold_constants

Verdict: TypeAlias = bool | str
Check: TypeAlias = Callable[[Match], Verdict]
Rewrite: TypeAlias = Callable[[Rewriter, Match], Value]


def fold_batchnorm(graph: Graph, explain: Explain | None = None) -> Graph:
    """The graph with constant factors and terms folded into constant weights."""
    new = apply_rules(graph, _RULES, explain)
    return graph if new is graph else fold_constants(new)


# -- one family of rules per op that multiplies by weights -----------------------------------------


def _rules_of(op: str, scaled: Rewrite, can_scale: Check) -> list[Rule]:
    def product(p: PatternBuilder) -> Applied:
        return p(op, p.x, p.w, node="product")

    def shifted(p: PatternBuilder) -> Applied:
        return p("add", product(p), p.t, node="sum")

    def scaled_sum(b: Rewriter, m: Match) -> Value:
        return b("add", scaled(b, m), b("mul", m.t, m.s))

    def can_scale_sum(m: Match) -> Verdict:
        verdict = _is_sum_ours(m)
        return can_scale(m) if verdict is True else verdict

    return [
        Rule(f"{op}(x, w) * s => {op}(x, w * s)",
             lambda p: p("mul", product(p), p.s), scaled, can_scale),
        Rule(f"({op}(x, w) + t) * s => {op}(x, w * s) + t * s",
             lambda p: p("mul", shifted(p), p.s), scaled_sum, can_scale_sum),
        Rule(f"({op}(x, w) + t) + u => {op}(x, w) + (t + u)",
             lambda p: p("add", shifted(p), p.u),
             lambda b, m: b("add", m.product.output, b("add", m.t, m.u)), _can_join),
        Rule(f"{op}(x, w) - t => {op}(x, w) + (-t)",
             lambda p: p("sub", product(p), p.t),
             lambda b, m: b("add", m.product.output, b("neg", m.t)), _can_negate),
        Rule(f"({op}(x, w) + t) - u => {op}(x, w) + (t - u)",
             lambda p: p("sub", shifted(p), p.u),
             lambda b, m: b("add", m.product.output, b("sub", m.t, m.u)), _can_join),
    ]  # fmt: skip


def _scaled_conv(b: Rewriter, m: Match) -> Value:
    """w [o, c, kh, kw] times s as [o, 1, 1, 1]."""
    return _scaled(b, m, 0)


def _scaled_conv_input_gradient(b: Rewriter, m: Match) -> Value:
    """w [o, c, kh, kw] times s as [1, c, 1, 1]."""
    return _scaled(b, m, 1)


def _scaled_matmul(b: Rewriter, m: Match) -> Value:
    """w [k, n] times s as [1, n], or w [n, k] times s as [n, 1]."""
    rank = m.w.type.rank
    return _scaled(b, m, rank - 2 if m.product.attrs.transpose_b else rank - 1)


def _scaled(b: Rewriter, m: Match, axis: int) -> Value:
    """The product with w scaled along one of its axes."""
    shape = tuple(m.s.type.elements if i == axis else 1 for i in range(m.w.type.rank))
    return b.copy(m.product, [m.x, b("mul", m.w, b("reshape", m.s, shape=shape))])[0]


# -- checks ----------------------------------------------------------------------------------------


def _can_scale_channels(m: Match) -> Verdict:
    return _can_scale(m, axis=1)


def _can_scale_columns(m: Match) -> Verdict:
    return _can_scale(m, axis=m.product.output.type.rank - 1)


def _can_scale_ungrouped(m: Match) -> Verdict:
    return (
        _can_scale(m, axis=1)
        if m.product.attrs.groups == 1
        else "its groups share the channel axis of w"
    )


def _can_scale(m: Match, axis: int) -> Verdict:
    product = m.product.output
    if not m.is_constant(m.w, m.s):
        return "w and s must be constants"
    if not m.is_only_use(product):
        return "the product is also used elsewhere"
    if not m.w.dtype.is_float:
        return "integers are not scaled"
    if product.type != m.root.output.type or not _varies_along(m.s.shape, product.shape, axis):
        return f"s varies along other axes than {axis}"
    return True


def _varies_along(shape: Sequence[Extent], target: Sequence[Extent], axis: int) -> bool:
    """Whether a broadcast of ``shape`` to ``target`` varies along ``axis`` only."""
    offset = len(target) - len(shape)
    return offset >= 0 and all(extent == 1 or offset + i == axis for i, extent in enumerate(shape))


def _is_sum_ours(m: Match) -> Verdict:
    if not m.is_constant(m.t):
        return "t must be a constant"
    return m.is_only_use(m.sum.output) or "the sum is also used elsewhere"


def _can_join(m: Match) -> Verdict:
    verdict = _is_sum_ours(m)
    if verdict is not True:
        return verdict
    if not m.is_constant(m.u):
        return "u must be a constant"
    product = m.product.output
    return (
        product.dtype.is_float and product.type == m.root.output.type
    ) or "the product is broadcast, or of integers"


def _can_negate(m: Match) -> Verdict:
    return m.is_constant(m.t) or "t must be a constant"


_RULES = RuleSet([
    *_rules_of("conv", _scaled_conv, _can_scale_channels),
    *_rules_of("conv_input_gradient", _scaled_conv_input_gradient, _can_scale_ungrouped),
    *_rules_of("matmul", _scaled_matmul, _can_scale_columns),
])  # fmt: skip
