"""Model or program -> the groups of contenders that ``netloom bench`` times, one by one."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netloom.errors import UsageError

from .models import inference_form, is_program, listed, load_for_timing
from .options import Binding
from .output import Output

if TYPE_CHECKING:
    from netloom.benchmarks.comparison import Row, Variant
    from netloom.compiler.graph import Graph
    from netloom.runtime.session import Session


@dataclass(frozen=True)
class Plan:
    """What to measure of each model."""

    against: tuple[str, ...]
    strategies: tuple[str, ...]
    threads: tuple[int, ...]
    batches: tuple[int, ...]
    rounds: int
    training: str | None
    accuracy: str


@dataclass(frozen=True)
class Group:
    """Contenders measured together: the same inputs, batch and number of threads. No batch: the
    model has its own.

    ``remarks`` are on the model; its first group carries them.
    """

    network: str
    batch: int | None
    threads: int
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()


def prepared_groups(
    output: Output, name: str, plan: Plan, binding: Binding, folder: Path
) -> Iterator[Group]:
    """The groups of one model or program, measured one after the other; what cannot be measured
    is refused at once.
    """
    if is_program(name):
        return _program_groups(output, name, plan, _program_feeds(name, plan, binding))
    graph, file = load_for_timing(name, binding, folder)
    symbol = _batch_symbol(graph, name) if plan.batches else ""
    if plan.training is not None:
        from .recipes import parse_recipe

        return _training_groups(output, name, graph, plan, symbol, parse_recipe(plan.training))
    return _model_groups(output, name, inference_form(graph), file, plan, symbol)


def _model_groups(
    output: Output, name: str, graph: Graph, file: Path | None, plan: Plan, symbol: str
) -> Iterator[Group]:
    from netloom.benchmarks.comparison import compare

    ways, remarks = _ways(graph, plan)
    for batch in plan.batches or (None,):
        for threads in plan.threads:
            output.progress(f"measuring {name}, {setting(batch, threads)} ...")
            dims = {} if batch is None else {symbol: batch}
            rows = compare(name, graph, ways, plan.against, threads, plan.rounds, file, dims=dims)
            yield Group(name, batch, threads, tuple(rows), remarks)
            remarks = ()


def _ways(graph: Graph, plan: Plan) -> tuple[list[Variant], tuple[str, ...]]:
    """netloom's own choice, then each strategy that applies somewhere; and a remark on each
    strategy.
    """
    from netloom.benchmarks.comparison import Variant
    from netloom.compiler.driver import Options, plan_graph
    from netloom.compiler.strategies import ACCURACIES, BY_NAME

    ways, remarks = [Variant("netloom", Options(accuracy=plan.accuracy))], []
    if not plan.strategies:
        return ways, ()
    levels = ACCURACIES[ACCURACIES.index(plan.accuracy) :]
    found = {level: plan_graph(graph, Options(accuracy=level)).decisions for level in levels}
    decisions = found[levels[-1]]
    for name in plan.strategies:
        ops = BY_NAME[name].ops
        nodes = counted(
            sum(decision.op in ops for decision in decisions),
            "convolution" if "conv" in ops else ops[0],
        )
        fitting = sum(name in decision.seconds for decision in decisions)
        remarks.append(
            f"{name} applies to {fitting} of {nodes}" + ("" if fitting else ": left out")
        )
        if fitting:
            accuracy = next(
                level
                for level in levels
                if any(name in decision.seconds for decision in found[level])
            )
            ways.append(Variant(f"netloom/{name}", Options(override=name, accuracy=accuracy)))
    return ways, tuple(remarks)


def _batch_symbol(graph: Graph, name: str) -> str:
    """The free dim that is the first extent of every input; UsageError if there is none."""
    firsts = {str(value.shape[0]) for value in graph.inputs if value.shape}
    found = firsts & {symbol.name for symbol in graph.symbols}
    if len(firsts) != 1 or not found:
        raise UsageError(
            f"the batch of {name[:80]!r} is not free: its inputs begin with "
            f"{listed(sorted(firsts))}.",
            hint="Leave --batch out, or give a model whose first extent is free.",
        )
    return found.pop()


def _training_groups(
    output: Output, name: str, graph: Graph, plan: Plan, symbol: str, recipe: tuple[Any, Any]
) -> Iterator[Group]:
    from netloom.benchmarks import training_step
    from netloom.compiler.driver import Options

    for batch in plan.batches or (None,):
        for threads in plan.threads:
            output.progress(f"measuring the training step of {name}, {setting(batch, threads)} ...")
            dims = {} if batch is None else {symbol: batch}
            row = training_step.measure(
                name, graph, *recipe, threads, plan.rounds, Options(accuracy=plan.accuracy), dims
            )
            yield Group(name, batch, threads, (row,))


def _program_groups(
    output: Output, name: str, plan: Plan, feeds: Mapping[int | None, Mapping[str, Any]]
) -> Iterator[Group]:
    """A program by itself; what it computes is not known, so neither are its operations and its
    error.
    """
    from netloom.benchmarks import harness
    from netloom.benchmarks.comparison import Row
    from netloom.benchmarks.harness import Contender

    file = Path(name).resolve()
    for batch, inputs in feeds.items():
        for threads in plan.threads:
            output.progress(f"measuring {name}, {setting(batch, threads)} ...")
            with tempfile.TemporaryDirectory(prefix="netloom-") as folder:
                (result,) = harness.run(
                    [Contender("netloom", "netloom", file, threads)],
                    inputs,
                    Path(folder),
                    plan.rounds,
                )
            row = Row(name, "netloom", result.version, threads, result.percentiles(), {}, math.nan,
                      math.nan, result.ready,
                      file.stat().st_size, math.nan)  # fmt: skip
            yield Group(name, batch, threads, (row,))


def _program_feeds(name: str, plan: Plan, binding: Binding) -> dict[int | None, Mapping[str, Any]]:
    """Random inputs for each batch (None: free dims at their least value, but 1 at least)."""
    from netloom.runtime.session import load

    from .arrays import gather_inputs

    session = load(name, threads=1)
    return {batch: gather_inputs(session, {}, {**binding.numbers, **_program_batch(session, batch)})
            for batch in plan.batches or (None,)}  # fmt: skip


def _program_batch(session: Session, batch: int | None) -> Mapping[str, int]:
    if batch is None:
        return {}
    firsts = {str(port.shape[0]) for port in session.inputs if port.shape}
    found = firsts & {row["name"] for row in session.metadata["dims"]}
    if len(firsts) != 1 or not found:
        raise UsageError("the batch of the program is not free: its inputs begin with "
                         f"{listed(sorted(firsts))}.",
                         hint="Leave --batch out.")  # fmt: skip
    return {found.pop(): batch}


def setting(batch: int | None, threads: int) -> str:
    return ("" if batch is None else f"batch {batch}, ") + counted(threads, "thread")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
