"""Kernels that reduce rows several times: their passes as a form, and its source.

The lanes of a row take every lanes-th term each, in chains of at most CHAIN; their sums end in a
fixed tree, and all lanes read its root. Each pass reads the row again: from the caches, if it is
not too long for them."""

from __future__ import annotations

from collections.abc import Mapping

from ... import scalar
from ...graph import Node
from ...loops.elements import accumulated_in, neutral_of, widened
from ...loops.ir import Buffer, Load
from ...loops.row_form import RowForm
from ...loops.row_passes import Keep, row_passes
from ...scalar import Argument, Expr
from ...tensor_type import DType
from .forms import CHAIN, FEW_TERMS, THREADS, RowPasses, Sum, count, nominal
from .printer import Printer


def pass_form(form: RowForm) -> RowPasses:
    """The passes of a row kernel."""
    numbers: dict[Buffer, Argument] = {}
    steps: list[Sum | Expr] = []

    def known(root: Expr) -> Expr:
        return scalar.rebuild(
            root, lambda n: numbers.get(n.buffer) if isinstance(n, Load) else None
        )

    *found, last = row_passes(form, Keep.NOTHING).steps
    for step in found:
        if isinstance(step.makes, Node):
            compute, dtype = form.elements.computes[step.makes], accumulated_in(step.leaf.dtype)
            term = widened(known(step.root), dtype)
            steps.append(Sum(term, compute.combine, neutral_of(compute, dtype), step.leaf.dtype))
        else:
            steps.append(known(step.root))
        numbers[step.leaf] = Argument(len(steps) - 1, step.leaf.dtype)
    return RowPasses(
        form.pure,
        form.reduced,
        tuple(steps),
        form.out_index,
        known(last.root),
        form.is_row,
        _lanes(form),
    )


def _lanes(form: RowForm) -> int:
    """How many threads share a row."""
    terms = nominal(form.length)
    if terms < FEW_TERMS:
        return 1
    lanes = 32
    while lanes < THREADS and lanes * 4 < terms:
        lanes *= 2
    return lanes


def print_row_passes(p: Printer, form: RowPasses) -> None:
    """The source of the form."""
    thread = p.let(p.call("thread"), "t")
    local = p.let(p.call("quotient", thread, str(form.lanes)), "r")
    lane = p.let(p.call("remainder", thread, str(form.lanes)), "l")
    row = p.let(p.call("plus", p.call("times", p.call("block"), str(form.rows)), local), "i")
    inside = p.call("below", row, p.extent(count(form.axes)))
    sums = (
        {step.term.dtype for step in form.steps if isinstance(step, Sum)}
        if form.lanes > 1
        else set()
    )
    shared = {
        d: p.let(p.call(f"shared_{d.value}_{THREADS}"), "s")
        for d in sorted(sums, key=lambda d: d.value)
    }
    for place, step in enumerate(form.steps):
        if isinstance(step, Sum):
            p.sums[place] = _sum(p, form, step, f"sum_{place}", (thread, lane, row, inside), shared)
        else:
            name = f"number_{place}"
            p.line(f"{name} = {p.number(0, step.dtype)}")
            with p.where([inside]):
                p.decode(row, form.axes)
                p.line(f"{name} = {p.expression(step)}")
            p.sums[place] = name
    with p.where([inside]):
        p.decode(row, form.axes)
        if form.is_row:
            with p.loop(_mine(p, form, lane)) as step_:
                _store(p, form, _flat(p, form, lane, step_))
        else:
            with p.where([p.call("below", lane, "1")]):
                _store(p, form, None)


def _store(p: Printer, form: RowPasses, flat: str | None) -> None:
    """An element of the row, or the number of it."""
    if flat is not None:
        p.decode(p.let(flat, "k"), form.terms)
    value = p.expression(form.value)
    p.store(p.extent(p.kernel.buffers[-1].offset(form.position)), value)


def _mine(p: Printer, form: RowPasses, lane: str) -> str:
    """How many terms a lane has."""
    rest = p.call("minus", p.extent(count(form.terms) + (form.lanes - 1)), lane)
    return p.let(p.call("quotient", rest, str(form.lanes)), "n")


def _flat(p: Printer, form: RowPasses, lane: str, step: str) -> str:
    return step if form.lanes == 1 else p.call("plus", p.call("times", step, str(form.lanes)), lane)


def _sum(
    p: Printer,
    form: RowPasses,
    sum_: Sum,
    total: str,
    where: tuple[str, str, str, str],
    shared: Mapping[DType, str],
) -> str:
    """The name of a row's sum, which every lane knows."""
    thread, lane, row, inside = where
    neutral = p.number(sum_.neutral, sum_.term.dtype)
    p.line(f"{total} = {neutral}")
    with p.where([inside]):
        p.decode(row, form.axes)
        mine = _mine(p, form, lane)
        terms = count(form.terms)
        if isinstance(terms, int) and terms <= CHAIN * form.lanes:
            with p.loop(mine) as step:
                _add(p, form, sum_, total, _flat(p, form, lane, step))
        else:
            chains = p.let(
                p.call("quotient", p.call("plus", mine, str(CHAIN - 1)), str(CHAIN)), "n"
            )
            with p.loop(chains) as chain:
                start = p.let(p.call("times", chain, str(CHAIN)), "i")
                p.line(f"part_{total} = {neutral}")
                with p.loop(p.call("lesser", str(CHAIN), p.call("minus", mine, start))) as step:
                    _add(
                        p,
                        form,
                        sum_,
                        f"part_{total}",
                        _flat(p, form, lane, p.call("plus", start, step)),
                    )
                combine = f"{sum_.combine}_{sum_.term.dtype.value}"
                p.line(f"{total} = {p.call(combine, total, f'part_{total}')}")
    if form.lanes > 1:
        _share(p, form, sum_, total, (thread, lane, shared[sum_.term.dtype]))
    return (
        total
        if sum_.dtype is sum_.term.dtype
        else p.let(p.call(f"cast_{sum_.term.dtype.value}_{sum_.dtype.value}", total))
    )


def _add(p: Printer, form: RowPasses, sum_: Sum, target: str, flat: str) -> None:
    p.decode(p.let(flat, "k"), form.terms)
    p.combine(target, sum_.combine, sum_.term)


def _share(p: Printer, form: RowPasses, sum_: Sum, total: str, where: tuple[str, str, str]) -> None:
    """The lanes' sums combined, lane i with lane i + width, width halving; then all lanes read the
    first one's."""
    name = sum_.term.dtype.value
    thread, lane, scratch = where
    p.do(f"store_{name}", scratch, thread, total)
    p.do("barrier")
    width = form.lanes // 2
    while width:
        with p.where([p.call("below", lane, str(width))]):
            pair = (
                p.call(f"load_{name}", scratch, at)
                for at in (thread, p.call("plus", thread, str(width)))
            )
            p.line(f"{total} = {p.call(f'{sum_.combine}_{name}', *pair)}")
            p.do(f"store_{name}", scratch, thread, total)
        p.do("barrier")
        width //= 2
    p.line(f"{total} = {p.call(f'load_{name}', scratch, p.call('minus', thread, lane))}")
    p.do("barrier")  # the next sum uses the same memory


__all__ = ["pass_form", "print_row_passes"]
