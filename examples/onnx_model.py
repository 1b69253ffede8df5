"""Compile an ONNX model to a shared object, run that, and compare it with ONNX Runtime.

    python examples/onnx_model.py [model.onnx] [--dim N=4 ...] [--output model.so]

Without a model, LeNet-5 is written as one first. Inputs are random numbers (integers are zero); free
dims are 2 unless --dim fixes them. Exits with 1 if the results are further from ONNX Runtime's than
1e-4 of their norm; without ONNX Runtime nothing is compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

import netloom as nl

FREE = 2  # the extent of free dims
MOST_DISTANCE = 1e-4

Arrays = dict[str, npt.NDArray[np.generic]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--dim", nargs="*", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--output", type=Path, help="default: in a temporary folder")
    arguments = parser.parse_args()
    dims = {name: int(number) for name, number in (text.split("=") for text in arguments.dim)}
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = Path(folder) / "lenet5.onnx"
            nl.to_onnx(nl.zoo.lenet5(), model)
        return run(model, dims, arguments.output or Path(folder) / "model.so")


def run(model: Path, dims: dict[str, int], output: Path) -> int:
    """Compile and run a model; the exit code."""
    graph = nl.from_onnx(model, dims=dims)
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        names = [v.label for v in values] if kind == "input" else graph.output_names
        for name, value in zip(names, values, strict=True):
            print(f"{kind} {name}: {value.type}")
    program = nl.compile(graph)
    program.save(output)
    for decision in program.compiled.decisions:
        print(f"{decision.node}: {decision.strategy}")

    session = nl.load(output)  # needs NumPy alone: another process may do this
    rng = np.random.default_rng(0)
    free = {symbol.name: max(FREE, symbol.lo) for symbol in graph.symbols}
    feeds: Arrays = {}
    for value in graph.inputs:
        numbers = rng.standard_normal(value.type.evaluate(free))
        feeds[value.label] = (numbers if value.dtype.is_float else 0 * numbers).astype(
            value.dtype.numpy
        )
    results = session.run(None, feeds)
    print(f"{output.name}: {[result.shape for result in results]}")
    return compare(model, feeds, results)


def compare(model: Path, feeds: Arrays, results: list[npt.NDArray[np.generic]]) -> int:
    """The distance of every result from ONNX Runtime's; the exit code."""
    try:
        import onnxruntime
    except ImportError:
        print("ONNX Runtime is not installed: nothing is compared")
        return 0
    peer = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    far = False
    for name, result, expected in zip(
        (port.name for port in peer.get_outputs()), results, peer.run(None, feeds), strict=True
    ):
        wide = expected.astype(np.float64)
        distance = np.linalg.norm(result.astype(np.float64) - wide) / max(
            np.linalg.norm(wide), 1e-30
        )
        print(f"{name}: relative L2 distance from ONNX Runtime {distance:.1e}")
        far |= not distance <= MOST_DISTANCE
    return int(far)


if __name__ == "__main__":
    sys.exit(main())
