"""Costs beside an inference's time: ``python -m netloom.benchmarks.costs [-o FOLDER] [--network
light:resnet50] …``.

Compiling (cold with a new cache folder; again from the cache, where the whole program is; and the
network with other weights, whose kernels are in the cache; each in a process of its own),
its memory, opening a program, importing, the program's size, and the overhead of a call from Python
and from C: each beside its goal. Writes FOLDER/costs.json and FOLDER/costs.md.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from netloom.benchmarks import peaks, report
from netloom.benchmarks.child import (
    compile_seconds,
    memory_of,
    netloom_command,
    output_of,
    seconds_of,
)
from netloom.benchmarks.comparison import load_model
from netloom.benchmarks.goals import Goal, Sense, goal_lines
from netloom.benchmarks.peaks import Peaks
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder
from netloom.compiler.tensor_type import FLOAT32, TensorType

NETWORK, TINY = "light:resnet50", "zoo:lenet5"
PARTS = ("compile", "open", "import", "call")
_C_CALLS = r"""/* Nanoseconds of one call of the program argv[1] (y = -x for float32[1]), one thread:
   the median of 11 blocks. */
#define _POSIX_C_SOURCE 199309L
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "trivial.h"

enum { CALLS = 100000, BLOCKS = 11 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    const nl_api *(*get_api)(uint32_t) = NULL;
    if (library) *(void **)&get_api = dlsym(library, "nl_get_api");
    const nl_api *api = get_api ? get_api(NL_ABI_VERSION) : NULL;
    nl_options options = {.size = sizeof options, .threads = 1};
    nl_model *model;
    nl_context *context;
    char error[256];
    double blocks[BLOCKS];
    float x = 1, y = 0;
    if (!api || api->open(&model, error, sizeof error)) return 1;
    if (api->context_create(model, &options, &context, error, sizeof error)) return 2;
    for (int block = 0; block < BLOCKS; block++) {
        double start = now();
        for (int call = 0; call < CALLS; call++)
            if (trivial_run(context, &x, &y)) return 3;
        blocks[block] = (now() - start) / CALLS;
    }
    if (y != -1) return 4;
    qsort(blocks, BLOCKS, sizeof *blocks, compare);
    printf("%.1f\n", blocks[BLOCKS / 2]);
    api->context_destroy(context);
    api->close(model);
    return 0;
}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = report.parser_of(__doc__, "costs")
    parser.add_argument(
        "--network", default=NETWORK, help="light:NAME (random weights) or a model's file"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs of each process; their median counts"
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args(arguments)
    machine = peaks.measure()
    found: list[Goal] = []
    with tempfile.TemporaryDirectory(prefix="netloom-") as name:
        folder = Path(name)
        for part in report.words(given.parts):
            match part:
                case "compile":
                    new = compiling(given.network, folder, given.repeats)
                case "open":
                    new = opening(given.network, folder, given.repeats)
                case "import":
                    new = importing(given.repeats)
                case "call":
                    new = calling(folder)
                case _:
                    parser.error(f"there is no part {part!r}")
            found += new
            for item in new:
                print(f"{item.name}: {item.value:.4g} {item.unit}", flush=True)
            write(report.Files.of(given), machine, found)


def compiling(network: str, folder: Path, repeats: int) -> list[Goal]:
    """Time and memory of ``netloom compile``, the start of Python included, and the size of what
    it writes.
    """
    model, weights = _model(network, folder)
    models = [str(model), str(model), str(_with_other_weights(model, folder))]
    cold, again, other = compile_seconds(models, folder / "timed.so", repeats)
    tiny, tiny_again = compile_seconds([TINY] * 2, folder / "tiny.so", repeats)
    memory = memory_of(
        netloom_command(folder / "memory", "compile", model, "-o", folder / "memory.so")
    )
    most = 3 * weights / 1e6 + 500
    size = (folder / "memory.so").stat().st_size
    return [
        Goal(f"compile {network}, cold", cold, 10.0, "s", Sense.MOST),
        Goal(f"compile {network}, from the cache", again, 1.0, "s", Sense.MOST),
        Goal(f"compile {network} with other weights, from the cache", other, 0.0, "s", Sense.NONE),
        Goal(f"compile {TINY} (a tiny CNN), cold", tiny, 1.5, "s", Sense.MOST),
        Goal(f"compile {TINY}, from the cache", tiny_again, 1.0, "s", Sense.MOST),
        Goal(
            f"memory while compiling {network}, all processes",
            memory.together / 1e6,
            most,
            "MB",
            Sense.MOST,
        ),
        Goal("the largest of these processes", memory.largest / 1e6, most, "MB", Sense.MOST),
        Goal(f"weights of {network}", weights / 1e6, 0.0, "MB", Sense.NONE),
        Goal("size of the .so over the weights", size / weights, 2.5, "x", Sense.MOST),
    ]


def opening(network: str, folder: Path, repeats: int) -> list[Goal]:
    """Opening a program and its first inference, less a later inference, on one thread; the file
    is in memory.
    """
    model, _ = _model(network, folder)
    seconds_of(netloom_command(folder / "cache", "compile", model, "-o", folder / "opened.so"))
    runs = [
        json.loads(output_of([*_PROBE, "open", str(folder / "opened.so")])) for _ in range(repeats)
    ]
    extra, opened, steady = (1e3 * float(np.median(times)) for times in (
        [run["first"] - run["steady"] for run in runs], [run["open"] for run in runs],
        [run["steady"] for run in runs],
    ))  # fmt: skip
    return [
        Goal(
            f"open {network} and first inference, over the steady time",
            extra,
            30.0,
            "ms",
            Sense.MOST,
        ),
        Goal(f"of this, opening {network}", opened, 0.0, "ms", Sense.NONE),
        Goal(f"steady time of {network}, one thread", steady, 0.0, "ms", Sense.NONE),
    ]


def importing(repeats: int) -> list[Goal]:
    """Imports in processes of their own, where nothing is there before but what Python's start
    imports.
    """
    names = {
        "netloom": Sense.MOST,
        "netloom.runtime.session": Sense.MOST,
        "netloom.api": Sense.NONE,
        "numpy": Sense.NONE,
    }
    found = []
    for name, sense in names.items():
        code = f"from time import perf_counter as now; start = now(); import {name}; print(now() - start)"
        times = [float(output_of([sys.executable, "-c", code])) for _ in range(repeats)]
        found.append(
            Goal(f"import {name}{_USES.get(name, '')}", float(np.median(times)), 0.2, "s", sense)
        )
    return found


def calling(folder: Path) -> list[Goal]:
    """One call of a network that does nearly nothing, on one thread."""
    b = Builder("trivial")
    x = b.input(TensorType(FLOAT32, (1,)), "x")
    compile_graph(b.build([b("neg", x)], ["y"]), Options(threads=1)).save(folder / "trivial.so")
    seconds = json.loads(output_of([*_PROBE, "call", str(folder / "trivial.so")]))["seconds"]
    found = [Goal("one call from Python, bound buffers", seconds * 1e6, 3.0, "us", Sense.MOST)]
    if shutil.which("cc") is not None:
        found.append(
            Goal("one call from C", _nanoseconds_from_c(folder) / 1e3, 1.0, "us", Sense.MOST)
        )
    return found


def _nanoseconds_from_c(folder: Path) -> float:
    source, driver = folder / "calls.c", folder / "calls"
    source.write_text(_C_CALLS, encoding="utf-8")
    seconds_of(
        [
            "cc",
            "-std=c11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{folder}",
            str(source),
            "-o",
            str(driver),
            "-ldl",
        ]
    )
    return float(output_of([str(driver), str(folder / "trivial.so")]))


_USES = {"netloom.runtime.session": " (netloom.load)", "netloom.api": " (netloom.compile)"}
_PROBE = (sys.executable, "-m", "netloom.benchmarks.probe")


def _model(network: str, folder: Path) -> tuple[Path, int]:
    """The model's file, and the bytes of its weights."""
    _, file = load_model(network, folder)
    assert file is not None  # only graphs that are made in Python have none
    arrays = (onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer)
    # whole numbers are shapes
    return file, sum(array.nbytes for array in arrays if array.dtype.kind == "f")


def _with_other_weights(model: Path, folder: Path) -> Path:
    """A file of the same network with another first weight."""
    changed = onnx.load(model)
    floats = (t for t in changed.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    tensor = next(floats)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] += 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    path = folder / "other-weights.onnx"
    onnx.save(changed, path)
    return path


def write(files: report.Files, machine: Peaks, found: Sequence[Goal]) -> None:
    """The results so far, as JSON and as a table."""
    lines = ["Medians of several processes. Compiling is `netloom compile MODEL -o FILE.so` as a "
             "user calls it, the start of Python",
             "included; memory is the sum of all processes' proportional shares, sampled; 1 MB is "
             "10^6 bytes. Calls and inferences",
             "run on one thread.", "", *goal_lines(found)]  # fmt: skip
    files.write(machine, {"rows": found}, lines)


if __name__ == "__main__":
    main()
