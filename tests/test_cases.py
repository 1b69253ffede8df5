"""Every op on every row of tests/cases: types, meaning, gradient, compiled code and text, against
the independent oracle.

How results are compared is in tests/checking.py. Gradients keep 1e-5 of |g| |d| in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.op import OPS, NotDifferentiable
from netloom.compiler.passes.differentiate import differentiate
from netloom.compiler.tensor_type import FLOAT32, FLOAT64
from netloom.compiler.text import constants_of, is_identical, parse_graph, print_graph
from netloom.errors import NetloomError, UnsupportedOpError
from netloom.runtime.session import Session

from . import oracle
from .cases import CASES, DIMS, Case, Input, row
from .checking import Array, add_case, arrays_of, differences, eps, expected, graph_of, named
from .oracle.random_numbers import philox_block

GRADIENT_TOLERANCE = 1e-5
STEP = 1e-4
UNCOMPILED = {
    "kernel": "the pass fuse makes kernels, and compiles no graph that holds them already"
}

# rows whose op says that it has no gradient with these attributes
WITHOUT_GRADIENT = [
    c for c in CASES if c.op == "scatter" and c.attrs.get("reduction", "add") != "add"
]

each_case = pytest.mark.parametrize("case", CASES, ids=str)


# -- type, meaning, text, code ---------------------------------------------------------------------


@each_case
def test_type(case: Case) -> None:
    op = OPS[case.op]
    (inferred,) = op.infer(op.attrs(**case.attrs), [given.type for given in case.inputs])
    result, dtype = expected(case, arrays_of(case))
    assert (inferred.evaluate(DIMS), inferred.dtype.numpy) == (result.shape, dtype)


@each_case
def test_reference(case: Case) -> None:
    arrays, graph = arrays_of(case), graph_of(case)
    (found,) = interpret(graph, named(case, graph, arrays))
    assert not differences(case, arrays, found)


@each_case
def test_text(case: Case) -> None:
    graph = graph_of(case)
    text = print_graph(graph)
    again = parse_graph(text, constants_of(graph))
    assert print_graph(again) == text
    assert is_identical(graph, again)


@pytest.mark.parametrize("case", [c for c in CASES if c.op not in UNCOMPILED], ids=str)
def test_compiled(case: Case) -> None:
    assert not differences(case, arrays_of(case), compiled_result(case))


@pytest.mark.parametrize("name", UNCOMPILED)
def test_uncompiled(name: str) -> None:
    for case in (c for c in CASES if c.op == name):
        with pytest.raises(UnsupportedOpError):
            compile_graph(graph_of(case))


def compiled_result(case: Case) -> Array:
    """What the compiled program of the row's family gives it; of its op alone if the family does
    not compile.
    """
    family = OPS[case.op].family
    number = next(i for i, other in enumerate(CASES) if other is case)
    try:
        return compiled_rows(
            tuple(
                i
                for i, c in enumerate(CASES)
                if OPS[c.op].family == family and c.op not in UNCOMPILED
            )
        )[number]
    except NetloomError:
        return compiled_rows(tuple(i for i, c in enumerate(CASES) if c.op == case.op))[number]


@cache
def compiled_rows(rows: tuple[int, ...]) -> Mapping[int, Array]:
    """Many rows as one program, run once with one thread: results by the row's number."""
    b = Builder("cases")
    graph = b.build([add_case(b, CASES[i], f"{i} ") for i in rows], [str(i) for i in rows])
    inputs: dict[str, Array] = {}
    for i in rows:
        inputs |= named(CASES[i], graph, arrays_of(CASES[i]), f"{i} ")
    return dict(
        zip(
            rows,
            Session.in_process(compile_graph(graph).image, threads=1).run(None, inputs),
            strict=True,
        )
    )


# -- gradients -------------------------------------------------------------------------------------


def in_float64(case: Case) -> Case:
    """The row with float64 for float32, in types and attributes."""

    def wider(dtype: Any) -> Any:
        return FLOAT64 if dtype is FLOAT32 else dtype

    inputs = tuple(
        Input(given.type.with_dtype(wider(given.type.dtype)), given.domain) for given in case.inputs
    )
    return dataclasses.replace(
        case, inputs=inputs, attrs={name: wider(value) for name, value in case.attrs.items()}
    )


