"""PyTorch beside the cuda target: whether it is there with a device, and how long its calls take.

Calls are eager or compiled by the caller; events on its stream around a block of them are compared.
A peer that fails is named and left out: our own times do not depend on it.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.errors import ComparisonError

Clock = Callable[[int], float]  # seconds of one call, the mean of a block of so many
DEVICE = "cuda"
_MOST_CALLS = 1000  # of a block
_ALONE = "timed once, before PyTorch"


def torch_on_device() -> Any:
    """The module, with cuDNN's benchmark mode on; None without PyTorch, or without a device for
    it."""
    try:
        torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            return None
    except Exception:  # not there, broken, or made for other libraries: we are measured without it
        return None
    torch.backends.cudnn.benchmark = True
    return torch


def placed(torch: Any, array: npt.NDArray[Any]) -> Any:
    """An array as a tensor on the device."""
    return torch.from_numpy(array).to(DEVICE)


def give_memory_back(torch: Any) -> None:
    """What PyTorch keeps for later tensors is free for others; nothing without PyTorch."""
    if torch is not None:
        torch.cuda.empty_cache()


def seconds_in_torch(
    torch: Any, call: Callable[[], Any], times: int, *, allows_tf32: bool
) -> float:
    """The mean time of so many calls, one after another, after one that is not timed."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allows_tf32
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    start.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e-3 / times


def in_float32(torch: Any, function: Callable[..., Any], tensors: Sequence[Any]) -> Any:
    """A function's result in strict float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode():
        return function(*tensors)


@dataclass(frozen=True)
class Pace:
    """Rounds of blocks of so many calls, or of more, as ``block`` seconds hold. ``warm``: seconds of
    our own calls before, which the device's clocks need to rise (block 0: none)."""

    rounds: int = 5
    replays: int = 20
    block: float = 2e-3
    warm: float = 0.1

    def calls(self, own: Clock) -> int:
        """Of a block, for all contenders."""
        if not self.block:
            return self.replays
        end = time.perf_counter() + self.warm
        seconds = own(self.replays)
        while time.perf_counter() < end:
            seconds = own(self.replays)
        return max(self.replays, min(math.ceil(self.block / seconds), _MOST_CALLS))


@dataclass(frozen=True)
class Times:
    """Medians over rounds, in seconds. ``note``: which peers failed, and how."""

    own: float
    peers: Mapping[str, float]
    note: str


def in_rounds(
    own: Clock,
    peers: Mapping[str, Callable[[], Clock]],
    pace: Pace,
    keep: Callable[[Times], None] | None = None,
) -> Times:
    """Every contender takes part in every round; ``peers``: what gets them ready, or finds our
    results wrong (ComparisonError). ``keep`` has our own time before a peer begins, which may take
    the process along.
    """
    if peers and keep is not None:
        keep(Times(own(pace.replays), {}, _ALONE))
    ready: dict[str, Clock] = {}
    notes: list[str] = []
    for name, prepare in peers.items():
        try:
            ready[name] = prepare()
        except ComparisonError:
            raise
        except Exception as error:  # of another library
            notes.append(_told(name, error))
    found: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in ready}
    calls = pace.calls(own)
    for _ in range(pace.rounds):
        found.append(own(calls))
        for name, clock in list(ready.items()):
            try:
                others[name].append(clock(calls))
            except Exception as error:  # of another library
                notes.append(_told(name, error))
                del ready[name]
    medians = {name: float(np.median(others[name])) for name in ready}
    return Times(float(np.median(found)), medians, "; ".join(notes))


def _told(name: str, error: Exception) -> str:
    """The error's first line."""
    return f"{name} failed: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
