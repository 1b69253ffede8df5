"""Training data -> batches, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.errors import UsageError

from .training_progress import Progress

Array: TypeAlias = npt.NDArray[Any]
Batch: TypeAlias = Sequence[Array]
Data: TypeAlias = "Sequence[Array] | Callable[[int], Iterable[Batch]] | Iterable[Batch]"


def shuffled(samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of the samples in an epoch: a permutation by NumPy's Philox with the key (seed,
    epoch).
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(samples)


@dataclass(frozen=True)
class BatchSource:
    """Batches of an epoch, in order; ``samples`` and ``batches`` are 0 where unknown."""

    epoch: Callable[[Progress], Iterator[Batch]]
    samples: int = 0
    batches: int = 0

    @staticmethod
    def of(data: Data, batch: int) -> BatchSource:
        """Arrays are shuffled and cut; batches come as they are. UsageError for other data."""
        if callable(data):
            function = data
            return BatchSource(lambda progress: _batches(function(progress.epoch)))
        if isinstance(data, tuple | list) and all(isinstance(array, np.ndarray) for array in data):
            return BatchSource._of_arrays(tuple(data), batch)
        batches: Any = data
        if _batches(batches) is batches:
            raise UsageError(
                "the data can be iterated once only.",
                hint="Give a list, a loader or a function of the epoch.",
            )
        return BatchSource(lambda _: iter(batches))

    @staticmethod
    def _of_arrays(arrays: tuple[Array, ...], batch: int) -> BatchSource:
        if not all(array.ndim for array in arrays):
            raise UsageError("a single number holds no samples.", hint="Give arrays of samples.")
        lengths = {len(array) for array in arrays}
        if len(lengths) > 1:
            raise UsageError(
                f"arrays of lengths {sorted(lengths)} do not belong together.",
                hint="Give each array one row for each sample.",
            )
        if lengths in (set(), {0}):
            raise UsageError(
                "there are no samples to train with.", hint="Give arrays that hold some."
            )
        (samples,) = lengths

        def epoch(progress: Progress) -> Iterator[Batch]:
            order = shuffled(samples, progress.seed, progress.epoch)
            for chosen in slices(samples, batch):
                yield [array[order[chosen]] for array in arrays]

        return BatchSource(epoch, samples, -(-samples // batch))


def _batches(given: Any) -> Iterator[Batch]:
    """UsageError for what cannot be iterated over."""
    try:
        return iter(given)
    except TypeError as error:
        raise UsageError(
            f"the data is {given!r}, which holds no batches.",
            hint="Give arrays of equal length, batches, or a function of the epoch that gives them.",
        ) from error


def slices(samples: int, batch: int) -> Iterator[slice]:
    """0..samples in pieces of ``batch``, the last of which may be smaller."""
    return (slice(start, min(start + batch, samples)) for start in range(0, samples, batch))
