"""A network, or its training step -> one file of small programs, a layer and a way to compute it
each, that a machine with a device times.

A layer is a convolution, a gradient of one, or a matrix product; a way is a strategy whose
prediction is near the least, alone or with another tiling of its products. ``write_candidates``
needs no device. ``python -m netloom.runtime.cuda.tune FILE -o RESULTS`` times them with NumPy and
cuda-bindings alone; measured.py reads what it found. The file is a ZIP archive: candidates.json, and
program files in which weights are one number, since those that are timed are made where they are
timed. The same graphs and options give the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from netloom.errors import NetloomError, UsageError

from ...cache import compiler_version
from ...constant import Constant
from ...graph import Builder, Graph, Node
from ...text import parse_graph
from ...tuning import LAYER, Layer, Times, Tuner, close_candidates, layer_of
from .compile import ARCHITECTURES
from .driver import PIPELINE, TRAINING_PIPELINE, CudaOptions, CudaProgram, compile_for_cuda, plan
from .estimates import Planned, planned_layer
from .forms import Engine
from .measured import ANY_WEIGHTS, FORMAT, NOWHERE, WIDE, candidate_name
from .program_file import write_file
from .strategies import PLAIN, products_of
from .tilings import Tiling, alternatives

MOST_BYTES = 64 << 20  # of a file: more is inconvenient to send
MOST_CANDIDATES = 400  # of a file: the layers that take the most time come first
MOST_TILINGS = 3  # of a strategy, besides the rules' own
NEAR = 1.5  # times the least prediction of a layer: a tiling above that is not worth timing

Candidate = tuple[str, Tiling | None]


@dataclass
class _NoTimer:
    """A timer that measures nothing."""

    identity: str = "none"
    cached: int = ANY_WEIGHTS

    def measure(self, layer: Layer, strategies: Sequence[str], seconds: float) -> Times:
        return {}

    def close(self) -> None:
        """Nothing was started."""


@dataclass
class _Recorder(Tuner):
    """A tuner that measures nothing and notes layers with their candidates, and what all of a layer
    is predicted to take."""

    engine: Engine = Engine.FFMA
    wanted: dict[Layer, tuple[Candidate, ...]] = field(default_factory=dict)
    weights: dict[Layer, float] = field(default_factory=dict)

    def measure(
        self, graph: Graph, estimates: Mapping[Node, Mapping[str, float]], batch: int
    ) -> dict[Node, dict[str, float]]:
        products = {node: {PLAIN: 0.0} for node in products_of(graph)}
        for node, seconds in {**estimates, **products}.items():
            layer = layer_of(graph, node, batch, False)
            plans = {
                name: planned_layer(graph, node, name, self.engine, batch)
                for name in close_candidates(seconds, WIDE)
            }
            least = min(plan.seconds for plan in plans.values())
            self.weights[layer] = self.weights.get(layer, 0.0) + least
            if layer in self.wanted:
                continue
            found: list[Candidate] = []
            for name, planned in plans.items():
                others = self._tilings(graph, node, name, planned, batch, least)
                found += [(name, tiling) for tiling in (None, *others)]
            if len(found) > 1:
                self.wanted[layer] = tuple(found)
        return {}

    def _tilings(
        self, graph: Graph, node: Node, strategy: str, planned: Planned, batch: int, least: float
    ) -> list[Tiling]:
        """Other tilings that lead to other kernels, those with the least predictions."""
        if not planned.products:
            return []
        found: dict[Tiling, float] = {}
        known = {_shapes(planned)}
        for tiling in alternatives(*planned.products[0]):
            plan = planned_layer(graph, node, strategy, self.engine, batch, tiling)
            if _shapes(plan) not in known and plan.seconds <= NEAR * least:
                known.add(_shapes(plan))
                found[tiling] = plan.seconds
        return sorted(found, key=lambda tiling: found[tiling])[:MOST_TILINGS]

    def in_order(self) -> dict[Layer, tuple[Candidate, ...]]:
        """The layers that take the most time first, as many as MOST_CANDIDATES has room for."""
        left = MOST_CANDIDATES
        kept: dict[Layer, tuple[Candidate, ...]] = {}
        for layer in sorted(self.wanted, key=lambda layer: -self.weights[layer]):
            if len(self.wanted[layer]) <= left:
                kept[layer] = self.wanted[layer]
                left -= len(kept[layer])
        return kept


def _shapes(planned: Planned) -> tuple[Any, ...]:
    return tuple((form.tile, form.stages, parts) for form, parts in planned.products)


@dataclass(frozen=True)
class Summary:
    """What a file of candidates holds. ``left_out``: those that could not be compiled, and why."""

    layers: int
    candidates: int
    left_out: tuple[str, ...]


def wanted_layers(
    graph: Graph, options: CudaOptions, step: Graph | None = None
) -> dict[Layer, tuple[Candidate, ...]]:
    """The layers with a choice, each with the candidates worth timing; ``step``: a training step of
    the network, whose layers they are then."""
    recorder = _Recorder(_NoTimer(), math.inf, NOWHERE, engine=options.engine)
    graphs = {"run": graph} if step is None else {"run": graph, "train_step": step}
    pipeline = PIPELINE if step is None else TRAINING_PIPELINE
    plan(graphs, pipeline, replace(options, decisions=[], measured={}, tuner=recorder))
    return recorder.in_order()


def write_candidates(
    graph: Graph,
    options: CudaOptions,
    path: Path,
    *,
    step: Graph | None = None,
    architectures: Sequence[str] = ARCHITECTURES,
    cache_folder: Path | None = None,
) -> Summary:
    """Writes the file; UsageError if there is nothing to choose, or the file would be too large."""
    layers = wanted_layers(graph, options, step)
    if not layers:
        raise UsageError(
            "no layer of this model has more than one candidate worth timing.",
            hint="Compile it without a table of times.",
        )
    records: list[dict[str, Any]] = []
    programs: list[bytes] = []
    left_out: list[str] = []
    for layer, wanted in layers.items():
        candidates = []
        for strategy, tiling in wanted:
            name = candidate_name(strategy, tiling)
            try:
                program = compile_candidate(
                    layer, strategy, options, architectures, cache_folder, tiling
                )
            except NetloomError as error:  # whatever is wrong with one, the others can be timed
                left_out.append(f"{name}: {error}")
                continue
            candidates.append({"name": name, "file": f"{len(programs)}.nlc"})
            programs.append(program.as_bytes())
        records.append(
            {"text": layer.text, "constants": list(layer.constants), "candidates": candidates}
        )
    manifest = {
        "format": FORMAT,
        "version": compiler_version(),
        "precision": options.precision,
        "layers": records,
    }
    data = _archive(manifest, programs)
    if len(data) > MOST_BYTES:
        raise UsageError(
            f"the candidates take {len(data) >> 20} MiB, more than {MOST_BYTES >> 20}.",
            hint="Choose one architecture, or tune a part of the model.",
        )
    write_file(path, data)
    return Summary(len(records), len(programs), tuple(left_out))


def compile_candidate(
    layer: Layer,
    strategy: str,
    options: CudaOptions,
    architectures: Sequence[str],
    cache_folder: Path | None = None,
    tiling: Tiling | None = None,
) -> CudaProgram:
    """A layer's program by one strategy and, if one is given, a tiling; UsageError if the strategy
    does not apply."""
    own = replace(
        options, accuracy="fast", override="auto" if strategy == PLAIN else f"{LAYER}={strategy}",
        decisions=[], measured={}, tiling=tiling, tuner=None,
    )  # fmt: skip
    compiled = compile_for_cuda(
        _with_weights(layer), own, architectures=architectures, cache_folder=cache_folder
    )
    for decision in own.decisions:
        if decision.strategy != strategy:
            raise UsageError(f"{strategy} does not apply: {decision.rejected.get(strategy)}.")
    constants = tuple(_emptied(constant) for constant in compiled.program.constants)
    return replace(compiled, program=replace(compiled.program, constants=constants))


def _with_weights(layer: Layer) -> Graph:
    """The layer's graph with random constants, since equal ones would be folded into its
    kernels."""
    graph = parse_graph(layer.text)
    (node,) = graph.nodes
    b, rng = Builder(LAYER), np.random.default_rng(0)
    operands = [
        b.constant(rng.standard_normal(value.type.static_shape).astype(np.float32))
        if value.label in layer.constants
        else b.input(value.type, value.label)
        for value in graph.inputs
    ]
    return b.build(b.copy(node, operands), ["y"])


def _emptied(constant: Constant) -> Constant:
    """A tensor of weights without its values; indices and single numbers keep theirs."""
    is_weights = constant.type.dtype.numpy.kind == "f" and constant.array.size > 1
    return Constant.splat(0, constant.type) if is_weights else constant


def _archive(manifest: dict[str, Any], programs: Sequence[bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (
            ("candidates.json", json.dumps(manifest, sort_keys=True).encode()),
            *((f"{number}.nlc", data) for number, data in enumerate(programs)),
        ):
            archive.writestr(
                zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED
            )  # without today's date
    return file.getvalue()


__all__ = ["Candidate", "Summary", "compile_candidate", "wanted_layers", "write_candidates"]
