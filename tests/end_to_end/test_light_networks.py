"""The nine light networks of the onnx package: from the command line with their own outputs, and
with random weights against a float64 oracle, before the softmax (the package's weights are
constants, so its outputs prove little)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

import netloom as nl
from netloom.benchmarks.harness import relative_error
from netloom.benchmarks.models import LIGHT, light_models, with_random_weights
from netloom.benchmarks.oracle import before_softmax, float64_outputs
from netloom.cli import main
from netloom.compiler.graph import Graph

BOUNDS = {"strict": 2e-6, "default": 5e-5}  # relative L2


def invoke(*arguments: str) -> None:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", LIGHT)
def test_the_package_outputs_from_the_command_line(name: str, tmp_path: Path) -> None:
    path = light_models()[name]
    graph = nl.from_onnx(path)
    program, given, found = (str(tmp_path / file) for file in ("m.so", "x.npy", "y.npy"))
    shape = tuple(int(extent) for extent in graph.inputs[0].shape if isinstance(extent, int))
    count = int(np.prod(shape))
    np.save(given, (np.arange(count).astype(np.float32) / count).reshape(shape))
    invoke("compile", str(path), "-o", program)
    # few channels transformed, or with zero taps between them, are no runs of one number
    assert Path(program).stat().st_size < 3 << 20, "equal weights stay one number"
    invoke(
        "run",
        program,
        "--in",
        f"{graph.inputs[0].label}={given}",
        "--out",
        f"{graph.output_names[0]}={found}",
    )
    message = onnx.TensorProto()
    message.ParseFromString(path.with_name(f"light_{name}_output_0.pb").read_bytes())
    assert relative_error(np.load(found), numpy_helper.to_array(message)) <= 1e-4


def cut_network(name: str, seed: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """The network with He-normal weights, ending before its softmax, and an input."""
    graph = before_softmax(nl.from_onnx(with_random_weights(onnx.load(light_models()[name]), seed)))
    shape = tuple(int(extent) for extent in graph.inputs[0].shape if isinstance(extent, int))
    return graph, {
        graph.inputs[0].label: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    }


@pytest.mark.parametrize("name", LIGHT)
def test_random_weights_against_float64(name: str, shapes: int) -> None:
    """One seed; with ``--shapes 300`` three. Any number of threads gives the same bits."""
    for seed in range(max(shapes // 100, 1)):
        graph, feeds = cut_network(name, seed)
        expected = float64_outputs(graph, feeds)[0]
        for accuracy, bound in BOUNDS.items():
            network = nl.compile(graph, accuracy=accuracy, threads=1)
            found = network.session.run(None, feeds)[0]
            error = relative_error(found, expected)
            print(f"{name}, seed {seed}, {accuracy}: {error:.1e}")
            assert error <= bound and found.argmax() == expected.argmax()
        for threads in (2, 3, 8):
            session = type(network.session).in_process(network.compiled.image, threads=threads)
            assert session.run(None, feeds)[0].tobytes() == found.tobytes(), threads
