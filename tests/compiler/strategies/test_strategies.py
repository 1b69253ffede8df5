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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from zlib import crc32

import numpy as np
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim
from netloom.compiler.driver import Options, compile_graph, plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops import bands
from netloom.compiler.passes.select_strategies import Decision, select_strategies
from netloom.compiler.strategies import BY_NAME, strategies_for
from netloom.compiler.targets.cpu.machine import host_cpus
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

from .convolutions import CORNERS, ROLES, Array, Convolution, add_node, drawn, exact, strided
from .coverage import variants

PROGRAM = 10  # shapes that are compiled as one program: independent nodes, none sees another
PART = {  # one in so many of the shapes asked for
    "winograd_f2": 2, "winograd_f6": 3, "winograd_phases_4": 10, "winograd_phases_6": 10,
    "winograd_phases_8": 30, "fft_8": 10, "fft_16": 15, "fft_32": 30, "toeplitz": 15,
}  # fmt: skip
COVERING = 100  # so many shapes reach all code: more of them need not be planned once more
MOST_DRAWS = 300  # one after another that the strategy may refuse
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
    "between strides",
    "borders of a padded copy",
    # kernels without sums
    "contiguous memory",
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


@dataclass(frozen=True)
class Outcome:
    """What came of one shape: how many elements differ on integers, the relative L2 error on normal
    numbers.

    ``budget`` is what the strategy promises for it; ``is_exact``: integers are equal, as at every
    strict accuracy.
    """

    case: Convolution
    cpu: str
    differing: int
    error: float
    budget: float
    is_exact: bool

    def __str__(self) -> str:
        return f"{self.case} on {self.cpu}: {self.differing} differ on integers, error {self.error:.1e}"


# -- one shape -------------------------------------------------------------------------------------


def rejection(strategy: str, role: str, case: Convolution) -> str | None:
    """Why the pipeline does not choose a strategy that was asked for; None if it does."""
    b = Builder("one")
    weights = Constant.splat(0.0, TensorType(FLOAT32, case.w)) if has_weights(role, case) else None
    graph = b.build([add_node(b, role, case, "x", weights=weights)])
    decisions: list[Decision] = []
    select_strategies(graph, "fast", strategy, decisions)
    (decision,) = decisions
    return None if decision.strategy == strategy else decision.rejected[strategy]


def promised(strategy: str, role: str, case: Convolution) -> tuple[float, bool]:
    """The budget of a strategy for a shape, and whether it is exact on small integers (rounded
    ones, if it has to).
    """
    b = Builder("one")
    result = add_node(b, role, case, "x")
    (node,) = (node for node in b.nodes if result in node.outputs)
    budget, accuracy = BY_NAME[strategy].level(node)
    return budget, accuracy == "strict" or is_rounded(strategy)


def is_rounded(strategy: str) -> bool:
    """Whether results on integers are equal only when they are rounded."""
    return strategy.startswith("fft")


def has_phases(strategy: str) -> bool:
    """Whether a strategy is for strides alone."""
    return strategy.startswith("winograd_phases")


