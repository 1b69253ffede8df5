"""Graphs -> a program for CUDA devices: the passes, one kernel after another, and the whole in one
object.

``PIPELINE`` differs from the CPU's in two places: values stay row-major, and strategies are chosen
by what their kernels are predicted to take on a device. In a training step attention and its gradient
stay ops until then.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from netloom.errors import UnsupportedOpError, UsageError

from ...data_dims import data_dims
from ...graph import Graph
from ...kernel_table import Outline
from ...loops.build import Machine
from ...ops.iteration import ITERATE
from ...passes.decompose import decompose
from ...passes.eliminate_common import eliminate_common
from ...passes.eliminate_dead import eliminate_dead
from ...passes.find_attention import find_attention
from ...passes.fuse import fuse
from ...passes.multiply_floats import multiply_floats
from ...passes.multiply_sums import multiply_sums
from ...passes.placement import Placement
from ...passes.plan_memory import plan_memory
from ...passes.select_strategies import Decision
from ...passes.unroll_turns import unroll_turns
from ...pipeline import GRAPH_PASSES, Pass, Pipeline
from ...program import Program, StatePort, identifier
from ...text import print_graph
from ...tuning import Tuner
from .compile import ARCHITECTURES, CompiledKernel, compile_kernel, store_of, versions
from .forms import DeviceKernel, Engine
from .program_file import KernelFile, program_bytes, write_file
from .schedule import plan_kernel
from .source import KernelSource, print_source
from .split_attention import split_attention
from .split_products import split_products
from .strategies import select_for_device
from .tilings import NO_TILINGS, Size, Tiling, Tilings

TRAINING_BATCH = 32  # what predictions take a free batch for in a training step
_FIND = (
    Pass("multiply_floats", multiply_floats, after=("simplify", "fold_new_constants"),
         why="weights and zero points must have their final values"),
    Pass("find_attention", find_attention, after=("simplify", "eliminate_dead"),
         why="products have taken their transposes in, and only readers that are left count"),
)  # fmt: skip
_SELECT = (
    Pass("multiply_sums", multiply_sums, after=("decompose",),
         why="products are chosen strategies and kernels behind it"),
    Pass("select_strategies", select_for_device, after=("eliminate_dead", "fold_batchnorm"),
         why="weights must have their final values",
         options=("accuracy", "override", "decisions", "typical_batch", "engine", "tuner",
                  "measured")),
    Pass("eliminate_untransformed", eliminate_dead, after=("select_strategies",),
         why="transformed weights replace others"),
)  # fmt: skip
_DECOMPOSE = Pass("decompose", partial(decompose, kept=()), why="the rules see small ops only")
_KEEP = Pass("decompose", partial(decompose, kept=("attention", "attention_gradient")),
             why="strategies compute attention and its gradient as what they are")  # fmt: skip
_JOIN = (
    Pass("eliminate_twice_made", eliminate_common, after=("select_strategies",),
         why="gradients by keys and by values are one kernel's, and products share weights"),
)  # fmt: skip
_SPLIT_ATTENTION = Pass(
    "split_attention",
    split_attention,
    after=("select_strategies",),
    why="it cuts what was chosen to be one kernel",
    options=("engine",),
)
_FUSE = (
    Pass("fuse", fuse, after=("eliminate_dead",), why="only what is left becomes kernels"),
    Pass(
        "split_products",
        split_products,
        after=("fuse",),
        why="it cuts kernels",
        options=("engine", "tilings"),
    ),
)
PIPELINE = Pipeline(
    (
        *(_DECOMPOSE if item.name == "decompose" else item for item in GRAPH_PASSES),
        *_FIND,
        *_SELECT,
        _SPLIT_ATTENTION,
        *_FUSE,
    )
)
TRAINING_PIPELINE = Pipeline(
    (
        *(
            _KEEP if item.name == "decompose" else item
            for item in GRAPH_PASSES
            if item.name not in ("freeze_states", "fold_batchnorm")
        ),
        *_SELECT,
        *_JOIN,
        _SPLIT_ATTENTION,
        *_FUSE,
    )
)


@dataclass(frozen=True)
class CudaOptions:
    """What a caller may choose. ``precision``: an engine's value; ``accuracy``: strict, default or
    fast; ``override``: a strategy's name, or NODE=NAME; ``typical_batch``: what predictions take a
    free batch for (None: 1, and TRAINING_BATCH for training); ``tuner``: times of a device
    (measured.py); ``tiling``: of all products. ``decisions`` is filled, and ``measured`` with the
    tilings of the tuner's table."""

    precision: str = Engine.FFMA.value
    accuracy: str = "default"
    override: str = "auto"
    typical_batch: int | None = None
    tuner: Tuner | None = None
    tiling: Tiling | None = None
    decisions: list[Decision] = field(default_factory=list)
    measured: dict[Size, Tiling] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        """UsageError if there is no such precision."""
        names = [engine.value for engine in Engine]
        if self.precision not in names:
            raise UsageError(
                f"there is no precision {self.precision!r}.", hint=f"Choose {', '.join(names)}."
            )
        return Engine(self.precision)

    @property
    def tilings(self) -> Tilings:
        """What products are tiled by, where the rules do not decide it."""
        return Tilings(self.measured, self.tiling, self.typical_batch or 1)


