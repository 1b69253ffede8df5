"""Executes a parsed kernel: all threads of all blocks at once as NumPy lanes, those at the lowest
address first.

Divergent lanes meet again where their addresses do. Warps are given no lockstep: only barriers
order threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .copies import Copies, copy_async
from .memory import BankTraffic, MemoryFault, Space
from .parse import Instruction, Kernel, parse
from .shuffles import shuffle
from .warpgroups import Warpgroups, fence, warpgroup_product

Array: TypeAlias = npt.NDArray[Any]
Operand: TypeAlias = "str | tuple[str, ...]"
_BASE, _GAP, _SHARED_WINDOW = 1 << 32, 1 << 12, 1 << 24
MOST_STEPS = 1_000_000
_TYPES = {"pred": "?", "f16": "f2", "f32": "f4", "f64": "f8"} | {
    f"{kind}{bits}": f"{'i' if kind == 's' else 'u'}{bits // 8}"
    for kind in "sub"
    for bits in (8, 16, 32, 64)
}


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(_TYPES[name])


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
        special = self._special(operand, active)
        if special is not None:
            return special.astype(dtype)
        if operand.startswith("%"):
            value = self._register(operand)[active]
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

    def _special(self, operand: str, active: Array) -> Array | None:
        match operand:
            case "%tid.x":
                return self.lanes[active] % self.threads
            case "%ctaid.x":
                return self.lanes[active] // self.threads
            case "%ntid.x":
                return np.full(active.size, self.threads)
            case "%nctaid.x":
                return np.full(active.size, self.blocks)
        return None

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
        register[active] = value

    # -- instructions ------------------------------------------------------------------------------

    def _execute(self, instruction: Instruction, active: Array) -> None:
        handler = _HANDLERS.get(instruction.operation)
        if handler is None:
            raise ValueError(f"the emulator does not know {instruction.text!r}")
        with np.errstate(all="ignore"):
            handler(self, instruction, active)

    def access(
        self, instruction: Instruction, operand: Operand, width: int, active: Array
    ) -> list[tuple[Space, Array, Array]]:
        """(space, byte offsets, positions among the active lanes) of an address operand."""
        assert isinstance(operand, str)
        match = re.fullmatch(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
        if match is None:
            raise ValueError(f"the emulator does not know the address {operand!r}")
        where, step = match.group(1), int(match.group(2) or "0", 0)
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
            inside = (address >= _SHARED_WINDOW) & (address < _SHARED_WINDOW + self.shared_size)
            parts = [(True, positions[inside]), (False, positions[~inside])]
            return [
                p
                for is_own, rows in parts
                if rows.size
                for p in self._in(
                    is_own, address[rows] - (_SHARED_WINDOW if is_own else 0), rows, active, width
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
        for one in np.unique(number):
            mine = number == one
            result.append((self.spaces[one], address[mine] - self.bases[one], rows[mine]))
        return result


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


Handler: TypeAlias = Callable[[Machine, Instruction, Array], None]


def _load(m: Machine, i: Instruction, active: Array) -> None:
    dtype = dtype_of(i.modifiers[-1])
    targets = i.operands[0] if isinstance(i.operands[0], tuple) else (i.operands[0],)
    if "param" in i.modifiers:
        name = str(i.operands[1]).strip("[]")
        m.write(
            targets[0], np.full(active.size, m.parameters[name], np.int64).astype(dtype), active
        )
        return
    width = dtype.itemsize * len(targets)
    data = np.empty((active.size, width), np.uint8)
    for space, offsets, rows in m.access(i, i.operands[1], width, active):
        data[rows] = space.load(offsets, width, m.lanes[active[rows]], m.epochs[active[rows]])
    for place, target in enumerate(targets):
        part = np.ascontiguousarray(data[:, place * dtype.itemsize : (place + 1) * dtype.itemsize])
        m.write(target, part.view(dtype)[:, 0], active)


def _store(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    sources = i.operands[1] if isinstance(i.operands[1], tuple) else (i.operands[1],)
    parts = [np.ascontiguousarray(m.read(s, kind, active))[:, None].view(np.uint8) for s in sources]
    data = np.concatenate(parts, axis=1)
    for space, offsets, rows in m.access(i, i.operands[0], data.shape[1], active):
        space.store(offsets, data[rows], m.lanes[active[rows]], m.epochs[active[rows]])


def _move(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    target, source = i.operands
    if isinstance(source, tuple):
        half = f"b{dtype_of(kind).itemsize * 8 // len(source)}"
        parts = [
            np.ascontiguousarray(m.read(s, half, active))[:, None].view(np.uint8) for s in source
        ]
        m.write(target, np.concatenate(parts, axis=1).view(dtype_of(kind))[:, 0], active)
    elif isinstance(target, tuple):
        data = np.ascontiguousarray(m.read(source, kind, active))[:, None].view(
            f"u{dtype_of(kind).itemsize // len(target)}"
        )
        for place, one in enumerate(target):
            m.write(one, np.ascontiguousarray(data[:, place]), active)
    else:
        m.write(target, m.read(source, kind, active), active)


def _to_generic(m: Machine, i: Instruction, active: Array) -> None:
    shift = _SHARED_WINDOW if "shared" in i.modifiers else 0
    value = m.read(i.operands[1], "b64", active)
    m.write(
        i.operands[0],
        value - np.uint64(shift) if "to" in i.modifiers else value + np.uint64(shift),
        active,
    )


def _plain(function: Callable[..., Array], arity: int) -> Handler:
    """All operands and the result have the instruction's type."""

    def handler(m: Machine, i: Instruction, active: Array) -> None:
        kind = i.modifiers[-1]
        values = [m.read(operand, kind, active) for operand in i.operands[1 : 1 + arity]]
        m.write(i.operands[0], np.asarray(function(*values)).astype(dtype_of(kind)), active)

    return handler


