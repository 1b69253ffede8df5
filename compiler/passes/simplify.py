"""Algebraic identities, as rules named by their equations.

All are exact for NaN, infinities and every rounding, ``pow`` taken as correctly rounded. So there
is no ``x * 0 => 0``, ``x - x => 0`` or ``pow(x, 1/2) => sqrt(x)``, which fail at NaN or -inf. One
liberty: the sign of a zero is free, so ``x + 0 => x`` holds although -0 + 0 is +0. A rule ``... =>
x`` holds only where x has the type of the whole: elsewhere the constant broadcasts x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from .. import dim
from .. import ops as _ops  # noqa: F401  (defines every op)
from ..constant import Constant
from ..graph import Graph, Value
from ..op import OPS
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
from ..scalar import SCALAR_FUNCTIONS
from ..tensor_type import broadcast_shapes


def simplify(graph: Graph, explain: Explain | None = None) -> Graph:
    """The graph after no identity applies any more."""
    return apply_rules(graph, _rules(), explain)


@cache
def _rules() -> RuleSet:
    return RuleSet([*_identities(), *_arithmetic(), *_movement(), *_reductions(), *_absorptions()])


def _is_type_kept(m: Match) -> bool | str:
    return m.x.type == m.root.output.type or "x is broadcast"


def _to_x(name: str, pattern: Callable[[PatternBuilder], Applied]) -> Rule:
    return Rule(name, pattern, lambda b, m: m.x, _is_type_kept)


# -- from the facts of the ops ---------------------------------------------------------------------


def _identities() -> list[Rule]:
    rules = []
    for op in OPS.values():
        if op.identity is not None:
            numbers = (0.0, -0.0) if op.identity == 0 else (op.identity,)
            rules += [_identity(op.name, number) for number in numbers]
        if op.idempotent:
            rules.append(_idempotent(op.name))
    return rules


def _identity(op: str, number: float) -> Rule:
    return _to_x(f"{op}(x, {number}) => x", lambda p: p(op, p.x, number))


def _of_twice_x(op: str) -> Rule:
    return _to_x(f"{op}(x, x) => x", lambda p: p(op, p.x, p.x))


def _idempotent(op: str) -> Rule:
    return Rule(
        f"{op}({op}(x)) => {op}(x)",
        lambda p: p(op, p(op, p.x, node="inner"), node="outer"),
        lambda b, m: m.inner.output,
        lambda m: m.inner.attrs == m.outer.attrs or "the attributes differ",
    )


# -- arithmetic ------------------------------------------------------------------------------------


def _arithmetic() -> list[Rule]:
    return [
        _to_x("x - 0 => x", lambda p: p("sub", p.x, 0.0)),
        _to_x("x / 1 => x", lambda p: p("div", p.x, 1.0)),
        _to_x("pow(x, 1) => x", lambda p: p("pow", p.x, 1.0)),
        _to_x("-(-x) => x", lambda p: p("neg", p("neg", p.x))),
        _to_x("not not x => x", lambda p: p("not", p("not", p.x))),
        *(_of_twice_x(op) for op in ("max", "min", "and", "or")),
        _to_x("select(c, x, x) => x", lambda p: p("select", p.c, p.x, p.x)),
        _to_x("cast(x, its dtype) => x", lambda p: p("cast", p.x)),
        Rule("cast(cast(x, wider), its dtype) => x",
             lambda p: p("cast", p("cast", p.x, node="wide")),
             lambda b, m: m.x, _is_cast_back),
        Rule("x + (-y) => x - y", lambda p: p("add", p.x, p("neg", p.y)), lambda b,
             m: b("sub", m.x, m.y)),
        Rule("x - (-y) => x + y", lambda p: p("sub", p.x, p("neg", p.y)), lambda b,
             m: b("add", m.x, m.y)),
        Rule("-(x - y) => y - x", lambda p: p("neg", p("sub", p.x, p.y)), lambda b,
             m: b("sub", m.y, m.x)),
        Rule("select(not c, x, y) => select(c, y, x)",
             lambda p: p("select", p("not", p.c), p.x, p.y),
             lambda b, m: b("select", m.c, m.y, m.x)),
        Rule("select(true, x, y) => x", lambda p: p("select", p.c, p.x, p.y), lambda b, m: m.x,
             lambda m: _is_chosen(m, m.x, True)),
        Rule("select(false, x, y) => y", lambda p: p("select", p.c, p.x, p.y), lambda b, m: m.y,
             lambda m: _is_chosen(m, m.y, False)),
        Rule("x * -1 => -x", lambda p: p("mul", p.x, -1.0), lambda b, m: b("neg", m.x),
             _is_type_kept),
        Rule("pow(x, 2) => x * x", lambda p: p("pow", p.x, 2.0), lambda b, m: b("mul", m.x, m.x),
             _is_type_kept),
        Rule("pow(x, -1) => 1 / x", lambda p: p("pow", p.x, -1.0), lambda b, m: b("div", 1.0, m.x),
             _is_type_kept),
        Rule("pow(x, 0) => 1", lambda p: p("pow", p.x, 0.0), _one),
        Rule("x / 2^k => x * 2^-k", lambda p: p("div", p.x, p.c), _times_reciprocal,
             _is_power_of_two),
    ]  # fmt: skip


def _is_chosen(m: Match, value: Value, truth: bool) -> bool | str:
    constant = m.rewriter.constant_of(m.c)
    if constant is None or value.type != m.root.output.type:
        return "the condition is no constant" if constant is None else "the value is broadcast"
    return (
        bool(
            np.all(constant.splat_value == truth if constant.is_splat else constant.array == truth)
        )
        or "the condition varies"
    )


def _is_cast_back(m: Match) -> bool | str:
    source, wide = m.x.dtype, m.wide.output.dtype
    if m.root.output.dtype is not source:
        return "the dtypes differ"
    exact = source.is_float == wide.is_float and np.can_cast(source.numpy, wide.numpy, "safe")
    return exact or f"{wide.value} does not hold every {source.value}"


def _one(b: Rewriter, m: Match) -> Value:
    type = m.root.output.type
    return (
        b("broadcast", b.number(1.0, type.dtype), shape=type.shape)
        if type.shape
        else b.number(1.0, type.dtype)
    )


def _is_power_of_two(m: Match) -> bool | str:
    constant = m.rewriter.constant_of(m.c)
    if (
        constant is None
        or not constant.is_splat
        or not constant.type.dtype.is_float
        or not m.x.dtype.is_float
    ):
        return "the divisor is not a floating-point constant"
    value = float(constant.splat_value)
    exact = (
        math.isfinite(value)
        and abs(math.frexp(value)[0]) == 0.5
        and 2.0**-14 <= abs(value) <= 2.0**14
    )
    return exact or "1 / c is rounded"


def _times_reciprocal(b: Rewriter, m: Match) -> Value:
    divisor = b.constant_of(m.c)
    assert divisor is not None
    reciprocal = 1.0 / float(divisor.splat_value)
    if divisor.type.shape:
        return b("mul", m.x, b("constant", value=Constant.splat(reciprocal, divisor.type)))
    return b("mul", m.x, b.number(reciprocal, m.x.dtype))


# -- movement of elements --------------------------------------------------------------------------


def _movement() -> list[Rule]:
    return [
        _to_x("reshape(x, its shape) => x", lambda p: p("reshape", p.x)),
        Rule("reshape(reshape(x)) => reshape(x)",
             lambda p: p("reshape", p("reshape", p.x), shape=p.shape),
             lambda b, m: b("reshape", m.x, shape=m.shape)),
        Rule("transpose(x, identity) => x",
             lambda p: p("transpose", p.x, permutation=p.permutation),
             lambda b, m: m.x,
             lambda m: m.permutation == tuple(range(m.x.type.rank)) or "axes move"),
        Rule("transpose(transpose(x, p), q) => transpose(x, p[q])",
             lambda p: p("transpose", p("transpose", p.x, permutation=p.p), permutation=p.q),
             lambda b, m: b("transpose", m.x, permutation=tuple(m.p[axis] for axis in m.q))),
        _to_x("broadcast(x, its shape) => x", lambda p: p("broadcast", p.x)),
        Rule("broadcast(broadcast(x)) => broadcast(x)",
             lambda p: p("broadcast", p("broadcast", p.x), shape=p.shape),
             lambda b, m: b("broadcast", m.x, shape=m.shape)),
        Rule("slice(x, all of it) => x", lambda p: p("slice", p.x, step=p.step), lambda b, m: m.x,
             lambda m: (m.x.type == m.root.output.type and all(step == 1 for step in m.step)) or "a part is taken"),
        Rule("slice(slice(x)) => slice(x)",
             lambda p: p("slice", p("slice", p.x, node="inner"), node="outer"), _slice_of_slice),
        Rule("pad(x, nothing) => x", lambda p: p("pad", p.x, lo=p.lo, hi=p.hi), lambda b, m: m.x,
             lambda m: not any((*m.lo, *m.hi)) or "something is added"),
        _to_x("concat(x) => x", lambda p: p("concat", p.x)),
        Rule("gather(x, evenly spaced constants) => slice(x)",
             lambda p: p("gather", p.x, p.indices, axis=p.axis),
             _sliced,
             lambda m: _progression(m) is not None or "the indices are not evenly spaced constants "
                                                      "in range"),
    ]  # fmt: skip


def _slice_of_slice(b: Rewriter, m: Match) -> Value:
    inner, outer = m.inner.attrs, m.outer.attrs
    start = tuple(i + o * s for i, o, s in zip(inner.start, outer.start, inner.step, strict=True))
    step = tuple(i * o for i, o in zip(inner.step, outer.step, strict=True))
    return b("slice", m.x, start=start, size=outer.size, step=step)


def _progression(m: Match) -> tuple[int, int] | None:
    """Start and step of a gather's indices."""
    constant, extent = m.rewriter.constant_of(m.indices), m.x.shape[m.axis]
    if constant is None or constant.array.size == 0 or not isinstance(extent, int):
        return None
    indices = constant.array.reshape(-1).astype(np.int64)
    indices = np.where(indices < 0, indices + extent, indices)
    step = int(indices[1] - indices[0]) if indices.size > 1 else 1
    is_even = step != 0 and bool(np.all(np.diff(indices) == step))
    return (
        (int(indices[0]), step)
        if is_even and 0 <= indices.min() <= indices.max() < extent
        else None
    )


