"""The cuda target on a GPU: ``python -m netloom.benchmarks.gpu build FOLDER``, then
``… run FOLDER -o RESULTS``, then ``… report RESULTS``.

``build`` needs numba-cuda and no GPU: it writes one program file a case, and goes on where an
earlier build stopped. ``run`` needs a GPU, NumPy and cuda-bindings alone: it prints the device and
its limits, checks every program against float64 (single kernels) or the CPU (networks and training
steps), then times it by replaying its graph between two events, in rounds with PyTorch (cuBLAS,
cuDNN with benchmark mode) if that is there, in the same precision. Times are medians over the
rounds of the mean of a block. Results are written after each case, and a run goes on where they
stop; it begins nothing after --seconds and names what was left out; torch.compile, which takes
longest to get ready, comes last. The measuring is done by another process (``measure``), which is
replaced when a kernel hangs or breaks it. ``report`` needs neither: docs/benchmarks/gpu.md.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from netloom.benchmarks.gpu_build import build, read_contents
from netloom.benchmarks.gpu_cases import cases
from netloom.benchmarks.gpu_measure import (
    COPIED,
    LOST,
    SECONDS,
    Plan,
    measure,
)
from netloom.benchmarks.gpu_networks import network_cases
from netloom.benchmarks.gpu_results import read_results
from netloom.benchmarks.gpu_supervise import supervise
from netloom.benchmarks.gpu_torch import Pace
from netloom.errors import NetloomError
from netloom.runtime.cuda.cuda_device import CudaDevice
from netloom.runtime.cuda.device import Device

_TOY_COPIED = 1 << 12


def main(
    arguments: Sequence[str] | None = None, open_device: Callable[[], Device] = CudaDevice
) -> int:
    """0 if all went well; 1 if a case failed; 4 without a device or the tools."""
    options = _options(arguments)
    try:
        match options.verb:
            case "build":
                return _build(options)
            case "run":
                return _run(options)
            case "report":
                return _report(options)
        return _measure(options, open_device)
    except NetloomError as error:
        print(f"netloom: {error}", file=sys.stderr)
        return error.exit_code


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m netloom.benchmarks.gpu", description=__doc__)
    parser.add_argument("verb", choices=["build", "run", "measure", "report"])
    parser.add_argument("folder", type=Path, help="of programs; of report: the results")
    parser.add_argument("-o", "--output", type=Path, help="the results, FOLDER/results.json if not "
                        "given; of report: a folder, docs/benchmarks")  # fmt: skip
    parser.add_argument("--only", default="", help="cases whose names have one of these words, "
                        "with commas between")  # fmt: skip
    parser.add_argument("--size", choices=["toy", "full"], default="full")
    parser.add_argument("--architectures", default="sm_90a", help="with commas between")
    parser.add_argument("--rounds", type=int, default=Pace.rounds)
    parser.add_argument("--replays", type=int, default=Pace.replays)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a run")
    parser.add_argument("--retry", action="store_true", help="run what failed before")
    return parser.parse_args(arguments)


def _words(options: argparse.Namespace) -> tuple[str, ...]:
    return tuple(word for word in options.only.split(",") if word)


def _build(options: argparse.Namespace) -> int:
    architectures = options.architectures.split(",")
    wanted = cases(options.size), network_cases(options.size)
    for _ in build(options.folder, *wanted, architectures, _say, _words(options)):
        pass  # what is written is all that is wanted
    size = sum(file.stat().st_size for file in options.folder.iterdir())
    contents = read_contents(options.folder)
    print(f"{options.folder}: {size / 1e6:.1f} MB, {len(contents.stamps)} programs, "
          f"{len(contents.left_out)} left out")  # fmt: skip
    return 0


def _run(options: argparse.Namespace) -> int:
    read_contents(options.folder)  # before any process is started
    command = [sys.executable, "-m", "netloom.benchmarks.gpu", "measure", str(options.folder),
               "-o", str(_results(options)), "--size", options.size, "--only", options.only,
               "--rounds", str(options.rounds), "--replays", str(options.replays)]  # fmt: skip
    if _results(options).exists():
        results = read_results(_results(options))
        results.forget(failures=options.retry)
        results.write(_results(options))
    return supervise(command, _results(options), options.seconds, _say)


def _measure(options: argparse.Namespace, open_device: Callable[[], Device]) -> int:
    is_toy = options.size == "toy"
    pace = Pace(options.rounds, options.replays, *((0.0, 0.0) if is_toy else ()))
    copied = _TOY_COPIED if is_toy else COPIED
    plan = Plan(pace, options.seconds, copied, _words(options))
    try:
        return measure(options.folder, _results(options), open_device, plan, _say)
    except NetloomError:
        raise
    except Exception:  # a defect here must not look like a run that is complete
        traceback.print_exc()
        return LOST


def _results(options: argparse.Namespace) -> Path:
    found: Path = options.output or options.folder / "results.json"
    return found


def _report(options: argparse.Namespace) -> int:
    from netloom.benchmarks import gpu_report  # it needs what a GPU machine may not have

    gpu_report.write(options.folder, options.output)
    return 0


def _say(text: str) -> None:
    """At once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
