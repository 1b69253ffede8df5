"""Cases as kernels: the loops of every kernel of a case, and arrays to run them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from netloom.compiler import dim, scalar
from netloom.compiler.driver import PIPELINE, TRAINING_PIPELINE, Options
from netloom.compiler.graph import Graph, Node, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.loops import ahead, bands, items, plan, tiling
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.ir import Kernel
from netloom.compiler.op import OPS, Array
from netloom.compiler.targets.cpu.machine import CPUS

from .cases import Case

MACHINE = CPUS["x86-64-v4"].machine
SMALL_ITEMS = 64  # multiply-adds of a work item, so that small shapes make several


@dataclass(frozen=True)
class Launch:
    """One kernel of a case with its arrays as they lie in memory, and what it must give."""

    node: Node
    kernel: Kernel
    arrays: list[Array]
    expected: Array
    symbols: dict[str, int]


def fused(case: Case) -> Graph:
    """The kernels of a case, as a graph."""
    pipeline = TRAINING_PIPELINE if case.is_training else PIPELINE
    least = 0 if case.in_bands else bands.LEAST_ENTRIES
    with patch.object(bands, "LEAST_ENTRIES", least):
        return pipeline.run(case.make(), Options(override=case.strategy))[0]


def feeds(case: Case, graph: Graph) -> dict[str, Array]:
    """Small integers for every input."""
    rng = np.random.default_rng(7)
    found: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.type.evaluate(case.symbols)
        numbers = case.inputs.get(
            value.label, rng.integers(-3 if value.dtype.is_signed else 0, 4, shape)
        )
        found[value.label] = np.asarray(numbers).astype(value.dtype.numpy).reshape(shape)
    return found


def kernels_of(
    case: Case, item_work: int = items.ITEM_WORK, machine: Machine = MACHINE
) -> list[Kernel]:
    """The loops of every kernel of a case; ``item_work``: multiply-adds or elements that a work
    item should hold.
    """
    return [
        kernel_of(node, item_work, machine)
        for node in fused(case).nodes
        if node.op is OPS["kernel"]
    ]


def kernel_of(node: Node, item_work: int = items.ITEM_WORK, machine: Machine = MACHINE) -> Kernel:
    """The loops of a kernel node; chains of additions are no longer than a work item,
    and every operand counts as one that no cache holds."""
    chain = min(plan.CHAIN, item_work)
    with (
        patch.object(items, "ITEM_WORK", item_work),
        patch.object(plan, "CHAIN", chain),
        patch.object(tiling, "CHAIN", chain),
        patch.object(bands, "CHAIN", chain),
        patch.object(ahead, "NEAR", 0),
    ):
        return build_kernel("kernel", node.attrs.body, machine)


def launches(case: Case) -> Iterator[Launch]:
    """Every kernel of a case in small work items, with the values that the graph's interpretation
    gives its inputs and its output."""
    graph = fused(case)
    values = interpret(graph, feeds(case, graph), values=True)
    for node in graph.nodes:
        if node.op is OPS["kernel"]:
            arrays = [in_memory(v, values[v]) for v in node.inputs]
            yield Launch(
                node,
                kernel_of(node, SMALL_ITEMS),
                arrays,
                in_memory(node.output, values[node.output]),
                case.symbols,
            )


def drawn(kernel: Kernel, symbols: Mapping[str, int], rng: np.random.Generator) -> list[Array]:
    """Random numbers for the inputs of a kernel, as they lie in memory. Floats have 24 bits, so
    that products of two float64 numbers are exact: NumPy has no fma that would round them once
    with the sum."""
    arrays = []
    for buffer in kernel.buffers[:-1]:
        shape = tuple(dim.evaluate(e, symbols) for e in buffer.shape)
        if buffer.dtype.is_float:
            numbers: Array = rng.standard_normal(shape, np.float32)
        else:
            numbers = rng.integers(-4 if buffer.dtype.is_signed else 0, 5, shape)
        arrays.append(scalar.cast_array(np.asarray(numbers), buffer.dtype))
    return arrays


def in_memory(value: Value, array: Array) -> Array:
    """An array as it lies in memory under its value's layout."""
    return array if value.layout is None else np.asarray(value.layout.pack(array))
