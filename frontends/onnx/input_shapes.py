"""Types of a model's inputs under the caller's wishes: fixed dims, ranges of free dims, free dims
that are one, shapes in place of the model's own.

Each name of a free dim is one symbol. A range may also be that of an integer tensor of the model,
which then may be an extent. Names that the model lacks are the caller's mistakes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Final

import onnx

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import TensorType
from netloom.errors import ModelError, ShapeError, UsageError

from .names import identifier, printable
from .sizes import check_size
from .tensors import check_shape, dtype_of

# of a free dim; slices "to the end" say this (TensorFlow) or more
LARGEST_DIM: Final = 1_000_000_000

Dims = Mapping[str, "int | range | str"]
Shapes = Mapping[str, Sequence["int | str"]]


class InputShapes:
    """Inputs' types under the caller's wishes; one symbol for each free dim."""

    def __init__(self, dims: Dims, shapes: Shapes) -> None:
        self.dims, self.shapes = dims, shapes
        self.symbols: dict[str, Extent] = {}
        self._taken: set[str] = set()
        self._met: dict[str, None] = {}  # free dims that the inputs name, in order

    @property
    def are_changed(self) -> bool:
        """Whether the caller changed shapes, so that the model's annotations are out of date."""
        return bool(self.dims or self.shapes)

    def type_of(self, info: onnx.ValueInfoProto) -> TensorType:
        """The type of an input."""
        shown = f"the input {printable(info.name)!r}"
        if not info.type.HasField("tensor_type"):
            raise ModelError(
                f"{shown} is no dense tensor.", hint="Only dense tensors are supported."
            )
        tensor = info.type.tensor_type
        dtype = dtype_of(tensor.elem_type, shown)
        if info.name in self.shapes:
            wanted = self.shapes[info.name]
            if not all(isinstance(extent, str | int) for extent in wanted):
                raise UsageError(
                    f"the shape {wanted!r} of {shown} holds more than numbers and names."
                )
            if tensor.HasField("shape") and len(tensor.shape.dim) != len(wanted):
                raise ShapeError(f"{shown} has rank {len(tensor.shape.dim)}; the shape given for it has {len(wanted)}.",
                                 hint="Give one extent for each axis.")  # fmt: skip
            extents = tuple(self._named(e) if isinstance(e, str) else e for e in wanted)
        elif tensor.HasField("shape"):
            extents = tuple(
                self._extent(d, f"{info.name}_{axis}") for axis, d in enumerate(tensor.shape.dim)
            )
        else:
            raise ShapeError(f"{shown} has no shape.", hint="Give one with shapes= (--shape).")
        check_shape(
            [e for e in extents if isinstance(e, int)]
            + [1] * sum(not isinstance(e, int) for e in extents),
            shown,
        )
        result = TensorType(dtype, extents)
        check_size(result)
        return result

    def _extent(self, entry: onnx.TensorShapeProto.Dimension, fallback: str) -> Extent:
        """A number; or a free dim, named by the model or by input and axis (-1 is written for it
        too).
        """
        if entry.HasField("dim_value") and entry.dim_value != -1:
            return int(entry.dim_value)
        return self._named(entry.dim_param or fallback)

    def _named(self, name: str) -> Extent:
        self._met[name] = None
        return self._chosen(name)

    def _chosen(self, name: str) -> Extent:
        if name not in self.symbols:
            chosen = self.dims.get(name)
            match chosen:
                case int():
                    if chosen < 0:
                        raise UsageError(f"the dim {printable(name)} cannot be {chosen}.")
                    self.symbols[name] = chosen
                case str():
                    self.symbols[name] = self._chosen(self._root(name))
                case None | range():
                    safe = identifier(name, self._taken)
                    self._taken.add(safe)
                    numbers = (
                        range(1, LARGEST_DIM + 1)
                        if chosen is None
                        else _checked_range(name, chosen)
                    )
                    step = numbers.step
                    self.symbols[name] = (
                        dim.symbol(safe, numbers[0] // step, numbers[-1] // step) * step
                    )
                case _:
                    raise UsageError(f"the dim {printable(name)} cannot be {chosen!r}.")
        return self.symbols[name]

    def _root(self, name: str) -> str:
        """The free dim that one equals in the end, which the caller may say of one after another."""
        seen = [name]
        while isinstance(other := self.dims.get(seen[-1]), str):
            if other in seen:
                raise UsageError(
                    f"the dim {printable(name)} cannot be {printable(other)}, which is defined by it."
                )
            seen.append(other)
        return seen[-1]

    def dim_of(self, symbol: Symbol) -> tuple[str, int]:
        """The free dim that a symbol stands for, and how many times the symbol it is; no name if
        there is none.
        """
        for name, extent in self.symbols.items():
            if isinstance(extent, Dim) and symbol in extent.symbols():
                ((_, step),) = extent.terms
                return name, step
        return "", 1

    def most_of(self, name: str) -> int | None:
        """The largest number that the caller expects in the tensor of that name, if any."""
        if name not in self.dims or name in self.symbols:
            return None
        chosen = self.dims[name]
        if not isinstance(chosen, range) or not 0 < len(chosen) or min(chosen[0], chosen.step) < 0:
            raise UsageError(
                f"the tensor {printable(name)} cannot lie in {chosen}.",
                hint="Give a range from 0 on, such as range(0, 65).",
            )
        return chosen[-1]

    def refuse_leftovers(self, inputs: Sequence[Value], tensors: Container[str]) -> None:
        """Names that the model lacks are mistakes of the caller."""
        names = [value.label for value in inputs]
        for name in self.shapes:
            if name not in names:
                raise UsageError(
                    f"the model has no input {name!r}.",
                    hint=f"It has {', '.join(map(repr, map(printable, names))) or 'none'}.",
                )
        for name, chosen in self.dims.items():
            if name not in self.symbols and name not in tensors:
                raise UsageError(f"the model has no free dim {name!r}.", hint=self._free_dims())
            if isinstance(chosen, str) and chosen not in self._met:
                message = (
                    f"the dim {printable(name)} cannot be {chosen!r}, which the model has not."
                )
                raise UsageError(message, hint=self._free_dims())

    def _free_dims(self) -> str:
        return f"It has {', '.join(map(printable, self._met)) or 'none'}."


def _checked_range(name: str, chosen: range) -> range:
    """Numbers that a free dim may be: all of a range, or the multiples of its step in it."""
    if chosen.step < 1 or len(chosen) == 0 or chosen.start < 0 or chosen.start % chosen.step:
        raise UsageError(
            f"the dim {printable(name)} cannot lie in {chosen}.",
            hint="Give a range such as range(1, 65), or of multiples, such as range(32, 641, 32).",
        )
    return chosen
