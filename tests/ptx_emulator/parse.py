"""PTX text -> instructions. Only what compiled kernels hold; anything else is an error, never
skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(%\w+)<(\d+)>;")
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\];")
_ENTRY = re.compile(r"\.visible\s+\.entry\s+(\w+)\((.*?)\)\s*(?:\.\w+[^{]*)?\{(.*)\n\}", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+(\w+)")
_LABEL = re.compile(r"(\$?\w+):$")
_GUARD = re.compile(r"@(!?)(%\w+)\s+(.*)", re.DOTALL)


@dataclass(frozen=True)
class Instruction:
    """``guard``: a predicate register and whether it must be false. Vector operands are tuples."""

    operation: str
    modifiers: tuple[str, ...]
    operands: tuple[str | tuple[str, ...], ...]
    guard: tuple[str, bool] | None
    text: str


@dataclass
class Kernel:
    """One entry. ``registers``: prefix -> class; ``shared``: name -> (offset, size)."""

    name: str
    parameters: dict[str, str]
    registers: dict[str, str]
    shared: dict[str, tuple[int, int]]
    shared_size: int
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> Kernel:
    """The one entry of a PTX module."""
    text = re.sub(r"//[^\n]*", "", text)
    found = _ENTRY.search(text)
    if found is None:
        raise ValueError("the PTX has no entry")
    name, parameters, body = found.groups()
    shared, size = _shared_layout(text)
    registers = {prefix: kind for kind, prefix, _ in _REGISTERS.findall(body)}
    kernel = Kernel(
        name, dict((n, kind) for kind, n in _PARAMETER.findall(parameters)), registers, shared, size
    )
    body = _SHARED.sub("", _REGISTERS.sub("", body))
    for statement in _statements(body):
        label = _LABEL.match(statement)
        if statement.startswith(".reg"):
            _declare(kernel, statement)
        elif label:
            kernel.labels[label.group(1)] = len(kernel.instructions)
        else:
            kernel.instructions.append(_instruction(statement))
    return kernel


def _declare(kernel: Kernel, statement: str) -> None:
    """A register of a scope of its own; names must not have two types."""
    _, kind, name = statement.split()
    if kernel.registers.setdefault(name, kind.removeprefix(".")) != kind.removeprefix("."):
        raise ValueError(f"the register {name} has two types")


def _shared_layout(text: str) -> tuple[dict[str, tuple[int, int]], int]:
    place, layout = 0, {}
    for align, name, size in _SHARED.findall(text):
        place = -(-place // int(align)) * int(align)
        layout[name] = (place, int(size))
        place += int(size)
    return layout, place


def _statements(body: str) -> list[str]:
    """Instructions, labels and declarations; braces that open or close a scope are left out."""
    body = re.sub(r"(\$\w+):", r"\1:;", body)
    result, current, depth = [], "", 0
    for letter in body:
        if letter in "{}":
            depth += 1 if letter == "{" else -1
            if not current.strip():
                continue
        if letter == ";":
            if current.strip():
                result.append(current.strip())
            current = ""
        else:
            current += letter
    if depth:
        raise ValueError("braces do not match")
    return result


def _instruction(statement: str) -> Instruction:
    guard = None
    match = _GUARD.match(statement)
    if match:
        guard, statement = (match.group(2), bool(match.group(1))), match.group(3)
    head, _, rest = statement.partition(" ") if " " in statement else statement.partition("\t")
    operation, *modifiers = head.strip().split(".")
    return Instruction(
        operation, tuple(modifiers), tuple(_operands(rest.strip())), guard, statement
    )


def _operands(text: str) -> list[str | tuple[str, ...]]:
    result: list[str | tuple[str, ...]] = []
    for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", text):
        if part.startswith("{"):
            result.append(tuple(item.strip() for item in part[1:-1].split(",")))
        else:
            result.append(part)
    return result
