"""A small AArch64 machine: unicorn's processor, a linker for one relocatable object, and what
programs use of libc.

Kernels run by their symbol; a whole program runs through its C interface, on one thread. The linker
does the relocations that LLVM makes for position-independent small code, and refuses any other, as
it does a call of an unknown function.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom import abi
from netloom.compiler.targets.cpu.relocatable import _read
from netloom.runtime.cpu import DLTensor

unicorn = pytest.importorskip(
    "unicorn", reason="unicorn, which emulates AArch64, is not installed (the extra dev has it)"
)
from unicorn import arm64_const as arm  # noqa: E402

CODE, LIBRARY, RETURN, STACK, HEAP = 0x1000_0000, 0x1200_0000, 0x1300_0000, 0x1400_0000, 0x2000_0000
_CODE_BYTES, _HEAP_BYTES, _STACK_BYTES = 16 << 20, 64 << 20, 1 << 20
_RET = struct.pack("<I", 0xD65F03C0)
_ARGUMENTS = [arm.UC_ARM64_REG_X0 + number for number in range(8)]
# LDST8..128_ABS_LO12_NC: the offset counts 1..16 bytes
_LOAD_STORE = {278: 0, 284: 1, 285: 2, 286: 3, 299: 4}


class Machine:
    """One object in memory."""

    def __init__(self, data: bytes) -> None:
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self.cpu.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # vector registers may be used
        for start, size in (
            (CODE, _CODE_BYTES),
            (LIBRARY, 1 << 16),
            (RETURN, 1 << 12),
            (HEAP, _HEAP_BYTES),
            (STACK, _STACK_BYTES),
        ):
            self.cpu.mem_map(start, size)
        self.heap = HEAP
        self.symbols: dict[str, int] = {}
        self.called: list[str] = []  # library functions, by number
        self._link(data)
        self.cpu.hook_add(
            unicorn.UC_HOOK_CODE, self._library_call, begin=LIBRARY, end=LIBRARY + (1 << 16) - 1
        )

    # -- the linker --------------------------------------------------------------------------------

    def _link(self, data: bytes) -> None:
        sections, symbols = _read(data)
        places: dict[int, int] = {}
        position = CODE
        for number, section in enumerate(sections):
            if section.flags & 2:  # SHF_ALLOC
                position = -(-position // max(64, section.align)) * max(64, section.align)
                places[number] = position
                self.cpu.mem_write(position, bytes(section.data))
                position += section.size
        values = []
        for symbol in symbols:
            if symbol.section == 0 and symbol.name:
                values.append(self._library(symbol.name))
            else:
                values.append(places.get(symbol.section, 0) + symbol.value)
                self.symbols[symbol.name] = values[-1]
        for section in sections:
            if (
                section.kind == 4
                and section.info in places
                and sections[section.info].name != ".eh_frame"
            ):
                for offset, info, addend in struct.iter_unpack("<QQq", section.data):
                    self._relocate(
                        places[section.info] + offset,
                        info & 0xFFFFFFFF,
                        values[info >> 32] + addend,
                    )

    def _library(self, name: str) -> int:
        """The address of a library function: a return instruction, at which a hook does the
        work.
        """
        self.called.append(name)
        address = LIBRARY + 16 * (len(self.called) - 1)
        self.cpu.mem_write(address, _RET)
        return address

    def _relocate(self, place: int, kind: int, target: int) -> None:
        """AArch64 ELF ABI, "Relocation": the kinds by their numbers."""
        if kind == 257:  # ABS64
            self.write(place, struct.pack("<Q", target))
            return
        (word,) = struct.unpack("<I", self.read(place, 4))
        match kind:
            case 275:  # ADR_PREL_PG_HI21
                pages = (target >> 12) - (place >> 12)
                word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
            case 277:  # ADD_ABS_LO12_NC
                word |= (target & 0xFFF) << 10
            case 282 | 283:  # JUMP26, CALL26
                assert abs(target - place) < 1 << 27, "too far to call"
                word |= (target - place) >> 2 & 0x3FFFFFF
            case _ if kind in _LOAD_STORE:
                word |= (target & 0xFFF) >> _LOAD_STORE[kind] << 10
            case _:
                raise AssertionError(f"an unexpected relocation: {kind}")
        self.write(place, struct.pack("<I", word))

    # -- memory ------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.cpu.mem_read(address, size))

    def write(self, address: int, data: bytes) -> None:
        self.cpu.mem_write(address, data)

    def allocate(self, size: int, alignment: int = 64) -> int:
        """Zeroed memory."""
        address = -(-self.heap // alignment) * alignment
        self.heap = address + size
        assert self.heap <= HEAP + _HEAP_BYTES, "the machine's memory is used up"
        return address

    def keep(self, data: bytes) -> int:
        """The address of a copy."""
        address = self.allocate(len(data))
        self.write(address, data)
        return address

    def text(self, address: int) -> bytes:
        found = b""
        while (byte := self.read(address + len(found), 1)) != b"\0":
            found += byte
        return found

    # -- calls -------------------------------------------------------------------------------------

    def call(self, address: int, *arguments: int) -> int:
        """What a C function returns."""
        for register, argument in zip(_ARGUMENTS, arguments, strict=False):
            self.cpu.reg_write(register, argument & (1 << 64) - 1)
        self.cpu.reg_write(arm.UC_ARM64_REG_SP, STACK + _STACK_BYTES - 64)
        self.cpu.reg_write(arm.UC_ARM64_REG_LR, RETURN)
        self.cpu.emu_start(address, RETURN)
        return int(self.cpu.reg_read(arm.UC_ARM64_REG_X0))

    def _library_call(self, cpu: Any, address: int, size: int, data: Any) -> None:
        name = self.called[(address - LIBRARY) // 16]
        arguments = [int(cpu.reg_read(register)) for register in _ARGUMENTS]
        cpu.reg_write(arm.UC_ARM64_REG_X0, _LIBRARY[name](self, *arguments) & (1 << 64) - 1)

    def run_kernel(
        self, name: str, arrays: Sequence[npt.NDArray[Any]], extents: Sequence[int], items: int
    ) -> tuple[bytes, int]:
        """The last array after the kernel's work, and the error flag."""
        addresses = [self.keep(array.tobytes()) for array in arrays]
        error = self.keep(bytes(4))
        words = self.keep(np.asarray([*addresses, *extents, error], np.int64).tobytes())
        self.call(self.symbols[name], words, 0, items)
        return self.read(addresses[-1], arrays[-1].nbytes), int.from_bytes(
            self.read(error, 4), "little"
        )


