"""``netloom doctor``: what netloom finds on this machine, and whether it works here."""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import click

from netloom.environment import data_folder, most_threads
from netloom.errors import NetloomError, ToolchainError

from .options import printing
from .output import Output, columns

_NEEDED = ("numpy", "llvmlite", "networkx", "onnx", "ml_dtypes", "click", "rich", "safetensors")
_OPTIONAL = {
    "pillow": "images as inputs",
    "scikit-learn": "the digits data set",
    "onnxruntime": "compare --with, bench --against",
    "openvino": "bench --against",
    "torch": "bench --against",
    "matplotlib": "bench --plot",
}


@click.command()
@printing
def doctor(output: Output) -> None:
    """Show what netloom finds on this machine, and try it: compile, run, link, load. Exit code 4
    if that fails.
    """
    facts = {**_machine(), **{name: _version(name) for name in _NEEDED}, **_optional()}
    trials = {"compile and run": _trial(_run_in_process), "link and load": _trial(_link_and_load)}
    rows = [[key, str(value)] for key, value in {**facts, **trials}.items()]
    output.result({**facts, **trials}, columns(rows))
    if any(result != "ok" for result in trials.values()):
        raise SystemExit(ToolchainError.exit_code)


def _machine() -> dict[str, Any]:
    from netloom.compiler.targets.cpu.link import find_linker
    from netloom.compiler.targets.cpu.machine import host_cpu

    try:
        linker = " ".join(find_linker().command)
    except NetloomError as error:
        linker = str(error)
    return {
        "netloom": _version("netloom"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "CPU level": host_cpu().name,
        "processors": len(os.sched_getaffinity(0)),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.1f} GiB",
        "NETLOOM_THREADS": most_threads() or "not set",
        "NETLOOM_DATA": data_folder() or "not set",
        "linker": linker,
    }


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "found, not installed" if importlib.util.find_spec(name) else "missing"


def _optional() -> dict[str, str]:
    found = {name: _version(name) for name in _OPTIONAL}
    return {
        name: f"missing (for {_OPTIONAL[name]})" if text == "missing" else text
        for name, text in found.items()
    }


def _trial(action: Any) -> str:
    try:
        action()
    except (NetloomError, OSError) as error:
        return f"failed: {error}"
    return "ok"


def _small_program() -> Any:
    """y = 2 x for x of four numbers."""
    from netloom.compiler.driver import compile_graph
    from netloom.compiler.graph import Builder
    from netloom.compiler.tensor_type import FLOAT32, TensorType

    b = Builder("doctor")
    x = b.input(TensorType(FLOAT32, (4,)), "x")
    return compile_graph(b.build([b("add", x, x)], ["y"]))


def _check(session: Any) -> None:
    import numpy as np

    found = session(np.arange(4, dtype=np.float32))
    if not np.array_equal(found, [0, 2, 4, 6]):
        raise ToolchainError(f"2 * [0, 1, 2, 3] gave {found}.")


def _run_in_process() -> None:
    from netloom.runtime.session import Session

    _check(Session.in_process(_small_program().image, threads=2))


def _link_and_load() -> None:
    from netloom.runtime.session import load

    with tempfile.TemporaryDirectory(prefix="netloom-") as folder:
        path = Path(folder) / "doctor.so"
        _small_program().save(path)
        _check(load(path, threads=2))
