"""The models that the onnx package stores with inputs and outputs: exports of PyTorch from opset
6 on, and small models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from netloom.compiler.interpret import interpret
from netloom.errors import UnsupportedOpError
from netloom.frontends.onnx import from_onnx

from .test_node_suite import difference, imported

KINDS: Final = ("pytorch-converted", "pytorch-operator", "simple")
# begin of the name -> message
REFUSED: Final = {"strnorm_model_": "StringNormalizer", "gradient_of_": "preview.training.Gradient"}


def cases() -> Iterator[Any]:
    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            yield pytest.param(case, id=case.name.removeprefix("test_"))


def tensors(folder: Path, what: str) -> list[npt.NDArray[Any]]:
    """input_0.pb, input_1.pb, .."""
    found = []
    for number in range(len(list(folder.glob(f"{what}_*.pb")))):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"{what}_{number}.pb").read_bytes())
        found.append(numpy_helper.to_array(tensor))
    return found


@pytest.mark.parametrize("case", list(cases()))
def test_model(case: Any) -> None:
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    words = next(
        (words for start, words in REFUSED.items() if case.name.startswith(f"test_{start}")), ""
    )
    if words:
        with pytest.raises(UnsupportedOpError, match=words):
            from_onnx(model)
        return
    sets = sorted(folder.glob("test_data_set_*"))
    assert sets
    for data in sets:
        given = tensors(data, "input")
        names = [info.name for info in model.graph.input]
        if len(given) < len(names):  # older models list their weights as inputs too
            weights = {tensor.name for tensor in model.graph.initializer}
            names = [name for name in names if name not in weights]
            graph = from_onnx(model)
        else:
            graph, _ = imported(model, given)
        feeds = dict(zip(names, given, strict=True))
        found = interpret(graph, {value.label: feeds[value.label] for value in graph.inputs})
        for actual, expected in zip(found, tensors(data, "output"), strict=True):
            assert difference(actual, expected, case.rtol, case.atol) == ""
