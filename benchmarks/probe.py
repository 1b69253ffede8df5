"""What must be measured in a fresh process: ``python -m netloom.benchmarks.probe VERB …`` prints a
line of JSON.

``open PROGRAM``: seconds of opening it, of that and its first inference, and of a later one. ``call
PROGRAM``: seconds of one call with bound buffers, from Python. All on one thread, on inputs of
ones.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

from netloom.runtime.session import load

CALLS, BLOCKS = 20_000, 11  # of the overhead of a call
LATER = 20  # calls, of which the median is the steady time


def opening(path: str) -> dict[str, float]:
    """Of the program only: the runtime's modules are there before."""
    start = time.perf_counter()
    session = load(path, threads=1)
    opened = time.perf_counter()
    inputs = {port.name: np.ones(port.static_shape, port.dtype) for port in session.inputs}
    made = time.perf_counter()
    session.run(None, inputs)
    first = opened - start + time.perf_counter() - made
    later = _median([_seconds(lambda: session.run(None, inputs)) for _ in range(LATER)])
    return {"open": opened - start, "first": first, "steady": later}


def calling(path: str) -> dict[str, float]:
    """The median over blocks of the mean of a block's calls."""
    session = load(path, threads=1)
    call = session.bind(
        **{port.name: np.ones(port.static_shape, port.dtype) for port in session.inputs}
    )

    def block() -> None:
        for _ in range(CALLS):
            call()

    return {"seconds": _median([_seconds(block) for _ in range(BLOCKS)]) / CALLS}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _median(times: list[float]) -> float:
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    print(json.dumps({"open": opening, "call": calling}[sys.argv[1]](sys.argv[2])))
