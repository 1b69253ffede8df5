"""The compiler as one call: graph -> passes -> kernels -> program, in process or as a shared
object.

``PIPELINE`` is the whole order of passes. ``compile_graph`` makes an inference program;
``compile_entries`` one of several entries, such as a training step and the network's own ``run``
over the same states.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any

from netloom.errors import MemoryBudgetError, UsageError, quoted

from . import dim
from .cache import default_cache
from .graph import Graph
from .kernel_table import KernelTable
from .metadata import metadata_of
from .passes.choose_layout import choose_layout
from .passes.eliminate_common import eliminate_common
from .passes.eliminate_dead import eliminate_dead
from .passes.find_attention import find_attention
from .passes.fuse import fuse
from .passes.join_slices import join_slices
from .passes.join_stages import join_stages
from .passes.multiply_bytes import multiply_bytes
from .passes.placement import Placement
from .passes.plan_memory import plan_memory
from .passes.select_strategies import Decision, select_strategies
from .passes.sort_by_merging import sort_by_merging
from .passes.split_sums import split_sums
from .passes.split_windows import split_windows
from .passes.sum_by_sorting import sum_by_sorting
from .passes.tabulate import tabulate
from .passes.widen_products import widen_products
from .passes.widen_scatters import widen_scatters
from .pipeline import GRAPH_PASSES, Pass, Pipeline, Report
from .program import Program, StatePort, identifier
from .strategies import Rates, rates_of
from .targets.cpu.host_object import functions_ahead
from .targets.cpu.kernel_objects import compile_kernel_objects
from .targets.cpu.machine import Cpu, cpus_named
from .targets.cpu.shared_object import write_shared_object
from .targets.cpu.variant import Variant
from .targets.cpu.whole_files import check_writable
from .text import constants_of, print_graph
from .tuning import Tuner

TEXT_FORMS = ("graph", "kernels", "loops", "llvm", "asm")  # each nearer to machine code
TRAINING_BATCH = 32  # what costs take a free batch for in a training step
# bytes of arena that a program may ask for, at the lowest values of its free dims
MEMORY_BUDGET = 64 << 30

_FIND = (
    Pass("multiply_bytes", multiply_bytes, after=("simplify", "fold_new_constants"),
         why="weights and zero points must have their final values"),
    Pass("tabulate", tabulate, after=("eliminate_common",),
         why="functions that are equal are then of the same byte"),
    Pass("find_attention", find_attention, after=("simplify", "eliminate_dead"),
         why="products have taken their transposes in, and only readers that are left count"),
    Pass("widen_products", widen_products, after=("fold_new_constants", "find_attention"),
         why="weights must have their final values, and attention is found among products as they were"),
)  # fmt: skip
_SELECT = (
    Pass("join_slices", join_slices, after=("simplify",),
         why="gathers of neighbours are slices, and slices of slices are one"),
    Pass("sort_by_merging", sort_by_merging, after=("eliminate_common",),
         why="orders that are equal are found once"),
    Pass("split_windows", split_windows, after=("decompose",),
         why="it is pools of these two kinds that are left"),
    Pass("sum_by_sorting", sum_by_sorting, after=("eliminate_common",),
         why="gradients that are equal are summed once"),
    Pass("widen_scatters", widen_scatters, after=("decompose",),
         why="it is updates of these kinds that are left"),
    Pass("select_strategies", select_strategies, after=("eliminate_dead", "fold_batchnorm"),
         why="weights must have their final values",
         options=("accuracy", "override", "decisions", "typical_batch", "rates", "tuner")),
    Pass("join_stages", join_stages, after=("select_strategies",),
         why="strategies that cut into tiles have expanded", options=("typical_batch", "rates")),
    Pass("eliminate_untransformed", eliminate_dead, after=("select_strategies",),
         why="transformed weights replace others"),
)  # fmt: skip
_LAYOUT = (
    Pass("choose_layout", choose_layout, after=("eliminate_dead", "fold_batchnorm"),
         why="rules match ops in row-major form, and strategies decide which convolutions are left",
         options=("typical_batch",)),
    Pass("eliminate_twice_packed", eliminate_common, after=("choose_layout",),
         why="each reader has reordered for itself"),
    Pass("eliminate_unpacked", eliminate_dead, after=("choose_layout",),
         why="packed weights replace the others"),
)  # fmt: skip
_FUSE = (
    Pass("split_sums", split_sums, after=("simplify", "choose_layout"),
         why="it asks how values lie in memory, and a rule would join the two sums again"),
    Pass("fuse", fuse, after=("choose_layout", "split_sums"),
         why="a reorder is a border between kernels, and so are the sums of blocks"),
)  # fmt: skip
PIPELINE = Pipeline((*GRAPH_PASSES, *_FIND, *_SELECT, *_LAYOUT, *_FUSE))
TRAINING_PIPELINE = Pipeline(
    (
        *(p for p in GRAPH_PASSES if p.name not in ("freeze_states", "fold_batchnorm")),
        *_SELECT,
        *_LAYOUT,
        *_FUSE,
    )
)


@dataclass(frozen=True)
class Options:
    """What a caller may choose. ``cpu``: host or a level's name, or several with commas between;
    ``threads``: the pool's size (None: all cores); ``accuracy``: strict, default or fast;
    ``override``: a strategy's name, or NODE=NAME; ``typical_batch``: what costs take a free batch
    for (None: 1, and TRAINING_BATCH for training). ``decisions`` is filled. ``workers``: the most
    processes that compile kernels (None: see compiler/targets/cpu/kernel_objects.py); they do
    not change the program. ``tune``: seconds for measuring candidates on this machine (None:
    estimates alone decide), by ``tuner`` if one is given."""

    cpu: str = "host"
    threads: int | None = None
    accuracy: str = "default"
    override: str = "auto"
    typical_batch: int | None = None
    decisions: list[Decision] = field(default_factory=list)
    workers: int | None = None
    tune: float | None = None
    tuner: Tuner | None = None

    @property
    def rates(self) -> Rates:
        """Those of the machine table for the highest level."""
        return rates_of(cpus_named(self.cpu)[-1].name)


@dataclass(frozen=True)
class Lowered:
    """A program for one CPU level, before machine code."""

    program: Program
    cpu: Cpu
    kernels: KernelTable


@dataclass(frozen=True)
class Compiled:
    """A program with its code. Compiled for several CPU levels it is that of the highest;
    ``lower`` holds the others.
    """

    program: Program
    cpu: Cpu
    kernels: KernelTable
    sources: Mapping[str, Graph]  # the graph of each entry as it was given
    graphs: Mapping[str, Graph]  # the fused graph of each entry
    reports: Mapping[str, Report]
    threads: int | None = None
    decisions: tuple[Decision, ...] = ()
    workers: int | None = None
    lower: tuple[Lowered, ...] = ()  # the lowest level first
    tuner: Tuner | None = None

    @property
    def levels(self) -> str:
        """The names of all CPU levels, the lowest first."""
        return ",".join([*(lowered.cpu.name for lowered in self.lower), self.cpu.name])

    @cached_property
    def objects(self) -> tuple[bytes, ...]:
        """The kernels' machine code."""
        return _objects(self.kernels, self.cpu, self.workers)

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The code for every level, the lowest first."""
        bare = [
            Variant(program, (), cpu.required, cpu.name, cpu.architecture)
            for program, cpu in (*((low.program, low.cpu) for low in self.lower), (self.program, self.cpu))
        ]  # fmt: skip
        with functions_ahead(bare):
            below = [_objects(low.kernels, low.cpu, self.workers) for low in self.lower]
            objects = (*below, self.objects)
        return tuple(
            replace(variant, objects=made) for variant, made in zip(bare, objects, strict=True)
        )

    @cached_property
    def image(self) -> Any:
        """The program loaded into this process; hand it to
        ``runtime.session.Session.in_process``.
        """
        from .targets.cpu.jit import load_in_process

        return load_in_process(self.variants)

    def save(self, path: str | os.PathLike[str]) -> bytes:
        """Write PATH and the C header beside it; the digest that PATH records of itself. LinkError
        without a linker, UsageError if it cannot be written.
        """
        check_writable(Path(path))
        return write_shared_object(self.variants, Path(path))

    def as_text(self, form: str = "graph") -> str:
        """The program as one of TEXT_FORMS: graph (as it was given), kernels (fused), loops, llvm or
        asm. UsageError for another form, and where each CPU level has a text of its own.
        """
        if form in ("loops", "llvm", "asm"):
            from .loops.verify import verify_kernel

            if self.lower:
                raise UsageError(
                    f"the text of {form} is for one CPU level, not for {self.levels}.",
                    hint="Give one level.",
                )
            for name, kernel in self.program.kernels.items():
                verify_kernel(replace(kernel, name=name))
        match form:
            case "graph":
                return "\n".join(map(print_graph, self.sources.values()))
            case "kernels":
                return "\n".join(map(print_graph, self.graphs.values()))
            case "loops":
                from .loops.text import print_kernel

                return "\n".join(
                    print_kernel(kernel, name) for name, kernel in self.program.kernels.items()
                )
            case "llvm":
                from .targets.cpu.llvm import kernels_as_llvm

                return kernels_as_llvm(self.program.kernels, self.cpu)
            case "asm":
                from .targets.cpu.llvm import kernels_as_assembly

                return kernels_as_assembly(self.program.kernels, self.cpu)
        raise UsageError(f"there is no form {form!r}.", hint=f"Choose {', '.join(TEXT_FORMS)}.")


def compile_graph(
    graph: Graph, options: Options | None = None, dump: Path | None = None
) -> Compiled:
    """An inference program: unchanged states are folded in as weights."""
    return _with_code(plan_graph(graph, options, dump))


def plan_graph(graph: Graph, options: Options | None = None, dump: Path | None = None) -> Compiled:
    """Like ``compile_graph``, but machine code is made on first use only: enough for texts,
    headers and decisions.
    """
    if changing := [state.name for state in graph.states if not state.is_unchanged]:
        raise UsageError(
            f"an inference keeps no states, but the graph changes {quoted(changing, 4)}.",
            hint="Compile the network; nl.compile_training makes its training step.",
        )
    return _planned({"run": graph}, PIPELINE, options or Options(), dump)


def compile_entries(
    step: Graph, run: Graph, options: Options | None = None, dump: Path | None = None
) -> Compiled:
    """A training program of the step and the network itself, over the same states."""
    return _with_code(plan_entries(step, run, options, dump))


def plan_entries(
    step: Graph, run: Graph, options: Options | None = None, dump: Path | None = None
) -> Compiled:
    """Like ``compile_entries``, with machine code on first use only."""
    options = options or Options()
    options = replace(options, typical_batch=options.typical_batch or TRAINING_BATCH)
    return _planned({"run": run, "train_step": step}, TRAINING_PIPELINE, options, dump)


def _objects(kernels: KernelTable, cpu: Cpu, workers: int | None) -> tuple[bytes, ...]:
    """The kernels' machine code."""
    made = compile_kernel_objects(kernels, kernels.digests, cpu, workers)
    kernels.save()
    return made


