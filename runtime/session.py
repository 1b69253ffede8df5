"""Sessions: a program, called with NumPy arrays.

A session may be called from many threads at once: each call takes a context of its own from a
store, and calls release the GIL. Loading and running a shared object needs NumPy alone. Sessions of
files can be pickled (path and threads).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from netloom.errors import InputError, ProgramError, UsageError, quoted

from .buffer import Tensors, as_input, blank, blank_tensors, check_bindable, empty
from .calls import Call, by_name, in_order
from .cpu import Api, Context, Model, StateHandle, default_threads
from .program import EntryInfo, PortInfo
from .state import State

Array: TypeAlias = npt.NDArray[Any]
MOST_THREADS = 1024
CALLS_KEPT = 256  # prepared in a context, by the inputs' shapes


class InProcess(Protocol):
    """A program that was compiled in this process."""

    @property
    def api_address(self) -> int: ...


def load(path: str | os.PathLike[str], threads: int | None = None) -> Session:
    """Opens a shared object; ``threads``: None for as many as the process may use.

    Raises ProgramError for a file that is damaged, foreign, or writable by others, CpuFeatureError
    if this machine cannot run it.
    """
    if "\0" in os.fspath(path):
        raise ProgramError("No name of a file holds NUL.", hint="Check the path.")
    place = Path(path).resolve()
    return Session(Model.load(place), threads, place)


def check_threads(threads: int | None) -> None:
    """UsageError unless it is a possible number of threads, or None."""
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
        raise UsageError(
            f"The number of threads must be at least 1, and at most {MOST_THREADS}, but is {threads!r}."
        )


class Session:
    """A program ready to run."""

    def __init__(self, model: Model, threads: int | None = None, path: Path | None = None) -> None:
        check_threads(threads)
        self._model, self._path, self._given_threads = model, path, threads
        self.threads = threads or default_threads(model.manifest)
        self._contexts: list[Context] = []
        self._entry = model.manifest.entries.get("run") or next(
            iter(model.manifest.entries.values())
        )

    @staticmethod
    def in_process(program: InProcess, threads: int | None = None) -> Session:
        """A session of a program in this process, which it keeps alive."""
        return Session(Model(Api(program.api_address, program)), threads)

    def __reduce__(self) -> tuple[Callable[..., Session], tuple[str, int | None]]:
        if self._path is None:
            raise TypeError(
                "A session of a program in process cannot be pickled; save the program and load it."
            )
        return load, (str(self._path), self._given_threads)

    @property
    def inputs(self) -> tuple[PortInfo, ...]:
        """Names, dtypes and shapes of what ``run`` takes."""
        return self._entry.inputs

    @property
    def outputs(self) -> tuple[PortInfo, ...]:
        """Names, dtypes and shapes of what ``run`` gives."""
        return self._entry.outputs

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The program's manifest."""
        return self._model.manifest.data

    def arena_bytes(self, **dims: int) -> int:
        """Bytes of intermediate memory for these values of the free dims."""
        names = self._model.manifest.dims
        if set(dims) != set(names):
            raise UsageError(
                f"The free dims are {', '.join(names) or 'none'}, but {', '.join(dims) or 'none'} were given."
            )
        if any(not 0 <= value < 1 << 63 for value in dims.values()):
            raise InputError(f"The free dims {dims} are out of their ranges.")
        values = (ctypes.c_int64 * len(names))(*(dims[name] for name in names))
        size = int(
            self._model.api["arena_bytes"](self._model.handle, ctypes.addressof(values), len(names))
        )
        if size < 0:
            raise InputError(f"The free dims {dims} are out of their ranges.")
        return size

    # -- calling -----------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Runs the program: inputs by position or by name; one array, or a tuple of them in the
        outputs' order.
        """
        outputs = self._invoke("run", self._entry, None, in_order(self._entry, inputs, named))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Array]:
        """As in ONNX Runtime: the outputs of these names (None: all), from inputs by name."""
        if names is None:
            return self._invoke("run", self._entry, None, by_name(self._entry, inputs))
        places = {port.name: place for place, port in enumerate(self._entry.outputs)}
        if unknown := [name for name in names if name not in places]:
            raise InputError(
                f"There is no output {quoted(unknown)}; the program has {quoted(places)}."
            )
        outputs = self._invoke("run", self._entry, None, by_name(self._entry, inputs))
        return [outputs[places[name]] for name in names]

    def bind(self, **buffers: Array) -> Bound:
        """A callable without arguments that reads and writes these arrays in place; other outputs
        are made.

        Inputs and outputs are told apart by name. The arrays must be row-major and of the exact
        dtype.
        """
        return Bound(self, self._entry, "run", None, buffers)

    def create_state(self) -> State:
        """A training state with the initial parameters."""
        return State(
            self.metadata,
            StateHandle(self._model, self._model.api.open("state_create", self._model.handle)),
        )

    def train_step(self, state: State, *inputs: Any, **named: Any) -> tuple[Array, ...]:
        """One training step on the state; the outputs of the entry ``train_step`` (the loss
        first, by convention).
        """
        entry = self.entry("train_step")
        return tuple(self._invoke("train_step", entry, state, in_order(entry, inputs, named)))

    def evaluate(self, state: State, *inputs: Any, **named: Any) -> Any:
        """Runs the network with the state's parameters."""
        entry = self.entry("run")
        outputs = self._invoke("evaluate", entry, state, in_order(entry, inputs, named))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def bind_train_step(self, state: State, **buffers: Array) -> Bound:
        """Like ``bind``, for one training step on the state."""
        return Bound(self, self.entry("train_step"), "train_step", state, buffers)

    def entry(self, name: str) -> EntryInfo:
        """An entry by name; UsageError if the program was not built with it."""
        entry = self._model.manifest.entries.get(name)
        if entry is None:
            raise UsageError(
                f"The program has no {name}; it has {quoted(self._model.manifest.entries)}.",
                hint="Compile the model for training." if name == "train_step" else "",
            )
        return entry

    def _invoke(
        self, function: str, entry: EntryInfo, state: State | None, inputs: Sequence[Any]
    ) -> list[Array]:
        arrays = [as_input(value, port) for value, port in zip(inputs, entry.inputs, strict=True)]
        context = self.take_context()
        try:
            call = self._prepared(context, entry, arrays)
            handles = (context.handle, state.handle) if state is not None else (context.handle,)
            return call.made(arrays, entry, context, self._model.api[function], handles)
        finally:
            self.give_context(context)

    def _prepared(self, context: Context, entry: EntryInfo, arrays: Sequence[Array]) -> Call:
        """The call of an entry in a context with inputs of these shapes."""
        key = (entry.name, *[array.shape for array in arrays])
        call: Call | None = context.calls.get(key)
        if call is None:
            given = Tensors(arrays, [port.dtype for port in entry.inputs])
            shapes = self._output_shapes(context, entry, given)
            dtypes = [port.dtype for port in entry.outputs]
            outputs = [blank(*of) for of in zip(shapes, dtypes, strict=True)]
            wanted = Tensors(outputs, dtypes)
            if len(context.calls) >= CALLS_KEPT:
                context.calls.clear()
            call = context.calls[key] = Call(given, wanted, shapes)
        return call

    def _output_shapes(
        self, context: Context, entry: EntryInfo, given: Tensors
    ) -> list[tuple[int, ...]]:
        if all(port.is_static for port in entry.outputs):
            return [port.static_shape for port in entry.outputs]
        return self._ask_shapes(context, entry, given)

    def _ask_shapes(
        self, context: Context, entry: EntryInfo, given: Tensors
    ) -> list[tuple[int, ...]]:
        count = len(entry.outputs)
        tensors, shapes = blank_tensors(count)
        pointer = ctypes.addressof(tensors)
        code = self._model.api["output_shapes"](
            context.handle, entry.position, given.pointer, given.count, pointer, count
        )
        if code:
            raise context.error(code)
        return [tuple(shape[: tensor.ndim]) for tensor, shape in zip(tensors, shapes, strict=True)]

    def take_context(self) -> Context:
        """A context that nobody else uses until it is given back."""
        try:
            return self._contexts.pop()
        except IndexError:
            return Context(self._model, self.threads)

    def give_context(self, context: Context) -> None:
        self._contexts.append(context)


