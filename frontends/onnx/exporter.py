"""Graph -> ONNX model. Ops that ONNX has are written as such; the others as their formula or
decomposition.

Free dims become dim_params, states become initializers (their updates are not exported: ONNX graphs
have no state), and large splats become ConstantOfShape nodes, so a light network stays a light
file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx
from onnx import helper

from netloom.compiler import scalar
from netloom.compiler.dim import Dim, Symbol
from netloom.compiler.formula import emit_formula
from netloom.compiler.graph import Builder, Graph, Node, Value
from netloom.compiler.rewrite import without_dead_nodes
from netloom.compiler.tensor_type import TensorType
from netloom.errors import UnsupportedOpError, UsageError

from .emitter import Emitter
from .export_rules import RULES
from .handler import LATEST_OPSET
from .tensors import ONNX_DTYPES

DEFAULT_OPSET: Final = 18
OLDEST_OPSET: Final = 13
LARGEST_MODEL: Final = (1 << 31) - 1


def to_onnx(
    graph: Graph, path: str | os.PathLike[str] | None = None, opset: int = DEFAULT_OPSET
) -> onnx.ModelProto:
    """Write a graph as an ONNX model, to ``path`` too if one is given (whole or not at all).

    UnsupportedOpError lists all ops that ONNX cannot express; UsageError for an opset outside
    13..28.
    """
    if not OLDEST_OPSET <= opset <= LATEST_OPSET:
        raise UsageError(
            f"models are exported with opset {OLDEST_OPSET} to {LATEST_OPSET}, not {opset}."
        )
    model = _Exporter(graph, opset).model()
    if path is not None:
        _write(model, Path(path))
    return model


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Old or new, never torn: a temporary file in the same folder takes the place of the old
    one.
    """
    if model.ByteSize() > LARGEST_MODEL:
        raise UsageError(
            f"the model has {model.ByteSize()} bytes; an ONNX file holds at most {LARGEST_MODEL}."
        )
    if path.exists() and not path.is_file():
        raise UsageError(
            f"{path} cannot be written: it is no regular file.", hint="Choose another path."
        )
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".netloom-", suffix=".onnx")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another path."
        ) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(model.SerializeToString(deterministic=True))
            file.flush()
            os.fsync(descriptor)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another path."
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


class _Exporter:
    def __init__(self, graph: Graph, opset: int) -> None:
        self.graph = graph
        names = [value.label for value in graph.inputs]
        taken = [*names, *graph.output_names, *(state.name for state in graph.states)]
        if len(set(taken)) < len(taken):
            raise UsageError(
                "inputs, outputs and states of the graph share a name.", hint="Rename one of them."
            )
        self.emit = Emitter(opset, taken)
        self.names: dict[Value, str] = dict(zip(graph.inputs, names, strict=True))

    def model(self) -> onnx.ModelProto:
        nodes = without_dead_nodes(replace(self.graph, states=())).nodes  # updates are not exported
        self._place_sources(
            {value for node in nodes for value in node.inputs}.union(self.graph.outputs)
        )
        self._refuse(nodes)
        for node in nodes:
            self._export(node)
        for value, name in zip(self.graph.outputs, self.graph.output_names, strict=True):
            self.emit.nodes.append(helper.make_node("Identity", [self.names[value]], [name]))
        return self._assembled()

    def _place_sources(self, read: set[Value]) -> None:
        """Where free dims can be read, and the states that are."""
        for value in self.graph.inputs:
            for axis, extent in enumerate(value.shape):
                if isinstance(extent, Dim) and len(extent.terms) == 1 and extent.terms[0][1] == 1:
                    atoms = extent.terms[0][0]
                    if len(atoms) == 1 and isinstance(atoms[0], Symbol):
                        self.emit.symbols.setdefault(atoms[0], (value.label, axis))
        for state in self.graph.states:
            if state.input in read:
                self.names[state.input] = self.emit.tensor(state.initial.array, state.name)

    def _assembled(self) -> onnx.ModelProto:
        inputs = [_info(value.label, value.type) for value in self.graph.inputs]
        outputs = [
            _info(n, v.type)
            for n, v in zip(self.graph.output_names, self.graph.outputs, strict=True)
        ]
        body = helper.make_graph(_without_copies(self.emit.nodes, self.graph.output_names), self.graph.name or "graph",
                                 inputs, outputs, self.emit.initializers)  # fmt: skip
        imports = [helper.make_opsetid("", self.emit.opset)]
        model = helper.make_model(body, opset_imports=imports, producer_name="netloom")
        model.ir_version = helper.find_min_ir_version_for(imports)
        return model

    # -- nodes -------------------------------------------------------------------------------------

    def _refuse(self, nodes: Sequence[Node]) -> None:
        """All ops without an ONNX form, at once."""
        stack = list(nodes)
        found: dict[str, str] = {}
        while stack:
            node = stack.pop()
            expansion = None if node.op.name in RULES else _expanded(node)
            if expansion is not None:
                stack += expansion[0]
            elif node.op.name not in RULES:
                found.setdefault(node.op.name, node.label)
        if found:
            listed = ", ".join(
                f"{name} ({label!r})" if label else name for name, label in sorted(found.items())
            )
            raise UnsupportedOpError(
                f"ONNX has no form of {listed}.", hint="Export the network's inference form."
            )

    def _export(self, first: Node) -> None:
        """One node; those that it decomposes into in its place (an explicit stack)."""
        stack: list[Node | tuple[Sequence[Value], Sequence[Value]]] = [first]
        while stack:
            item = stack.pop()
            if isinstance(item, tuple):
                for old, new in zip(*item, strict=True):
                    self.names[old] = self.names[new]
                continue
            rule = RULES.get(item.op.name)
            self.emit.label = item.label
            if rule is not None:
                self.names[item.output] = rule(
                    self.emit, item, [self.names[value] for value in item.inputs]
                )
                continue
            expansion = _expanded(item)
            assert expansion is not None  # else refused before
            nodes, results = expansion
            stack.append((item.outputs, results))
            stack += reversed(nodes)


def _expanded(node: Node) -> tuple[list[Node], Sequence[Value]] | None:
    """The smaller nodes that a node stands for, and its outputs among their values."""
    b = Builder()
    b.label = node.label
    if node.op.decompose is not None:
        return b.nodes, node.op.decompose(b, node)
    if node.op.formula is not None and node.op.name not in scalar.SCALAR_FUNCTIONS:
        arguments = [scalar.Argument(i, value.dtype) for i, value in enumerate(node.inputs)]
        return b.nodes, [emit_formula(b, node.op.formula(node.attrs, *arguments), node.inputs)]
    return None


def _without_copies(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]
) -> list[onnx.NodeProto]:
    """Identity nodes before outputs removed: their producer takes the output's name, once for
    each producer.
    """
    makers = {name for node in nodes if node.op_type != "Identity" for name in node.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in nodes:
        is_copy = node.op_type == "Identity" and node.output[0] in outputs
        if is_copy and node.input[0] in makers and node.input[0] not in renamed:
            renamed[node.input[0]] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = renamed.get(name, name)
    return kept


def _info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    shape = [extent if isinstance(extent, int) else str(extent) for extent in type.shape]
    return helper.make_tensor_value_info(name, ONNX_DTYPES[type.dtype], shape)