def _sliced(b: Rewriter, m: Match) -> Value:
    found = _progression(m)
    assert found is not None
    rank, shape = m.x.type.rank, m.root.output.shape
    start = tuple(found[0] if axis == m.axis else 0 for axis in range(rank))
    step = tuple(found[1] if axis == m.axis else 1 for axis in range(rank))
    count = dim.product(m.indices.shape)
    size = tuple(count if axis == m.axis else extent for axis, extent in enumerate(m.x.shape))
    part = b("slice", m.x, start=start, size=size, step=step)
    return part if part.shape == shape else b("reshape", part, shape=shape)


# -- reductions ------------------------------------------------------------------------------------


def _reductions() -> list[Rule]:
    names = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_product")
    return [_reduction_of_one(name) for name in names]


def _reduction_of_one(op: str) -> Rule:
    return Rule(
        f"{op}(x, axes of extent 1) => reshape(x)",
        lambda p: p(op, p.x, axes=p.axes),
        lambda b, m: b("reshape", m.x, shape=m.root.output.shape),
        lambda m: (
            all(m.x.shape[axis] == 1 for axis in m.axes) or "more than one element is reduced"
        ),
    )


# -- one op does the work of another ---------------------------------------------------------------


def _absorptions() -> list[Rule]:
    binary = [f.name for f in SCALAR_FUNCTIONS.values() if f.arity == 2 and f.name in OPS]
    return [
        *(_without_broadcast(op, 0) for op in binary),
        *(_without_broadcast(op, 1) for op in binary if not OPS[op].commutative),
        _transposed_operand("a"),
        _transposed_operand("b"),
        Rule("conv(pad(x, 0), w) => conv(x, w, more padding)",
             lambda p: p("conv", p("pad", p.x, mode="constant", node="pad"), p.w, node="conv"),
             _padded_conv, _is_zero_padding),
    ]  # fmt: skip