@dataclass
class DevicePlacement(Placement):
    """Kernels by their source: what memory planning sees of one is its arguments and its number
    of blocks.
    """

    engine: Engine = Engine.FFMA
    tilings: Tilings = NO_TILINGS
    forms: dict[str, DeviceKernel] = field(default_factory=dict)
    sources: dict[str, KernelSource] = field(default_factory=dict)
    _by_source: dict[str, str] = field(default_factory=dict)

    def kernel(self, body: Graph) -> tuple[str, Outline]:
        """The kernel that does what the body says; equal sources are one kernel."""
        planned = plan_kernel(body, self.engine, self.tilings)
        source = print_source(planned)
        if source.key not in self._by_source:
            kind = next((n.op.name for n in body.nodes if n.op.name != "constant"), "copy")
            name = f"f_{len(self._by_source)}_{kind}"
            self._by_source[source.key] = name
            self.forms[name], self.sources[name] = planned, source
        outline = Outline(planned.symbols, planned.items, source.key)
        return self._by_source[source.key], outline


@dataclass(frozen=True)
class CudaProgram:
    """A program with its code."""

    program: Program
    sources: Mapping[str, KernelSource]
    forms: Mapping[str, DeviceKernel]
    kernels: Mapping[str, CompiledKernel]
    graphs: Mapping[str, Graph]  # the fused graph of each entry

    def as_bytes(self) -> bytes:
        """The program file's contents."""
        kernels = {
            name: KernelFile(code, self.forms[name], self.sources[name])
            for name, code in self.kernels.items()
        }
        return program_bytes(self.program, kernels)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program file."""
        write_file(Path(path), self.as_bytes())


def compile_for_cuda(
    graph: Graph, options: CudaOptions | None = None, *,
    architectures: Sequence[str] = ARCHITECTURES,
    cache_folder: Path | None = None, dump: Path | None = None,
) -> CudaProgram:  # fmt: skip
    """An inference program: unchanged states are folded in as weights. ToolchainError without
    numba-cuda.
    """
    return _compiled(
        {"run": graph}, PIPELINE, options or CudaOptions(), architectures, cache_folder, dump
    )


def compile_training_for_cuda(
    step: Graph, run: Graph, options: CudaOptions | None = None, *,
    architectures: Sequence[str] = ARCHITECTURES,
    cache_folder: Path | None = None, dump: Path | None = None,
) -> CudaProgram:  # fmt: skip
    """A training program of the step and the network itself, over the same states."""
    graphs = {"run": run, "train_step": step}
    return _compiled(
        graphs, TRAINING_PIPELINE, options or CudaOptions(), architectures, cache_folder, dump
    )


def plan(
    graphs: Mapping[str, Graph],
    pipeline: Pipeline,
    options: CudaOptions | None = None,
    dump: Path | None = None,
) -> tuple[Program, DevicePlacement, dict[str, Graph]]:
    """The program before its kernels are compiled."""
    options = options or CudaOptions()
    training = graphs.get("train_step")
    if training is not None:
        options = replace(options, typical_batch=options.typical_batch or TRAINING_BATCH)
    # a gradient of weights is a branch: kept apart, they would keep every cotangent in memory
    placement = DevicePlacement(
        Machine(),
        joins_in_place=False,
        keeps_branches_apart=training is None,
        engine=options.engine,
        tilings=options.tilings,
    )
    states = (
        tuple(
            StatePort(s.name, s.input.type, placement.constant(s.initial)) for s in training.states
        )
        if training
        else ()
    )
    numbers = {port.name: number for number, port in enumerate(states)}
    fused: dict[str, Graph] = {}
    entries = []
    for name, graph in graphs.items():
        graph = unroll_turns(graph)
        _refuse_what_runs_bind(graph)
        fused[name], _ = pipeline.run(graph, options, dump / name if dump else None)
        entries.append(plan_memory(fused[name], name, placement, numbers))
    symbols = {s.name: s for graph in fused.values() for s in graph.symbols}
    program = Program(
        identifier(graphs["run"].name),
        tuple(symbols[name] for name in sorted(symbols)),
        tuple(entries),
        tuple(placement.constants),
        states,
        {},
        _metadata(fused, options),
    )
    return program, placement, fused


def _compiled(
    graphs: Mapping[str, Graph], pipeline: Pipeline, options: CudaOptions,
    architectures: Sequence[str],
    cache_folder: Path | None, dump: Path | None,
) -> CudaProgram:  # fmt: skip
    tools = dict(versions())  # before any work
    program, placement, fused = plan(graphs, pipeline, options, dump)
    program = replace(program, metadata={**program.metadata, "tools": tools})
    kernels = {
        name: compile_kernel(source, architectures, cache_folder)
        for name, source in placement.sources.items()
    }
    store_of(cache_folder).trim()
    return CudaProgram(program, placement.sources, placement.forms, kernels, fused)


def _refuse_what_runs_bind(graph: Graph) -> None:
    for node in data_dims(graph).values():
        raise UnsupportedOpError(
            "there is no code for data_dim: data decide the shape of its result.",
            node=node.label,
            hint="Compile for the CPU, or cut the model before it.",
        )
    for _, node in graph.walk():
        if node.op is ITERATE:
            raise UnsupportedOpError(
                "there is no code for iterate: devices run no loop whose turns a run counts.",
                node=node.label,
                hint="Compile for the CPU, or fix its number of steps.",
            )


def _metadata(graphs: Mapping[str, Graph], options: CudaOptions) -> dict[str, Any]:
    text = "\n".join(print_graph(graph) for graph in graphs.values())
    strategies = [{"node": d.node, "shape": d.shape, "strategy": d.strategy,
                   "measured": dict(d.measured)}
                  for d in options.decisions]  # fmt: skip
    return {
        "options": {"precision": options.precision, "accuracy": options.accuracy},
        "strategies": strategies,
        "tuning": options.tuner.summary if options.tuner else None,
        "source_hash": hashlib.sha256(text.encode()).hexdigest(),
    }
