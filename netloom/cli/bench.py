"""``netloom bench``: models and programs timed side by side with other engines and with what this
machine can do.

Each contender runs in a process of its own, in rounds of blocks (benchmarks/harness.py). What is
missing (a peer, a package for plots, a place to write) is said before anything is measured.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import click

from netloom.errors import ToolchainError, UsageError

from .bench_groups import Group, Plan, counted, prepared_groups, setting
from .files import check_target, replace_file
from .models import is_program
from .options import (
    Binding,
    Build,
    FileType,
    NamesType,
    NumbersType,
    binding_options,
    printing_or_writing,
    timed_options,
)
from .output import Output

PEERS = ("onnxruntime", "openvino", "torch")


@click.command()
@click.argument("names", metavar="PROGRAM|MODEL...", nargs=-1, required=True)
@click.option(
    "--against", type=NamesType(PEERS), default=(), help=f"Other engines: {', '.join(PEERS)}."
)
@click.option(
    "--strategies",
    metavar="all|NAME,NAME",
    help="Also force each of these convolution strategies wherever it applies.",
)
@click.option(
    "--threads",
    "counts",
    type=NumbersType(),
    help="Numbers of threads, such as 1,2 (default: all cores).",
)
@click.option(
    "--batch",
    "batches",
    type=NumbersType(),
    default=(),
    help="Batches, such as 1,8; the first extent must be free.",
)
@click.option(
    "--train",
    "training",
    metavar="loss=NAME,optimizer=NAME",
    help="Time the training step instead.",
)
@click.option(
    "--rounds",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="Blocks of 5 timed calls for each contender.",
)
@click.option(
    "--peaks/--no-peaks", "has_peaks", default=True, help="Measure what the machine can do (5 s)."
)
@click.option("--plot", type=FileType(), help="Draw the medians to this .png, .svg or .pdf file.")
@binding_options
@timed_options
@printing_or_writing
def bench(
    output: Output, names: tuple[str, ...], against: tuple[str, ...], strategies: str | None,
    counts: tuple[int, ...] | None,
    batches: tuple[int, ...], training: str | None, rounds: int, has_peaks: bool, plot: Path | None,
    json_file: Path | None,
    binding: Binding, build: Build,
) -> None:  # fmt: skip
    """Time PROGRAMs (.so) and MODELs, alone or against other engines, on random inputs.

    \b
    netloom bench zoo:resnet50 --strategies all --against onnxruntime
    netloom bench model.onnx --threads 1,2 --batch 1,8 --against openvino --json out.json

    Times are milliseconds of calls on bound buffers. "Faster than" a peer is a factor: the median
    of the rounds, and their 10th and 90th percentile. Errors are relative L2 against float64,
    before a final softmax. light:NAME is one of the onnx package's light models, with random
    weights.
    """
    _check_needs(against, plot, json_file)
    processors = len(os.sched_getaffinity(0))
    plan = Plan(
        against,
        _strategies(strategies),
        counts or (processors,),
        batches,
        rounds,
        training,
        build.accuracy,
    )
    _check_plan(plan, names)
    with tempfile.TemporaryDirectory(prefix="netloom-") as folder:
        prepared = [prepared_groups(output, name, plan, binding, Path(folder)) for name in names]
        data = _conditions(output, plan, processors)
        if has_peaks:
            data["machine"]["peaks"] = _peaks(output, plan.threads)
        groups = []
        for group in chain.from_iterable(prepared):
            groups.append(group)
            _say_group(output, group, data["machine"].get("peaks"))
    data["groups"] = [_as_json(group) for group in groups]
    _deliver(output, data, groups, plot, json_file)


def _check_needs(against: Sequence[str], plot: Path | None, json_file: Path | None) -> None:
    """ToolchainError unless the peers and the package for plots are there; UsageError for places
    that cannot be written.
    """
    for package in (*against, *(("matplotlib",) if plot else ())):
        if importlib.util.find_spec(package) is None:
            raise ToolchainError(f"{package} is not installed.", hint=f"Run: pip install {package}")
    for path in (plot, json_file):
        if path is not None:
            check_target(path)
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(
            f"a plot cannot be written as {plot.suffix[:20]!r}.", hint="Choose .png, .svg or .pdf."
        )


def _strategies(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    from netloom.compiler.strategies import BY_NAME

    names = tuple(BY_NAME) if text == "all" else tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in BY_NAME]:
        raise UsageError(
            f"there is no strategy {unknown[0][:80]!r}.", hint=f"Choose all, {', '.join(BY_NAME)}."
        )
    return names


def _check_plan(plan: Plan, names: Sequence[str]) -> None:
    from netloom.compiler.strategies import ACCURACIES
    from netloom.runtime.session import check_threads

    if plan.accuracy not in ACCURACIES:
        raise UsageError(
            f"there is no accuracy {plan.accuracy[:80]!r}.", hint=f"Choose {', '.join(ACCURACIES)}."
        )
    for threads in plan.threads:
        check_threads(threads)
    if plan.training is not None and (plan.against or plan.strategies):
        raise UsageError("a training step is timed by itself: no peer trains from the same model.",
                         hint="Leave --against and --strategies out.")  # fmt: skip
    programs = [name for name in names if is_program(name)]
    if programs and (plan.against or plan.strategies or plan.training is not None):
        raise UsageError(
            f"{programs[0][:80]!r} is a program, which can be timed alone only.",
            hint="Give the model.",
        )


def _conditions(output: Output, plan: Plan, processors: int) -> dict[str, Any]:
    """The machine, and what makes its times scatter."""
    from netloom.benchmarks import conditions

    found = conditions.warnings(max(plan.threads))
    output.say(f"machine: {conditions.processor()}, {counted(processors, 'processor')}")
    for sentence in found:
        output.say(f"warning: {sentence}")
    return {
        "machine": {"processor": conditions.processor(), "processors": processors},
        "warnings": found,
    }


def _peaks(output: Output, threads: Sequence[int]) -> dict[str, Any]:
    from netloom.benchmarks import peaks

    output.progress("measuring what the machine can do ...")
    found = peaks.measure(tuple(sorted({1, *threads})))
    for count, rate in found.flops.items():
        memory = f"copy {found.copy[count]:.1f} GB/s, read {found.read[count]:.1f} GB/s"
        output.say(f"peak, {counted(count, 'thread')}: {rate:.1f} GFLOP/s, {memory}")
    output.say(
        f"{found.clock:.2f} GHz, {found.flops_per_cycle:.1f} flop a cycle on one thread, "
        f"{found.cpu}"
    )
    return found.as_dict()


# -- reporting -------------------------------------------------------------------------------------


def _say_group(output: Output, group: Group, peaks: Mapping[str, Any] | None) -> None:
    from .bench_table import table

    peak = peaks["flops"][group.threads] if peaks else None
    head = output.styled(f"{group.network}, {setting(group.batch, group.threads)}", bold=True)
    output.say("\n".join(["", head, *group.remarks, table(group.rows, peak, group.batch or 1)]))


def _as_json(group: Group) -> dict[str, Any]:
    """Numbers that are not known become null."""
    rows = [{key: None if isinstance(value, float) and not math.isfinite(value) else value for key,
             value in asdict(row).items()}
            for row in group.rows]  # fmt: skip
    return {
        "network": group.network,
        "batch": group.batch,
        "threads": group.threads,
        "remarks": group.remarks,
        "rows": rows,
    }


def _deliver(
    output: Output,
    data: Mapping[str, Any],
    groups: Sequence[Group],
    plot: Path | None,
    json_file: Path | None,
) -> None:
    if output.as_json:
        output.result(data, "")
    if json_file is not None:
        replace_file(json_file, json.dumps(data, indent=1).encode() + b"\n")
    if plot is not None:
        from .bench_plot import drawn

        bars = [
            (f"{group.network}, {setting(group.batch, group.threads)}", group.rows)
            for group in groups
        ]
        replace_file(plot, drawn(bars, plot.suffix[1:]))


__all__ = ["PEERS", "bench"]
