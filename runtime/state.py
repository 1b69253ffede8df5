"""A training state -> its tensors by name, as NumPy views that read and write the state itself."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.errors import InputError, UsageError, quoted

from .buffer import numpy_dtype
from .cpu import DLTensor, StateHandle

Array: TypeAlias = npt.NDArray[Any]


class State:
    """A training state: tensors by name as NumPy views that read and write the state itself."""

    def __init__(self, metadata: Mapping[str, Any], owner: StateHandle) -> None:
        self._metadata, self._owner, self._api = metadata, owner, owner.model.api
        self.handle = owner.handle
        count = self._api["parameter_count"](owner.model.handle)
        states = metadata["states"]
        self._places = {states[place]["name"]: place for place in range(count)}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Array:
        """A view of the tensor, which keeps the state alive."""
        if name not in self._places:
            raise UsageError(
                f"The state has no tensor {quoted([name])}; it has {quoted(self._places)}."
            )
        view = DLTensor()
        code = self._api["parameter"](self.handle, self._places[name], ctypes.addressof(view))
        if code:
            raise UsageError(f"The state's tensor {quoted([name])} cannot be viewed.")
        info = self._metadata["states"][self._places[name]]
        dtype = numpy_dtype(info["dtype"])
        size = int(np.prod(info["shape"], dtype=np.int64)) * dtype.itemsize
        memory: Any = (ctypes.c_uint8 * size).from_address(view.data)
        memory.owner = self._owner
        array: Array = np.frombuffer(memory, np.uint8)
        return array.view(dtype).reshape(info["shape"])

    def __setitem__(self, name: str, value: npt.ArrayLike) -> None:
        """Copies values in; the shape must be the tensor's own."""
        view, array = self[name], np.asarray(value)
        if array.shape != view.shape:
            raise InputError(
                f'The tensor "{name}" has the shape {list(view.shape)}, but {list(array.shape)} was given.'
            )
        view[...] = array

    @property
    def step(self) -> int:
        """How many training steps the state has behind it."""
        return int(self._api["step"](self.handle))

    @step.setter
    def step(self, step: int) -> None:
        self._api["set_step"](self.handle, step)

    def copy(self) -> State:
        """An independent copy."""
        return State(
            self._metadata,
            StateHandle(self._owner.model, self._api.open("state_copy", self.handle)),
        )
