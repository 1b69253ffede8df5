"""The text of kernels: what dumps show and what tells equal kernels apart. Names inside are made canonical."""

from __future__ import annotations

from ..scalar import Argument, Bitcast, Call, Cast, Checked, Expr, Guarded, Index, Literal
from .ir import Allocate, Block, Buffer, For, If, Kernel, LaneFold, Let, Load, Statement, Store


def print_kernel(kernel: Kernel, name: str = "") -> str:
    """A kernel, one statement a line. Two kernels with the same text (and name) mean the same."""
    arguments = [f"{b.name}: {b.dtype.value}[{', '.join(map(str, b.shape))}]" for b in kernel.buffers]
    arguments += [f"{s.name}: {s.lo}..{'' if s.hi is None else s.hi}" for s in kernel.symbols]
    head = f"kernel {name or kernel.name}({', '.join(arguments)})"
    return f"{head}\nparallel {kernel.variable} < {kernel.items}:\n" + "\n".join(_lines(kernel.body, 1)) + "\n"


def _lines(root: Statement, depth: int) -> list[str]:
    lines: list[str] = []
    stack: list[tuple[Statement, int]] = [(root, depth)]
    while stack:
        item, level = stack.pop()
        indent = "  " * level
        match item:
            case Block(statements):
                stack += [(inner, level) for inner in reversed(statements)]
            case For(variable, extent, kind, body):
                lines.append(f"{indent}{kind.value} {variable} < {extent}:")
                stack.append((body, level + 1))
            case If(conditions, body):
                lines.append(f"{indent}if {' and '.join(f'{c} >= 0' for c in conditions)}:")
                stack.append((body, level + 1))
            case Let(variable, extent, body):
                lines.append(f"{indent}let {variable} = {extent}")
                stack.append((body, level))
            case Allocate(buffer, body):
                lines.append(f"{indent}local {_declaration(buffer)}")
                stack.append((body, level))
            case Store(buffer, index, value):
                lines.append(f"{indent}{buffer.name}[{', '.join(map(str, index))}] = {print_expression(value)}")
    return lines


def _declaration(buffer: Buffer) -> str:
    return f"{buffer.name}: {buffer.dtype.value}[{', '.join(map(str, buffer.shape))}]"


def print_expression(root: Expr) -> str:
    """An expression as nested calls."""
    match root:
        case Literal(value, dtype):
            return f"{value!r}:{dtype.value}"
        case Argument(position, _):
            return f"${position}"
        case Call(function, arguments, _):
            return f"{function}({', '.join(map(print_expression, arguments))})"
        case Cast(argument, dtype):
            return f"{dtype.value}({print_expression(argument)})"
        case Bitcast(argument, dtype):
            return f"bits_{dtype.value}({print_expression(argument)})"
        case Index(extent):
            return f"index({extent})"
        case Guarded(conditions, value, otherwise):
            where = " and ".join(f"{c} >= 0" for c in conditions)
            return f"({print_expression(value)} if {where} else {print_expression(otherwise)})"
        case Checked(index, extent):
            return f"checked({print_expression(index)}, {extent})"
        case Load(buffer, index):
            parts = [print_expression(p) if isinstance(p, Expr) else str(p) for p in index]
            return f"{buffer.name}[{', '.join(parts)}]"
        case LaneFold(buffer, index, combine):
            return f"fold_{combine}({buffer.name}[{', '.join(map(str, index))}])"
    raise TypeError(f"unknown expression {type(root).__name__}")
