"""The bytes of a model -> the bytes without the data of its large initializers, and these apart as
views: protobuf would copy them twice.

Where the data were stands a token that nobody can know before. Whatever does not have the usual form
stays where it is, for protobuf to read or to refuse; the two together are always the same model.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

LARGE: Final = 1 << 16  # bytes of a tensor that is worth it
TOKEN: Final = 16  # bytes
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # field numbers of ModelProto, GraphProto, TensorProto
_BYTES: Final = 2  # the wire type of messages and bytes (protobuf encoding)


@dataclass(frozen=True)
class Apart:
    """A model's bytes, and what was taken out of them, by token."""

    model: bytes | memoryview
    data: dict[bytes, memoryview] = field(default_factory=dict)


@dataclass(frozen=True)
class _Field:
    number: int
    kind: int
    tag: int  # where the field starts
    start: int  # where its contents start
    end: int


def take_apart(model: bytes | memoryview) -> Apart:
    """The model without its large tensors; as it is if there are none, or if it is no model."""
    if len(model) < LARGE:
        return Apart(model)
    try:
        graphs = [f for f in _fields(model, 0, len(model)) if _is(f, _GRAPH)]
        if len(graphs) != 1:  # protobuf would join several
            return Apart(model)
        tensors = [f for f in _fields(model, graphs[0].start, graphs[0].end) if _is_large(f)]
        large = [(tensor, raw) for tensor in tensors if (raw := _raw_data(model, tensor))]
    except ValueError:
        return Apart(model)
    return _without(model, graphs[0], large) if large else Apart(model)


def _without(model: bytes | memoryview, graph: _Field, large: list[tuple[_Field, _Field]]) -> Apart:
    whole, apart = memoryview(model), {}
    parts: list[bytes | memoryview] = []
    done = graph.start
    for tensor, raw in large:
        token = secrets.token_bytes(TOKEN)
        apart[token] = whole[raw.start : raw.end]
        parts += [whole[done : tensor.tag]]
        parts += _message(_INITIALIZER, [whole[tensor.start : raw.tag],
                                         *_message(_RAW_DATA, [token]),
                                         whole[raw.end : tensor.end]])  # fmt: skip
        done = tensor.end
    parts.append(whole[done : graph.end])
    slim = [whole[: graph.tag], *_message(_GRAPH, parts), whole[graph.end :]]
    return Apart(b"".join(slim), apart)


def _message(number: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """A field with these contents."""
    return [_varint(number << 3 | _BYTES) + _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _is(item: _Field, number: int) -> bool:
    return item.number == number and item.kind == _BYTES


def _is_large(item: _Field) -> bool:
    return _is(item, _INITIALIZER) and item.end - item.start >= LARGE


def _raw_data(model: bytes | memoryview, tensor: _Field) -> _Field | None:
    """The raw data of a tensor, if it has them once and they are large."""
    found = [f for f in _fields(model, tensor.start, tensor.end) if f.number == _RAW_DATA]
    if len(found) != 1 or found[0].kind != _BYTES or found[0].end - found[0].start < LARGE:
        return None
    return found[0]


def _fields(data: bytes | memoryview, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message; ValueError where it is malformed or holds groups."""
    position = start
    while position < end:
        tag = position
        key, position = _read_varint(data, position, end)
        kind = key & 7
        match kind:
            case 0:  # a varint
                _, stop = _read_varint(data, position, end)
            case 1:  # 64 bits
                stop = position + 8
            case 2:  # size and bytes
                size, position = _read_varint(data, position, end)
                stop = position + size
            case 5:  # 32 bits
                stop = position + 4
            case _:
                raise ValueError(f"wire type {kind}")
        if stop > end:
            raise ValueError("a field does not end")
        yield _Field(key >> 3, kind, tag, position, stop)
        position = stop


def _read_varint(data: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= end:
            raise ValueError("a number does not end")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 64 bits")
