"""PyTorch beside the cuda target: whether it is there with a device, and how long its calls take.

Calls are eager or compiled by the caller; events on its stream around a block of them are compared.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def torch_on_device() -> Any:
    """The module, with cuDNN's benchmark mode on; None without PyTorch, or without a device for
    it."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):  # not there, or a library that it needs is not
        return None
    if not torch.cuda.is_available():
        return None
    torch.backends.cudnn.benchmark = True
    return torch


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