class Bound:
    """A call with everything prepared: ``outputs`` maps names to the arrays that each call
    fills. Where data decide an output's shape, its buffer has room for the most that it can be,
    and ``outputs`` holds the part that the last call has filled.
    """

    __slots__ = (
        "_arguments",
        "_contexts",
        "_dims",
        "_function",
        "_kept",
        "_session",
        "_whole",
        "outputs",
    )

    def __init__(
        self,
        session: Session,
        entry: EntryInfo,
        function: str,
        state: State | None,
        buffers: Mapping[str, Array],
    ) -> None:
        sides = ("input", entry.inputs), ("output", entry.outputs)
        if shared := {p.name for p in entry.inputs} & {p.name for p in entry.outputs}:
            raise UsageError(
                f"Inputs and outputs share the name {quoted(shared)}, so they cannot be bound by name."
            )
        if unknown := set(buffers) - {port.name for _, ports in sides for port in ports}:
            raise InputError(f"There is no input or output {quoted(unknown)}.")
        if missing := [port.name for port in entry.inputs if port.name not in buffers]:
            raise InputError(f"The input {quoted(missing)} is missing.")
        inputs = [
            check_bindable(port.name, buffers[port.name], port, False) for port in entry.inputs
        ]
        given = Tensors(inputs, [port.dtype for port in entry.inputs])
        outputs = self._make_outputs(session, entry, given, buffers)
        wanted = Tensors(outputs, [port.dtype for port in entry.outputs])
        self.outputs = {
            port.name: array for port, array in zip(entry.outputs, outputs, strict=True)
        }
        self._dims, self._whole = wanted if entry.has_data_dims else None, outputs
        self._session, self._contexts, self._kept = (
            session,
            session._contexts,
            (given, wanted, state),
        )
        self._function = session._model.api[function]
        handle = () if state is None else (state.handle,)
        self._arguments = (*handle, given.pointer, given.count, wanted.pointer, wanted.count)

    @staticmethod
    def _make_outputs(
        session: Session,
        entry: EntryInfo,
        given: Tensors,
        buffers: Mapping[str, Array],
    ) -> list[Array]:
        context = session.take_context()
        try:
            shapes = session._output_shapes(context, entry, given)
        finally:
            session.give_context(context)
        outputs = []
        for port, shape in zip(entry.outputs, shapes, strict=True):
            if port.name in buffers:
                outputs.append(check_bindable(port.name, buffers[port.name], port, True))
            else:
                outputs.append(empty(shape, port))
        return outputs

    def __call__(self) -> None:
        try:
            context = self._contexts.pop()
        except IndexError:
            context = self._session.take_context()
        if self._dims is not None:
            self._dims.reset_shapes()
        code = self._function(context.handle, *self._arguments)
        error = context.error(code) if code else None
        self._contexts.append(context)
        if error is not None:
            raise error
        if self._dims is not None:
            self.outputs = dict(zip(self.outputs, self._dims.filled(self._whole), strict=True))
