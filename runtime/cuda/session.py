"""Sessions on a device: a program's constants and states resident, each shape's launches captured
once and replayed.

``load`` reads a file and needs no device; the device is opened at the first call. NumPy arrays are
copied in and out. Inputs that lie on the device already are read in place (borrow.py);
``run_on_device`` leaves the outputs there (device_array.py). A session may be called from many
threads: its calls take turns. What it holds on the device is freed with it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from netloom.errors import DeviceError, DeviceMemoryError, InputError, UsageError

from ..buffer import as_input, numpy_dtype
from ..program import PortInfo
from .borrow import Borrowed, borrow, is_on_device
from .cuda_device import CudaDevice
from .device import Device, free_quietly
from .device_array import DeviceArray
from .plan import Plan, Resident, laid_out
from .program import Entry, Program, bind_dims, parse_program, read_program

Array: TypeAlias = npt.NDArray[Any]
_Made = TypeVar("_Made")
_Plans: TypeAlias = "dict[tuple[Any, ...], Plan]"
_PLANS_KEPT = 8  # captured graphs with their arenas, by entry, state and free dims


def load(
    path: str | os.PathLike[str], open_device: Callable[[], Device] = CudaDevice
) -> CudaSession:
    """The program in a file; ProgramError if it is damaged. No device is needed before the first
    call.
    """
    return CudaSession(read_program(Path(path)), open_device)


def from_bytes(data: bytes) -> CudaSession:
    """The program in a file's contents."""
    return CudaSession(parse_program(data))


