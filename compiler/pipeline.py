"""The order of passes, as one list that checks itself, and its run: verified, timed and, on
request, dumped.

A pass is a function Graph -> Graph; those that depend on the user's options name the ones that they
take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from netloom.errors import VerificationError

from .bodies import in_bodies
from .graph import Graph
from .passes.decompose import decompose
from .passes.eliminate_common import eliminate_common
from .passes.eliminate_dead import eliminate_dead
from .passes.fold_batchnorm import fold_batchnorm
from .passes.fold_constants import fold_constants
from .passes.freeze_states import freeze_states
from .passes.simplify import simplify
from .passes.trim_convolutions import trim_convolutions
from .passes.trim_kernels import trim_kernels
from .text import is_identical, print_graph
from .verify import Verified, verify


@dataclass(frozen=True)
class Pass:
    """One step. ``after`` names passes that must come earlier if they are there; ``why`` says for
    what reason.

    ``options`` names attributes of the options object that the function takes as keyword arguments.
    """

    name: str
    function: Callable[..., Graph]
    after: tuple[str, ...] = ()
    why: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """What one pass did."""

    name: str
    seconds: float
    nodes_before: int
    nodes_after: int


@dataclass(frozen=True)
class Report:
    """What a pipeline did, pass by pass."""

    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def __str__(self) -> str:
        return "\n".join(
            f"{step.name:24} {step.seconds * 1e3:9.1f} ms  {step.nodes_before:6} -> {step.nodes_after} nodes"
            for step in self.steps
        )


class Pipeline:
    """Passes in order. ValueError when built if a pass stands before one that it must follow, or
    twice.
    """

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = tuple(passes)
        names = [item.name for item in passes]
        if len(set(names)) < len(names):
            raise ValueError(f"a pass stands in the pipeline twice: {names}")
        for position, item in enumerate(passes):
            late = [name for name in item.after if name in names[position:]]
            if late:
                raise ValueError(f"{item.name} must come after {', '.join(late)}: {item.why}")

    def run(
        self, graph: Graph, options: Any = None, dump: Path | None = None
    ) -> tuple[Graph, Report]:
        """The graph after all passes, verified before the first and after each; ``dump``: a
        folder for the texts.
        """
        verified: Verified = WeakKeyDictionary()
        verify(graph, verified)
        if dump is not None:
            dump.mkdir(parents=True, exist_ok=True)
            (dump / "00_input.txt").write_text(print_graph(graph), encoding="utf-8")
        steps = []
        for number, item in enumerate(self.passes, 1):
            start = time.perf_counter()
            chosen = {name: getattr(options, name) for name in item.options}
            new = in_bodies(graph, partial(item.function, **chosen))
            steps.append(
                Step(item.name, time.perf_counter() - start, len(graph.nodes), len(new.nodes))
            )
            if new is not graph:
                _verify_after(item, new, verified)
            if dump is not None:
                text = "(unchanged)\n" if is_identical(graph, new) else print_graph(new)
                (dump / f"{number:02}_{item.name}.txt").write_text(text, encoding="utf-8")
            graph = new
        return graph, Report(tuple(steps))


def _verify_after(item: Pass, graph: Graph, verified: Verified) -> None:
    try:
        verify(graph, verified)
    except VerificationError as error:
        raise VerificationError(
            f"after {item.name}: {error.message}", node=error.node, hint=error.hint
        ) from error


GRAPH_PASSES: tuple[Pass, ...] = (
    Pass("freeze_states", freeze_states, why="weights that never change can be folded and packed"),
    Pass("decompose", decompose, why="the rules see small ops only"),
    Pass("fold_constants", fold_constants, after=("freeze_states", "decompose"), why="frozen states are constants"),
    Pass("simplify", simplify, after=("decompose", "fold_constants"), why="identities have constants in them"),
    Pass("fold_batchnorm", fold_batchnorm, after=("decompose", "fold_constants", "simplify"),
         why="a batch_norm must be one mul and one add by constants"),
    Pass("trim_convolutions", trim_convolutions, after=("fold_batchnorm", "simplify"),
         why="nothing but a bias is left between a convolution and a slice"),
    Pass("trim_kernels", trim_kernels, after=("freeze_states", "fold_constants"),
         why="weights that are constants are known to be finite"),
    Pass("fold_new_constants", fold_constants, after=("simplify", "fold_batchnorm", "trim_kernels"),
         why="rules leave constants behind"),
    Pass("eliminate_common", eliminate_common, after=("simplify", "fold_new_constants"),
         why="nodes are equal more often in their simplest form"),
    Pass("eliminate_dead", eliminate_dead, after=("eliminate_common",), why="what was replaced must not be computed"),
)  # fmt: skip
