"""Real trained models: imported, compiled and run on recorded inputs, compared with ONNX Runtime's
recorded outputs.

Bounds are on the largest difference, relative to the range of the expected output. Float32 models
may differ by 1e-4: the rounding of many layers' sums in another order. Models that round on their
own (half precision, int8) have the bound of that rounding, stated beside them.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import netloom as nl

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Model:
    """``dims``: ranges for free dims that must be bounded; ``samples``: inputs are given one by
    one along axis 0.
    """

    name: str
    dims: Mapping[str, int | range] = field(default_factory=dict)
    bound: float = 1e-4
    is_classifier: bool = False
    takes_one_sample: bool = False


MODELS = [
    Model("basic-pitch"),
    # a free number of LSTM steps is unrolled to its highest
    Model("byte-bilstm", {"length": range(1, 101)}),
    Model("dtln-1"),
    Model("espcn-superres-10"),
    Model("fastestdet"),
    Model("go1-policy"),
    # One step of the output's quantization (1/255) over its range (253/255), where a sum falls on
    # the other side of a half.
    Model("kws-micro-qdq", bound=1 / 253 + 1e-6, is_classifier=True),
    Model("libtashkeel", {"seq": 32, "batch": 1}),
    Model("magika-v3.3", is_classifier=True),
    Model("mnist-cntk-8", is_classifier=True),
    Model("shufflenetv2-fp32-derived", is_classifier=True, takes_one_sample=True),
    Model("silero-vad-v5-16k", {"batch": 1, "sequence": 576}),  # branches on shapes: If(batch == 1)
    # The two largest logits of a photo are 34, and each is rounded to 11 bits; a softmax changes by
    # at most 1/4 of what their difference does. (The recorded outputs were computed in float32.)
    Model("squeezenet-fp16", bound=2 * 34.3 * 2**-11 / 4, is_classifier=True, takes_one_sample=True),
    Model("squeezenet-fp32-derived", is_classifier=True, takes_one_sample=True),
    Model("ultraface-slim320"),
    Model("yolox-nano"),
]  # fmt: skip
IDS = [model.name for model in MODELS]


def recorded(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and outputs by name."""
    with np.load(path) as arrays:
        found = {key: arrays[key] for key in arrays.files}
    inputs = {key[3:]: value for key, value in found.items() if key.startswith("in/")}
    return inputs, {key[4:]: value for key, value in found.items() if key.startswith("out/")}


def run(session: Any, model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    names = [port.name for port in session.outputs]
    count = len(next(iter(inputs.values()))) if model.takes_one_sample else 1
    parts = []
    for sample in range(count):
        feeds = (
            {name: x[sample : sample + 1] for name, x in inputs.items()}
            if model.takes_one_sample
            else inputs
        )
        parts.append([np.array(y) for y in session.run(None, feeds)])
    return {name: np.concatenate([part[k] for part in parts]) if count > 1 else parts[0][k]
            for k, name in enumerate(names)}  # fmt: skip


def distance(found: Array, expected: Array) -> float:
    """The largest difference over the range of the expected values; integers and shapes must be
    equal.
    """
    assert found.shape == expected.shape and found.dtype == expected.dtype
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected)
        return 0.0
    a, b = found.astype(np.float64), expected.astype(np.float64)
    assert np.isfinite(a).all() and np.isfinite(b).all()
    extent = float(max(np.ptp(b), np.abs(b).max()))
    return float(np.abs(a - b).max()) / max(extent, 1e-30)


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_recorded_outputs(model: Model, data: Path) -> None:
    folder = data / "models" / model.name
    files = sorted(folder.glob("io_*.npz"))
    assert files
    network = nl.compile(nl.from_onnx(folder / "model.onnx", dims=model.dims))
    for path in files:
        inputs, expected = recorded(path)
        outputs = run(network.session, model, inputs)
        assert set(outputs) == set(expected)
        for name, value in expected.items():
            assert distance(outputs[name], value) <= model.bound, f"{path.name}: {name}"
            if model.is_classifier:
                rows = (len(value), -1)
                np.testing.assert_array_equal(
                    outputs[name].reshape(rows).argmax(1), value.reshape(rows).argmax(1)
                )
    del network
    gc.collect()


def test_every_folder_is_tested(data: Path) -> None:
    assert sorted(path.parent.name for path in (data / "models").glob("*/model.onnx")) == sorted(
        IDS
    )


def test_control_differences_are_seen() -> None:
    x = np.linspace(0, 1, 5, dtype=np.float32)
    assert distance(x, x) == 0
    assert distance(x + np.float32(2e-4), x) > 1e-4
    with pytest.raises(AssertionError):
        distance(x[:4], x)
    with pytest.raises(AssertionError):
        distance(np.array([1, 2]), np.array([1, 3]))