class CudaSession:
    """A program ready to run on a device (the first CUDA device unless another is given)."""

    def __init__(self, program: Program, open_device: Callable[[], Device] = CudaDevice) -> None:
        self.program = program
        self._open_device = open_device
        self._resident: Resident | None = None
        self._plans: _Plans = {}  # by entry, state, and free dims
        self._lock = threading.RLock()
        self._end: weakref.finalize[..., Any] | None = None

    @property
    def inputs(self) -> tuple[PortInfo, ...]:
        """Names, dtypes and shapes of what ``run`` takes."""
        return tuple(port.info for port in self.program.entries["run"].inputs)

    @property
    def outputs(self) -> tuple[PortInfo, ...]:
        """Names, dtypes and shapes of what ``run`` gives."""
        return tuple(port.info for port in self.program.entries["run"].outputs)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The program's manifest."""
        return self.program.metadata

    @property
    def resident(self) -> Resident:
        """The program on its device; DeviceError if there is none that fits."""
        with self._lock:
            if self._resident is None:
                self._resident = Resident(self.program, self._open_device())
                self._end = weakref.finalize(self, _freed_quietly, self._plans, self._resident)
                self._end.atexit = False
            return self._resident

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Runs the program: inputs by position or by name; one array, or a tuple of them in the
        outputs' order.
        """
        return _one_or_all(self._invoke("run", None, self._by_name("run", inputs, named)))

    def run_on_device(self, *inputs: Any, **named: Any) -> Any:
        """Like a call, with outputs that stay on the device; they are complete when it returns,
        and so is what it read.
        """
        outputs = self._invoke_on_device("run", None, self._by_name("run", inputs, named))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Array]:
        """The outputs of these names (None: all), from inputs by name."""
        places = {port.name: place for place, port in enumerate(self.outputs)}
        if unknown := [name for name in names or () if name not in places]:
            raise InputError(
                f"There is no output {unknown[0]!r}; the program has {', '.join(places)}."
            )
        outputs = self._invoke("run", None, inputs)
        return outputs if names is None else [outputs[places[name]] for name in names]

    def seconds(
        self,
        inputs: Mapping[str, Any],
        times: int,
        entry: str = "run",
        state: CudaState | None = None,
    ) -> float:
        """The mean time on the device of an entry without its copies, of so many runs one after
        another; a training step changes its state as often.
        """
        with self._ready(entry, state, inputs) as (plan, places):
            plan.bind(places, plan.outputs)
            return self.resident.device.seconds(plan.graph, times)

    def host_seconds(
        self,
        inputs: Mapping[str, Any],
        times: int,
        entry: str = "run",
        state: CudaState | None = None,
    ) -> float:
        """The median time that the host takes to hand a run to the device, its inputs there."""
        device, found = self.resident.device, []
        with self._ready(entry, state, inputs) as (plan, places):
            plan.bind(places, plan.outputs)
            for _ in range(times):
                device.synchronize()
                start = time.perf_counter()
                device.replay(plan.graph)
                found.append(time.perf_counter() - start)
            device.synchronize()
        return float(np.median(found))

    def close(self) -> None:
        """Frees the device's memory; states of this session must not be used any more, the
        session itself may.
        """
        with self._lock:
            if self._resident is None or self._end is None:
                return
            self._end.detach()
            resident, self._resident = self._resident, None
            _freed(self._plans, resident)

    def create_state(self) -> CudaState:
        """A training state with the initial parameters, on the device."""
        self.entry("train_step")
        with self._lock:
            return self._with_room(lambda: CudaState(self))

    def train_step(self, state: CudaState, *inputs: Any, **named: Any) -> tuple[Array, ...]:
        """One training step on the state; the outputs of the entry ``train_step``."""
        results = tuple(
            self._invoke("train_step", state, self._by_name("train_step", inputs, named))
        )
        state.step += 1
        return results

    def evaluate(self, state: CudaState, *inputs: Any, **named: Any) -> Any:
        """Runs the network with the state's parameters."""
        return _one_or_all(self._invoke("run", state, self._by_name("run", inputs, named)))

    def entry(self, name: str) -> Entry:
        """An entry by name; UsageError if the program was not built with it."""
        if name not in self.program.entries:
            raise UsageError(
                f"The program has no {name}; it has {', '.join(self.program.entries)}.",
                hint="Compile the model for training." if name == "train_step" else "",
            )
        return self.program.entries[name]

    def _by_name(
        self, entry: str, inputs: Sequence[Any], named: Mapping[str, Any]
    ) -> dict[str, Any]:
        names = [port.info.name for port in self.entry(entry).inputs]
        if len(inputs) > len(names):
            raise InputError(
                f"The program takes {len(names)} inputs ({', '.join(names)}); {len(inputs)} were given."
            )
        if twice := [name for name in names[: len(inputs)] if name in named]:
            raise InputError(f"The input {twice[0]!r} was given twice.")
        return {**dict(zip(names, inputs, strict=False)), **named}

    def _invoke(self, name: str, state: CudaState | None, inputs: Mapping[str, Any]) -> list[Array]:
        """The outputs in the host's memory."""
        with self._ready(name, state, inputs) as (plan, places):
            device = self.resident.device
            plan.bind(places, plan.outputs)
            device.replay(plan.graph)
            ports = zip(plan.shapes, self.entry(name).outputs, strict=True)
            outputs = [np.empty(shape, numpy_dtype(port.info.dtype)) for shape, port in ports]
            for array, address in zip(outputs, plan.outputs, strict=True):
                device.download(array, address)
            self._finish(plan)
        return outputs

    def _invoke_on_device(
        self, name: str, state: CudaState | None, inputs: Mapping[str, Any]
    ) -> list[DeviceArray]:
        """The outputs in memory of their own."""
        with self._ready(name, state, inputs) as (plan, places):
            ports = zip(plan.shapes, self.entry(name).outputs, strict=True)
            outputs = [
                self._with_room(
                    partial(DeviceArray, self.resident.pool, shape, port.info.dtype), plan
                )
                for shape, port in ports
            ]
            plan.bind(places, [array.address for array in outputs])
            self.resident.device.replay(plan.graph)
            self._finish(plan)
        return outputs

    def _finish(self, plan: Plan) -> None:
        """Waits until the device is done; InputError if a kernel met an index out of range."""
        if plan.checks_indices:
            self.resident.check_flag()
        else:
            self.resident.device.synchronize()

    @contextlib.contextmanager
    def _ready(
        self, name: str, state: CudaState | None, inputs: Mapping[str, Any]
    ) -> Iterator[tuple[Plan, tuple[int, ...]]]:
        """The plan for these inputs and where they are; those of other libraries are kept until
        the block ends.
        """
        entry = self.entry(name)
        names = [port.info.name for port in entry.inputs]
        if unknown := [given for given in inputs if given not in names]:
            raise InputError(
                f"There is no input {unknown[0]!r}; the program has {', '.join(names) or 'none'}."
            )
        if missing := [wanted for wanted in names if wanted not in inputs]:
            raise InputError(f"The input {missing[0]!r} is missing.")
        with self._lock, contextlib.ExitStack() as stack:
            given = []
            for port in entry.inputs:
                given.append(self._given(inputs[port.info.name], port.info))
                if isinstance(given[-1], Borrowed):
                    stack.callback(given[-1].release)
            shapes = {n: value.shape for n, value in zip(names, given, strict=True)}
            plan = self._plan(entry, state, bind_dims(entry, shapes, self.program))
            yield (
                plan,
                tuple(
                    self._place(value, own) for value, own in zip(given, plan.inputs, strict=True)
                ),
            )

    def _given(self, value: Any, port: PortInfo) -> Array | Borrowed:
        """An input in the host's memory, or where it lies on the device."""
        return (
            borrow(value, port, self.resident.device)
            if is_on_device(value)
            else as_input(value, port)
        )

    def _place(self, value: Array | Borrowed, own: int) -> int:
        """Where kernels read an input: where it is, or in the plan's own buffer if it is the
        host's or not aligned for them.
        """
        match value:
            case Borrowed() if value.is_aligned and value.nbytes:
                return value.address
            case Borrowed():
                self.resident.device.copy(own, value.address, value.nbytes)
            case _:
                self.resident.device.upload(own, value)
        return own

    def _plan(self, entry: Entry, state: CudaState | None, dims: Mapping[str, int]) -> Plan:
        key = (entry.name, None if state is None else id(state), *sorted(dims.items()))
        if key not in self._plans:
            for oldest in list(self._plans)[: max(len(self._plans) + 1 - _PLANS_KEPT, 0)]:
                _freed_plan(self._plans, oldest)
            states = state.addresses if state is not None else self.resident.initial_states
            self._plans[key] = self._with_room(lambda: Plan(self.resident, entry, states, dims))
        return self._plans[key]

    def _with_room(self, make: Callable[[], _Made], kept: Plan | None = None) -> _Made:
        """What takes memory; where there is no room for it, in the place of all plans but one, and
        of results that nobody has any more.
        """
        with contextlib.suppress(DeviceMemoryError):
            return make()
        for key, plan in list(self._plans.items()):
            if plan is not kept:
                _freed_plan(self._plans, key)
        self.resident.pool.drain()
        return make()


