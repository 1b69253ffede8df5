"""A graph -> one file of small programs, a layer and a strategy each, that a machine with a device
times.

``write_candidates`` needs no device. ``python -m netloom.runtime.cuda.tune FILE -o RESULTS`` times
them with NumPy and cuda-bindings alone; measured.py reads what it found. The file is a ZIP archive:
candidates.json, and program files in which weights are one number, since those that are timed are
made where they are timed. The same graph and options give the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from netloom.errors import NetloomError, UsageError

from ...cache import compiler_version
from ...constant import Constant
from ...graph import Builder, Graph
from ...text import parse_graph
from ...tuning import LAYER, Layer, Times, Tuner
from .compile import ARCHITECTURES
from .driver import PIPELINE, CudaOptions, CudaProgram, compile_for_cuda, plan
from .measured import ANY_WEIGHTS, FORMAT, NOWHERE, WIDE
from .program_file import write_file

MOST_BYTES = 64 << 20  # of a file: more is inconvenient to send


@dataclass
class _Recorder:
    """A timer that measures nothing and notes what it was asked."""

    identity: str = "none"
    cached: int = ANY_WEIGHTS
    wanted: dict[Layer, tuple[str, ...]] = field(default_factory=dict)

    def measure(self, layer: Layer, strategies: Sequence[str], seconds: float) -> Times:
        self.wanted[layer] = tuple(strategies)
        return {}

    def close(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True)
class Summary:
    """What a file of candidates holds. ``left_out``: those that could not be compiled, and why."""

    layers: int
    candidates: int
    left_out: tuple[str, ...]


def wanted_layers(graph: Graph, options: CudaOptions) -> dict[Layer, tuple[str, ...]]:
    """The layers with a choice, each with the strategies worth timing."""
    recorder = _Recorder()
    tuner = Tuner(recorder, math.inf, NOWHERE, close=WIDE)
    plan({"run": graph}, PIPELINE, replace(options, decisions=[], tuner=tuner))
    return recorder.wanted


def write_candidates(
    graph: Graph,
    options: CudaOptions,
    path: Path,
    *,
    architectures: Sequence[str] = ARCHITECTURES,
    cache_folder: Path | None = None,
) -> Summary:
    """Writes the file; UsageError if there is nothing to choose, or the file would be too large."""
    layers = wanted_layers(graph, options)
    if not layers:
        raise UsageError(
            "no convolution of this model has more than one strategy worth timing.",
            hint="Compile it without a table of times.",
        )
    records: list[dict[str, Any]] = []
    programs: list[bytes] = []
    left_out: list[str] = []
    for layer, strategies in layers.items():
        candidates = []
        for strategy in strategies:
            try:
                program = compile_candidate(layer, strategy, options, architectures, cache_folder)
            except NetloomError as error:  # whatever is wrong with one, the others can be timed
                left_out.append(f"{strategy}: {error}")
                continue
            candidates.append({"strategy": strategy, "file": f"{len(programs)}.nlc"})
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
) -> CudaProgram:
    """A layer's program by one strategy; UsageError if that does not apply."""
    own = replace(
        options, accuracy="fast", override=f"{LAYER}={strategy}", decisions=[], tuner=None
    )
    compiled = compile_for_cuda(
        _with_weights(layer), own, architectures=architectures, cache_folder=cache_folder
    )
    (decision,) = own.decisions
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


__all__ = ["Summary", "compile_candidate", "wanted_layers", "write_candidates"]
