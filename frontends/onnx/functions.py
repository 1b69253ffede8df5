"""A model's local functions: found by name, measured before anything is inlined.

Ten functions that call each other ten times are ten thousand million nodes, so the number of nodes
after inlining is counted first (one addition per call), and a function that reaches itself is
refused.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, TypeAlias

import onnx

from netloom.errors import ModelError

from .names import printable
from .order import walk

MOST_NODES: Final = 1_000_000

Key: TypeAlias = tuple[str, str, str]


def key_of(node: onnx.NodeProto) -> Key:
    """What a call names: domain, name, overload."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type, node.overload)


def local_functions(model: onnx.ModelProto) -> dict[Key, onnx.FunctionProto]:
    """The functions by key; duplicates are refused."""
    found: dict[Key, onnx.FunctionProto] = {}
    for function in model.functions:
        key = (
            "" if function.domain == "ai.onnx" else function.domain,
            function.name,
            function.overload,
        )
        if key in found:
            raise ModelError(
                f"the function {printable(function.name)!r} is defined twice.", hint="Rename one."
            )
        found[key] = function
    return found


def check_expansion(model: onnx.ModelProto, functions: dict[Key, onnx.FunctionProto]) -> None:
    """Refuse a model of more than ``MOST_NODES`` nodes after inlining, and recursive functions."""
    counts = {key: _contents(function.node, functions) for key, function in functions.items()}
    sizes: dict[Key, int] = {}
    for start in functions:
        _measure(start, counts, sizes)
    own, calls = _contents(model.graph.node, functions)
    total = own + sum(number * sizes[key] for key, number in calls.items())
    if total > MOST_NODES:
        raise ModelError(f"the model has {total} nodes once its functions are inlined; the most is {MOST_NODES}.",
                         hint="Is it meant to exhaust memory? Otherwise split it.")  # fmt: skip


def _contents(nodes: object, functions: dict[Key, onnx.FunctionProto]) -> tuple[int, Counter[Key]]:
    """Number of nodes that call nothing, and of calls by function."""
    calls: Counter[Key] = Counter()
    own = 0
    for node in walk(nodes):  # type: ignore[arg-type]
        key = key_of(node)
        if key in functions:
            calls[key] += 1
        else:
            own += 1
    return own, calls


def _measure(
    start: Key, counts: dict[Key, tuple[int, Counter[Key]]], sizes: dict[Key, int]
) -> None:
    """Sizes after inlining, callees first; an explicit stack, so depth is no limit."""
    active: set[Key] = set()
    stack = [start]
    while stack:
        key = stack[-1]
        own, calls = counts[key]
        missing = [callee for callee in calls if callee not in sizes]
        if key in sizes:
            stack.pop()
        elif not missing:
            sizes[key] = 1 + own + sum(number * sizes[callee] for callee, number in calls.items())
            active.discard(key)
            stack.pop()
        elif key in active and any(callee in active for callee in missing):
            raise ModelError(
                f"the function {printable(key[1])!r} calls itself.",
                hint="Inline it when exporting.",
            )
        else:
            active.add(key)
            stack += missing
