"""Where a training stands, how it is shown on a terminal, and how SIGINT waits for a step's end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from types import FrameType
from typing import Any

from netloom.errors import ProgramError


@dataclass
class Progress:
    """Where a training stands; all of it goes into the checkpoint."""

    seed: int = 0
    batch: int = 0
    samples: int = 0  # in the data set; 0 for a loader
    epoch: int = 0
    position: int = 0  # batches done in this epoch
    step: int = 0
    loss_sum: float = 0.0  # of this epoch so far: loss times samples
    correct: int = 0
    seen: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def progress_of(metadata: Mapping[str, Any], path: str | PathLike[str]) -> Progress:
    """The progress in a checkpoint's metadata; ProgramError if it holds none."""
    known = Progress()
    if set(metadata) != set(asdict(known)):
        raise ProgramError(
            f"{str(path)!r} holds no progress of a training.", hint="Use load_parameters for it."
        )
    for name, value in metadata.items():
        if not isinstance(value, float | int if name == "loss_sum" else type(getattr(known, name))):
            raise ProgramError(f"the checkpoint {str(path)!r} has {name} = {value!r}.")
    return Progress(**metadata)


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """The first SIGINT sets the event instead of raising; a second one acts as before. Main
    thread only.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress_bar(
    show: bool | None, epochs: int, batches: int
) -> Iterator[Callable[[Progress], None]]:
    """A function that shows the progress on a terminal, and does nothing elsewhere."""
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda progress: None
        return
    from rich.console import Console  # optional: a program runs without it
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=epochs * batches or None)

        def display(progress: Progress) -> None:
            mean = progress.loss_sum / max(progress.seen, 1)
            done = progress.epoch * batches + progress.position
            bar.update(
                task,
                completed=done,
                description=f"epoch {progress.epoch + 1}/{epochs}  loss {mean:.4f}",
            )

        yield display
