"""The meaning of loops: kernels give what the graph's interpretation gives, in any order of their
work items; what the IR forbids is trapped; products are counted."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import get_args

import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.loops.build import anchor_of
from netloom.compiler.loops.interpret import Run, run_kernel
from netloom.compiler.loops.ir import For, Kind, LaneFold, Load, Statement, Store, walk
from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.op import Array
from netloom.compiler.scalar import Call, Cast, Checked, Guarded, Index, Literal, post_order
from netloom.compiler.tensor_type import DType
from netloom.errors import InputError, VerificationError

from .case_kernels import Launch, kernels_of, launches
from .cases import CASES, Case

# For each convolution and product of a case, in order: real extents, and those that the loops walk.
# Lanes fill whole vectors of 16, and channels of a blocked layout whole blocks. A gradient by the
# input reads its cotangent padded, and with a stride only the positions of the filter that meet it:
# 9 pairs of a row and a position, 7 of a column and a position.
PADDED: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "matmul_odd": [((33,), (48,))],
    "matmul_rows_tail": [((), ())],
    "matmul_columns_tail": [((110,), (112,))],
    "matmul_long_sum": [((10,), (16,))],
    "matmul_prime_sum": [((4,), (16,))],
    "matmul_transposed_b": [((20,), (32,))],
    "matmul_transposed_a": [((6,), (16,))],
    "matmul_batched": [((6,), (16,))],
    "matmul_symbolic": [((33,), (48,))],
    "matmul_symbolic_full": [((33,), (48,))],
    "matmul_symbolic_sum": [((5,), (16,))],
    "matmul_two_symbols": [((20,), (32,))],
    "matmul_panels": [((40,), (48,))],
    "matmul_panels_symbolic": [((100,), (112,))],
    "matmul_panels_batched": [((17,), (32,))],
    "matmul_of_a_slice": [((33,), (48,))],
    "matmul_float16": [((18,), (32,))],
    "matmul_one_number": [((), ())],
    "conv_plain": [((7,), (16,))],
    "conv_blocked": [((), ())],
    "conv_blocked_tails": [((19, 20), (32, 32))],
    "conv_grouped": [((5,), (16,))],
    "conv_grouped_blocked": [((), ())],
    "conv_grouped_padded": [((), ())],
    "conv_depthwise": [((17, 6), (32, 6))],
    "conv_dilated": [((7,), (16,))],
    "conv_padded_channels": [((12,), (16,))],
    "conv_transposed": [((5 * 5, 3 * 3), (9, 9))],
    "conv_transposed_grouped": [((3 * 4,), (3 * 16,))],
    "conv_gradients": [((5,), (16,)), ((6 * 7,), (4 * 16,)), ((5,), (16,))],
    "winograd_f2": [((17,), (32,))],
    "winograd_f4": [((18,), (32,))],
    "im2col": [((12,), (16,))],
}  # fmt: skip


ROUNDINGS = 64  # that an inexact case may differ by, each half an eps of the largest number


def is_same(found: Array, expected: Array, is_exact: bool) -> bool:
    """Equal (and 0 to -0, whose sign follows from the order of a sum), or for floats of inexact
    cases within some roundings.
    """
    expected = np.ascontiguousarray(expected).reshape(found.shape)
    if is_exact or not DType.of(found.dtype).is_float:
        return np.array_equal(found, expected)
    room = (
        ROUNDINGS * float(np.finfo(found.dtype).eps) / 2 * max(float(np.abs(expected).max()), 1.0)
    )
    return bool(np.all(np.abs(found - expected) <= room))


def multiply_adds(launch: Launch) -> int | None:
    """Half the flops of a launch's convolution or product of matrices, if it has one."""
    node = anchor_of(launch.node.attrs.body)
    if node is None or node.op.family not in ("matmul", "convolution"):
        return None
    assert node.op.flops is not None
    flops = node.op.flops(node.attrs, [v.type for v in node.inputs], [v.type for v in node.outputs])
    return dim.evaluate(flops, launch.symbols) // 2


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_kernels_mean_what_their_graphs_mean(case: Case) -> None:
    """The work items run backwards, so that none can need what one before it did."""
    counted = []
    for launch in launches(case):
        items = dim.evaluate(launch.kernel.items, launch.symbols)
        run = run_kernel(launch.kernel, launch.arrays, launch.symbols, order=range(items)[::-1])
        assert is_same(run.output, launch.expected, case.is_exact), print_kernel(launch.kernel)
        assert not run.is_index_wrong
        assert run.stores >= run.output.size
        if expected := multiply_adds(launch):
            counted.append(Fraction(run.fma, expected))
    if case.name in PADDED:
        assert counted == [Fraction(prod(walked), prod(real)) for real, walked in PADDED[case.name]]


