"""Sweeps: a strategy, a role and a number -> random shapes that the strategy computes, compiled
through the whole pipeline, and what came of each.

Shapes without a free dim are compiled one by one. The code of one with a free dim is for all its
extents, so that the first ``SINGLE`` of a sweep apart it runs at ``SIZES`` of them, and each is a
shape of its own with its own numbers: more than a third of the shapes of a long sweep have constant
extents. ``PROGRAM`` of the shapes are one program, and shapes are for the CPU levels in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import cycle, islice
from zlib import crc32

import numpy as np

from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim
from netloom.compiler.driver import Compiled, Options, plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.passes.select_strategies import Decision, select_strategies
from netloom.compiler.passes.trim_kernels import trim_kernels
from netloom.compiler.strategies import BY_NAME
from netloom.compiler.targets.cpu.machine import host_cpus
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

from .convolutions import (
    CORNERS,
    ROLES,
    Array,
    Convolution,
    add_node,
    drawn,
    exact,
    resized,
    strided,
)
from .coverage import variants

PROGRAM = 10  # shapes that are compiled as one program: independent nodes, none sees another
SINGLE = 20  # shapes at the start of a sweep, each at one extent of its free dim
SIZES = 4  # extents of a free dim from there on
PORTION = 150  # shapes of a sweep that one test runs
PART = {  # one in so many of the shapes asked for
    "winograd_f2": 3, "winograd_f6": 4, "winograd_phases_4": 10, "winograd_phases_6": 10,
    "winograd_phases_8": 30, "fft_8": 10, "fft_16": 15, "fft_32": 30, "toeplitz": 15,
}  # fmt: skip
MOST_DRAWS = 300  # one after another that the strategy may refuse
METHODS = ("integers", "normals")


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


@dataclass(frozen=True)
class Sweep:
    """Shapes of one strategy and role: each of ``sizes`` is one convolution at the extents of its
    free dim. ``reasons``: why others were refused."""

    strategy: str
    role: str
    sizes: tuple[tuple[Convolution, ...], ...]
    reasons: frozenset[str]

    @property
    def count(self) -> int:
        return sum(map(len, self.sizes))

    def portion(self, number: int, count: int) -> Sweep:
        """One of so many sweeps that hold its shapes."""
        first, behind = (len(self.sizes) * k // count for k in (number, number + 1))
        return Sweep(self.strategy, self.role, self.sizes[first:behind], self.reasons)

    @property
    def programs(self) -> Iterator[SweepProgram]:
        turns = list(islice(cycle(_turns()), len(self.sizes)))
        for cpu in levels():
            own = [sizes for sizes, turn in zip(self.sizes, turns, strict=True) if turn == cpu]
            for start in range(0, len(own), PROGRAM):
                part = own[start : start + PROGRAM]
                yield SweepProgram(self.strategy, self.role, part, cpu)


@dataclass(frozen=True)
class SweepProgram:
    """Convolutions, each at the extents of its free dim, as independent nodes of one program."""

    strategy: str
    role: str
    sizes: Sequence[Sequence[Convolution]]
    cpu: str

    @property
    def rounds(self) -> list[list[Convolution]]:
        """What the nodes run at, one after another; those with fewer extents begin anew."""
        count = max(map(len, self.sizes))
        return [[sizes[turn % len(sizes)] for sizes in self.sizes] for turn in range(count)]

    @cached_property
    def planned(self) -> Compiled:
        """The program before machine code."""
        # other tests have the other cores: starting processes for a few kernels would not pay
        options = Options(override=self.strategy, cpu=self.cpu, accuracy="fast", workers=1)
        compiled = plan_graph(graph_of(self.role, self.rounds[0]), options)
        assert {d.strategy for d in compiled.decisions} <= {self.strategy}
        return compiled

    def results(self) -> Iterator[tuple[Convolution, dict[str, Array]]]:
        """Each shape's results by method, with two threads."""
        compiled = self.planned
        session = Session.in_process(compiled.image, threads=2)
        names = compiled.sources["run"].output_names
        for turn, cases in enumerate(self.rounds):
            found = dict(zip(names, session.run(None, feeds_of(self.role, cases)), strict=True))
            for number, case in enumerate(cases):
                if turn < len(self.sizes[number]):
                    yield case, {method: found[f"{number} {method}"] for method in METHODS}

    def outcomes(self) -> Iterator[Outcome]:
        """What came of each shape."""
        for case, found in self.results():
            given = data(self.role, case)
            yield compared(self.strategy, self.role, case, self.cpu, found, given)

    def executed(self) -> set[str]:
        """The variants that the kernels execute; nothing is compiled for it."""
        kernels = self.planned.program.kernels
        seen: set[str] = set()
        for cases in self.rounds:
            dims = {
                s.name: value
                for number, case in enumerate(cases)
                for s, value in case.symbols(number).items()
            }
            seen.update(*(variants(name, kernel, dims) for name, kernel in kernels.items()))
        return seen


def sweep(strategy: str, role: str, shapes: int) -> Sweep:
    """The sweep of a strategy when so many shapes are asked for: all of them or a part."""
    return _drawn_sweep(strategy, role, part_of(shapes, strategy))