def _without_broadcast(op: str, place: int) -> Rule:
    """The op broadcasts its operand at ``place`` itself."""

    def pattern(p: PatternBuilder) -> Applied:
        operands: list[Pattern] = [p.x, p.y]
        operands[place] = p("broadcast", operands[place])
        return p(op, *operands)

    written = "x, broadcast(y)" if place else "broadcast(x), y"
    return Rule(
        f"{op}({written}) => {op}(x, y)",
        pattern,
        lambda b, m: b(op, m.x, m.y),
        lambda m: _is_broadcast_anyway(m.root.output.shape, [m.x, m.y]),
    )


def _is_broadcast_anyway(shape: object, values: Sequence[Value]) -> bool | str:
    return (
        broadcast_shapes([value.shape for value in values]) == shape
        or "only the broadcast gives the shape"
    )


def _transposed_operand(side: str) -> Rule:
    """The product transposes its operand ``side``, a or b, itself."""
    flag, place = f"transpose_{side}", "ab".index(side)

    def pattern(p: PatternBuilder) -> Applied:
        operands: list[Pattern] = [p.a, p.b]
        operands[place] = p("transpose", operands[place], permutation=p.permutation)
        return p("matmul", *operands, node="product")

    def made(b: Rewriter, m: Match) -> Value:
        attrs = vars(m.product.attrs)
        return b("matmul", m.a, m.b, **{**attrs, flag: not attrs[flag]})

    written = "a, b^T" if place else "a^T, b"
    return Rule(f"matmul({written}) => matmul(a, b, {flag})", pattern, made, _is_last_two_swapped)


def _is_last_two_swapped(m: Match) -> bool | str:
    rank = len(m.permutation)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    return m.permutation == swapped or "other axes move"


def _is_zero_padding(m: Match) -> bool | str:
    pad = m.pad.attrs
    if pad.value != 0:
        return "the padding is not zero"
    return not any((*pad.lo[:2], *pad.hi[:2])) or "samples or channels are added"


def _padded_conv(b: Rewriter, m: Match) -> Value:
    pad, conv = m.pad.attrs, m.conv.attrs
    lo = tuple(x + y for x, y in zip(conv.lo, pad.lo[2:], strict=True))
    hi = tuple(x + y for x, y in zip(conv.hi, pad.hi[2:], strict=True))
    attrs = replace(conv, lo=lo, hi=hi)
    return b.add(m.conv.op, [m.x, m.w], attrs, m.conv.label).output
