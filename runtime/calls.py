"""Calls of a program's entry: what is given by position or by name -> in order, and the part of a
call that is prepared once for inputs of some shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

from netloom.errors import InputError, quoted

from .buffer import Tensors, empty
from .cpu import Context
from .program import EntryInfo

Array: TypeAlias = npt.NDArray[Any]


class Call:
    """What stays the same from call to call: the tensors of inputs and outputs, but for where the
    arrays lie, and the outputs' shapes.
    """

    __slots__ = ("_given", "_shapes", "_wanted")

    def __init__(self, given: Tensors, wanted: Tensors, shapes: Sequence[tuple[int, ...]]) -> None:
        self._given, self._wanted, self._shapes = given, wanted, shapes

    def made(
        self, arrays: Sequence[Array], entry: EntryInfo, context: Context,
        function: Callable[..., int], handles: tuple[int, ...],
    ) -> list[Array]:  # fmt: skip
        """The outputs of one call with these arrays, of which nothing is kept."""
        given, wanted = self._given, self._wanted
        given.point_to(arrays)
        outputs = [empty(*of) for of in zip(self._shapes, entry.outputs, strict=True)]
        wanted.point_to(outputs)
        if entry.has_data_dims:
            wanted.reset_shapes()
        code = function(*handles, given.pointer, given.count, wanted.pointer, wanted.count)
        if code:
            raise context.error(code)
        return wanted.filled(outputs) if entry.has_data_dims else outputs


def in_order(entry: EntryInfo, inputs: Sequence[Any], named: Mapping[str, Any]) -> Sequence[Any]:
    """What was given by position and by name, in the order of an entry's inputs."""
    if not named and len(inputs) == len(entry.inputs):
        return inputs
    names = [port.name for port in entry.inputs]
    if len(inputs) > len(names):
        raise InputError(
            f"The program takes {len(names)} inputs ({quoted(names)}); {len(inputs)} were given."
        )
    if twice := [name for name in names[: len(inputs)] if name in named]:
        raise InputError(f"The input {quoted(twice)} was given twice.")
    return by_name(entry, {**dict(zip(names, inputs, strict=False)), **named})


def by_name(entry: EntryInfo, inputs: Mapping[str, Any]) -> list[Any]:
    """What was given by name, in the order of an entry's inputs."""
    names = [port.name for port in entry.inputs]
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"The inputs must be a mapping of names to arrays, not a {type(inputs).__name__}.",
            hint=f"The program has {quoted(names)}.",
        )
    if unknown := [name for name in inputs if name not in names]:
        raise InputError(f"There is no input {quoted(unknown)}; the program has {quoted(names)}.")
    if missing := [name for name in names if name not in inputs]:
        raise InputError(f"The input {quoted(missing)} is missing.")
    return [inputs[name] for name in names]