def _with_code(compiled: Compiled) -> Compiled:
    """Compiling is paid for here, not at the first call."""
    assert compiled.variants
    return compiled


def _planned(
    graphs: Mapping[str, Graph], pipeline: Pipeline, options: Options, dump: Path | None
) -> Compiled:
    cpus = cpus_named(options.cpu)
    options = replace(options, tuner=options.tuner or _tuner(cpus[-1], options))
    fused: dict[str, Graph] = {}
    reports: dict[str, Report] = {}
    hashing = _hash_ahead(graphs)
    for name, graph in graphs.items():
        fused[name], reports[name] = pipeline.run(graph, options, dump / name if dump else None)
    hashing.join()
    *lower, highest = _lowered(graphs, fused, cpus, options)
    _check_memory(highest.program)
    return Compiled(highest.program, highest.cpu, highest.kernels, graphs, fused, reports,
                    options.threads, tuple(options.decisions),
                    options.workers, tuple(lower), options.tuner)  # fmt: skip


def _hash_ahead(graphs: Mapping[str, Graph]) -> Thread:
    """Computes the digests of constants, which the hash of the source asks for, beside the passes:
    hashing leaves the interpreter free.
    """

    def run() -> None:
        with contextlib.suppress(Exception):  # what fails here fails again where it is asked for
            for graph in graphs.values():
                constants_of(graph)

    thread = Thread(target=run, daemon=True)
    thread.start()
    return thread