def is_smooth(case: Case) -> bool:
    """Whether the row has a gradient to test: float64 or float32 throughout, no infinities, NaN,
    ties or vanishing steps.
    """
    float_types = [i.type for i in case.inputs if i.type.dtype.is_float]
    (result,) = OPS[case.op].infer(OPS[case.op].attrs(**case.attrs), [i.type for i in case.inputs])
    return (
        not isinstance(OPS[case.op].vjp, NotDifferentiable)
        and bool(float_types)
        and all(t.dtype in (FLOAT32, FLOAT64) for t in (*float_types, result))
        and not any(
            i.domain in ("special", "special:1", "nan", "halves", "huge")
            for i in case.inputs
            if i.type.dtype.is_float
        )
    )


SMOOTH = [in_float64(case) for case in CASES if is_smooth(case) and case not in WITHOUT_GRADIENT]


def slope(case: Case, arrays: Sequence[Array], direction: Sequence[Array], weights: Array) -> float:
    """d/dt <oracle(x + t d), weights> by differences of fourth order."""

    def at(t: float) -> float:
        moved = [
            x + t * d if d.size and oracle.is_float(x.dtype) else x
            for x, d in zip(arrays, direction, strict=True)
        ]
        result = expected(case, moved)[0]
        return float(np.vdot(np.where(np.isfinite(result), result, 0.0), weights))

    return (8 * (at(STEP) - at(-STEP)) - (at(2 * STEP) - at(-2 * STEP))) / (12 * STEP)


def gradients(case: Case, arrays: Sequence[Array], weights: Array) -> dict[int, Array]:
    """The gradient of <y, weights> by each float input, from the op's own rule."""
    b = Builder("gradient")
    y = add_case(b, case)
    u = b.input(y.type, "weights")
    floats = {i: b.inputs[i] for i, given in enumerate(case.inputs) if given.type.dtype.is_float}
    graph = b.build(differentiate(b, b("mul", y, u), list(floats.values())))
    return dict(
        zip(
            floats,
            interpret(graph, {**named(case, graph, arrays), "weights": weights}),
            strict=True,
        )
    )


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_gradient(case: Case) -> None:
    rng = np.random.default_rng(0)
    arrays = arrays_of(case)
    weights = rng.standard_normal(expected(case, arrays)[0].shape)
    direction = [np.asarray(rng.standard_normal(x.shape)) for x in arrays]
    found = gradients(case, arrays, weights)
    assert all(g.shape == arrays[i].shape for i, g in found.items())
    along = sum(float(np.vdot(g, direction[i])) for i, g in found.items())
    length = sum(float(np.linalg.norm(g) * np.linalg.norm(direction[i])) for i, g in found.items())
    assert (
        abs(along - slope(case, arrays, direction, weights)) <= GRADIENT_TOLERANCE * length + 1e-9
    )


@pytest.mark.parametrize(
    "name", [name for name, op in OPS.items() if isinstance(op.vjp, NotDifferentiable)]
)
def test_no_gradient_is_said(name: str) -> None:
    """An op that says it has no gradient stops differentiation, unless floats cannot flow
    through it at all.
    """
    for case in (c for c in CASES if c.op == name):
        b = Builder("gradient")
        y = add_case(b, case)
        wrt = [value for value in b.inputs[: len(case.inputs)] if value.dtype.is_float]
        if y.dtype.is_float and wrt:
            with pytest.raises(UnsupportedOpError, match=f"{name} has no gradient"):
                differentiate(b, y, wrt)


@pytest.mark.parametrize("case", [c for c in WITHOUT_GRADIENT if is_smooth(c)], ids=str)
def test_an_attribute_without_gradient_is_refused(case: Case) -> None:
    b = Builder("gradient")
    y = add_case(b, case)
    with pytest.raises(
        UnsupportedOpError, match=f"{case.op} with {case.attrs['reduction']} has no gradient"
    ):
        differentiate(b, y, [b.inputs[0]])


# -- completeness ----------------------------------------------------------------------------------


def missing_parts(name: str, rows: Sequence[Case] = CASES) -> list[str]:
    """What an op still lacks: a row, a doc text, a gradient with a row that tests it (or a
    reason why there is none).
    """
    op = OPS[name]
    lacks = [] if any(case.op == name for case in rows) else ["a row in tests/cases"]
    lacks += [] if op.doc.strip() else ["a doc text"]
    lacks += [] if name in oracle.ORACLES else ["an oracle in tests/oracle"]
    match op.vjp:
        case NotDifferentiable(reason):
            lacks += [] if reason else ["a reason why it has no gradient"]
        case _ if not any(case.op == name and is_smooth(case) for case in rows):
            lacks.append("a row that tests its gradient")
    return lacks


@pytest.mark.parametrize("name", OPS)
def test_every_op_is_complete(name: str) -> None:
    assert missing_parts(name) == []


