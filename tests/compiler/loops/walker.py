"""Runs the control flow of a kernel's loops, computing no element: what a test wants to know of loads,
stores and hints, it notes in a class of its own."""

from __future__ import annotations

from collections.abc import Mapping

from netloom.compiler.dim import evaluate
from netloom.compiler.loops.ir import (
    Allocate,
    Block,
    For,
    If,
    Kernel,
    Let,
    Load,
    Prefetch,
    Statement,
    Store,
)
from netloom.compiler.scalar import post_order


class Walker:
    """What it meets is given to ``turned`` (each turn of a loop), ``allocated``, ``asked`` (a hint's
    element) and ``read`` (a load in what is stored), with the values of variables."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def run_item(self, number: int) -> None:
        self._run(self.kernel.body, {self.kernel.variable.name: number})

    def turns(self, loop: For, values: Mapping[str, int]) -> int:
        """How many turns of a loop are run."""
        return evaluate(loop.extent, values)

    def turned(self, loop: For) -> None: ...

    def allocated(self) -> None: ...

    def asked(self, element: Load, values: Mapping[str, int]) -> None: ...

    def read(self, load: Load, values: Mapping[str, int]) -> None: ...

    def _run(self, statement: Statement, values: Mapping[str, int]) -> None:
        match statement:
            case Block(statements):
                for inner in statements:
                    self._run(inner, values)
            case Let(symbol, extent, body):
                self._run(body, {**values, symbol.name: evaluate(extent, values)})
            case If(conditions, body):
                if all(evaluate(c, values) >= 0 for c in conditions):
                    self._run(body, values)
            case Allocate(_, body):
                self.allocated()
                self._run(body, values)
            case For(symbol, body=body):
                for number in range(self.turns(statement, values)):
                    self.turned(statement)
                    self._run(body, {**values, symbol.name: number})
            case Prefetch(element):
                self.asked(element, values)
            case Store(value=value):
                for node in post_order([value]):
                    if isinstance(node, Load):
                        self.read(node, values)
