"""Every strategy in every role on random shapes, through the whole pipeline, and proof that the
shapes reach all of its code.

Two methods. Small integers (|x| <= 3, three in ten not zero) make every partial sum exact,
Winograd's quarters of F(2, 3) too, so results of strict strategies must be equal: indexing, padding
and tail bugs show at tolerance 0. Normal numbers against float64 keep the strategy's budget for the
node, a relative L2 error. Fourier transforms are not exact on integers: their results are compared
when they are rounded to integers. ``--shapes N``: how many accepted shapes each strategy gets in
each role; further sizes of one strategy (winograd_f2 and f6 beside f4, the same tiles over phases,
fft_8, 16, 32) and the one for reference get a part of them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from netloom.compiler.driver import Options, plan_graph
from netloom.compiler.graph import Builder
from netloom.compiler.loops import bands
from netloom.compiler.strategies import strategies_for

from .convolutions import ROLES, Array, Convolution, add_node
from .coverage import variants
from .sweeps import SweepProgram, compared, data, has_phases, part_of, portions, rejection, sweep

COVERING = 100  # so many shapes reach all code: more of them need not be planned once more
PAIRS = [(strategy.name, role) for role in ROLES for strategy in strategies_for("conv")]
VARIANTS = {
    # the shapes
    *(
        f"{rank}-D, axis {axis} padded {side}"
        for rank in (1, 2, 3)
        for axis in range(rank)
        for side in ("before", "behind")
    ),
    "constant weights",
    "weights as input",
    "one sample",
    "many samples",
    # tiles
    "lanes of an output axis",
    "lanes of a sum",
    "no lanes",
    "one accumulator",
    "rows",
    "columns",
    "rows and columns",
    # tails
    "tail of the output's lanes",
    "tail of a sum's lanes",
    "row tail",
    "column tail",
    "row and column tail",
    "tail in work items",
    "tail in loops",
    "tail one at a time",
    "tail a few at a time",
    "padding lanes stored",
    # axes
    "channel blocks summed",
    "filters by group",
    "axes joined",
    "axis in chunks",
    "last chunk smaller",
    "one work item",
    "many work items",
    # sums
    "one chain",
    "partial sums of whole axes",
    "partial sums of equal parts",
    "partial sums of unequal parts",
    # borders
    "before the first element",
    "behind the last element",
    "borders of a padded copy",
    # kernels without sums
    "copied by index",
    # transforms of tiles
    *(
        f"winograd {stage}: {variant}"
        for stage in ("input", "output", "output_gradient")
        for variant in (
            "whole tile",
            "border tile",
            "channel tail",
            "many blocks an item",
            "many groups of blocks",
        )
    ),
    *(
        f"winograd {stage}: {variant}"
        for stage in ("filter", "filter_gradient")
        for variant in ("channel tail", "last rows fewer", "many vectors")
    ),
    *(
        f"fft {stage}: {variant}"
        for stage in ("input", "output", "output_gradient", "filter", "filter_gradient")
        for variant in ("rows of complex numbers", "channel tail")
    ),
    *(
        f"fft {stage}: {variant}"
        for stage in ("input", "output", "output_gradient")
        for variant in ("many blocks an item",)
    ),
    "fft input: tested numbers",
    "fft output_gradient: tested numbers",
    "fft output: whole tile",
    "fft output: border tile",
    "fft filter: many vectors",
    "fft filter_gradient: many vectors",
}
each_pair = pytest.mark.parametrize(("strategy", "role"), PAIRS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A long sweep is several tests, so that workers get equal shares."""
    if "portion" in metafunc.fixturenames:
        shapes = metafunc.config.getoption("--shapes")
        sweeps = [
            pytest.param(*pair, portion, id="-".join((*pair, *([str(portion)] if portion else []))))
            for pair in PAIRS
            for portion in range(portions(pair[0], shapes))
        ]
        metafunc.parametrize(("strategy", "role", "portion"), sweeps)


def features(case: Convolution) -> set[str]:
    """The sides that a convolution pads, and what else of its shape must occur."""
    rank = len(case.kernel)
    found = {
        f"{rank}-D, axis {axis} padded {side}"
        for side, widths in (("before", case.lo), ("behind", case.hi))
        for axis, width in enumerate(widths)
        if width
    }
    return found | {
        "constant weights" if case.is_constant else "weights as input",
        "one sample" if case.batch == 1 else "many samples",
    }


# -- what must hold --------------------------------------------------------------------------------


def test_every_shape_is_right(strategy: str, role: str, portion: int, shapes: int) -> None:
    """As many shapes as were asked for are accepted; integers are equal; errors keep the budget."""
    whole = sweep(strategy, role, shapes)
    assert whole.count == part_of(shapes, strategy), whole.reasons
    part = whole.portion(portion, portions(strategy, shapes))
    outcomes = [outcome for program in part.programs for outcome in program.outcomes()]
    assert len(outcomes) == part.count
    print(
        f"{strategy}, {role}: {part.count} shapes, largest error "
        f"{max(outcome.error for outcome in outcomes):.1e}"
    )
    assert not [str(outcome) for outcome in outcomes if outcome.is_exact and outcome.differing]
    assert not [str(outcome) for outcome in outcomes if not outcome.error <= outcome.budget]