def _freed_plan(plans: _Plans, key: tuple[Any, ...]) -> None:
    """Frees a plan, unless the end of its state, at any time and in any thread, did so."""
    plan = plans.pop(key, None)
    if plan is not None:
        plan.free()


def _freed(plans: _Plans, resident: Resident) -> None:
    gone = list(plans.values())
    plans.clear()
    for plan in gone:
        plan.free()
    resident.free()


def _freed_quietly(plans: _Plans, resident: Resident) -> None:
    """From a finalizer: a context that is gone has taken all along."""
    with contextlib.suppress(DeviceError):
        _freed(plans, resident)


def _forgotten(plans: _Plans, state: int, device: Device, address: int) -> None:
    """Frees a state's memory, and the plans over it."""
    gone = [plans.pop(key, None) for key in list(plans) if key[1] == state]
    for plan in filter(None, gone):
        with contextlib.suppress(DeviceError):
            plan.free()
    free_quietly(device, address)


class CudaState:
    """A training state on the device: tensors by name, copied out when read and in when written.
    Its memory is freed with it.
    """

    def __init__(self, session: CudaSession) -> None:
        self._device, self._program = session.resident.device, session.program
        self._tensors = [
            session.program.constants[state.initial] for state in session.program.states
        ]
        self._places = {state.name: place for place, state in enumerate(session.program.states)}
        places, total = laid_out({"state": [tensor.nbytes for tensor in self._tensors]})
        base = self._device.allocate(total)
        end = weakref.finalize(self, _forgotten, session._plans, id(self), self._device, base)
        end.atexit = False
        self.addresses = [base + place for place in places["state"]]
        for address, tensor in zip(self.addresses, self._tensors, strict=True):
            self._device.upload(address, np.ascontiguousarray(tensor.array))
        self.step = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    def __getitem__(self, name: str) -> Array:
        """A copy of the tensor."""
        place = self._place(name)
        array = np.empty(self._tensors[place].shape, numpy_dtype(self._tensors[place].dtype))
        self._device.download(array, self.addresses[place])
        return array

    def __setitem__(self, name: str, value: npt.ArrayLike) -> None:
        """Copies values in; the shape must be the tensor's own."""
        place = self._place(name)
        tensor = self._tensors[place]
        array = np.asarray(value, numpy_dtype(tensor.dtype))
        if array.shape != tensor.shape:
            raise InputError(
                f'The tensor "{name}" has the shape {list(tensor.shape)}, but {list(array.shape)} was given.'
            )
        self._device.upload(self.addresses[place], array)

    def _place(self, name: str) -> int:
        if name not in self._places:
            raise UsageError(f"The state has no tensor {name!r}; it has {', '.join(self._places)}.")
        return self._places[name]


def _one_or_all(outputs: list[Array]) -> Any:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
