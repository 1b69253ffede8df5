"""Random changes of ONNX models: a sound model and a generator -> a mutant that nothing promises
anything about.

A structural mutant changes, removes, doubles or exchanges parts of the protobuf: names, numbers,
tensors, nodes, attributes. A mutant of bytes has some of them changed, taken out or put in.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import onnx

NUMBERS = (
    *(0, 1, -1, 2, 3, 4, 7, 17, 127, 255, 1000, -2, -3, 1 << 31, -(1 << 31), (1 << 31) - 1),
    *(1 << 32, 1 << 40, 10**9, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63)),
)
FLOATS = (0.0, -0.0, -1.0, 0.5, 1e38, -1e-40, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "",
    "x",
    "y",
    "w",
    "s",
    "Relu",
    "Conv",
    "Identity",
    "n" * 300,
    "a\n",
    "a\0b",
    "N",
    "linear",
)


def parts(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every (message, field) that is set, at any depth."""
    stack = [message]
    while stack:
        current = stack.pop()
        for field, value in current.ListFields():
            yield current, field
            if field.message_type is not None:
                stack += list(value) if field.is_repeated else [value]


def mutate(model: onnx.ModelProto, rng: random.Random) -> None:
    """Changes one part of the model in place; some draws change nothing."""
    found = list(parts(model))
    if not found:
        return
    message, field = rng.choice(found)
    try:
        if field.is_repeated:
            _change_list(getattr(message, field.name), field, rng)
        elif field.message_type is not None or rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _changed(rng, getattr(message, field.name)))
    except (ValueError, TypeError):
        pass  # the number does not fit the field, or the bytes are no text: protobuf refuses


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """The data with a few bytes changed, a stretch taken out, or one repeated."""
    spoiled = bytearray(data)
    first = rng.randrange(len(spoiled))
    last = min(len(spoiled), first + rng.choice([1, 2, 8, 40]))
    match rng.randrange(4):
        case 0:
            del spoiled[first:last]
        case 1:
            spoiled[first:first] = spoiled[first:last]
        case _:
            for _ in range(rng.choice([1, 1, 2, 8])):
                at = rng.randrange(len(spoiled))
                spoiled[at] = rng.choice(
                    [rng.randrange(256), spoiled[at] ^ 1 << rng.randrange(8), 0, 255]
                )
    return bytes(spoiled)


def _change_list(value: Any, field: Any, rng: random.Random) -> None:
    position = rng.randrange(len(value))
    match rng.randrange(4):
        case 0:
            del value[position]
        case 1:
            value.append(value[position])
        case 2 if field.message_type is None:
            other = rng.randrange(len(value))
            value[position], value[other] = value[other], value[position]
        case _ if field.message_type is None:
            value[position] = _changed(rng, value[position])
        case _:
            value[position].CopyFrom(rng.choice(value))


def _changed(rng: random.Random, value: Any) -> Any:
    match value:
        case bool() | int() if rng.random() < 0.3:
            return value + rng.choice([-1, 1, 2])
        case bool() | int():
            return rng.choice(NUMBERS)
        case float():
            return rng.choice([*FLOATS, value * 2])
        case str():
            return rng.choice(TEXTS)
        case _:
            return rng.choice(
                [b"", b"\0", b"SAME_UPPER", b"NOTSET", value[:-1], value + b"\0", bytes(len(value)),
                 b"\xff" * len(value)]
            )  # fmt: skip


__all__ = ["mutate", "mutate_bytes", "parts"]
