"""``netloom bench``: the time of one program in this process."""

from __future__ import annotations

import time

import click

from .models import load_session
from .options import Binding, Build, binding_options, in_process_options, printing
from .output import Output


@click.command()
@click.argument("program")
@click.option("--seconds", default=2.0, show_default=True, help="How long to measure.")
@binding_options
@in_process_options
@printing
def bench(output: Output, program: str, seconds: float, binding: Binding, build: Build) -> None:
    """Time a PROGRAM (.so) or a MODEL in this process, on random inputs and bound buffers."""
    import numpy as np

    from .arrays import gather_inputs

    session = load_session(program, build, binding)
    feeds = gather_inputs(session, {}, binding.numbers)
    outputs = {port.name: np.empty_like(value) for port, value in zip(session.outputs, session.run(None, feeds), strict=True)}
    call = session.bind(**feeds, **outputs)
    for _ in range(2):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    low, middle, high = (float(np.percentile(times, p)) for p in (10, 50, 90))
    row = {"threads": session.threads, "calls": len(times), "min_ms": min(times), "p10_ms": low, "p50_ms": middle, "p90_ms": high}
    output.result(row, "  ".join(f"{k} {v:.4g}" for k, v in row.items()))