@cache
def _drawn_sweep(strategy: str, role: str, count: int) -> Sweep:
    reasons: set[str] = set()
    sizes: list[tuple[Convolution, ...]] = []
    room = count
    for case in _accepted(strategy, role, reasons):
        sizes.append((case, *(resized(case, SIZES - 1) if len(sizes) >= SINGLE else ()))[:room])
        room -= len(sizes[-1])
        if room == 0:
            break
    return Sweep(strategy, role, tuple(sizes), frozenset(reasons))


def _accepted(strategy: str, role: str, reasons: set[str]) -> Iterator[Convolution]:
    """Random shapes that the strategy computes; ``reasons`` collects those against the others."""
    misses = 0
    draws = strided if has_phases(strategy) else drawn
    for case in draws(np.random.default_rng(crc32(f"{strategy} {role}".encode()))):
        if strategy in PART and case in CORNERS:
            continue
        reason = rejection(strategy, role, case)
        if reason is None:
            misses = 0
            yield case
        else:
            reasons.add(reason)
            misses += 1
            if misses == MOST_DRAWS:
                return


def part_of(shapes: int, strategy: str) -> int:
    """How many of the shapes that were asked for a strategy gets."""
    return -(-shapes // PART.get(strategy, 1))


def portions(strategy: str, shapes: int) -> int:
    """How many tests share a sweep."""
    return -(-part_of(shapes, strategy) // PORTION)


@cache
def levels() -> tuple[str, ...]:
    """The CPU levels that this machine has, highest first, one for each way to tile: of two
    alike the lower.
    """
    return tuple({cpu.machine: cpu.name for cpu in reversed(host_cpus())}.values())


def _turns() -> list[str]:
    """The levels that shapes are for, in turn: of three the highest has half of the turns and the
    lowest, whose code takes LLVM twice as long, a sixth."""
    return [cpu for count in range(len(levels()), 0, -1) for cpu in levels()[:count]]


# -- one shape -------------------------------------------------------------------------------------


def trimmed(role: str, case: Convolution) -> Graph:
    """The shape as one node, as strategies meet it: without positions that meet padding alone."""
    b = Builder("one")
    weights = Constant.splat(0.0, TensorType(FLOAT32, case.w)) if has_weights(role, case) else None
    return trim_kernels(b.build([add_node(b, role, case, "x", weights=weights)]))


def rejection(strategy: str, role: str, case: Convolution) -> str | None:
    """Why the pipeline does not choose a strategy that was asked for; None if it does."""
    decisions: list[Decision] = []
    select_strategies(trimmed(role, case), "fast", strategy, decisions)
    (decision,) = decisions
    return None if decision.strategy == strategy else decision.rejected[strategy]


def promised(strategy: str, role: str, case: Convolution) -> tuple[float, bool]:
    """The budget of a strategy for a shape, and whether it is exact on small integers (rounded
    ones, if it has to).
    """
    (node,) = (node for node in trimmed(role, case).nodes if node.op.name == ROLES[role])
    budget, accuracy = BY_NAME[strategy].level(node)
    return budget, accuracy == "strict" or is_rounded(strategy)


def is_rounded(strategy: str) -> bool:
    """Whether results on integers are equal only when they are rounded."""
    return strategy.startswith("fft")


def has_phases(strategy: str) -> bool:
    """Whether a strategy is for strides alone."""
    return strategy.startswith("winograd_phases")


def has_weights(role: str, case: Convolution) -> bool:
    """Whether a role's second operand is known when compiling."""
    return case.is_constant and role != "weight_gradient"


def integers(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """|x| <= 3, three in ten not zero."""
    return np.asarray(rng.integers(-3, 4, shape) * (rng.random(shape) < 0.3), np.float32)


def normals(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def data(role: str, case: Convolution) -> dict[str, tuple[Array, Array]]:
    """The operands of a role by method; the same ones each time, and the same weights at all
    extents of the free dim."""
    assert 9 * case.terms(role) < 1 << 22, "a sum of quarters might not be exact"
    first, second = case.shapes(role)
    rng, other = (
        np.random.default_rng(crc32(f"{role} {kind}".encode())) for kind in (case, case.any_extent)
    )
    return {
        "integers": (integers(rng, first), integers(other, second)),
        "normals": (normals(rng, first), normals(other, second)),
    }


def graph_of(role: str, cases: Sequence[Convolution]) -> Graph:
    """Convolutions as independent nodes of one graph, its results named "NUMBER METHOD"."""
    b = Builder("convolutions")
    results = {}
    for number, case in enumerate(cases):
        for symbol in case.symbols(number):  # dy alone does not tell x's extents
            b.input(TensorType(FLOAT32, (Dim.of(symbol),)), symbol.name)
        for method, (_, second) in data(role, case).items():
            name = f"{number} {method}"
            weights = second if has_weights(role, case) else None
            results[name] = add_node(b, role, case, name, number, weights)
    return b.build(results.values(), results)


def feeds_of(role: str, cases: Sequence[Convolution]) -> dict[str, Array]:
    """What the graph of these convolutions is fed, at their extents."""
    feeds: dict[str, Array] = {}
    for number, case in enumerate(cases):
        for symbol, value in case.symbols(number).items():
            feeds[symbol.name] = np.zeros(value, np.float32)
        for method, operands in data(role, case).items():
            given = operands[:1] if has_weights(role, case) else operands
            feeds |= {f"{number} {method}.{i}": array for i, array in enumerate(given)}
    return feeds


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
