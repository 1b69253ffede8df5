"""Random structural changes to sound models: whatever comes out imports, or gives one typed error.

A mutant changes, removes, doubles or exchanges parts of the protobuf: names, numbers, tensors,
nodes, attributes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.errors import NetloomError
from netloom.frontends.onnx import from_onnx

MUTANTS = 400  # of each model
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    17,
    127,
    255,
    1 << 31,
    -(1 << 31),
    (1 << 31) - 1,
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
)


def constant(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def vector(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def wrap(
    nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], shape: list[Any]
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [onnx.ValueInfoProto(name="y")], initializers)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


N = helper.make_node


def classifier() -> onnx.ModelProto:
    nodes = [
        N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], group=1),
        N("Relu", ["c"], ["r"]),
        N("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        N("Flatten", ["p"], ["f"]),
        N("Gemm", ["f", "v"], ["g"], transB=1, alpha=0.5),
        N("Softmax", ["g"], ["y"], axis=-1),
    ]
    return wrap(
        nodes, [constant("w", 4, 2, 3, 3), constant("b", 4), constant("v", 5, 16)], [1, 2, 8, 8]
    )


def shapes() -> onnx.ModelProto:
    nodes = [N("Shape", ["x"], ["s"]), N("Gather", ["s", "i"], ["n"]), N("Concat", ["n", "rest"], ["t"], axis=0),
             N("Reshape", ["x", "t"], ["r"]), N("Slice", ["r", "a", "b", "c", "d"], ["q"]), N("Pad", ["q", "p"], ["z"]),
             N("Transpose", ["z"], ["u"], perm=[1, 0]), N("Tile", ["u", "m"], ["y"])]  # fmt: skip
    vectors = {
        "i": [0],
        "rest": [-1],
        "a": [1],
        "b": [9],
        "c": [1],
        "d": [2],
        "p": [0, 1, 0, 2],
        "m": [2, 1],
    }
    return wrap(nodes, [vector(name, *numbers) for name, numbers in vectors.items()], ["N", 4, 6])


def windows() -> onnx.ModelProto:
    nodes = [
        N("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2], output_padding=[1, 1]),
        N("Expand", ["one", "s"], ["e"]),
        N("BatchNormalization", ["c", "k", "k", "k", "k"], ["n"]),
        N("Concat", ["n", "n"], ["d"], axis=1),
        N("AveragePool", ["d"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        N("Split", ["a"], ["f", "h"], axis=1, num_outputs=2),
        N("Mul", ["f", "e"], ["j"]),
        N("ReduceMean", ["j", "axes"], ["y"], keepdims=0),
    ]
    return wrap(
        nodes,
        [
            constant("w", 2, 4, 3, 3),
            constant("one", 1),
            constant("k", 4),
            vector("s", 1, 1, 1, 1),
            vector("axes", 2, 3),
        ],
        [1, 2, 5, 5],
    )


MODELS = {"classifier": classifier, "shapes": shapes, "windows": windows}


def parts(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every (message, field) that is set, at any depth."""
    stack = [message]
    while stack:
        current = stack.pop()
        for field, value in current.ListFields():
            yield current, field
            if field.message_type is not None:
                stack += list(value) if field.is_repeated else [value]


def changed(rng: random.Random, value: Any) -> Any:
    match value:
        case bool() | int():
            return rng.choice(NUMBERS)
        case float():
            return rng.choice([0.0, -1.0, 1e38, float("nan"), float("inf")])
        case str():
            return rng.choice(["", "x", "y", "w", "s", "Relu", "Conv", "n" * 300, "a\n"])
        case _:
            return rng.choice(
                [b"", b"\0", b"SAME_UPPER", value[:-1], value + b"\0", bytes(len(value))]
            )


def mutate(model: onnx.ModelProto, rng: random.Random) -> None:
    found = list(parts(model))
    if not found:
        return
    message, field = rng.choice(found)
    value = getattr(message, field.name)
    try:
        if field.is_repeated:
            position = rng.randrange(len(value))
            match rng.randrange(3):
                case 0:
                    del value[position]
                case 1:
                    value.append(value[position])
                case _ if field.message_type is None:
                    value[position] = changed(rng, value[position])
                case _:
                    value[position].CopyFrom(rng.choice(value))
        elif field.message_type is not None or rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, changed(rng, value))
    except ValueError:
        pass  # the number does not fit the field: protobuf itself refuses


def is_refused(source: onnx.ModelProto | bytes) -> bool:
    """Whether a typed error comes back; any other exception fails the test."""
    try:
        from_onnx(source)
    except NetloomError as error:
        if error.exit_code not in (2, 3) or not str(error):
            raise
        return True
    return False


@pytest.mark.parametrize("name", MODELS)
def test_mutants(name: str) -> None:
    rng = random.Random(name)
    refused = 0
    for _ in range(MUTANTS):
        mutant = MODELS[name]()
        for _ in range(rng.choice([1, 1, 2, 4])):
            mutate(mutant, rng)
        refused += is_refused(mutant)
    assert MUTANTS // 5 < refused < MUTANTS  # the mutants are neither all sound nor all broken


@pytest.mark.parametrize("name", MODELS)
def test_control(name: str) -> None:
    assert from_onnx(MODELS[name]()).outputs


@pytest.mark.parametrize("name", MODELS)
def test_changed_bytes(name: str) -> None:
    rng = random.Random(name)
    data = MODELS[name]().SerializeToString()
    for _ in range(MUTANTS):
        spoiled = bytearray(data)
        for _ in range(rng.choice([1, 2, 8])):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        is_refused(bytes(spoiled))