def test_cases_hold_every_part_of_the_ir() -> None:
    """Else the tests above would say less than they seem to."""
    kernels = [kernel for case in CASES for kernel in kernels_of(case)]
    statements = [s for kernel in kernels for s in walk(kernel.body)]
    expressions = post_order([s.value for s in statements if isinstance(s, Store)])
    assert {type(s) for s in statements} == set(get_args(Statement))
    assert {s.kind for s in statements if isinstance(s, For)} == set(Kind) - {Kind.PARALLEL}
    assert {Load, LaneFold, Guarded, Index, Checked, Call, Cast, Literal} <= {
        type(e) for e in expressions
    }
    assert {"add", "max"} <= {e.combine for e in expressions if isinstance(e, LaneFold)}
    assert PADDED.keys() <= {case.name for case in CASES}


@pytest.mark.parametrize(
    "name", ["matmul_panels_symbolic", "conv_blocked", "log_softmax", "winograd_input_blocks"]
)
def test_any_order_of_work_items_gives_the_same_bits(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    mixed_up = 0
    for launch in launches(case):
        items = range(dim.evaluate(launch.kernel.items, launch.symbols))
        order = [*items[1::2], *items[::2]]
        mixed_up += order != list(items)
        mixed = run_kernel(launch.kernel, launch.arrays, launch.symbols, order)
        straight = run_kernel(launch.kernel, launch.arrays, launch.symbols)
        assert mixed.output.tobytes() == straight.output.tobytes()
        assert (mixed.fma, mixed.loads, mixed.stores) == (
            straight.fma,
            straight.loads,
            straight.stores,
        )
    assert mixed_up


# -- traps -----------------------------------------------------------------------------------------

HEAD = "kernel k(x: float32[4, 16], i: int64[4], y: float32[4, 16], N: 1..20)\nparallel w < 4:\n"
ROW = "  vector l < 16:\n    y[w, l] = x[w, l]\n"
X = np.arange(64, dtype=np.float32).reshape(4, 16)
I = np.asarray([3, -1, 0, 2])


def body(*lines: str) -> str:
    """A kernel of these lines."""
    return HEAD + "".join(f"  {line}\n" for line in lines)


def ran(text: str, i: Array = I, n: int = 3) -> Run:
    """A kernel of the text, run."""
    return run_kernel(parse_kernel(text), [X, i], {"N": n})


TRAPS = [
    # (what it does, what the message says, the statement that it names, the kernel)
    ("loads behind the end", "axis 1 of x is 16 long, and its index", "y[w, l] = x[w, l + 1]",
     body("vector l < 16:", "  y[w, l] = x[w, l + 1]")),
    ("loads before the beginning", "axis 0 of x is 4 long, and its index -1", "y[w, l] = x[w + -1, l]",
     body("vector l < 16:", "  y[w, l] = x[w + -1, l]")),
    ("loads a right element by wrong indices", "axis 1 of x is 16 long, and its index 16", "y[w, 0] = x[0, w + 13]",
     body("y[w, 0] = x[0, w + 13]")),
    ("stores behind the end", "axis 1 of y is 16 long, and its index 16", "y[w, p] = 0.0:float32",
     body("for p < 17:", "  y[w, p] = 0.0:float32")),
    ("loads by a computed index", "axis 0 of x is 4 long, and its index -1", "y[w, 0] = x[i[w], 0]",
     body("y[w, 0] = x[i[w], 0]")),
    ("loads where a guard lets it", "axis 1 of x is 16 long", "y[w, l] = (x[w, l + 2] if -1*l + 14 >= 0",
     body("vector l < 16:", "  y[w, l] = (x[w, l + 2] if -1*l + 14 >= 0 else 0.0:float32)")),
    ("loads where a condition lets it", "axis 1 of x is 16 long", "y[w, l] = x[w, l + 2]",
     body("vector l < 16:", "  if -1*l + 14 >= 0:", "    y[w, l] = x[w, l + 2]")),
    ("reads a local before it is written", "t is read where this work item has not written", "y[w, p] = t[p]",
     body("local t: float32[4]", "t[0] = 0.0:float32", "for p < 4:", "  y[w, p] = t[p]")),
    ("reads a local of an earlier trip", "t is read where this work item has not written", "y[w, p] = t[0]",
     body("for p < 2:", "  local t: float32[1]", "  if -1*p >= 0:", "    t[0] = 0.0:float32", "  y[w, p] = t[0]")),
    ("reads what another work item wrote", "y is read where this work item has not written", "y[w, 0] = y[0, 0]",
     body("y[w, 0] = 0.0:float32", "y[w, 0] = y[0, 0]")),
    ("folds lanes that are not written", "t is read where this work item has not written", "y[w, 0] = fold_add(t[])",
     body("local t: float32[16]", "t[0] = 0.0:float32", "y[w, 0] = fold_add(t[])")),
    ("writes what another work item wrote", "two work items write one element", "y[0, l] = x[w, l]",
     body("vector l < 16:", "  y[0, l] = x[w, l]")),
    ("writes one element from two lanes", "two lanes write one element", "y[w, 0] = x[w, l]",
     body("vector l < 16:", "  y[w, 0] = x[w, l]")),
    ("uses an unbound variable", "N is bound already", "for N < 3:",
     body("for N < 3:", "  y[w, N] = 0.0:float32")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "statement", "text"), [row[1:] for row in TRAPS], ids=[row[0] for row in TRAPS]
)
def test_traps(message: str, statement: str, text: str) -> None:
    with pytest.raises(VerificationError) as error:
        ran(text + ROW)
    said, _, where = str(error.value).partition(", in: ")
    assert message in said and where.startswith(statement)


@pytest.mark.parametrize(
    ("missing", "lines"),
    [
        (r"y\[0, 15\]", ["for p < 15:", "  y[w, p] = 0.0:float32"]),
        (r"y\[3, 0\]", ["if -1*w + 2 >= 0:", "  vector l < 16:", "    y[w, l] = 0.0:float32"]),
        (r"y\[0, 0\]", ["vector l < 16:", "  if l + -1 >= 0:", "    y[w, l] = 0.0:float32"]),
        (r"y\[0, 3\]", ["for p < N:", "  y[w, p] = 0.0:float32"]),
    ],
)
def test_an_element_never_written_is_trapped(missing: str, lines: list[str]) -> None:
    with pytest.raises(VerificationError, match=f"{missing} is never stored"):
        ran(body(*lines))


# -- meaning by hand -------------------------------------------------------------------------------


def test_what_no_lane_runs_is_neither_read_nor_counted() -> None:
    run = ran(
        body("vector l < 16:", "  y[w, l] = (x[w, l + 12] if -1*l + 3 >= 0 else -1.0:float32)")
    )
    assert run.output.tolist() == [[*row[12:], *[-1.0] * 12] for row in X.tolist()]
    assert run.loads == 4 * 4 and run.stores == 64


def test_conditions_mask_lanes() -> None:
    lines = [
        "if l + -4 >= 0:",
        "  if -1*l + 7 >= 0:",
        "    y[w, l] = fma(x[w, l], 2.0:float32, 0.5:float32)",
    ]
    run = ran(body("vector l < 16:", "  y[w, l] = 0.0:float32", *(f"  {line}" for line in lines)))
    assert (
        np.array_equal(run.output[:, 4:8], X[:, 4:8] * 2 + np.float32(0.5))
        and run.output.sum() == run.output[:, 4:8].sum()
    )
    assert run.fma == 4 * 4
    masked = next(store for store, lanes in run.lanes.items() if lanes == 16)
    assert run.executed[masked] == 4


def test_lanes_are_folded_in_a_tree() -> None:
    """((0 + 8) + (4 + 12)) + ..: another order rounds otherwise."""
    x = np.asarray(
        [[1e8, 1, -1e8, 1, 3, 5, 7, 1e-8, 1e4, -2, 1e-4, 9, -1e4, 1, 1, 1]] * 4, np.float32
    )
    text = body(
        "local t: float32[16]",
        "vector l < 16:",
        "  t[l] = x[w, l]",
        "for p < 16:",
        "  y[w, p] = fold_add(t[])",
    )
    found = run_kernel(parse_kernel(text), [x, I], {"N": 1}).output[0, 0]
    tree = x[0]
    while len(tree) > 1:
        tree = tree[: len(tree) // 2] + tree[len(tree) // 2 :]
    assert (
        found == tree[0] != np.float32(sum(map(float, x[0]))) != x[0].cumsum(dtype=np.float32)[-1]
    )


def test_an_index_out_of_range_is_noted_and_0_used_instead() -> None:
    text = body("vector l < 16:", "  y[w, l] = x[checked(i[w], 4), l]")
    right, wrong = ran(text), ran(text, np.asarray([3, -4, 4, -5]))
    assert not right.is_index_wrong and np.array_equal(right.output, X[I])
    assert wrong.is_index_wrong and np.array_equal(wrong.output, X[[3, 0, 0, 0]])


def test_an_index_that_no_lane_uses_is_not_noted() -> None:
    text = body(
        "vector l < 16:", "  y[w, l] = (x[checked(i[w], 1), l] if -1*w >= 0 else 0.0:float32)"
    )
    assert not ran(text, np.asarray([0, 9, 9, 9])).is_index_wrong


def test_a_product_and_sum_are_rounded_once() -> None:
    tiny = np.full((4, 16), 1 + 2.0**-12, np.float32)
    text = body("vector l < 16:", "  y[w, l] = fma(x[w, l], x[w, l], -1.0:float32)")
    found = run_kernel(parse_kernel(text), [tiny, I], {"N": 1}).output
    assert (
        found[0, 0]
        == np.float32((1 + 2.0**-12) ** 2 - 1)
        != tiny[0, 0] * tiny[0, 0] - np.float32(1)
    )


@pytest.mark.parametrize(
    ("arrays", "symbols", "message"),
    [
        ([X], {"N": 1}, "1 arrays for 2 inputs"),
        ([X[:3], I], {"N": 1}, r"x is float32\[4, 16\], not float32\[3, 16\]"),
        ([X.astype(np.float64), I], {"N": 1}, r"not float64\[4, 16\]"),
        ([X, I], {}, "dim N needs a number in 1..20"),
        ([X, I], {"N": 0}, "dim N needs a number in 1..20"),
        ([X, I], {"N": 21}, "dim N needs a number in 1..20"),
    ],
)
def test_inputs_that_do_not_fit(arrays: list[Array], symbols: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_kernel(parse_kernel(HEAD + ROW), arrays, symbols)


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 4], []])
def test_an_order_holds_each_work_item_once(order: list[int]) -> None:
    with pytest.raises(InputError, match="each of 4 work items once"):
        run_kernel(parse_kernel(HEAD + ROW), [X, I], {"N": 1}, order)