class Program:
    """A whole program, entered through ``nl_get_api``."""

    def __init__(self, data: bytes) -> None:
        self.machine = Machine(data)
        table = self.machine.call(self.machine.symbols[abi.ENTRY_POINT], abi.ABI_VERSION)
        pointers = struct.unpack(
            f"<{len(abi.FUNCTIONS)}Q", self.machine.read(table + 8, 8 * len(abi.FUNCTIONS))
        )
        self.functions = {
            signature.name: pointer
            for signature, pointer in zip(abi.FUNCTIONS, pointers, strict=True)
        }
        self.model = self._opened("open")
        self.context = self._opened("context_create", self.model, 0)

    def call(self, name: str, *arguments: int) -> int:
        return self.machine.call(self.functions[name], *arguments)

    def _opened(self, name: str, *arguments: int) -> int:
        handle, error = self.machine.allocate(8), self.machine.allocate(256)
        assert self.call(name, *arguments, handle, error, 256) & 0xFFFFFFFF == 0, self.machine.text(
            error
        )
        return int.from_bytes(self.machine.read(handle, 8), "little")

    def metadata(self) -> bytes:
        return self.machine.text(self.call("metadata_json", self.model))

    def run(self, inputs: Sequence[npt.NDArray[Any]], outputs: Sequence[npt.NDArray[Any]]) -> int:
        """Fills the outputs; the error code."""
        places = [self.machine.keep(array.tobytes()) for array in outputs]
        given = b"".join(
            self._tensor(array, self.machine.keep(array.tobytes())) for array in inputs
        )
        wanted = b"".join(
            self._tensor(array, place) for array, place in zip(outputs, places, strict=True)
        )
        tensors = self.machine.keep(given), len(inputs), self.machine.keep(wanted), len(outputs)
        code = self.call("run", self.context, *tensors) & 0xFFFFFFFF
        for array, place in zip(outputs, places, strict=True):
            array[...] = np.frombuffer(self.machine.read(place, array.nbytes), array.dtype).reshape(
                array.shape
            )
        return code

    def error(self) -> bytes:
        return self.machine.text(self.call("last_error", self.context))

    def _tensor(self, array: npt.NDArray[Any], data: int) -> bytes:
        shape = self.machine.keep(np.asarray(array.shape, np.int64).tobytes())
        code, bits = abi.DLPACK_CODES[array.dtype.name]
        tensor = DLTensor(data=data, ndim=array.ndim, shape=shape)
        tensor.device.device_type = 1
        tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = code, bits, 1
        return ctypes.string_at(ctypes.addressof(tensor), ctypes.sizeof(tensor))


# -- libc ------------------------------------------------------------------------------------------


def _posix_memalign(machine: Machine, result: int, alignment: int, size: int, *_: int) -> int:
    machine.write(result, struct.pack("<Q", machine.allocate(size, alignment)))
    return 0


def _copy(machine: Machine, target: int, source: int, size: int, *_: int) -> int:
    machine.write(target, machine.read(source, size))
    return target


def _set(machine: Machine, target: int, byte: int, size: int, *_: int) -> int:
    machine.write(target, bytes([byte & 255]) * size)
    return target


def _compare(machine: Machine, left: int, right: int, size: int, *_: int) -> int:
    a, b = machine.read(left, size), machine.read(right, size)
    return (a > b) - (a < b)


def _snprintf(machine: Machine, buffer: int, capacity: int, form: int, *_: int) -> int:
    """The format as it stands."""
    text = machine.text(form)
    if capacity:
        machine.write(buffer, text[: capacity - 1] + b"\0")
    return len(text)


def _sched_getaffinity(machine: Machine, _pid: int, size: int, mask: int, *_: int) -> int:
    machine.write(mask, b"\1".ljust(size, b"\0"))
    return size


_LIBRARY: dict[str, Callable[..., int]] = {
    "calloc": lambda machine, count, size, *_: machine.allocate(count * size),
    "mmap": lambda machine, _address, size, *_: machine.allocate(size, 4096),
    "posix_memalign": _posix_memalign,
    "memcpy": _copy,
    "memmove": _copy,
    "memset": _set,
    "memcmp": _compare,
    "bcmp": _compare,
    "snprintf": _snprintf,
    "sched_getaffinity": _sched_getaffinity,
    **dict.fromkeys(
        ("free", "munmap", "mprotect", "madvise", "getpid", "getenv", "pthread_sigmask"),
        lambda *_: 0,
    ),
}