def _lowered(
    graphs: Mapping[str, Graph], fused: Mapping[str, Graph], cpus: Sequence[Cpu], options: Options
) -> Iterator[Lowered]:
    """The program for each level: kernels and launches of its own, all else the same."""
    metadata = metadata_of(graphs, cpus, options)
    symbols = {s.name: s for graph in fused.values() for s in graph.symbols}
    first = Placement(cpus[0].machine, store=default_cache())
    for cpu in cpus:
        suffix = f"_{identifier(cpu.name)}" if len(cpus) > 1 else ""
        placement = first.for_level(cpu.machine, suffix)
        states, numbers = (
            _states(graphs["train_step"], placement) if "train_step" in graphs else ((), {})
        )
        entries = tuple(
            plan_memory(graph, name, placement, numbers) for name, graph in fused.items()
        )
        program = Program(
            identifier(graphs["run"].name), tuple(symbols[name] for name in sorted(symbols)),
            entries,
            tuple(placement.constants), states, placement.kernels, metadata,
        )  # fmt: skip
        yield Lowered(program, cpu, placement.kernels)


def _tuner(cpu: Cpu, options: Options) -> Tuner | None:
    if options.tune is None:
        return None
    if not 0 < options.tune < math.inf:
        raise UsageError(f"tuning needs a positive number of seconds, not {options.tune}.")
    from .targets.cpu.layer_timer import LayerTimer

    cache = default_cache()
    return Tuner(
        LayerTimer(cpu, options.threads or len(os.sched_getaffinity(0)), cache), options.tune, cache
    )


def _states(step: Graph, placement: Placement) -> tuple[tuple[StatePort, ...], dict[str, int]]:
    ports = tuple(
        StatePort(s.name, s.input.type, placement.constant(s.initial)) for s in step.states
    )
    return ports, {port.name: number for number, port in enumerate(ports)}


def _check_memory(program: Program) -> None:
    lowest = {symbol.name: symbol.lo for symbol in program.symbols}
    for entry in program.entries:
        size = sum(dim.evaluate(slot, lowest) for slot in entry.slots)
        if size > MEMORY_BUDGET:
            raise MemoryBudgetError(
                f"one run needs {size / (1 << 30):.1f} GiB of memory; the budget is "
                f"{MEMORY_BUDGET >> 30} GiB.",
                hint="Choose a smaller batch or smaller inputs.",
            )


__all__ = ["PIPELINE", "TEXT_FORMS", "TRAINING_PIPELINE", "Compiled", "Options", "compile_entries",
           "compile_graph", "plan_entries",
           "plan_graph"]  # fmt: skip
