"""The verifier: kernels of all cases keep the rules of loops/ir.py, and each rule has kernels
that break it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Dim, Extent, Symbol, symbol
from netloom.compiler.loops.interpret import run_kernel
from netloom.compiler.loops.ir import (
    LANE,
    LANES,
    Allocate,
    Block,
    Buffer,
    Kernel,
    Kind,
    LaneFold,
    Load,
    Statement,
    Store,
    block,
    loop,
    variable,
)
from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.scalar import (
    Argument,
    Bitcast,
    Call,
    Cast,
    Checked,
    Expr,
    Guarded,
    Index,
    literal,
)
from netloom.compiler.tensor_type import BOOL, FLOAT32, FLOAT64, INT32, DType
from netloom.errors import VerificationError

from .case_kernels import SMALL_ITEMS, drawn, kernels_of
from .cases import CASES, Case

# obligations of a case's kernels (in work items of two sizes) that are neither proved nor refuted
OPEN: dict[str, int] = {  # rows that are kept in the output are loaded by loops that may be empty
    "rows_of_any_length": 8, "rows_with_masks": 8,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_kernels_keep_the_rules(case: Case) -> None:
    kernels = [*kernels_of(case), *kernels_of(case, SMALL_ITEMS)]
    found = [str(obligation) for kernel in kernels for obligation in verify_kernel(kernel)]
    assert len(found) == OPEN.get(case.name, 0), "\n".join(found)


def test_open_obligations_belong_to_cases() -> None:
    assert OPEN.keys() <= {case.name for case in CASES}


# -- broken kernels in text ------------------------------------------------------------------------

HEAD = "kernel k(x: float32[4, 16], i: int64[4], y: float32[4, 16], N: 1..)\nparallel w < 4:\n"


def body(*lines: str) -> str:
    """A kernel of these lines, indented by their leading spaces below the loop over work items."""
    return HEAD + "".join(f"  {line}\n" for line in lines)


def vector(*lines: str) -> str:
    """A kernel of one vector loop."""
    return body("vector l < 16:", *(f"  {line}" for line in lines))


BROKEN = [
    # (the rule, what the message says, the statement that it names, the kernel)
    ("index above", "axis 1 of x is inside 16", "y[w, l] = x[w, l + 1]",
     vector("y[w, l] = x[w, l + 1]")),
    ("index below", "axis 0 of x is at least 0", "y[w, l] = x[w + -1, l]",
     vector("y[w, l] = x[w + -1, l]")),
    ("stored index above", "axis 1 of y is inside 16", "y[w, p] = 0.0:float32",
     body("for p < 17:", "  y[w, p] = 0.0:float32")),
    ("stored index below", "axis 1 of y is at least 0", "y[w, -1*l + 14]",
     vector("y[w, -1*l + 14] = 0.0:float32")),
    ("lanes at computed places", "lanes store at computed places of y, and not in a row",
     "y[i[l], 0] = 0.0:float32", vector("y[i[l], 0] = 0.0:float32")),
    ("lanes a computed step apart", "lanes store at computed places of y, and not in a row",
     "y[l, i[0]] = 0.0:float32", vector("y[l, i[0]] = 0.0:float32")),
    ("computed place above", "axis 0 of y is checked against its extent", "y[checked(i[w], 5), 0]",
     body("y[checked(i[w], 5), 0] = 0.0:float32")),
    ("when a number holds", "when a int64 holds", "when i[w]:",
     body("when i[w]:", "  y[w, 0] = 0.0:float32")),
    ("symbol as an index", "axis 1 of y is inside 16", "y[w, N] = 0.0:float32",
     body("y[w, N] = 0.0:float32")),
    ("index in a last trip only", "axis 1 of y is inside 16", "y[w, min(16, p)]",
     body("for p < N:", "  y[w, min(p, 16)] = 0.0:float32")),
    ("guard that does not help", "axis 1 of x", "y[w, l] = (x[w, l + 1]",
     vector("y[w, l] = (x[w, l + 1] if -1*l + 15 >= 0 else 0.0:float32)")),
    ("condition that does not help", "axis 1 of y is inside", "y[w, N] = 0.0",
     body("if N + -3 >= 0:", "  y[w, N] = 0.0:float32")),
    ("rank of an index", "1 indices into y, of rank 2", "y[w] = 0.0:float32",
     body("y[w] = 0.0:float32")),
    ("rank of a load", "1 indices into x, of rank 2", "y[w, l] = x[l]",
     vector("y[w, l] = x[l]")),
    ("computed index of a wrong dtype", "axis 0 of x is indexed by int32",
     "y[w, l] = x[int32(i[w]), l]",
     vector("y[w, l] = x[int32(i[w]), l]")),
    ("checked against too large an extent", "axis 0 of x is checked against its extent",
     "y[w, l] = x[checked",
     vector("y[w, l] = x[checked(i[w], 5), l]")),
    ("input stored", "the input i is stored", "i[w] = 0:int64",
     body("i[w] = 0:int64")),
    ("dtype of a store", "int64 is stored in float32", "y[w, l] = 0:int64",
     vector("y[w, l] = 0:int64")),
    ("local loaded before it is stored", "t is loaded before it is stored", "y[w, l] = t[l]",
     body("local t: float32[16]", "vector l < 16:", "  y[w, l] = t[l]")),
    ("local stored in one of two cases", "t is loaded before it is stored", "y[w, l] = t[l]",
     body("local t: float32[16]", "if w - 1:", "  vector l < 16:", "    t[l] = 1:float32",
          "if -w - 1:", "  vector l < 16:", "    t[l] = 2:float32",
          "vector l < 16:", "  y[w, l] = t[l]")),
    ("output loaded before it is stored", "y is loaded before it is stored", "y[w, l] = y[w, l]",
     vector("y[w, l] = y[w, l]")),
    ("stored under a condition only", "t is loaded before", "y[w, l] = t[0]",
     body("local t: float32[1]", "if N + -3 >= 0:", "  t[0] = 0.0:float32", "vector l < 16:",
          "  y[w, l] = t[0]")),
    ("stored in a loop that may not run", "t is loaded before", "y[w, l] = t[0]",
     body("local t: float32[1]", "for p < N + -1:", "  t[0] = 0.0:float32", "vector l < 16:",
          "  y[w, l] = t[0]")),
    ("stored in an earlier trip of an allocation", "t is loaded before", "y[w, p] = t[0]",
     body("for p < 2:", "  local t: float32[1]:", "    if p + -1 >= 0:", "      y[w, p] = t[0]",
          "    t[0] = 0.0:float32")),
    ("output never stored", "the output is never stored", "",
     body("local t: float32[1]", "t[0] = 0.0:float32")),
    ("vector loop of another length", "a vector loop has 16 trips", "vector l < 8:",
     body("vector l < 8:", "  y[w, l] = 0.0:float32")),
    ("vector loop of a free length", "a vector loop has 16 trips", "vector l < N:",
     body("vector l < N:", "  y[w, l] = 0.0:float32")),
    ("variable of a vector loop", "the variable of a vector loop is l", "vector v < 16:",
     body("vector v < 16:", "  y[w, v] = 0.0:float32")),
    ("loop inside a vector loop", "a vector loop is the innermost one", "for p < 1:",
     vector("for p < 1:", "  y[w, l] = 0.0:float32")),
    ("let inside a vector loop", "a let inside a vector loop", "let p: 0..15 = l",
     vector("let p: 0..15 = l", "y[w, p] = 0.0:float32")),
    ("local inside a vector loop", "a local buffer inside a vector loop", "local t: float32[16]",
     vector("local t: float32[16]", "t[l] = 0.0:float32", "y[w, l] = t[l]")),
    ("unrolled loop of a free length", "an unrolled loop has a constant extent", "unrolled p < N:",
     body("unrolled p < N:", "  y[w, 0] = 0.0:float32")),
    ("parallel loop inside", "a parallel loop inside a kernel", "parallel v < 4:",
     body("parallel v < 4:", "  y[v, 0] = 0.0:float32")),
    ("local of a free size", "t has a constant shape", "local t: float32[N]",
     body("local t: float32[N]", "t[0] = 0.0:float32")),
    ("name of a local used already", "there is a buffer x already", "local x: float32[16]",
     body("local x: float32[16]", "x[0] = 0.0:float32")),
    ("loop variable bound again", "p is bound already", "for p < 2:",
     body("for p < 2:", "  for p < 2:", "    y[w, p] = 0.0:float32")),
    ("work item bound again", "w is bound already", "for w < 2:",
     body("for w < 2:", "  y[w, 0] = 0.0:float32")),
    ("symbol bound again", "N is bound already", "let N: 0..3 = w",
     body("let N: 0..3 = w", "y[N, 0] = 0.0:float32")),
    ("let below its range", "p is at least 1", "let p: 1..4 = w",
     body("let p: 1..4 = w", "y[w, p] = 0.0:float32")),
    ("let above its range", "p is at most 2", "let p: 0..2 = w",
     body("let p: 0..2 = w", "y[w, p] = 0.0:float32")),
    ("loop beyond its claimed range", "p is at most 2", "for p: 0..2 < 4:",
     body("for p: 0..2 < 4:", "  y[w, p] = 0.0:float32")),
    ("range claimed under a condition", "w is at most 2", "y[w, 0]",
     body("if w + -2 >= 0 with w: 2..2:", "  y[w, 0] = 0.0:float32")),
    ("fold of what is no vector", "t is no vector", "y[w, 0] = fold_add(t[])",
     body("local t: float32[4]", "t[0] = 0.0:float32", "y[w, 0] = fold_add(t[])")),
    ("fold of a buffer in memory", "x is no vector", "y[w, 0] = fold_add(x[w])",
     body("y[w, 0] = fold_add(x[w])")),
    ("fold by what takes no floats", "lanes cannot be combined by and", "y[w, 0] = fold_and(t[])",
     body("local t: float32[16]", "vector l < 16:", "  t[l] = 0.0:float32",
          "y[w, 0] = fold_and(t[])")),
    ("fold of small floats", "lanes of float16 are combined in float32",
     "y[w, 0] = float32(fold_max(t[]))",
     body("local t: float16[16]", "vector l < 16:", "  t[l] = 0.0:float16",
          "y[w, 0] = float32(fold_max(t[]))")),
    ("fold by no function", "lanes cannot be combined by plus", "y[w, 0] = fold_plus(t[])",
     body("local t: float32[16]", "vector l < 16:", "  t[l] = 0.0:float32",
          "y[w, 0] = fold_plus(t[])")),
    ("fold outside its buffer", "axis 0 of t is inside 2", "y[w, 0] = fold_add(t[w])",
     body("local t: float32[2, 16]", "vector l < 16:", "  t[0, l] = 0.0:float32",
          "y[w, 0] = fold_add(t[w])")),
    ("lanes that write one element", "touches an element of y that another one stores",
     "y[w, 0] = x[w, l]",
     vector("y[w, 0] = x[w, l]")),
    ("lanes that write one element in pairs", "touches an element of y", "y[w, (l)//2] = x[w, l]",
     vector("y[w, (l)//2] = x[w, l]")),
    ("lane that reads its neighbour's element", "touches an element of t", "t[l] = t[l + 1]",
     body("local t: float32[17]", "t[16] = 0.0:float32", "vector l < 16:", "  t[l] = t[l + 1]")),
    ("lane that writes its neighbour's element", "touches an element of y", "y[w, -1*l + 15] = 1.0",
     vector("y[w, l] = 0.0:float32", "y[w, -1*l + 15] = 1.0:float32")),
]  # fmt: skip


def refused(kernel: Kernel, message: str, statement: str) -> None:
    """The kernel breaks a rule, and the error says which, where, and in what kernel."""
    with pytest.raises(VerificationError) as error:
        verify_kernel(kernel)
    said, _, where = str(error.value).partition(", in: ")
    assert message in said and kernel.name in said
    assert where.startswith(statement)


@pytest.mark.parametrize(
    ("message", "statement", "text"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_broken_kernels(message: str, statement: str, text: str) -> None:
    refused(parse_kernel(text), message, statement)


# -- broken kernels that have no text --------------------------------------------------------------

X, Y = Buffer("x", FLOAT32, (4, LANES)), Buffer("y", FLOAT32, (4, LANES))
W, P, LANE_AT = variable("w", 4), variable("p", 4), Dim.of(LANE)
ZERO = literal(0, FLOAT32)
FREE = Dim.of(Symbol("q", 0, 3))


def kernel(statement: Statement, **changes: Any) -> Kernel:
    """A kernel of four work items with this body."""
    return replace(Kernel("k", (X, Y), (), 4, W, statement), **changes)


def stored(value: Expr, *index: Extent) -> Statement:
    """A vector of y, stored from a value."""
    return loop(LANE, LANES, Store(Y, index or (Dim.of(W), LANE_AT), value), Kind.VECTOR)


def local(name: str, is_local: bool = True, dtype: Any = FLOAT32) -> Buffer:
    return Buffer(name, dtype, (LANES,), is_local)


def with_value(value: Expr) -> Kernel:
    return kernel(stored(value))


def behind_its_scope() -> Kernel:
    buffer = local("t")
    clear = loop(LANE, LANES, Store(buffer, (LANE_AT,), ZERO), Kind.VECTOR)
    return kernel(Block((Allocate(buffer, clear), clear, stored(ZERO))))


def fold_of_truth() -> Kernel:
    buffer = local("t", dtype=BOOL)
    clear = loop(LANE, LANES, Store(buffer, (LANE_AT,), literal(True, BOOL)), Kind.VECTOR)
    return kernel(
        Allocate(buffer, block(clear, stored(Cast(LaneFold(buffer, (), "add"), FLOAT32))))
    )


@dataclass(frozen=True, eq=False)
class Strange(Expr):
    dtype: DType = FLOAT32


SYMBOLS = (Symbol("N", 1), Symbol("N", 1))
WITHOUT_TEXT = [
    ("two symbols of one name", kernel(stored(ZERO), symbols=SYMBOLS), "two symbols are called N",
     ""),
    ("two buffers of one name", kernel(stored(ZERO), buffers=(Y, Y)), "two buffers have one name",
     ""),
    ("local argument", kernel(stored(ZERO), buffers=(local("x"), Y)),
     "an argument is a local buffer", ""),
    ("unbound symbol in the items", kernel(stored(ZERO), items=symbol("N", 4)),
     "nothing binds N in N", ""),
    ("unbound symbol in a shape", kernel(stored(ZERO), buffers=(Buffer("x", FLOAT32, (FREE,)), Y)),
     "nothing binds q in q", ""),
    ("unbound symbol in a stored index", kernel(stored(ZERO, FREE, LANE_AT)),
     "nothing binds q in q", "y[q, l]"),
    ("unbound symbol in a loaded index", with_value(Load(X, (FREE, LANE_AT))),
     "nothing binds q in q", "y[w, l]"),
    ("unbound symbol in an index as a number", with_value(Cast(Index(FREE), FLOAT32)),
     "nothing binds q in q", "y[w, l]"),
    ("unbound symbol in a guard", with_value(Guarded((FREE,), ZERO, ZERO)), "nothing binds q in q",
     "y[w, l]"),
    ("unbound symbol in a check", with_value(Load(X, (Checked(Index(0), FREE), LANE_AT))),
     "nothing binds q in q", "y[w, l]"),
    ("unbound symbol in a loop", kernel(block(loop(P, FREE, stored(ZERO)), stored(ZERO))),
     "nothing binds q in q", "for p: 0..3 < q:"),
    ("symbol used behind its loop",
     kernel(block(loop(P, 4, stored(ZERO)), stored(ZERO, Dim.of(P), LANE_AT))),
     "nothing binds p in p",
     "y[p, l]"),
    ("work items beyond their range", kernel(stored(ZERO), variable=Symbol("w", 0, 2)),
     "w is at most 2", ""),
    ("unknown buffer stored", kernel(Store(local("t"), (0,), ZERO)), "t is not known here", "t[0]"),
    ("unknown buffer loaded", with_value(Load(local("t"), (0,))), "t is not known here", "y[w, l]"),
    ("local used behind its scope", behind_its_scope(), "t is not known here", "t[l]"),
    ("local that is no local buffer", kernel(Allocate(local("t", False), stored(ZERO))),
     "t is not a local buffer", "local t"),
    ("argument of a formula", with_value(Argument(0, FLOAT32)), "a formula's argument is left",
     "y[w, l]"),
    ("no such function", with_value(Call("frob", (ZERO,), FLOAT32)), "there is no function frob",
     "y[w, l]"),
    ("number of arguments", with_value(Call("add", (ZERO,), FLOAT32)),
     "add of float32 is not float32", "y[w, l]"),
    ("mixed dtypes", with_value(Call("add", (ZERO, literal(0, FLOAT64)), FLOAT32)),
     "add of float32, float64 is not float32", "y[w, l]"),
    ("kind of dtype", with_value(Call("and", (ZERO, ZERO), FLOAT32)), "and of float32, float32",
     "y[w, l]"),
    ("dtype of a result", with_value(Call("less", (ZERO, ZERO), FLOAT32)),
     "less of float32, float32 is not float32", "y[w, l]"),
    ("condition of a select", with_value(Call("select", (ZERO, ZERO, ZERO), FLOAT32)),
     "select of float32", "y[w, l]"),
    ("dtypes of a guard", with_value(Guarded((Dim.of(W),), ZERO, literal(0, INT32))),
     "a guard of float32, int32", "y[w, l]"),
    ("bits of another size", with_value(Bitcast(literal(0, FLOAT64), FLOAT32)),
     "bits of float64 as float32", "y[w, l]"),
    ("checked index of another dtype",
     with_value(Load(X, (Checked(literal(0, INT32), 4), LANE_AT))), "an index is int32", "y[w, l]"),
    ("truth as a fold", fold_of_truth(), "lanes cannot be combined by add", "y[w, l]"),
    ("expression without a meaning", with_value(Strange()), "Strange has no meaning in loops",
     "y[w, l] = <Strange>"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "message", "statement"),
    [row[1:] for row in WITHOUT_TEXT],
    ids=[row[0] for row in WITHOUT_TEXT],
)
def test_broken_kernels_without_text(broken: Kernel, message: str, statement: str) -> None:
    refused(broken, message, statement)


# -- what is right ---------------------------------------------------------------------------------

RIGHT = [
    ("both ends of a guard", vector("y[w, l] = (x[w, l + 1] if -1*l + 14 >= 0 else 0.0:float32)")),
    ("a condition on a free dim", body("if -1*N + 16 >= 0:", "  y[w, N + -1] = 0.0:float32")),
    ("a minimum of a free dim", body("for p < min(N, 16):", "  y[w, p] = 0.0:float32")),
    ("a checked index", vector("y[w, l] = x[checked(i[w], 4), l]")),
    ("a local stored in a loop that runs",
     body("local t: float32[1]", "for p < N:", "  t[0] = 0.0:float32", "vector l < 16:",
          "  y[w, l] = t[0]")),
    ("one name in two scopes",
     body("for p < 2:", "  y[w, p] = 0.0:float32", "for p < 3:", "  y[w, p] = 1.0:float32")),
    ("a range claimed under a condition",
     body("if w + -2 >= 0 with w: 2..3:", "  y[w + -2, 0] = 0.0:float32")),
    ("lanes apart by two vectors",
     body("local t: float32[48]", "vector l < 16:", "  t[l + 32] = 0.0:float32", "vector l < 16:",
          "  t[l] = t[l + 32]",
          "y[w, 0] = 0.0:float32")),
    ("lanes in reverse", vector("y[w, -1*l + 15] = x[w, l]")),
    ("lanes that take turns", vector("y[w, (3*l)%16] = x[w, l]")),
    ("quotients of the work item",
     body("let p: 0..1 = (w)//2", "let q: 0..1 = (w)%2", "y[2*p + q, 8*p + 7*q] = 0.0:float32")),
]  # fmt: skip


@pytest.mark.parametrize("text", [row[1] for row in RIGHT], ids=[row[0] for row in RIGHT])
def test_right_kernels(text: str) -> None:
    assert not [str(obligation) for obligation in verify_kernel(parse_kernel(text))]


UNDECIDED = [
    # (what, a kernel that may be right, the obligation)
    ("a computed index without a check", vector("y[w, l] = x[i[w], l]"),
     "axis 0 of x is inside 4 is not proved in: y[w, l] = x[i[w], l]"),
    ("a masked lane alone", vector("if -1*l >= 0:", "  y[w, 0] = x[w, l]"),
     "no lane touches an element of y that another one stores is not proved"),
    ("a product of free dims",
     body("y[w, (N*N)%16] = 0.0:float32", "y[w, (N*N + N)%2 + 15] = 0.0:float32"), "N*N"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "obligation"), [row[1:] for row in UNDECIDED], ids=[row[0] for row in UNDECIDED]
)
def test_what_is_not_decided_is_listed(text: str, obligation: str) -> None:
    (found,) = verify_kernel(parse_kernel(text))
    assert obligation in str(found)


def test_print_then_parse_then_verify() -> None:
    """A kernel from text is checked like the one that was built."""
    for kernel in kernels_of(CASES[0]):
        assert verify_kernel(parse_kernel(print_kernel(kernel))) == ()


# -- soundness -------------------------------------------------------------------------------------

CHANGED = (
    "matmul_columns_tail", "matmul_symbolic", "matmul_transposed_b", "add_symbolic",
    "add_broadcast", "sum_axes", "max_rows", "slice",
    "pad", "pad_reflect", "concat", "depth_to_space", "conv_1d", "conv_grouped_blocked",
    "conv_depthwise", "winograd_input_blocks",
)  # fmt: skip
# of an index, a condition or an extent; not part of a name or a literal
NUMBER = re.compile(r"(?<![\w.:])\d+(?![\w.:])")


def mutants(text: str, count: int) -> Iterator[str]:
    """The text with one number made larger or smaller by one, at places drawn at random."""
    rng = np.random.default_rng(len(text))
    head, _, rest = text.partition("\n")
    places = list(NUMBER.finditer(rest))
    for place in rng.choice(len(places), min(count, len(places)), replace=False):
        found = places[place]
        number = int(found.group()) + (1 if rng.random() < 0.6 else -1)
        yield f"{head}\n{rest[: found.start()]}{number}{rest[found.end() :]}"


def outcome(text: str, case: Case) -> str:
    """What the verifier says of a changed kernel. What it proves, the interpreter must not trap;
    what it refutes, it must.
    """
    try:
        kernel = parse_kernel(text)
        said = "open" if verify_kernel(kernel) else "proved"
    except (ValueError, VerificationError) as error:
        said = "refuted" if "not so: axis" in str(error) else "refused"
    if said not in ("proved", "refuted") or (said == "refuted" and any(case.symbols.values())):
        return said
    trap = ""
    try:
        run_kernel(kernel, drawn(kernel, case.symbols, np.random.default_rng(0)), case.symbols)
    except VerificationError as error:
        trap = str(error)
    if said == "proved":
        assert " long, and its index " not in trap, f"proved, and yet: {trap}\n{text}"
    else:
        assert trap, f"refuted, and yet it runs:\n{text}"
    return said


def test_verdicts_agree_with_runs() -> None:
    """Numbers in kernels are changed by one: what is proved then runs inside its buffers, and
    what is refuted does not.
    """
    verdicts = Counter(
        outcome(text, case)
        for case in CASES
        if case.name in CHANGED
        for kernel in kernels_of(case, SMALL_ITEMS)
        for text in mutants(print_kernel(kernel), 6)
    )
    assert verdicts["proved"] >= 40 and verdicts["refuted"] >= 20, verdicts
