"""Rows of tests/cases on the cuda target: graph -> kernels -> PTX -> emulator, against the
independent oracle.

A run takes every op once and every family at least six times; ``--all-kernels`` takes all rows.
"""

from __future__ import annotations

from collections import defaultdict
from zlib import crc32

import pytest

from netloom.compiler.op import OPS
from netloom.compiler.targets.cuda.compile import is_available
from netloom.errors import UnsupportedOpError
from tests.cases import CASES, DIMS, Case
from tests.checking import arrays_of, differences, graph_of, named
from tests.compiler.targets.cuda import emulated
from tests.test_cases import UNCOMPILED

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
# the strategies that make them are the cpu's, or data decide the shapes that come of them
REFUSED = {name for name in OPS if name.startswith("fft_")} | {
    "attention_online", "data_dim", "search_sorted", "suppress",
    "first_places", "merge_sort", "run_sum", "true_positions",
}  # fmt: skip


def is_refused(case: Case) -> bool:
    """Of turns, those whose number a run counts: others are unrolled."""
    return case.op in REFUSED or (case.op == "iterate" and not isinstance(case.attrs["count"], int))


COMPILABLE = [case for case in CASES if case.op not in UNCOMPILED and not is_refused(case)]
WITHOUT_CODE = list({case.op: case for case in CASES if is_refused(case)}.values())
EVERY_FAMILY = 6


def sample() -> list[Case]:
    """The first row of each op, and others, drawn by their text, until a family has enough."""
    by_op: dict[str, Case] = {}
    by_family: dict[str, list[Case]] = defaultdict(list)
    for case in COMPILABLE:
        by_op.setdefault(case.op, case)
        by_family[OPS[case.op].family].append(case)
    chosen = list(by_op.values())
    for family, cases in by_family.items():
        missing = EVERY_FAMILY - sum(OPS[case.op].family == family for case in chosen)
        rest = sorted(
            (case for case in cases if case not in chosen),
            key=lambda case: crc32(str(case).encode()),
        )
        chosen += rest[: max(missing, 0)]
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize(
            "case", COMPILABLE if metafunc.config.getoption("--all-kernels") else sample(), ids=str
        )


def test_row(case: Case) -> None:
    graph, arrays = graph_of(case), arrays_of(case)
    (found,) = emulated.run(graph, named(case, graph, arrays), DIMS)
    assert not differences(case, arrays, found)


@pytest.mark.parametrize("other", WITHOUT_CODE, ids=lambda case: case.op)
def test_ops_without_code_are_refused(other: Case) -> None:
    with pytest.raises(
        UnsupportedOpError, match=f"no code for {other.op}.*Compile for the (cpu|CPU)"
    ):
        emulated.run(graph_of(other), named(other, graph_of(other), arrays_of(other)), DIMS)


def test_the_sample_holds_every_op_and_every_family_six_times() -> None:
    families = [OPS[case.op].family for case in sample()]
    assert {case.op for case in sample()} == {case.op for case in COMPILABLE}
    assert all(
        families.count(OPS[case.op].family)
        >= min(EVERY_FAMILY, sum(OPS[c.op].family == OPS[case.op].family for c in COMPILABLE))
        for case in COMPILABLE
    )