def _wide_of(kind: str) -> str:
    return f"{kind[0]}{int(kind[1:]) * 2}"


def _multiply(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    x, y = (m.read(operand, kind, active) for operand in i.operands[1:3])
    m.write(i.operands[0], _times(i, kind, x, y), active)


def _times(i: Instruction, kind: str, x: Array, y: Array) -> Array:
    if "wide" in i.modifiers:
        wide = dtype_of(_wide_of(kind))
        return x.astype(wide) * y.astype(wide)
    if "hi" in i.modifiers:
        bits = int(kind[1:])
        product = [(int(a) * int(b)) >> bits for a, b in zip(x, y, strict=True)]
        return np.array([p % (1 << bits) for p in product], f"u{bits // 8}").view(dtype_of(kind))
    return x * y


def _multiply_add(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    x, y = (m.read(operand, kind, active) for operand in i.operands[1:3])
    product = _times(i, kind, x, y)
    z = m.read(i.operands[3], _wide_of(kind) if "wide" in i.modifiers else kind, active)
    m.write(i.operands[0], product + z, active)


def _fma(x: Array, y: Array, z: Array) -> Array:
    """float32: the product is exact in float64, where the sum is made. float64 rounds twice."""
    return (x.astype(np.float64) * y + z).astype(x.dtype)


def _divide(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return x / y
    if x.dtype.kind == "u":
        return x // np.where(y == 0, 1, y)
    safe = np.where(y == 0, 1, y).astype(x.dtype)
    floor = x // safe
    return (floor + ((x - floor * safe != 0) & ((x < 0) != (safe < 0)))).astype(x.dtype)


def _remainder(x: Array, y: Array) -> Array:
    return np.fmod(x, np.where(y == 0, 1, y).astype(x.dtype))


_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "ne": lambda x, y: np.not_equal(x, y) & (x == x) & (y == y),  # noqa: PLR0124  (ordered)
    "neu": np.not_equal,
    "ltu": lambda x, y: ~(x >= y), "leu": lambda x, y: ~(x > y), "gtu": lambda x, y: ~(x <= y),
    "geu": lambda x, y: ~(x < y),
    "equ": lambda x, y: np.equal(x, y) | (x != x) | (y != y),  # noqa: PLR0124
    "num": lambda x, y: (x == x) & (y == y), "nan": lambda x, y: (x != x) | (y != y),  # noqa: PLR0124
}  # fmt: skip


def _set_predicate(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    x, y = (m.read(operand, kind, active) for operand in i.operands[1:3])
    value = _COMPARE[i.modifiers[0]](x, y)
    if len(i.operands) > 3:
        other = str(i.operands[3])
        last = m.read(other.lstrip("!"), "pred", active) != other.startswith("!")
        value = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[i.modifiers[1]](
            value, last
        )
    m.write(i.operands[0], value, active)


def _select(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    x, y = (m.read(operand, kind, active) for operand in i.operands[1:3])
    m.write(i.operands[0], np.where(m.read(i.operands[3], "pred", active), x, y), active)


_ROUND: dict[str, Callable[[Array], Array]] = {
    "rmi": np.floor,
    "rpi": np.ceil,
    "rzi": np.trunc,
    "rni": np.rint,
}


def _convert(m: Machine, i: Instruction, active: Array) -> None:
    target, source = i.modifiers[-2:]
    if target in ("tf32", "bf16x2"):
        _convert_rounding(m, i, active)
        return
    value = m.read(i.operands[1], source, active)
    rounding = next((r for r in i.modifiers if r in _ROUND), None)
    if rounding:
        value = _ROUND[rounding](value)
    to = dtype_of(target)
    if value.dtype.kind == "f" and to.kind in "iu":
        info = np.iinfo(to)
        wide = np.nan_to_num(value.astype(np.float64), nan=0.0)
        result = np.where(
            wide >= float(info.max), info.max, np.where(wide <= float(info.min), info.min, 0)
        ).astype(to)
        inside = (wide > float(info.min)) & (wide < float(info.max))
        result[inside] = wide[inside].astype(to)
        m.write(i.operands[0], result, active)
        return
    if "sat" in i.modifiers:
        raise ValueError(f"the emulator does not know {i.text!r}")
    m.write(i.operands[0], value.astype(to), active)


def _convert_rounding(m: Machine, i: Instruction, active: Array) -> None:
    """cvt.rna.tf32.f32: to nearest of 10 bits, halves away from zero. cvt.rn.bf16x2.f32: two, the
    first operand's above. NaN gives the canonical one."""
    match i.modifiers:
        case ("rna", "tf32", "f32"):
            x = m.read(i.operands[1], "f32", active)
            value = (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
            m.write(i.operands[0], np.where(np.isnan(x), np.uint32(0x7FFFFFFF), value), active)
        case ("rn", "bf16x2", "f32"):
            high, low = (
                _bfloat16_bits(m.read(operand, "f32", active)) for operand in i.operands[1:3]
            )
            m.write(i.operands[0], high << np.uint32(16) | low, active)
        case _:
            raise ValueError(f"the emulator does not know {i.text!r}")


def _bfloat16_bits(x: Array) -> Array:
    """To nearest, halves to even."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded)


def _not(m: Machine, i: Instruction, active: Array) -> None:
    value = m.read(i.operands[1], i.modifiers[-1], active)
    m.write(i.operands[0], ~value, active)


def _shift(is_left: bool) -> Handler:
    """Amounts beyond the width shift everything out."""

    def handler(m: Machine, i: Instruction, active: Array) -> None:
        kind = i.modifiers[-1]
        x, by = m.read(i.operands[1], kind, active), m.read(i.operands[2], "u32", active)
        bits = x.itemsize * 8
        least = np.minimum(by, bits - 1).astype(x.dtype)
        value = x << least if is_left else x >> least
        if is_left or x.dtype.kind == "u":
            value = np.where(by >= bits, 0, value).astype(x.dtype)
        m.write(i.operands[0], value, active)

    return handler


def _permute(x: Array, y: Array, selector: Array) -> Array:
    """Bytes of x (0 to 3) and y (4 to 7), picked by the selector's four nibbles; bit 3 of one
    repeats the byte's sign.
    """
    both = y.astype(np.uint64) << np.uint64(32) | x.astype(np.uint64)
    result = np.zeros_like(x)
    for place in range(4):
        nibble = selector >> np.uint32(4 * place) & np.uint32(15)
        byte = (
            both >> (nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8) & np.uint64(255)
        ).astype(np.uint32)
        sign = np.where(byte & 128, 255, 0).astype(np.uint32)
        result |= np.where(nibble & 8, sign, byte).astype(np.uint32) << np.uint32(8 * place)
    return result


def _dot_of_two(is_high: bool) -> Callable[..., Array]:
    """dp2a of unsigned numbers: z + x's two halves times two of y's bytes."""

    def value(x: Array, y: Array, z: Array) -> Array:
        by = y >> np.uint32(16) if is_high else y
        return (
            z
            + (x & np.uint32(0xFFFF)) * (by & np.uint32(255))
            + (x >> np.uint32(16)) * (by >> np.uint32(8) & np.uint32(255))
        )

    return value


def _dp2a(m: Machine, i: Instruction, active: Array) -> None:
    if i.modifiers[1:] != ("u32", "u32"):
        raise ValueError(f"the emulator does not know {i.text!r}")
    _plain(_dot_of_two(i.modifiers[0] == "hi"), 3)(m, i, active)


def _insert(m: Machine, i: Instruction, active: Array) -> None:
    """The low ``length`` bits of the first operand put into the second at ``start``."""
    kind = i.modifiers[-1]
    low, into = (m.read(operand, kind, active) for operand in i.operands[1:3])
    start, length = (m.read(operand, "u32", active) & 255 for operand in i.operands[3:5])
    bits = into.itemsize * 8
    ones = (1 << np.minimum(length, bits).astype(object)) - 1
    mask = np.array(
        [(int(o) << int(s)) % (1 << bits) for o, s in zip(ones, start, strict=True)], into.dtype
    )
    moved = np.array(
        [(int(v) << int(s)) % (1 << bits) for v, s in zip(low, start, strict=True)], into.dtype
    )
    m.write(i.operands[0], into & ~mask | moved & mask, active)


def _extract(m: Machine, i: Instruction, active: Array) -> None:
    """Bits [start, start + length), extended by their sign if the type has one."""
    kind = i.modifiers[-1]
    x = m.read(i.operands[1], kind, active)
    start, length = (m.read(operand, "u32", active) & 255 for operand in i.operands[2:4])
    bits = x.itemsize * 8
    inside = np.minimum(length, bits - np.minimum(start, bits))
    up = (bits - np.minimum(start, bits) - inside).astype(x.dtype)
    value = (x << up) >> (bits - inside).astype(x.dtype)
    m.write(i.operands[0], np.where(inside == 0, 0, value).astype(x.dtype), active)


WARP = 32


def _warps(m: Machine, i: Instruction, active: Array) -> Array:
    """The active lanes as [warps, 32]; an instruction of whole warps must find them whole."""
    whole = (
        m.lanes[active].reshape(-1, WARP) if active.size % WARP == 0 else np.zeros((1, 2), np.int64)
    )
    if (whole[:, 0] % WARP).any() or (np.diff(whole, axis=1) != 1).any() or m.threads % WARP:
        raise MemoryFault(f"{i.operation}: some threads of a warp are elsewhere")
    return whole


def _load_matrices(m: Machine, i: Instruction, active: Array) -> None:
    """ldmatrix x4: lane 8 j + r names row r (16 bytes) of matrix j; lane l gets word l % 4 of
    row l / 4 of each.
    """
    if i.modifiers != ("sync", "aligned", "m8n8", "x4", "shared", "b16"):
        raise ValueError(f"the emulator does not know {i.text!r}")
    warps = _warps(m, i, active)
    ((space, offsets, _),) = m.access(i, i.operands[1], 16, active)
    data = space.load(offsets, 16, m.lanes[active], m.epochs[active])
    # [warp, matrix, row, word]
    words = np.ascontiguousarray(data).view(np.uint32).reshape(len(warps), 4, 8, 4)
    for place, target in enumerate(i.operands[0]):
        m.write(target, words[:, place].reshape(-1), active)


def _multiply_matrices(m: Machine, i: Instruction, active: Array) -> None:
    """mma.sync.m16n8: the products are exact, each sum is rounded once (tensor cores truncate,
    and their order is theirs).
    """
    shapes = {("m16n8k8", "tf32"): _from_tf32, ("m16n8k16", "bf16"): _from_bfloat16}
    key = (i.modifiers[2], i.modifiers[6]) if len(i.modifiers) == 9 else ("", "")
    if key not in shapes:
        raise ValueError(f"the emulator does not know {i.text!r}")
    warps = len(_warps(m, i, active))

    def operand(number: int, kind: str) -> Array:
        names = i.operands[number]
        assert isinstance(names, tuple)
        # [warp, register, group, place]
        return np.stack([m.read(name, kind, active).reshape(warps, 8, 4) for name in names], 1)

    # [warp, register, group, place, element of a word]
    a, b = (shapes[key](operand(number, "b32")) for number in (1, 2))
    # registers: k, then rows
    left = a.reshape(warps, 2, 2, 8, -1).transpose(0, 2, 3, 1, 4).reshape(warps, 16, -1)
    right = b.reshape(warps, 2, 8, -1).transpose(0, 1, 3, 2).reshape(warps, -1, 8)
    # [warp, row half, column of two, row, pair]
    sums = operand(3, "f32").astype(np.float64).reshape(warps, 2, 2, 8, 4)
    products = (left @ right).reshape(warps, 2, 8, 4, 2).transpose(0, 1, 4, 2, 3)
    result = (sums + products).astype(np.float32).reshape(warps, 4, -1)
    for place, target in enumerate(i.operands[0]):
        m.write(target, result[:, place].reshape(-1), active)


def _power_of_two(x: Array) -> Array:
    """ex2.approx.ftz: here to the nearest, denormal results as zero."""
    power = np.exp2(x)
    return np.where(np.abs(power) < np.finfo(np.float32).tiny, np.float32(0), power)


def _from_tf32(words: Array) -> Array:
    """Tensor cores do not read the low 13 bits."""
    return (
        np.ascontiguousarray(words & np.uint32(0xFFFFE000))
        .view(np.float32)
        .astype(np.float64)[..., None]
    )


def _from_bfloat16(words: Array) -> Array:
    halves = np.stack([words << np.uint32(16), words & np.uint32(0xFFFF0000)], -1)
    return halves.view(np.float32).astype(np.float64)


_HANDLERS: dict[str, Handler] = {
    "ld": _load, "st": _store, "mov": _move, "cvta": _to_generic,
    "add": _plain(np.add, 2), "sub": _plain(np.subtract, 2), "mul": _multiply, "mad": _multiply_add,
    "fma": _plain(_fma, 3), "div": _plain(_divide, 2), "rem": _plain(_remainder, 2),
    "neg": _plain(np.negative, 1), "abs": _plain(np.abs, 1), "sqrt": _plain(np.sqrt, 1),
    "rcp": _plain(np.reciprocal, 1),
    "copysign": _plain(lambda sign, size: np.copysign(size, sign), 2),
    "max": _plain(np.fmax, 2), "min": _plain(np.fmin, 2),
    "and": _plain(np.bitwise_and, 2), "or": _plain(np.bitwise_or, 2),
    "xor": _plain(np.bitwise_xor, 2), "not": _not,
    "shl": _shift(True), "shr": _shift(False),
    "prmt": _plain(_permute, 3), "bfe": _extract, "bfi": _insert, "dp2a": _dp2a,
    "cp": copy_async, "wgmma": warpgroup_product, "fence": fence, "ldmatrix": _load_matrices,
    "mma": _multiply_matrices, "shfl": shuffle, "ex2": _plain(_power_of_two, 1),
    "setp": _set_predicate, "selp": _select, "cvt": _convert,
}  # fmt: skip
__all__ = ["MemoryFault", "emulate"]