def test_every_row_is_of_an_op() -> None:
    assert {case.op for case in CASES} <= set(OPS)
    assert set(oracle.ORACLES) <= set(OPS)


def test_rows_differ() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)


def test_an_incomplete_op_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    new = dataclasses.replace(OPS["tanh"], name="new", doc=" ", vjp=NotDifferentiable(""))
    monkeypatch.setitem(OPS, "new", new)
    assert missing_parts("new") == [
        "a row in tests/cases", "a doc text", "an oracle in tests/oracle",
        "a reason why it has no gradient",
    ]  # fmt: skip
    monkeypatch.setitem(OPS, "new", dataclasses.replace(OPS["tanh"], name="new"))
    assert (
        missing_parts("new", [row("new", "float32[3] special")])[-1]
        == "a row that tests its gradient"
    )


REFUSED = [  # rows that the type rule of their op must not take
    row("sort_positions", "bool[3]", axis=0), row("sort_positions", "float32[3]", axis=1),
    row("inverse_positions", "int32[3] permutation:0", axis=0, size=3),
    row("scatter_source", "float32[3]", axis=0, extent=3),
    row("gather_elements", "float32[5, 3]", "int64[5, 4]", axis=0),
    row("gather_elements", "float32[5]", "float32[5]", axis=0),
    row("scatter", "float32[5]", "int64[2]", "float64[2]", axis=0),
    row("scatter", "float32[5]", "int64[2]", "float32[3]", axis=0),
    row("scatter", "float32[5]", "int64[2]", "float32[2]", axis=0, reduction="mean"),
    row("scatter", "bool[5]", "int64[2]", "bool[2]", axis=0),
    row("scatter_last", "float32[5]", "int64[2]", "float32[3]", axis=0),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_a_wrong_type_is_refused(case: Case) -> None:
    with pytest.raises(ValueError):
        OPS[case.op].infer(OPS[case.op].attrs(**case.attrs), [given.type for given in case.inputs])


# -- controls: wrong results are found -------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [c for c in CASES if {i.type.dtype for i in c.inputs} <= {FLOAT32, FLOAT64}], ids=str
)
def test_a_result_off_by_a_hundredth_is_found(case: Case) -> None:
    arrays = arrays_of(case)
    result, dtype = expected(case, arrays)
    with np.errstate(over="ignore"):
        wrong = result.astype(dtype)
        finite = (
            np.where(np.isfinite(wrong), np.abs(wrong), 0)
            if oracle.is_float(dtype)
            else np.zeros(())
        )
    if finite.any() and eps(dtype) < 1e-6:
        wrong[np.unravel_index(np.argmax(finite), finite.shape)] *= 1.01
        assert differences(case, arrays, wrong)


WRONG = [  # a row, and attributes that make another op of it
    (row("conv", "float32[1, 3, 6, 6]", "float32[2, 3, 3, 3]", terms=27, stride=(1, 1),
         dilation=(1, 1), lo=(1, 0), hi=(0, 1)),
     {"lo": (0, 1), "hi": (1, 0)}),
    (row("average_pool", "float32[1, 1, 5]", terms=3, kernel=(3,), stride=(1,), dilation=(1,),
         lo=(1,), hi=(1,)), {"count_padding": True}),
    (row("slice", "float32[6]", start=(1,), size=(3,), step=(1,)), {"start": (2,)}),
    (row("matmul", "float32[5, 5]", "float32[5, 5]", terms=5), {"transpose_b": True}),
    (row("layer_norm", "float32[4, 9]", "float32[9]", "float32[9]", terms=9, axis=1),
     {"epsilon": 1e-3}),
    (row("gelu", "float32[50]"), {"approximate": True}),
    (row("pad", "float32[4]", lo=(2,), hi=(2,), mode="reflect"), {"mode": "edge"}),
    (row("argmax", "float32[200] halves", axis=0), {"last": True}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes"), WRONG, ids=str)
def test_another_meaning_is_found(case: Case, changes: dict[str, Any]) -> None:
    arrays = arrays_of(case)
    wrong = graph_of(dataclasses.replace(case, attrs={**case.attrs, **changes}))
    (found,) = interpret(wrong, named(case, wrong, arrays))
    assert differences(case, arrays, found)


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        OPS,
        "tanh",
        dataclasses.replace(OPS["tanh"], vjp=lambda b, node, dy: [b("mul", dy[0], 1.001)]),
    )
    with pytest.raises(AssertionError):
        test_gradient(in_float64(row("tanh", "float32[3, 17]")))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    """The vectors published with Random123."""
    assert philox_block(counter, key) == words
