"""Whole networks as compiled: trained models with their own test data, and random weights
against ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import netloom as nl
from netloom.benchmarks.models import light_models, with_random_weights


def tensor(path: Path) -> np.ndarray:
    message = onnx.TensorProto()
    message.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(message)


@pytest.mark.parametrize(("model", "sets"), [("mnist-cntk-8", 3), ("espcn-superres-10", 1)])
def test_trained_models_on_their_test_sets(
    model: str, sets: int, data: Path, tmp_path: Path
) -> None:
    folder = data / "models" / model
    nl.compile(nl.from_onnx(folder / "model.onnx")).save(tmp_path / "model.so")
    session = nl.load(tmp_path / "model.so")
    for number in range(sets):
        where = folder / f"test_data_set_{number}"
        expected = tensor(where / "output_0.pb")
        found = session(tensor(where / "input_0.pb"))
        assert np.linalg.norm(found - expected) <= 5e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("accuracy", ["strict", "default"])
def test_random_weights_against_onnxruntime(accuracy: str) -> None:
    """SqueezeNet with He-normal weights: the distance allows for the peer's own rounding."""
    runtime = pytest.importorskip("onnxruntime")
    runtime.set_default_logger_severity(3)
    model = with_random_weights(onnx.load(light_models()["squeezenet"]), 0)
    session = nl.compile(nl.from_onnx(model), accuracy=accuracy, threads=1).session
    feeds = {
        session.inputs[0].name: np.random.default_rng(0)
        .standard_normal((1, 3, 224, 224))
        .astype(np.float32)
    }
    peer = runtime.InferenceSession(model.SerializeToString())
    expected = peer.run(None, feeds)[0]
    found = session.run(None, feeds)[0]
    assert (
        np.linalg.norm(found - expected) <= 5e-5 * np.linalg.norm(expected)
        and found.argmax() == expected.argmax()
    )
    others = [
        nl.compile(nl.from_onnx(model), accuracy=accuracy, threads=n).session.run(None, feeds)[0]
        for n in (2, 3)
    ]
    assert all(other.tobytes() == found.tobytes() for other in others)


SAVE = "import sys, netloom as nl; nl.compile(nl.zoo.lenet5(seed=3), cpu='x86-64-v3').save(sys.argv[1])"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two processes, other folders, other hash seeds."""
    digests = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        subprocess.run(
            [sys.executable, "-c", SAVE, str(folder / "m.so")],
            check=True,
            cwd=folder,
            env=environment,
        )
        digests.add(hashlib.sha256((folder / "m.so").read_bytes()).hexdigest())
    assert len(digests) == 1
