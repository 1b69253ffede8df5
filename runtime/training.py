"""The trainer: runs a program's training step over data, measures, saves and resumes.

Everything that decides the course of a training lies in the checkpoint: the state's tensors
(parameters, optimizer, statistics, generator key) and the seed, epoch, position in the epoch, step
and sums so far. The order of the data is a function of seed and epoch alone. So a run that was
stopped and resumed gives the same bits as one that was not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from netloom.arguments import whole
from netloom.errors import InputError, ProgramError, UsageError, quoted

from .checkpoint import Checkpoint, check_writable, read_checkpoint, write_checkpoint
from .metrics import Metric, accuracy, mean_squared_error, measured
from .program import PortInfo
from .training_data import Array, Batch, BatchSource, Data, slices
from .training_inputs import as_port, checked_rate, samples_of
from .training_progress import Progress, deferred_interrupt, progress_bar, progress_of

Rate: TypeAlias = "float | Callable[[int], float]"
AVERAGE = ".average"  # behind the name of a parameter: that of its average


class Ports(Protocol):
    """The border of an entry."""

    @property
    def inputs(self) -> Sequence[PortInfo]: ...

    @property
    def outputs(self) -> Sequence[PortInfo]: ...


class TrainingState(Protocol):
    """Tensors by name, as writable views, and the number of steps done."""

    step: int

    @property
    def names(self) -> Sequence[str]: ...

    def __getitem__(self, name: str, /) -> Array: ...

    def __setitem__(self, name: str, value: Array, /) -> None: ...


class TrainingSession(Protocol):
    """What the trainer needs of a session: see ``runtime.session.Session``."""

    def entry(self, name: str, /) -> Ports: ...

    def create_state(self) -> Any: ...

    def train_step(self, state: Any, /, *inputs: Any) -> Sequence[Array]: ...

    def evaluate(self, state: Any, /, *inputs: Any) -> Any: ...


class Trainer:
    """Trains the network of a session. ``step`` serves one's own loops, ``fit`` does whole epochs.

    ``rate`` is the learning rate, or a function of the number of updates done. ``to_inference``
    makes an inference program of the tensors of a state, by name. ``accumulate``: how many steps
    make an update.
    """

    def __init__(
        self,
        session: TrainingSession,
        *,
        rate: Rate = 1e-3,
        to_inference: Callable[[Mapping[str, Array]], Any] | None = None,
        accumulate: int = 1,
    ) -> None:
        self.session, self.rate, self.accumulate = session, rate, accumulate
        self.state: TrainingState = session.create_state()
        self.progress = Progress()
        self._to_inference = to_inference
        ports = session.entry("train_step")
        self._inputs, self._outputs = ports.inputs[:-1], [port.name for port in ports.outputs]

    # -- one step ----------------------------------------------------------------------------------

    def step(self, *arrays: Array, rate: float | None = None) -> dict[str, float]:
        """One training step on a batch (the network's inputs, then the target); returns the loss
        and the counts.

        The learning rate is that of the trainer's schedule unless given. InputError for arrays that
        do not fit.
        """
        if len(arrays) != len(self._inputs):
            names = ", ".join(port.name for port in self._inputs)
            raise InputError(
                f"a step takes {len(self._inputs)} arrays ({names}), but {len(arrays)} were given."
            )
        given = [as_port(array, port) for array, port in zip(arrays, self._inputs, strict=True)]
        chosen = checked_rate(self._rate_at(self.state.step) if rate is None else rate)
        results = self.session.train_step(self.state, *given, np.asarray(chosen, np.float32))
        return {
            name: np.asarray(result).item()
            for name, result in zip(self._outputs, results, strict=True)
        }

    def _rate_at(self, step: int) -> float:
        return self.rate(step // self.accumulate) if callable(self.rate) else self.rate

    # -- evaluation --------------------------------------------------------------------------------

    def predict(self, *arrays: Array, batch: int = 256) -> Any:
        """The output of the network, with its present parameters, for all samples: an array, or a
        tuple of them. InputError unless there is one array, of equal lengths, for each input.
        """
        ports = self.session.entry("run").inputs
        if len(arrays) != len(ports):
            names = ", ".join(port.name for port in ports)
            raise InputError(
                f"the network takes {len(ports)} arrays ({names}), but {len(arrays)} were given."
            )
        samples = samples_of(arrays)
        batch = whole(batch, "the size of a batch", least=1)
        if not samples:
            raise InputError("there are no samples to predict.", hint="Give arrays that hold some.")
        parts = []
        for chosen in slices(samples, batch):
            given = [
                as_port(array[chosen], port) for array, port in zip(arrays, ports, strict=True)
            ]
            parts.append(self.session.evaluate(self.state, *given))
        if isinstance(parts[0], tuple | list):
            return tuple(np.concatenate(output) for output in zip(*parts, strict=True))
        return np.concatenate(parts)

    def evaluate(self, *arrays: Array, batch: int = 256, metric: Metric | None = None) -> float:
        """A measure of the network's outputs, over all samples: ``metric`` of what ``predict``
        returns and the targets; or, of the first output and its target, the accuracy if the step
        takes integers for it, else the mean squared error.

        ``arrays`` are the network's inputs, then the target, or the targets of a ``Mixed`` loss.
        InputError if they do not fit.
        """
        count = len(self.session.entry("run").inputs)
        if len(arrays) <= count:
            raise InputError(
                f"an evaluation takes {count} inputs and a target, but {len(arrays)} arrays were "
                "given."
            )
        samples_of(arrays)
        port = self._inputs[count]
        target = as_port(arrays[count], port) if metric is None else None
        found = self.predict(*arrays[:count], batch=batch)
        if metric is not None:
            return measured(metric, found, [np.asarray(array) for array in arrays[count:]])
        assert target is not None
        measure = accuracy if target.dtype.kind in "iu" else mean_squared_error
        return measure(found[0] if isinstance(found, tuple) else found, target)

    # -- whole epochs ------------------------------------------------------------------------------

    def fit(
        self,
        data: Data,
        *,
        epochs: int,
        batch: int = 64,
        seed: int = 0,
        schedule: Rate | None = None,
        validation: Batch | None = None,
        metric: Metric | None = None,
        checkpoint: str | PathLike[str] | None = None,
        every: int = 0,
        resume: bool = False,
        on_step: Callable[[int, float], None] | None = None,
        show: bool | None = None,
    ) -> list[dict[str, float]]:
        """Train up to ``epochs`` epochs in all; returns one record per epoch: loss, accuracy,
        validation.

        ``data`` are arrays of equal length (network inputs, then the target), shuffled by
        Philox(seed, epoch) and cut into batches, the last of which may be smaller; or batches: an
        iterable that gives them anew for each epoch, or a function of the epoch. With
        ``checkpoint``, the state is saved after each epoch, after every ``every``
        steps, and at SIGINT, which ends the training within a step by KeyboardInterrupt. ``resume``
        goes on from the checkpoint if it is there. ``on_step`` gets each step's number and loss.
        ``show`` forces the progress bar on or off; by default it is there on a terminal. UsageError
        if a checkpoint is of another run.
        """
        if schedule is not None:
            self.rate = schedule
        epochs, every = (
            whole(value, what, least=0) for value, what in ((epochs, "epochs"), (every, "every"))
        )
        if every and checkpoint is None:
            raise UsageError("every needs a checkpoint.", hint="Name the file to write.")
        if not 0 <= (seed := whole(seed, "the seed")) < 1 << 63:
            raise UsageError(f"a seed lies in 0..2^63 - 1, but is {seed}.")
        batch = whole(batch, "the size of a batch", least=1)
        source = BatchSource.of(data, batch)
        self._begin(Progress(seed, batch, source.samples), checkpoint, resume)
        with (
            deferred_interrupt() as interrupted,
            progress_bar(show, epochs, source.batches) as bar,
        ):
            while self.progress.epoch < epochs:
                for arrays in itertools.islice(
                    source.epoch(self.progress), self.progress.position, None
                ):
                    results = self.step(*arrays)
                    self._count(results, len(arrays[0]))
                    bar(self.progress)
                    if on_step is not None:
                        on_step(self.progress.step, results["loss"])
                    self._save_within(checkpoint, every, interrupted.is_set())
                if not self.progress.position:
                    raise UsageError(f"the data gave no batch for epoch {self.progress.epoch}.")
                self._end_epoch(validation, metric)
                if checkpoint is not None:
                    self.save(checkpoint)
        return self.progress.history

    def _begin(self, fresh: Progress, checkpoint: str | PathLike[str] | None, resume: bool) -> None:
        """Start anew from the present parameters, or go on from the checkpoint."""
        if checkpoint is not None:
            check_writable(checkpoint)
        if resume and checkpoint is None:
            raise UsageError("resume needs a checkpoint.", hint="Name the file to go on from.")
        if checkpoint is None or not (resume and Path(checkpoint).exists()):
            fresh.step = self.state.step
            self.progress = fresh
            return
        self.load(checkpoint)
        for what in ("seed", "batch", "samples"):
            before, now = getattr(self.progress, what), getattr(fresh, what)
            if before != now:
                raise UsageError(f"the checkpoint is of a run with {what} {before}, not {now}.",
                                 hint="Resume with the same data and settings.")  # fmt: skip

    def _count(self, results: Mapping[str, float], samples: int) -> None:
        progress = self.progress
        progress.loss_sum += results["loss"] * samples
        progress.correct += int(results.get("correct", 0))
        progress.seen += samples
        progress.position += 1
        progress.step = self.state.step

    def _save_within(
        self, checkpoint: str | PathLike[str] | None, every: int, is_interrupted: bool
    ) -> None:
        """Save within an epoch if it is time to; KeyboardInterrupt if the user asked for it."""
        is_due = every and self.progress.step % every == 0
        if checkpoint is not None and (is_interrupted or is_due):
            self.save(checkpoint)
        if is_interrupted:
            raise KeyboardInterrupt

    def _end_epoch(self, validation: Batch | None, metric: Metric | None) -> None:
        progress = self.progress
        record: dict[str, float] = {
            "epoch": progress.epoch,
            "loss": progress.loss_sum / max(progress.seen, 1),
        }
        if "correct" in self._outputs:
            record["accuracy"] = progress.correct / max(progress.seen, 1)
        if validation is not None:
            record["validation"] = self.evaluate(*validation, metric=metric)
        progress.history.append(record)
        progress.epoch, progress.position = progress.epoch + 1, 0
        progress.loss_sum, progress.correct, progress.seen = 0.0, 0, 0

    # -- state -------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Array]:
        """Copies of all tensors of the state, by name."""
        return {name: self.state[name].copy() for name in self.state.names}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts, the parameters have the values of their averages: to evaluate, or for
        ``to_inference``. UsageError if the step keeps none."""
        pairs = [(name.removesuffix(AVERAGE), name) for name in self.state.names]
        pairs = [(own, name) for own, name in pairs if own != name and own in self.state.names]
        if not pairs:
            raise UsageError("this step keeps no averages.", hint="Compile it with average=0.999.")
        before = {own: self.state[own].copy() for own, _ in pairs}
        for own, name in pairs:
            self.state[own] = self.state[name]
        try:
            yield
        finally:
            for own, array in before.items():
                self.state[own] = array

    def save(self, path: str | PathLike[str]) -> None:
        """Write the state and the progress to a safetensors file, atomically."""
        self.progress.step = self.state.step
        write_checkpoint(
            path, Checkpoint({n: self.state[n] for n in self.state.names}, asdict(self.progress))
        )

    def load(self, path: str | PathLike[str]) -> None:
        """Read what ``save`` wrote; ProgramError for a file of another network, which changes
        nothing.
        """
        found = read_checkpoint(path)
        names = set(self.state.names)
        if missing := sorted(names - set(found.tensors)):
            raise ProgramError(f"the checkpoint {str(path)!r} lacks {quoted(missing, 5)}.")
        if unknown := sorted(set(found.tensors) - names):
            raise ProgramError(
                f"the checkpoint {str(path)!r} holds {quoted(unknown, 5)}, which this network has "
                "not."
            )
        progress = progress_of(found.metadata, path)
        self._assign(found.tensors, path)
        self.progress = progress
        self.state.step = progress.step

    def load_parameters(self, path: str | PathLike[str]) -> None:
        """Read tensors by name from a safetensors or .npz file; tensors that it lacks stay as
        they are, but an average that is kept of a parameter starts anew from the parameter.
        """
        found, names = read_checkpoint(path), set(self.state.names)
        if unknown := sorted(set(found.tensors) - names):
            raise ProgramError(
                f"{str(path)!r} holds {quoted(unknown, 5)}, which this network has not."
            )
        tensors = dict(found.tensors)
        for name, array in found.tensors.items():
            if name + AVERAGE in names:
                tensors.setdefault(name + AVERAGE, array)
        self._assign(tensors, path)

    def _assign(self, tensors: Mapping[str, Array], path: str | PathLike[str]) -> None:
        """Set tensors after checking all of them, so that a bad file changes nothing."""
        for name, array in tensors.items():
            own = self.state[name]
            if own.dtype != array.dtype or own.shape != array.shape:
                raise ProgramError(
                    f"{str(path)!r} holds {array.dtype}{list(array.shape)}, but "
                    f"{own.dtype}{list(own.shape)} is needed.",
                    node=name,
                )
        for name, array in tensors.items():
            self.state[name] = array

    def to_inference(self) -> Any:
        """An inference program with the present parameters."""
        if self._to_inference is None:
            raise UsageError(
                "this trainer cannot compile.", hint="Make it with netloom.compile_training."
            )
        return self._to_inference(self.tensors())
