"""What each launch of a program computes beside what it takes: a profile's times with ops,
operations and bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from netloom.compiler.bodies import kernel_at
from netloom.compiler.driver import Compiled
from netloom.compiler.graph import Node, Value

from .operations import operations, stored_bytes
from .profile import KernelTime, profile


@dataclass(frozen=True)
class LaunchCost:
    """One launch of an inference. ``operations`` are those of its ops as written, ``bytes`` those
    of the tensors that it reads and writes, ``weight_bytes`` those of the constants among them."""

    node: str
    ops: tuple[str, ...]
    family: str
    strategy: str
    kernel: str
    items: int
    seconds: float
    operations: int
    bytes: int
    weight_bytes: int

    @property
    def gflops(self) -> float:
        return self.operations / self.seconds / 1e9

    @property
    def gigabytes(self) -> float:
        return self.bytes / self.seconds / 1e9


def launch_costs(
    compiled: Compiled, runs: int = 5, dims: Mapping[str, int] | None = None
) -> list[LaunchCost]:
    """What the entry ``run`` spends, launch by launch; those of a loop's body once. Copies have
    no node.
    """
    times = profile(compiled, runs=runs, dims=dims)
    strategies = {
        decision.node: decision.strategy for decision in compiled.decisions if decision.node
    }
    constants = {n.output for _, n in compiled.graphs["run"].walk() if n.op.name == "constant"}
    (entry,) = (entry for entry in compiled.program.entries if entry.name == "run")
    nodes = [kernel_at(compiled.graphs["run"], launch.node) for launch in entry.launches]
    return [
        _cost(node, item, strategies.get(item.label, ""), constants, dims or {})
        for node, item in zip(nodes, times, strict=True)
    ]


def _cost(
    kernel: Node | None,
    item: KernelTime,
    strategy: str,
    constants: Collection[Value],
    dims: Mapping[str, int],
) -> LaunchCost:
    body = (
        [node for node in kernel.attrs.body.nodes if node.op.name != "constant"] if kernel else []
    )
    sizes = (
        {value: stored_bytes(value, dims) for value in (*kernel.inputs, *kernel.outputs)}
        if kernel
        else {}
    )
    weights = sum(size for value, size in sizes.items() if value in constants)
    ops, family = (
        (tuple(node.op.name for node in body), _family(body, strategy))
        if body
        else (("copy",), "copy")
    )
    return LaunchCost(item.label, ops, family, strategy, item.kernel, item.items, item.seconds, operations(body, dims),
                      sum(sizes.values()), weights)  # fmt: skip


def _family(body: Sequence[Node], strategy: str) -> str:
    """What kind of work a kernel is: its op with the most operations, with the window of a
    convolution.
    """
    others = [node for node in body if not node.op.is_elementwise]
    if not others:
        return "elementwise"
    node = max(others, key=lambda node: operations([node], {}))
    name = node.op.name
    if name == "conv":
        return f"{strategy or 'conv'} {'x'.join(map(str, node.inputs[1].shape[2:]))}"
    return (
        f"{strategy}: {name}"
        if strategy and not name.startswith(strategy.partition("_")[0])
        else name
    )
