"""Executes a parsed kernel: all threads of all blocks at once as NumPy lanes, those at the lowest
address first.

Divergent lanes meet again where their addresses do. Warps are given no lockstep: only barriers
order threads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from .arithmetic import ARITHMETIC
from .bits import BITS
from .conversions import CONVERSIONS
from .copies import Copies
from .handlers import Array, Handler, dtype_of
from .matrices import MATRICES
from .memory import SHARED_WINDOW, BankTraffic, MemoryFault, Space, distinct
from .parse import Instruction, Kernel, parse
from .transfers import TRANSFERS
from .warpgroups import Warpgroups

Operand: TypeAlias = "str | tuple[str, ...]"
_BASE, _GAP = 1 << 32, 1 << 12
MOST_STEPS = 1_000_000
_SPECIAL = frozenset(("%tid.x", "%ctaid.x", "%ntid.x", "%nctaid.x"))
_HANDLERS: dict[str, Handler] = TRANSFERS | ARITHMETIC | CONVERSIONS | BITS | MATRICES


def emulate(
    ptx: str,
    blocks: int,
    threads: int,
    arguments: Sequence[Array | int],
    *,
    inputs: int = 0,
    flag: int | None = None,
    memory: Sequence[tuple[int, Array]] = (),
    most_steps: int = MOST_STEPS,
) -> BankTraffic:
    """Runs the kernel on arrays in place: pointers are arrays, int32 are ints. MemoryFault for what
    must not be.

    Gives the traffic of shared memory's banks.

    The first ``inputs`` arrays may not be written; argument number ``flag`` may be written by all
    threads at once. ``memory``: (address, bytes) in ascending order, for pointers given as ints.
    ``most_steps``: stretches of instructions between branches, after which a kernel counts as
    endless.
    """
    machine = Machine(parse(ptx), blocks, threads, arguments, inputs, flag, memory)
    machine.run(most_steps)
    return machine.traffic


class Machine:
    def __init__(
        self, kernel: Kernel, blocks: int, threads: int, arguments: Sequence[Array | int],
        inputs: int, flag: int | None,
        memory: Sequence[tuple[int, Array]],
    ) -> None:  # fmt: skip
        self.kernel, self.blocks, self.threads = kernel, blocks, threads
        self.lanes = np.arange(blocks * threads)
        self.registers: dict[str, Array] = {}
        self.traffic = BankTraffic()
        self.pc = np.zeros(self.lanes.size, np.int64)
        self.is_waiting = np.zeros(self.lanes.size, bool)
        self.has_left = np.zeros(self.lanes.size, bool)
        self.epochs = np.zeros(self.lanes.size, np.int64)
        self.parameters: dict[str, int] = {}
        self.spaces: list[Space] = []
        self.bases: list[int] = []
        for address, data in memory:
            self.bases.append(address)
            self.spaces.append(Space(f"memory at {address:#x}", data, 1, threads, True))
        self._bind(arguments, inputs, flag)
        smallest = 1 if any(i.operation in ("ld",
                                            "st") and "shared" in i.modifiers and dtype_of(i.modifiers[-1]).itemsize < 4
                            for i in kernel.instructions) else 4  # fmt: skip
        size = -(-kernel.shared_size // 16) * 16
        self.shared_size = size
        self.copies = Copies(self.lanes.size)
        self.warpgroups = Warpgroups(self.lanes.size)
        self.shared = Space(
            "shared memory", np.full(size * blocks, 0xFF, np.uint8), smallest, threads, False
        )

    def _bind(self, arguments: Sequence[Array | int], inputs: int, flag: int | None) -> None:
        place = max(
            [
                _BASE,
                *(
                    base + space.data.size + _GAP
                    for base, space in zip(self.bases, self.spaces, strict=True)
                ),
            ]
        )
        place = -(-place // _GAP) * _GAP
        if len(arguments) != len(self.kernel.parameters):
            raise ValueError(
                f"{self.kernel.name} takes {len(self.kernel.parameters)} arguments, not "
                f"{len(arguments)}"
            )
        for number, (name, value) in enumerate(zip(self.kernel.parameters, arguments, strict=True)):
            if isinstance(value, int):
                self.parameters[name] = value
                if number == flag:
                    self.spaces[self.bases.index(value)].is_checked_for_races = False
                continue
            data = value.reshape(-1).view(np.uint8)
            space = Space(f"buffer {number}", data, value.itemsize, self.threads, True)
            space.is_read_only = number < inputs
            space.is_checked_for_races = number != flag
            self.spaces.append(space)
            self.bases.append(place)
            self.parameters[name] = place
            place += -(-(data.size + _GAP) // _GAP) * _GAP

    # -- control -----------------------------------------------------------------------------------

    def run(self, most_steps: int) -> None:
        with np.errstate(all="ignore"):
            self._run(most_steps)

    def _run(self, most_steps: int) -> None:
        for _ in range(most_steps):
            runnable = ~(self.is_waiting | self.has_left)
            if not runnable.any():
                if self.has_left.all():
                    return
                self._release()
                continue
            lowest = int(self.pc[runnable].min())
            active = np.flatnonzero(runnable & (self.pc == lowest))
            others = self.pc[runnable & (self.pc != lowest)]
            self._straight(
                lowest, active, int(others.min()) if others.size else len(self.kernel.instructions)
            )
        raise MemoryFault("the kernel does not end")

    def _release(self) -> None:
        """All live threads wait: each block must be whole and at one barrier."""
        for block in range(self.blocks):
            own = slice(block * self.threads, (block + 1) * self.threads)
            if not self.is_waiting[own].any():
                continue
            if self.has_left[own].any() or np.unique(self.pc[own]).size > 1:
                raise MemoryFault("a barrier that not all threads of a block reach")
        self.epochs[self.is_waiting] += 1
        self.is_waiting[:] = False

    def _straight(self, pc: int, active: Array, end: int) -> None:
        """Runs the active lanes until they branch, wait, leave, or meet others."""
        while pc < end or pc == self.pc[active[0]] == end:
            if pc >= len(self.kernel.instructions):
                self.has_left[active] = True
                return
            instruction = self.kernel.instructions[pc]
            chosen = self._guarded(instruction, active)
            match instruction.operation:
                case "bra":
                    self.pc[active] = pc + 1
                    self.pc[chosen] = self.kernel.labels[str(instruction.operands[-1])]
                    return
                case "ret" | "exit":
                    self.pc[active] = pc + 1
                    self.has_left[chosen] = True
                    return
                case "bar" | "barrier":
                    self.pc[active] = pc + 1
                    self.is_waiting[chosen] = True
                    return
                case "":  # a directive, such as .pragma
                    pass
                case _ if chosen.size:
                    self._execute(instruction, chosen)
            pc += 1
        self.pc[active] = pc

    def _guarded(self, instruction: Instruction, active: Array) -> Array:
        if instruction.guard is None:
            return active
        register, is_negated = instruction.guard
        return active[self._register(register)[active] != is_negated]

    # -- operands ----------------------------------------------------------------------------------

    def _register(self, name: str) -> Array:
        if name not in self.registers:
            prefix = name.rstrip("0123456789")
            if prefix not in self.kernel.registers:
                raise ValueError(f"no register {name}")
            self.registers[name] = np.zeros(
                self.lanes.size, dtype_of(self.kernel.registers[prefix])
            )
        return self.registers[name]

    def read(self, operand: Operand, kind: str, active: Array) -> Array:
        """The operand's lanes as values of a PTX type (its low bits, if the register is wider)."""
        assert isinstance(operand, str)
        dtype = dtype_of(kind)
        if operand in _SPECIAL:
            return self._special(operand, active).astype(dtype)
        if operand.startswith("%"):
            register = self._register(operand)
            value = register.copy() if active.size == register.size else register[active]
            if value.dtype == dtype:
                return value
            if value.itemsize == dtype.itemsize:
                return value.view(dtype)
            return (
                np.ascontiguousarray(value)
                .view(f"u{value.itemsize}")
                .astype(f"u{dtype.itemsize}")
                .view(dtype)
            )
        return np.full(active.size, _immediate(operand, dtype, self._symbols()), dtype)

    def _symbols(self) -> dict[str, int]:
        return {name: place for name, (place, _) in self.kernel.shared.items()}

    def _special(self, operand: str, active: Array) -> Array:
        match operand:
            case "%tid.x":
                return self.lanes[active] % self.threads
            case "%ctaid.x":
                return self.lanes[active] // self.threads
            case "%ntid.x":
                return np.full(active.size, self.threads)
        return np.full(active.size, self.blocks)

    def write(self, operand: Operand, value: Array, active: Array) -> None:
        """To a register; narrower integers are extended by their sign."""
        assert isinstance(operand, str)
        register = self._register(operand)
        if value.dtype != register.dtype:
            if value.itemsize != register.itemsize:
                value = value.astype(
                    f"{'i' if value.dtype.kind == 'i' else 'u'}{register.itemsize}"
                )
            value = np.ascontiguousarray(value).view(register.dtype)
        if active.size == register.size:
            register[...] = value
        else:
            register[active] = value

    # -- instructions ------------------------------------------------------------------------------

    def _execute(self, instruction: Instruction, active: Array) -> None:
        handler = _HANDLERS.get(instruction.operation)
        if handler is None:
            raise ValueError(f"the emulator does not know {instruction.text!r}")
        handler(self, instruction, active)

    def access(
        self, instruction: Instruction, operand: Operand, width: int, active: Array
    ) -> list[tuple[Space, Array, Array]]:
        """(space, byte offsets, positions among the active lanes) of an address operand."""
        assert isinstance(operand, str)
        where, step = _address(operand)
        is_shared = "shared" in instruction.modifiers
        address = self.read(
            where,
            "b32"
            if is_shared and where.startswith("%r") and not where.startswith("%rd")
            else "b64",
            active,
        )
        address = address.astype(np.int64) + step
        positions = np.arange(active.size)
        if not is_shared and "global" not in instruction.modifiers:
            inside = (address >= SHARED_WINDOW) & (address < SHARED_WINDOW + self.shared_size)
            parts = [(True, positions[inside]), (False, positions[~inside])]
            return [
                p
                for is_own, rows in parts
                if rows.size
                for p in self._in(
                    is_own, address[rows] - (SHARED_WINDOW if is_own else 0), rows, active, width
                )
            ]
        return self._in(is_shared, address, positions, active, width)

    def _in(
        self, is_shared: bool, address: Array, rows: Array, active: Array, width: int
    ) -> list[tuple[Space, Array, Array]]:
        if is_shared:
            if ((address < 0) | (address + width > self.shared_size)).any():
                raise MemoryFault(
                    f"shared memory: an access at byte {int(address.max())} of {self.shared_size}"
                )
            self.traffic.note(address, width, self.lanes[active[rows]])
            block = self.lanes[active[rows]] // self.threads
            return [(self.shared, address + block * self.shared_size, rows)]
        number = np.searchsorted(np.asarray(self.bases), address, side="right") - 1
        if (number < 0).any():
            raise MemoryFault(
                f"an access at address {int(address.min()):#x}, which belongs to no buffer"
            )
        result = []
        for one in distinct(number):
            mine = number == one
            result.append((self.spaces[one], address[mine] - self.bases[one], rows[mine]))
        return result


@cache
def _address(operand: str) -> tuple[str, int]:
    """The register or symbol of an address, and how far behind it."""
    match = re.fullmatch(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
    if match is None:
        raise ValueError(f"the emulator does not know the address {operand!r}")
    return match.group(1), int(match.group(2) or "0", 0)


def _immediate(text: str, dtype: np.dtype[Any], symbols: dict[str, int]) -> Any:
    if text.startswith(("0f", "0F")):
        return np.array(int(text[2:], 16),
                        np.uint32).view(np.float32).astype(dtype if dtype.kind == "f" else np.float32).view(
            dtype if dtype.itemsize == 4 else dtype)  # fmt: skip
    if text.startswith(("0d", "0D")):
        return (
            np.array(int(text[2:], 16), np.uint64)
            .view(np.float64)
            .view(dtype if dtype.itemsize == 8 else np.float64)
        )
    value = symbols[text] if text in symbols else int(text, 0)
    bits = dtype.itemsize * 8
    return (
        np.array(value % (1 << bits), f"u{dtype.itemsize}").view(dtype)
        if dtype.kind != "b"
        else bool(value)
    )
