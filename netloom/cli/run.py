"""``netloom run``: a program or a model on given or random inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from netloom.errors import InputError, UsageError

from .cuda import is_cuda_program, load_cuda
from .files import check_target, replace_file
from .models import dims_of_inputs, listed, load_session
from .options import (
    Binding,
    Build,
    FileType,
    PairType,
    binding_options,
    in_process_options,
    printing,
)
from .output import Output

if TYPE_CHECKING:
    from netloom.runtime.cuda.session import CudaSession
    from netloom.runtime.session import Session


class _Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "A,B,C"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{str(value)[:80]!r} is not a list of numbers.", param, ctx)


@click.command()
@click.argument("program")
@click.option(
    "--in",
    "inputs",
    multiple=True,
    type=PairType("NAME=FILE.npy|IMAGE|rand"),
    help="An input; without any, all are random.",
)
@click.option(
    "--out",
    "outputs",
    multiple=True,
    type=PairType("NAME=FILE.npy"),
    help="Where to write an output.",
)
@click.option(
    "--labels", type=FileType(), help="Names of classes, one on each line, for the top five."
)
@click.option(
    "--mean",
    type=_Numbers(),
    default=(0.0,),
    help="Subtracted from an image's values of 0 to 1, by channel.",
)
@click.option("--std", type=_Numbers(), default=(1.0,), help="By which they are divided then.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the random inputs."
)
@binding_options
@in_process_options
@printing
def run(
    output: Output, program: str, inputs: tuple[tuple[str, str], ...], outputs: tuple[tuple[str, str], ...],
    labels: Path | None, mean: tuple[float, ...], std: tuple[float, ...], seed: int, binding: Binding, build: Build,
) -> None:  # fmt: skip
    """Run a PROGRAM (.so, or .nlc on a GPU) or a MODEL; print what comes out.

    \b
    --in x=a.npy      the array in the file
    --in x=cat.png    an image, resized to the input, 0 to 1, then (value - mean) / std
    --in x=rand       random numbers; --dim N=4 sets a free dim
    """
    from .arrays import Pixels, as_npy, as_text, describe, gather_inputs, read_labels

    targets = _targets(outputs)
    names_of_classes = read_labels(labels)
    session: Session | CudaSession = (
        load_cuda(program) if is_cuda_program(program) else load_session(program, build, binding)
    )
    _check_outputs(session, targets)
    given, dims = _each_once("--in", inputs), dims_of_inputs(program, binding)
    arrays = gather_inputs(session, given, dims, seed, Pixels(mean, std))
    results = dict(
        zip((port.name for port in session.outputs), session.run(None, arrays), strict=True)
    )
    for name, path in targets.items():
        replace_file(path, as_npy(results[name]))
    rows = [describe(name, value, names_of_classes) for name, value in results.items()]
    output.result(rows, "\n".join(map(as_text, rows)))


def _targets(outputs: tuple[tuple[str, str], ...]) -> dict[str, Path]:
    """Files to write, checked before the work."""
    targets = {name: Path(path) for name, path in _each_once("--out", outputs).items()}
    for path in targets.values():
        check_target(path)
    return targets


def _each_once(option: str, pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UsageError(f"{option} gives one name twice.", hint="Give each name once.")
    return found


def _check_outputs(session: Session | CudaSession, targets: dict[str, Path]) -> None:
    names = [port.name for port in session.outputs]
    if unknown := [name for name in targets if name not in names]:
        raise InputError(
            f"the program has no output {unknown[0][:80]!r}.", hint=f"It has {listed(names)}."
        )
