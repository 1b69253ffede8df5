"""Reading a model: a path, bytes or a ModelProto -> a ModelProto that at least looks like a model.

Whatever the bytes are, the result is a model or a ``ModelError`` that says what the file is
instead.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from netloom.errors import ModelError, UnsupportedOpError, UsageError

from .handler import LATEST_OPSET
from .large_tensors import take_apart
from .model_bytes import NOT_A_MODEL, Reading, read_bytes
from .names import printable

Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | Reading"

SIGNATURES: Final = (
    (
        b"PK\x03\x04",
        "a zip archive (a PyTorch or Keras file?)",
        "Export the network to ONNX first.",
    ),
    (b"\x89HDF", "an HDF5 file (Keras?)", "Export the network to ONNX first."),
    (b"\x1f\x8b", "gzip data", "Unpack it first."),
    (b"\x80\x02", "a pickle", "Export the network to ONNX first."),
    (b"\x7fELF", "a shared object", "A compiled program is loaded with load(), not imported."),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the model itself",
        "Fetch it with: git lfs pull.",
    ),
    (b"<", "markup (a web page?)", "Download the file itself."),
    (b"{", "JSON text", "Give the binary .onnx file."),
)


@dataclass(frozen=True)
class ModelFile:
    """A model, its folder (None unless a path was given: then there is no external data to read),
    and the data of large initializers by the tokens that stand in the model for them. The files
    that its tensors are read from besides are noted in ``outside``.
    """

    model: onnx.ModelProto
    folder: Path | None
    apart: Mapping[bytes, memoryview]
    outside: set[str] = dataclasses.field(default_factory=set)


def read_model(source: Source) -> ModelFile:
    """The model, of which everything is checked that can be without its meaning."""
    match source:
        case onnx.ModelProto():
            return ModelFile(_accept(source, "the model"), None, {})
        case bytes() | bytearray() | memoryview():
            return _parse(memoryview(bytes(source)), "the model", None)
        case str() | os.PathLike():
            path = Path(source)
            return _parse(read_bytes(path), printable(str(path)), path.parent)
        case Reading(path, contents):
            file = _parse(contents.result(), printable(str(path)), path.parent)
            return dataclasses.replace(file, outside=source.outside)
        case _:
            raise UsageError(
                f"a model is a path, bytes or a ModelProto, not {type(source).__name__}."
            )


def _parse(data: memoryview, name: str, folder: Path | None) -> ModelFile:
    if not data:
        raise ModelError(f"{name} is empty (0 bytes), not a model.", hint=NOT_A_MODEL)
    for signature, kind, remedy in SIGNATURES:
        if data[: len(signature)] == signature:
            raise ModelError(f"{name} is {kind}, not an ONNX model.", hint=remedy)
    apart = take_apart(data)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(apart.model)
    except DecodeError as error:
        raise ModelError(
            f"{name} ({len(data)} bytes) is not an ONNX model, is cut short, or nests graphs too deeply.",
            hint=f"Fetch it again, and compare its size. {NOT_A_MODEL}",
        ) from error
    return ModelFile(_accept(model, name), folder, apart.data)


def _accept(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Refuse what protobuf could read but is no model."""
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{name} is not an ONNX model, or is cut short: it has no graph with outputs.",
                         hint=NOT_A_MODEL)  # fmt: skip
    if not model.ir_version:
        raise ModelError(f"{name} is not an ONNX model: it has no IR version.", hint=NOT_A_MODEL)
    if not model.opset_import and model.ir_version >= 3:
        raise ModelError(
            f"{name} imports no opset, or is cut short.", hint="Set opset_import and save it again."
        )
    _check_text(model, name)
    return model


@lru_cache(maxsize=64)
def _text_and_messages(
    descriptor: Descriptor,
) -> tuple[tuple[FieldDescriptor, ...], tuple[FieldDescriptor, ...]]:
    fields = descriptor.fields
    return (tuple(f for f in fields if f.type == FieldDescriptor.TYPE_STRING),
            tuple(f for f in fields if f.message_type is not None))  # fmt: skip


def _check_text(model: onnx.ModelProto, name: str) -> None:
    """Every string is UTF-8: protobuf hands out the others as bytes. Tensor contents are not
    touched.
    """
    stack: list[Any] = [model]
    while stack:
        message = stack.pop()
        texts, messages = _text_and_messages(message.DESCRIPTOR)
        for field in texts:
            value = getattr(message, field.name)
            if isinstance(value, bytes) or (
                field.is_repeated and any(isinstance(item, bytes) for item in value)
            ):
                raise ModelError(f"{name} is damaged: a {field.name} of {message.DESCRIPTOR.name} is no UTF-8 text.",
                                 hint="Fetch it again, or export it again.")  # fmt: skip
        for field in messages:
            if field.is_repeated:
                stack += getattr(message, field.name)
            elif message.HasField(field.name):
                stack.append(getattr(message, field.name))


def opsets_of(imports: object) -> dict[str, int]:
    """domain -> opset version ("" is ONNX's own); duplicates that differ are refused."""
    found: dict[str, int] = {}
    for item in imports:  # type: ignore[attr-defined]
        domain = "" if item.domain == "ai.onnx" else item.domain
        if found.setdefault(domain, item.version) != item.version:
            raise ModelError(f"the opset of domain {printable(domain)!r} is imported twice, as {found[domain]} "
                             f"and {item.version}.", hint="Keep one of the two.")  # fmt: skip
    found.setdefault("com.microsoft", 1)  # which ONNX Runtime does not ask for
    opset = found.setdefault("", 1)
    if opset > LATEST_OPSET:
        raise UnsupportedOpError(f"the model uses opset {opset}; the newest known one is {LATEST_OPSET}.",
                                 hint=f"Export it with opset {LATEST_OPSET} or lower.")  # fmt: skip
    if opset < 1:
        raise ModelError(
            f"the model uses opset {opset}, which does not exist.", hint="Opsets begin at 1."
        )
    return found
