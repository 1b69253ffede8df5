"""Sessions on a device: a program's constants and states resident, each shape's launches captured once and replayed.

``load`` reads a file and needs no device; the device is opened at the first call. Inputs and outputs are NumPy arrays and
are copied; between them everything stays on the device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.errors import DeviceError, InputError, UsageError

from ..buffer import as_input, numpy_dtype
from ..program import PortInfo
from .device import Call, CudaDevice, Device
from .order import Access, predecessors
from .program import ALIGNMENT, Entry, Program, bind_dims, evaluate, parse_program, read_program

Array: TypeAlias = npt.NDArray[Any]
_PLANS_KEPT = 8  # captured graphs with their arenas, by entry, state and free dims
_MOST_BYTES = (1 << 31) - 1  # of one buffer: then no element's index leaves int32, whatever its dtype


def load(path: str | os.PathLike[str], open_device: Callable[[], Device] = CudaDevice) -> CudaSession:
    """The program in a file; ProgramError if it is damaged. No device is needed before the first call."""
    return CudaSession(read_program(Path(path)), open_device)


def from_bytes(data: bytes) -> CudaSession:
    """The program in a file's contents."""
    return CudaSession(parse_program(data))


@dataclass(frozen=True)
class _Plan:
    """One entry for one set of free dims: where its ports lie, and its launches as one graph."""

    arena: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    graph: Any


