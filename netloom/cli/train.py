"""``netloom train``: a model on a data set, with a compiled step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netloom.errors import ComparisonError, InputError, UsageError

from .files import check_target
from .models import load_graph
from .options import Binding, FileType, binding_options, printing
from .output import STOPPED, Output

if TYPE_CHECKING:
    from netloom.runtime.training import Trainer

_ARRAYS = ("x", "y", "test_x", "test_y")


@click.command()
@click.argument("model")
@click.option(
    "--data",
    required=True,
    help="digits, mnist, cifar10, a folder of the last two, or a .npz file with x, y, test_x, "
    "test_y.",
)
@click.option(
    "--loss", default="cross_entropy", show_default=True, help="A loss of netloom.losses."
)
@click.option(
    "--optimizer",
    default="adam",
    show_default=True,
    help="NAME or NAME:KEY=VALUE,KEY=VALUE, such as adam:lr=1e-3.",
)
@click.option("--rate", type=float, help="The learning rate, if the optimizer's own is not wanted.")
@click.option(
    "--epochs",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="In all, those of a resumed run included.",
)
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1))
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the order of the data."
)
@click.option("--checkpoint", type=FileType(), help="File that holds the training's whole state.")
@click.option(
    "--every",
    default=0,
    type=click.IntRange(0),
    help="Steps between checkpoints (0: after each epoch).",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@click.option(
    "--require", type=float, help="Exit with 1 if the last validation result is below this."
)
@click.option(
    "-o",
    "--output",
    "program",
    type=FileType(),
    help="Compile the trained network to this .so file.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of the pool (default: all cores)."
)
@binding_options
@printing
def train(
    output: Output, model: str, data: str, loss: str, optimizer: str, rate: float | None,
    epochs: int, batch: int, seed: int,
    checkpoint: Path | None, every: int, resume: bool, require: float | None, program: Path | None,
    threads: int | None,
    binding: Binding,
) -> None:  # fmt: skip
    """Train MODEL. SIGINT stops it within a step, saves the checkpoint, and ends with exit code
    130.
    """
    from netloom.api import compile_training
    from netloom.frontends.dsl.imported import trainable

    from .recipes import parse_loss, parse_optimizer, with_rate

    for path in (program, checkpoint):
        if path is not None:
            check_target(path)
    if resume and checkpoint is None:
        raise UsageError("there is nothing to resume from.", hint="Give --checkpoint FILE.")
    chosen = parse_optimizer(optimizer)
    chosen = chosen if rate is None else with_rate(chosen, rate)
    measure = parse_loss(loss)
    training, validation = _data(data)
    if require is not None and validation is None:
        raise UsageError(
            "--require needs validation data, and there are none.",
            hint="Add test_x and test_y to the .npz file, or leave --require out.",
        )
    graph = load_graph(model, binding)
    graph = graph if graph.states else trainable(graph)  # ONNX holds weights as constants
    trainer = compile_training(graph, loss=measure, optimizer=chosen, threads=threads)
    try:
        history = trainer.fit(
            training, epochs=epochs, batch=batch, seed=seed, validation=validation,
            checkpoint=checkpoint, every=every,
            resume=resume, show=False if output.quiet or output.as_json else None,
        )  # fmt: skip
    except KeyboardInterrupt as error:
        output.fault(error, STOPPED, _stopped(trainer, checkpoint))
        raise SystemExit(STOPPED) from None
    if program is not None:
        trainer.to_inference().save(program)
    output.result(history, "\n".join(map(_line, history)))
    if require is not None and not history[-1]["validation"] >= require:
        raise ComparisonError(
            f"the last validation result {history[-1]['validation']:.4f} is below {require}."
        )


def _stopped(trainer: Trainer, checkpoint: Path | None) -> str:
    place = f"stopped after step {trainer.progress.step}"
    if checkpoint is None:
        return f"{place}; nothing was saved, for there is no --checkpoint."
    return f"{place}; {str(checkpoint)!r} holds everything, and --resume goes on from there."


def _line(record: dict[str, float]) -> str:
    rest = "  ".join(f"{key} {value:.4f}" for key, value in record.items() if key != "epoch")
    return f"epoch {int(record['epoch']) + 1}  {rest}"


def _data(source: str) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """Arrays for training and, if there are any, for validation."""
    from netloom.frontends import datasets

    if source in datasets.DATASETS:
        loaded = datasets.DATASETS[source]()
        return loaded.training, loaded.test
    place = Path(source)
    if place.is_dir():
        read = datasets.cifar10 if list(place.glob("data_batch*")) else datasets.mnist
        loaded = read(place)
        return loaded.training, loaded.test
    if place.suffix != ".npz" or not place.is_file():
        raise UsageError(
            f"there is no data set {source[:80]!r}.",
            hint=f"Choose {', '.join(datasets.DATASETS)}, a folder, or a .npz file.",
        )
    return _npz(place)


def _npz(place: Path) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    from netloom.runtime.checkpoint import read_npz

    try:
        arrays = read_npz(place, _ARRAYS)
    except (OSError, ValueError) as error:
        raise InputError(f"{str(place)!r} is not a .npz file of arrays: {error}.") from error
    if missing := [name for name in ("x", "y") if name not in arrays]:
        raise InputError(
            f"{str(place)!r} lacks the array {missing[0]!r}.",
            hint=f"It should hold {', '.join(_ARRAYS)}.",
        )
    has_test = "test_x" in arrays and "test_y" in arrays
    return (arrays["x"], arrays["y"]), ((arrays["test_x"], arrays["test_y"]) if has_test else None)