def part_of(shapes: int, strategy: str) -> int:
    """How many of the shapes that were asked for a strategy gets."""
    return -(-shapes // PART.get(strategy, 1))


def has_weights(role: str, case: Convolution) -> bool:
    """Whether a role's second operand is known when compiling."""
    return case.is_constant and role != "weight_gradient"


def integers(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """|x| <= 3, three in ten not zero."""
    return np.asarray(rng.integers(-3, 4, shape) * (rng.random(shape) < 0.3), np.float32)


def normals(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def data(role: str, case: Convolution) -> dict[str, tuple[Array, Array]]:
    """The operands of a role by method; the same ones each time."""
    rng = np.random.default_rng(crc32(f"{role} {case}".encode()))
    assert 9 * case.terms(role) < 1 << 22, "a sum of quarters might not be exact"
    first, second = case.shapes(role)
    return {
        "integers": (integers(rng, first), integers(rng, second)),
        "normals": (normals(rng, first), normals(rng, second)),
    }


def program(role: str, cases: Sequence[Convolution]) -> tuple[Graph, dict[str, Array]]:
    """Shapes as independent nodes of one graph, its results named "NUMBER METHOD", and what it
    is fed.
    """
    b = Builder("convolutions")
    results, feeds = {}, {}
    for number, case in enumerate(cases):
        for symbol, value in case.symbols(number).items():  # dy alone does not tell x's extents
            feeds[symbol.name] = np.zeros(value, np.float32)
            b.input(TensorType(FLOAT32, (Dim.of(symbol),)), symbol.name)
        for method, operands in data(role, case).items():
            name = f"{number} {method}"
            weights = operands[1] if has_weights(role, case) else None
            results[name] = add_node(b, role, case, name, number, weights)
            feeds |= {f"{name}.{i}": operands[i] for i in range(1 if weights is not None else 2)}
    return b.build(results.values(), results), feeds


def run(strategy: str, role: str, cases: Sequence[Convolution], cpu: str) -> dict[str, Array]:
    """The results of shapes, compiled as one program and run with two threads, by "NUMBER
    METHOD".
    """
    graph, feeds = program(role, cases)
    compiled = compile_graph(graph, Options(override=strategy, cpu=cpu, accuracy="fast"))
    assert {d.strategy for d in compiled.decisions} <= {strategy}
    found = Session.in_process(compiled.image, threads=2).run(None, feeds)
    return dict(zip(graph.output_names, found, strict=True))


def of_number(results: dict[str, Array], number: int) -> dict[str, Array]:
    """The results of one shape by method."""
    return {method: results[f"{number} {method}"] for method in ("integers", "normals")}


def compared(
    strategy: str,
    role: str,
    case: Convolution,
    cpu: str,
    found: dict[str, Array],
    given: dict[str, tuple[Array, Array]],
) -> Outcome:
    """The results of both methods against the exact ones of the given operands."""
    wanted = {method: exact(role, case, operands) for method, operands in given.items()}
    assert all(found[method].shape == wanted[method].shape for method in wanted)
    integral = np.rint(found["integers"]) if is_rounded(strategy) else found["integers"]
    differing = int(np.sum(integral != wanted["integers"]))
    length = float(np.linalg.norm(wanted["normals"]))
    error = float(np.linalg.norm(found["normals"] - wanted["normals"]))
    return Outcome(
        case, cpu, differing, error / length if length else error, *promised(strategy, role, case)
    )


# -- sweeps ----------------------------------------------------------------------------------------


def levels() -> list[str]:
    """The CPU levels that this machine has, highest first, one for each way to tile: of two
    alike the lower.
    """
    return list({cpu.machine: cpu.name for cpu in reversed(host_cpus())}.values())


def accepted(strategy: str, role: str, reasons: set[str]) -> Iterator[Convolution]:
    """Random shapes that the strategy computes; ``reasons`` collects those against the others."""
    misses = 0
    draws = strided if has_phases(strategy) else drawn
    for case in draws(np.random.default_rng(crc32(f"{strategy} {role}".encode()))):
        reason = rejection(strategy, role, case)
        if reason is None:
            misses = 0
            yield case
        else:
            reasons.add(reason)
            misses += 1
            if misses == MOST_DRAWS:
                return


def parts(
    strategy: str, role: str, count: int, reasons: set[str]
) -> Iterator[tuple[str, Sequence[Convolution]]]:
    """``count`` accepted shapes in programs of PROGRAM, each for one of the CPU levels in turn."""
    found = accepted(strategy, role, reasons)
    cases = list(
        islice((case for case in found if strategy not in PART or case not in CORNERS), count)
    )
    for turn, cpu in enumerate(levels()):
        own = cases[turn :: len(levels())]
        for start in range(0, len(own), PROGRAM):
            yield cpu, own[start : start + PROGRAM]


def executed(strategy: str, role: str, count: int) -> set[str]:
    """The variants that the kernels of ``count`` accepted shapes execute; nothing is compiled
    for it.
    """
    seen: set[str] = set()
    for cpu, part in parts(strategy, role, count, set()):
        kernels = plan_graph(
            program(role, part)[0], Options(override=strategy, cpu=cpu, accuracy="fast")
        ).program.kernels
        dims = {
            s.name: value
            for number, case in enumerate(part)
            for s, value in case.symbols(number).items()
        }
        seen.update(
            *(variants(name, kernel, dims) for name, kernel in kernels.items()),
            *map(features, part),
        )
    return seen


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


@each_pair
def test_every_shape_is_right(strategy: str, role: str, shapes: int) -> None:
    """As many shapes as were asked for are accepted; integers are equal; errors keep the budget."""
    reasons: set[str] = set()
    count = part_of(shapes, strategy)
    outcomes = [
        compared(strategy, role, case, cpu, of_number(found, number), data(role, case))
        for cpu, part in parts(strategy, role, count, reasons)
        for found in [run(strategy, role, part, cpu)]
        for number, case in enumerate(part)
    ]
    assert len(outcomes) == count, reasons
    print(
        f"{strategy}, {role}: {count} shapes, largest error "
        f"{max(outcome.error for outcome in outcomes):.1e}"
    )
    assert not [str(outcome) for outcome in outcomes if outcome.is_exact and outcome.differing]
    assert not [str(outcome) for outcome in outcomes if not outcome.error <= outcome.budget]


@pytest.mark.parametrize(
    "strategy", ["winograd_f2", "winograd_f4", "winograd_f6", "winograd_phases_6"]
)
@pytest.mark.parametrize("role", ["forward", "input_gradient"])
def test_every_shape_is_right_in_bands(
    strategy: str, role: str, shapes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three stages as one kernel, in short bands too, are as right as three kernels."""
    for name, value in (("LEAST_TILES", 0), ("LEAST_ENTRIES", 0), ("BAND", 64 << 10)):
        monkeypatch.setattr(bands, name, value)
    for cpu, part in parts(strategy, role, -(-part_of(shapes, strategy) // 10), set()):
        options = Options(override=strategy, cpu=cpu, accuracy="fast")
        kernels = plan_graph(program(role, part)[0], options).program.kernels
        has_bands = any("winograd_fused" in name for name in kernels)
        assert has_bands == any(case.groups == 1 for case in part)
        found = run(strategy, role, part, cpu)
        for number, case in enumerate(part):
            outcome = compared(
                strategy, role, case, cpu, of_number(found, number), data(role, case)
            )
            assert outcome.error <= outcome.budget, outcome
            assert not (outcome.is_exact and outcome.differing), outcome


def test_every_variant_is_executed(shapes: int) -> None:
    """Tiles, tails, borders, padding sides and reduction splits: the shapes together reach all
    of them.
    """
    count = min(shapes, COVERING)
    seen = frozenset().union(
        *(executed(strategy, role, part_of(count, strategy)) for strategy, role in PAIRS)
    )
    assert not VARIANTS - seen


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
    found = of_number(run(strategy, role, [control], "host"), 0)
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
