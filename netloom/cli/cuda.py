"""Programs for CUDA devices: ``netloom compile --target cuda`` writes one (.nlc) without a
device, ``netloom run`` needs one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netloom.errors import UsageError

from .files import check_target
from .models import check_override, inference_form, load_graph
from .options import Binding, Build
from .output import Output

if TYPE_CHECKING:
    from netloom.compiler.graph import Graph
    from netloom.compiler.targets.cuda.driver import CudaOptions, CudaProgram
    from netloom.runtime.cuda.program import KernelCode, Program
    from netloom.runtime.cuda.session import CudaSession


def compile_for_device(
    output: Output, model: str, path: Path | None, emit: str | None, dump: Path | None,
    training: str | None,
    binding: Binding, build: Build,
) -> None:  # fmt: skip
    """Write the program file; UsageError for what is the cpu target's alone, ToolchainError
    without numba-cuda.
    """
    if path is None or emit is not None:
        raise UsageError(
            "the cuda target writes program files.", hint="Give -o model.nlc, without --emit."
        )
    if path.suffix == ".so":
        raise UsageError(
            "files .so are programs for CPUs.", hint="Give -o model.nlc, or leave out --target."
        )
    check_target(path)
    start = time.perf_counter()
    compiled = _compiled(load_graph(model, binding), build, dump, training)
    options = compiled.program.metadata["options"]
    architectures = sorted(
        {b.architecture for kernel in compiled.kernels.values() for b in kernel.binaries}
    )
    summary = compiled.program.metadata["tuning"]
    facts = f"precision {options['precision']}, target cuda ({', '.join(architectures)})"
    output.say(", ".join(filter(None, (facts, tuned_text(summary)))))
    compiled.save(path)
    seconds, size = time.perf_counter() - start, path.stat().st_size
    row = {
        "target": "cuda",
        "architectures": architectures,
        "kernels": len(compiled.kernels),
        "seconds": seconds,
        "tuning": summary,
        "files": [{"form": "nlc", "file": str(path), "bytes": size}],
    }
    output.result(
        row, f"{path}: {size / 1e6:.2f} MB\n{len(compiled.kernels)} kernels, {seconds:.2f} s"
    )


def tuned_text(summary: Mapping[str, Any] | None) -> str:
    """How many layers' times were known, and of which device; nothing without a table of times."""
    if summary is None:
        return ""
    return f"{summary['measured']} of {summary['layers']} layers with a choice timed on {summary['machine']}"


def write_device_candidates(
    output: Output,
    model: str,
    path: Path,
    training: str | None,
    binding: Binding,
    build: Build,
) -> None:
    """Write programs for a machine with a device to time; ToolchainError without numba-cuda."""
    from netloom.compiler.targets.cuda.candidates import write_candidates

    check_target(path)
    graph = load_graph(model, binding)
    step = _step(graph, training) if training is not None else None
    summary = write_candidates(inference_form(graph), device_options(build), path, step=step)
    for reason in summary.left_out:
        output.remark(f"left out: {reason}")
    size = path.stat().st_size
    row = {
        "layers": summary.layers,
        "candidates": summary.candidates,
        "left_out": list(summary.left_out),
        "file": str(path),
        "bytes": size,
    }
    output.result(
        row,
        f"{path}: {summary.candidates} candidates for {summary.layers} layers, {size / 1e6:.2f} "
        "MB\n"
        f"python -m netloom.runtime.cuda.tune {path.name} -o times.json  # on the machine with the "
        "device",
    )


def is_cuda_program(name: str) -> bool:
    return name.endswith(".nlc")


def cuda_program_facts(name: str, is_whole: bool) -> dict[str, Any]:
    """What a program file holds, in lines for people, or (``is_whole``) its manifest;
    ProgramError if it is damaged.
    """
    from netloom.runtime.cuda.program import read_program

    program = read_program(Path(name))
    return dict(program.metadata) if is_whole else _facts(program)


def _facts(program: Program) -> dict[str, Any]:
    """Sizes are those at the least value of free dims, but 1 at least."""
    data = program.metadata
    dims = {name: max(low, 1) for name, (low, _) in program.dims.items()}
    entries = {
        entry.name: {
            "inputs": {port.info.name: str(port.info) for port in entry.inputs},
            "outputs": {port.info.name: str(port.info) for port in entry.outputs},
            "launches": len(entry.launches),
            "arena bytes": entry.arena_bytes(dims),
        }
        for entry in program.entries.values()
    }  # fmt: skip
    stored = sum(len(constant.data) for constant in program.constants)
    return {
        "name": program.name,
        "target": f"cuda, {', '.join(program.architectures)}",
        "options": data["options"],
        "free dims": {name: f"{low}..{'' if high is None else high}" for name,
                      (low, high) in program.dims.items()} or "none",
        **entries,
        "weights": f"{stored} bytes in the file, {sum(c.nbytes for c in program.constants)} on the "
                   "device",
        "states": len(program.states),
        "convolutions": dict(Counter(program.strategies)) or "none",
        "tuning": tuned_text(data["tuning"]) or "none",
        "kernels": {kernel.name: _kernel_text(kernel) for kernel in program.kernels},
        "tools": data["tools"],
        "source hash": data["source_hash"],
    }  # fmt: skip


def _kernel_text(kernel: KernelCode) -> str:
    registers = ", ".join(
        f"{count} registers on {name}" for name, count in kernel.registers.items()
    )
    return f"{kernel.form}; {kernel.threads} threads, {registers}, {kernel.shared} bytes shared"


def load_cuda(name: str) -> CudaSession:
    """A session of a program file; DeviceError where it cannot run, before any input is looked
    at.
    """
    from netloom.runtime.cuda.session import load

    session = load(name)
    _ = session.resident
    return session


def device_options(build: Build) -> CudaOptions:
    """What the options say to the compiler for devices; UsageError for what the cpu target alone
    can do.
    """
    from netloom.compiler.targets.cuda.compile import ARCHITECTURES
    from netloom.compiler.targets.cuda.driver import CudaOptions
    from netloom.compiler.targets.cuda.measured import read_times

    if build.tune is not None:
        raise UsageError(
            "programs for the cuda target are not timed by the compiler.",
            hint="Give --tune-candidates, time them on the device, and give --tuned.",
        )
    tuner = (
        read_times(build.tuned, build.precision, ARCHITECTURES) if build.tuned is not None else None
    )
    return CudaOptions(
        precision=build.precision,
        accuracy=build.accuracy,
        override=build.conv_strategy,
        tuner=tuner,
    )


def _compiled(graph: Graph, build: Build, dump: Path | None, training: str | None) -> CudaProgram:
    from netloom.compiler.targets.cuda.driver import compile_for_cuda, compile_training_for_cuda

    options = device_options(build)
    if training is None:
        compiled = compile_for_cuda(inference_form(graph), options, dump=dump)
        check_override(options.decisions, build.conv_strategy)
        return compiled
    step = _step(graph, training)
    return compile_training_for_cuda(step, inference_form(graph), options, dump=dump)


def _step(graph: Graph, training: str) -> Graph:
    """The training step of a recipe."""
    from netloom.frontends.dsl.training_step import training_graph

    from .recipes import parse_recipe

    loss, optimizer = parse_recipe(training)
    return training_graph(graph, loss, optimizer)