class CudaSession:
    """A program ready to run on a device (the first CUDA device unless another is given)."""

    def __init__(self, program: Program, open_device: Callable[[], Device] = CudaDevice) -> None:
        self.program = program
        self._open_device = open_device
        self._resident: _Resident | None = None
        self._plans: dict[tuple[Any, ...], _Plan] = {}

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
    def resident(self) -> _Resident:
        """The program on its device; DeviceError if there is none that fits."""
        if self._resident is None:
            self._resident = _Resident(self.program, self._open_device())
        return self._resident

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Runs the program: inputs by position or by name; one array, or a tuple of them in the outputs' order."""
        return _one_or_all(self._invoke("run", None, self._by_name("run", inputs, named)))

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Array]:
        """The outputs of these names (None: all), from inputs by name."""
        places = {port.name: place for place, port in enumerate(self.outputs)}
        if unknown := [name for name in names or () if name not in places]:
            raise InputError(f"There is no output {unknown[0]!r}; the program has {', '.join(places)}.")
        outputs = self._invoke("run", None, inputs)
        return outputs if names is None else [outputs[places[name]] for name in names]

    def seconds(self, inputs: Mapping[str, Any], times: int) -> float:
        """The mean time on the device of ``run`` without its copies, of so many runs one after another."""
        plan = self._ready("run", None, inputs)
        return self.resident.device.seconds(plan.graph, times)

    def close(self) -> None:
        """Frees the device's memory; states of this session must not be used any more, the session itself may."""
        if self._resident is None:
            return
        for plan in self._plans.values():
            self._release(plan)
        self._plans.clear()
        self._resident.free()
        self._resident = None

    def create_state(self) -> CudaState:
        """A training state with the initial parameters, on the device."""
        self.entry("train_step")
        return CudaState(self)

    def train_step(self, state: CudaState, *inputs: Any, **named: Any) -> tuple[Array, ...]:
        """One training step on the state; the outputs of the entry ``train_step``."""
        results = tuple(self._invoke("train_step", state, self._by_name("train_step", inputs, named)))
        state.step += 1
        return results

    def evaluate(self, state: CudaState, *inputs: Any, **named: Any) -> Any:
        """Runs the network with the state's parameters."""
        return _one_or_all(self._invoke("run", state, self._by_name("run", inputs, named)))

    def entry(self, name: str) -> Entry:
        """An entry by name; UsageError if the program was not built with it."""
        if name not in self.program.entries:
            raise UsageError(f"The program has no {name}; it has {', '.join(self.program.entries)}.",
                             hint="Compile the model for training." if name == "train_step" else "")  # fmt: skip
        return self.program.entries[name]

    def _by_name(self, entry: str, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        names = [port.info.name for port in self.entry(entry).inputs]
        if len(inputs) > len(names):
            raise InputError(f"The program takes {len(names)} inputs ({', '.join(names)}); {len(inputs)} were given.")
        if twice := [name for name in names[: len(inputs)] if name in named]:
            raise InputError(f"The input {twice[0]!r} was given twice.")
        return {**dict(zip(names, inputs, strict=False)), **named}

    def _invoke(self, name: str, state: CudaState | None, inputs: Mapping[str, Any]) -> list[Array]:
        plan = self._ready(name, state, inputs)
        entry, device = self.entry(name), self.resident.device
        device.replay(plan.graph)
        outputs = [np.empty(shape, numpy_dtype(port.info.dtype)) for shape, port in zip(plan.shapes, entry.outputs, strict=True)]
        for array, address in zip(outputs, plan.outputs, strict=True):
            device.download(array, address)
        self.resident.check_flag()
        return outputs

    def _ready(self, name: str, state: CudaState | None, inputs: Mapping[str, Any]) -> _Plan:
        """The plan for these inputs, with them in place."""
        entry = self.entry(name)
        names = [port.info.name for port in entry.inputs]
        if unknown := [given for given in inputs if given not in names]:
            raise InputError(f"There is no input {unknown[0]!r}; the program has {', '.join(names) or 'none'}.")
        if missing := [wanted for wanted in names if wanted not in inputs]:
            raise InputError(f"The input {missing[0]!r} is missing.")
        arrays = [as_input(inputs[port.info.name], port.info) for port in entry.inputs]
        dims = bind_dims(entry, {n: a.shape for n, a in zip(names, arrays, strict=True)}, self.program)
        plan = self._plan(entry, state, dims)
        for array, address in zip(arrays, plan.inputs, strict=True):
            self.resident.device.upload(address, array)
        return plan

    def _plan(self, entry: Entry, state: CudaState | None, dims: Mapping[str, int]) -> _Plan:
        key = (entry.name, state, *sorted(dims.items()))
        if key not in self._plans:
            if len(self._plans) >= _PLANS_KEPT:
                self._release(self._plans.pop(next(iter(self._plans))))
            self._plans[key] = self._captured(entry, state, dims)
        return self._plans[key]

    def _release(self, plan: _Plan) -> None:
        self.resident.device.release(plan.graph)
        self.resident.device.free(plan.arena)

    def _captured(self, entry: Entry, state: CudaState | None, dims: Mapping[str, int]) -> _Plan:
        """The entry's buffers in one arena, its arguments packed, its launches captured."""
        resident = self.resident
        sizes = {"input": [_bytes(port.at(dims), port.info.dtype) for port in entry.inputs],
                 "output": [_bytes(port.at(dims), port.info.dtype) for port in entry.outputs],
                 "arena": [evaluate(slot, dims) for slot in entry.slots]}  # fmt: skip
        if max((size for group in sizes.values() for size in group), default=0) > _MOST_BYTES:
            raise DeviceError(f"a buffer of more than {_MOST_BYTES} bytes is too large for the cuda target.",
                              hint="Choose a smaller batch.")  # fmt: skip
        places, total = _laid_out(sizes)
        arena = resident.device.allocate(total)
        addresses = {space: [arena + place for place in group] for space, group in places.items()}
        addresses["constant"] = resident.constants
        addresses["state"] = state.addresses if state is not None else resident.initial_states
        lengths = {**sizes, "constant": [c.nbytes for c in self.program.constants], "state": resident.state_sizes}
        calls, accesses = [], []
        for launch in entry.launches:
            blocks = evaluate(launch.items, dims)
            if blocks == 0:
                continue
            pointers = tuple(addresses[space][index] for space, index in launch.buffers)
            numbers = tuple(evaluate(extent, dims) for extent in launch.extents)
            function, threads = resident.functions[launch.kernel]
            calls.append(Call(function, blocks, threads, pointers, numbers, resident.flag))
            pieces = [(pointer, pointer + lengths[space][index])
                      for pointer, (space, index) in zip(pointers, launch.buffers, strict=True)]  # fmt: skip
            accesses.append(Access(tuple(pieces[:-1]), (pieces[-1],)))
        graph = resident.device.capture(calls, predecessors(accesses))
        shapes = tuple(port.at(dims) for port in entry.outputs)
        return _Plan(arena, tuple(addresses["input"]), tuple(addresses["output"]), shapes, graph)


class _Resident:
    """A program's kernels, constants and error flag on a device."""

    def __init__(self, program: Program, device: Device) -> None:
        self.device = device
        self.functions = [(device.load(kernel.name, kernel.cubins), kernel.threads) for kernel in program.kernels]
        places, total = _laid_out({"constant": [constant.nbytes for constant in program.constants]})
        self._base = base = device.allocate(total)
        self.constants = [base + place for place in places["constant"]]
        for address, constant in zip(self.constants, program.constants, strict=True):
            device.upload(address, np.ascontiguousarray(constant.array))
        self.initial_states = [self.constants[state.initial] for state in program.states]
        self.state_sizes = [program.constants[state.initial].nbytes for state in program.states]
        self.flag = device.allocate(4)
        device.upload(self.flag, np.zeros(1, np.int32))

    def free(self) -> None:
        for address in (self._base, self.flag):
            self.device.free(address)

    def check_flag(self) -> None:
        """InputError if a kernel met an index out of range."""
        flag = np.zeros(1, np.int32)
        self.device.download(flag, self.flag)
        if flag[0]:
            self.device.upload(self.flag, np.zeros(1, np.int32))
            raise InputError("An index in the inputs is out of range.")


class CudaState:
    """A training state on the device: tensors by name, copied out when read and in when written."""

    def __init__(self, session: CudaSession) -> None:
        self._device, self._program = session.resident.device, session.program
        self._tensors = [session.program.constants[state.initial] for state in session.program.states]
        self._places = {state.name: place for place, state in enumerate(session.program.states)}
        places, total = _laid_out({"state": [tensor.nbytes for tensor in self._tensors]})
        base = self._device.allocate(total)
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
            raise InputError(f'The tensor "{name}" has the shape {list(tensor.shape)}, but {list(array.shape)} was given.')
        self._device.upload(self.addresses[place], array)

    def _place(self, name: str) -> int:
        if name not in self._places:
            raise UsageError(f"The state has no tensor {name!r}; it has {', '.join(self._places)}.")
        return self._places[name]


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * int(numpy_dtype(dtype).itemsize)


def _laid_out(sizes: Mapping[str, Sequence[int]]) -> tuple[dict[str, list[int]], int]:
    """Offsets one after another, aligned, and the size of all."""
    place = 0
    places: dict[str, list[int]] = {}
    for space, group in sizes.items():
        places[space] = []
        for size in group:
            places[space].append(place)
            place += -(-size // ALIGNMENT) * ALIGNMENT
    return places, place


def _one_or_all(outputs: list[Array]) -> Any:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