@pytest.mark.parametrize(
    "strategy", ["winograd_f2", "winograd_f4", "winograd_f6", "winograd_phases_6"]
)
@pytest.mark.parametrize("role", ["forward", "input_gradient"])
def test_every_shape_is_right_in_bands(
    strategy: str, role: str, shapes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The three stages as one kernel, in short bands too, are as right as three kernels. No key of
    the cache tells what is patched, so it is one of their own."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path / "cache"))
    for name, value in (
        ("LEAST_TILES", 0),
        ("FEWEST_ROWS", 1),
        ("LEAST_ENTRIES", 0),
        ("AGAIN", 1 << 20),
        ("BAND", 64 << 10),
        ("MOST_BAND", 64 << 10),
    ):
        monkeypatch.setattr(bands, name, value)
    for program in sweep(strategy, role, -(-shapes // 10)).programs:
        has_bands = any("winograd_fused" in name for name in program.planned.program.kernels)
        may_have = [case.groups == 1 for case in program.rounds[0]]
        assert has_bands == any(may_have)
        for outcome in program.outcomes():
            assert outcome.error <= outcome.budget, outcome
            assert not (outcome.is_exact and outcome.differing), outcome


def test_every_variant_is_executed(shapes: int) -> None:
    """Tiles, tails, borders, padding sides and reduction splits: the shapes together reach all
    of them. Programs of all pairs take turns, until none is left or nothing more is to be seen.
    """
    programs = [sweep(*pair, min(shapes, COVERING)).programs for pair in PAIRS]
    missing = set(VARIANTS)
    for turn in zip_longest(*programs):
        for program in filter(None, turn):
            missing -= program.executed()
            missing.difference_update(*(features(c) for cases in program.rounds for c in cases))
        if not missing:
            return
    assert not missing


def test_a_sweep_has_the_shapes_it_was_asked_for() -> None:
    """Portions share all shapes; a free dim takes several extents, with the same weights."""
    whole = sweep("winograd_f4", "forward", 60)
    parts = [whole.portion(number, 7) for number in range(7)]
    assert whole.count == 60 and [s for part in parts for s in part.sizes] == list(whole.sizes)
    several = [sizes for sizes in whole.sizes if len(sizes) > 1]
    assert several and all(len(set(sizes)) == len(sizes) for sizes in several)
    for first, *others in several:
        weights = data("forward", first)["normals"][1]
        assert all(np.array_equal(data("forward", o)["normals"][1], weights) for o in others)
        assert {replace(o, batch=1, spatial=()) for o in others} == {
            replace(first, batch=1, spatial=())
        }


# -- controls --------------------------------------------------------------------------------------

CONTROL = Convolution(2, 5, 7, (9, 8), (3, 3), (1, 1), (1, 1), (1, 0), (0, 1))


def _one_element_off(operands: tuple[Array, Array]) -> tuple[Array, Array]:
    second = operands[1].copy()
    second[(1, 2, *(e // 2 for e in second.shape[2:]))] += 1
    return operands[0], second


@each_pair
def test_a_wrong_operand_and_wrong_padding_are_found(strategy: str, role: str) -> None:
    """The comparison sees one weight that is off by one, and zeros on the wrong side."""
    control = replace(CONTROL, stride=(2, 2)) if has_phases(strategy) else CONTROL
    assert rejection(strategy, role, control) is None
    ((_, found),) = SweepProgram(strategy, role, [[control]], "host").results()
    right = data(role, control)
    changed = {method: _one_element_off(operands) for method, operands in right.items()}
    same = compared(strategy, role, control, "host", found, right)
    assert same.error <= same.budget and (same.differing == 0 or not same.is_exact)
    for outcome in (
        compared(strategy, role, control, "host", found, changed),
        compared(strategy, role, replace(control, lo=control.hi, hi=control.lo), "host", found,
                 right),
    ):  # fmt: skip
        assert outcome.differing and outcome.error > 100 * outcome.budget


def test_a_variant_that_is_not_reached_is_missed() -> None:
    """Code for whole tiles is there for a small image too, but nothing comes to it."""
    seen = []
    for spatial in ((6, 6), (12, 12)):
        b = Builder("image")
        case = Convolution(1, 3, 16, spatial, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
        graph = b.build([add_node(b, "forward", case, "x", weights=np.ones(case.w, np.float32))])
        kernels = plan_graph(graph, Options(override="winograd_f4")).program.kernels
        seen.append(
            frozenset().union(*(variants(name, kernel, {}) for name, kernel in kernels.items()))
        )
    assert "winograd input: whole tile" in seen[1] - seen[0]
    assert VARIANTS - seen[1]
