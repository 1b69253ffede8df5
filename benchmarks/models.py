"""The networks that benchmarks and tests share: the nine light ONNX models, and random weights for
them.

The light models carry constant weights (one value per tensor), so all but one answer 0.001
everywhere; with He-normal weights (He et al. 2015, equation 10) their values spread like a trained
network's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx.backend.test
from onnx import TensorProto, numpy_helper

LIGHT: Final = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet",
                "vgg19", "zfnet512")  # fmt: skip

Weights: TypeAlias = npt.NDArray[np.float32]
Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], Weights]


def light_models() -> dict[str, Path]:
    """Name -> path of the nine light models of the onnx package."""
    folder = Path(onnx.backend.test.__file__).parent / "data" / "light"
    return {name: folder / f"light_{name}.onnx" for name in LIGHT}


def _normal(
    rng: np.random.Generator, shape: tuple[int, ...], mean: float, deviation: float
) -> Weights:
    values = rng.standard_normal(shape, np.float32)
    values *= np.float32(deviation)
    values += np.float32(mean)
    return values


def _filters(rng: np.random.Generator, shape: tuple[int, ...]) -> Weights:
    """[o, c, kernel...]: variance 2 / fan-in."""
    return _normal(rng, shape, 0.0, math.sqrt(2 / math.prod(shape[1:])))


def _matrix(rng: np.random.Generator, shape: tuple[int, ...]) -> Weights:
    """[inputs, outputs]."""
    return _normal(rng, shape, 0.0, math.sqrt(2 / shape[0]))


def _small(rng: np.random.Generator, shape: tuple[int, ...]) -> Weights:
    return _normal(rng, shape, 0.0, 0.05)


def _near_one(rng: np.random.Generator, shape: tuple[int, ...]) -> Weights:
    return _normal(rng, shape, 1.0, 0.1)


def _variance(rng: np.random.Generator, shape: tuple[int, ...]) -> Weights:
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


ROLES: Final[dict[tuple[str, int], Draw]] = {
    ("Conv", 1): _filters, ("Conv", 2): _small,
    ("Gemm", 1): _filters, ("Gemm", 2): _small,
    ("MatMul", 1): _matrix,
    ("BatchNormalization", 1): _near_one, ("BatchNormalization", 2): _small,
    ("BatchNormalization", 3): _small, ("BatchNormalization", 4): _variance,
    ("Mul", 1): _near_one, ("Add", 1): _small,
}  # fmt: skip


def with_random_weights(
    model: onnx.ModelProto, seed: int, generator: Any = None
) -> onnx.ModelProto:
    """A copy whose constant float32 weights are He-normal (biases small, scales near 1, variances
    positive).

    Constant weights are splat initializers and ConstantOfShape nodes that Conv, Gemm, MatMul,
    BatchNormalization, Mul or Add read, directly or through Unsqueeze. Equal models and seeds give
    equal weights. ``generator`` draws them in place of NumPy's of that seed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    rng = np.random.default_rng(seed) if generator is None else generator
    graph = result.graph
    roles = _roles(graph)
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        draw = roles.get(node.output[0]) if node.op_type == "ConstantOfShape" else None
        if draw is None or node.input[0] not in shapes:
            nodes.append(node)
            continue
        shape = tuple(int(extent) for extent in numpy_helper.to_array(shapes[node.input[0]]))
        graph.initializer.append(numpy_helper.from_array(draw(rng, shape), node.output[0]))
    for tensor in graph.initializer:
        if tensor.name in roles and _is_splat(tensor):
            values = roles[tensor.name](rng, tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    result.ir_version = max(result.ir_version, 4)  # from 4 on, initializers need not be inputs too
    return result


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the initializers (the shapes of replaced nodes) that nothing reads any more; none
    stays an input.
    """
    read = {name for node in graph.node for name in node.input} | {
        output.name for output in graph.output
    }
    weights = {tensor.name for tensor in graph.initializer}
    initializers = [tensor for tensor in graph.initializer if tensor.name in read]
    # an input could be fed, so peers would not fold it
    inputs = [item for item in graph.input if item.name not in weights]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(initializers)
    graph.input.extend(inputs)


def _is_splat(tensor: TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = numpy_helper.to_array(tensor)
    return values.size > 0 and bool((values == values.flat[0]).all())


def _roles(graph: onnx.GraphProto) -> dict[str, Draw]:
    """How to draw each weight, by what reads it; users come after makers, so the nodes are
    walked backwards.
    """
    roles: dict[str, Draw] = {}
    for node in reversed(graph.node):
        if node.op_type == "Unsqueeze" and node.output[0] in roles:
            roles[node.input[0]] = roles[node.output[0]]
        for position, name in enumerate(node.input):
            draw = ROLES.get((node.op_type, position))
            if draw is _filters and node.op_type == "Gemm" and not _is_transposed(node):
                draw = _matrix
            if draw is not None:
                roles[name] = draw
    return roles


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
