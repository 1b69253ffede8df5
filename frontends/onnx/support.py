"""Which ops of a model can be imported: all of them looked up at once, with a remedy for each
that cannot.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx

from netloom.errors import UnsupportedOpError

from .functions import Key, key_of, local_functions
from .model_file import Source, opsets_of, read_model
from .names import printable
from .order import label, walk
from .registry import (
    ADDED_TO_STANDARD,
    DOMAIN_REMEDIES,
    DOMAINS,
    FOREIGN_REMEDIES,
    HANDLERS,
    INLINED,
    REMEDIES,
)
from .schema import find_schema
from .standard_function import has_body

MOST_NAMED = 3  # nodes listed for each op
FOREIGN = "Export without ops of that domain (graph optimisers of other tools insert them)."
WRONG_OPSET = "The op does not exist in opset {}: correct opset_import, or export the model again."


@dataclass(frozen=True)
class OpSupport:
    """One op type in one opset: how often it occurs, whether it can be imported, and if not,
    what to do.
    """

    op_type: str
    domain: str
    opset: int
    count: int
    nodes: tuple[str, ...]
    is_supported: bool
    remedy: str = ""

    @property
    def name(self) -> str:
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type

    def __str__(self) -> str:
        verdict = "supported" if self.is_supported else f"not supported. {self.remedy}"
        return f"{self.name} (opset {self.opset}) x {self.count}: {verdict}"


@dataclass(frozen=True)
class SupportReport:
    """Every op type of a model."""

    rows: tuple[OpSupport, ...]

    @property
    def missing(self) -> tuple[OpSupport, ...]:
        return tuple(row for row in self.rows if not row.is_supported)

    @property
    def is_supported(self) -> bool:
        return not self.missing

    def as_json(self) -> list[dict[str, Any]]:
        """Rows as plain data."""
        return [
            {
                "op": row.name,
                "opset": row.opset,
                "count": row.count,
                "nodes": list(row.nodes),
                "supported": row.is_supported,
                "remedy": row.remedy,
            }
            for row in self.rows
        ]

    def __str__(self) -> str:
        return "\n".join(map(str, self.rows))


def check(source: Source) -> SupportReport:
    """Every op x opset of a model, supported or not, with the nearest remedy. ModelError if it
    is no model.
    """
    model = read_model(source).model
    return report_support(model, local_functions(model))


def report_support(
    model: onnx.ModelProto, functions: dict[Key, onnx.FunctionProto]
) -> SupportReport:
    """The report of a model already read."""
    found: dict[tuple[str, str, int], list[str]] = {}
    for node, opset in _nodes(model, functions):
        domain, op_type, _ = key_of(node)
        found.setdefault((domain, op_type, opset), []).append(label(node))
    rows = [
        _row(domain, op_type, opset, nodes) for (domain, op_type, opset), nodes in found.items()
    ]
    return SupportReport(
        tuple(sorted(rows, key=lambda row: (row.is_supported, row.domain, row.op_type)))
    )


def _nodes(
    model: onnx.ModelProto, functions: dict[Key, onnx.FunctionProto]
) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Every node that is no call of a local function, with the opset of its domain; of functions,
    those that are called.
    """
    waiting: list[tuple[Any, Any]] = [(model.graph.node, model.opset_import)]
    called: set[Key] = set()
    while waiting:
        nodes, imports = waiting.pop()
        opsets = opsets_of(imports)
        for node in walk(nodes):
            key = key_of(node)
            if key not in functions:
                yield node, opsets.get(key[0], 0)
            elif key not in called:
                called.add(key)
                waiting.append((functions[key].node, functions[key].opset_import))


def _row(domain: str, op_type: str, opset: int, nodes: list[str]) -> OpSupport:
    remedy = _remedy(domain, op_type, opset)
    shown = tuple(dict.fromkeys(nodes))[:MOST_NAMED]
    return OpSupport(
        printable(op_type), printable(domain), opset, len(nodes), shown, not remedy, remedy
    )


def _remedy(domain: str, op_type: str, opset: int) -> str:
    """What to do about an op; "" if it is supported."""
    if domain:
        known = DOMAINS[domain].find(op_type, opset) if domain in DOMAINS else None
        general = DOMAIN_REMEDIES.get(domain, FOREIGN)
        return "" if known else FOREIGN_REMEDIES.get((domain, op_type), general)
    schema = find_schema(op_type, opset)
    if schema is None and ADDED_TO_STANDARD.find(op_type, opset):
        return ""
    if op_type in INLINED or HANDLERS.find(op_type, opset):
        return "" if schema is not None else WRONG_OPSET.format(opset)
    if has_body(op_type, opset):
        return ""
    if schema is not None and not schema.is_deprecated:
        return (
            REMEDIES.get(op_type) or _other_opset(op_type) or "Export the network with simpler ops."
        )
    if op_type in HANDLERS.entries:
        return WRONG_OPSET.format(opset)
    near = difflib.get_close_matches(op_type, HANDLERS.entries, 1)
    return REMEDIES.get(op_type) or (
        f"No such op; is {near[0]} meant?" if near else "ONNX has no such op."
    )


def _other_opset(op_type: str) -> str:
    handlers = HANDLERS.entries.get(op_type)
    if not handlers:
        return ""
    return f"Convert the model to opset {handlers[-1].first} or later with onnx.version_converter."


def refuse_unsupported(report: SupportReport) -> None:
    """One UnsupportedOpError that lists everything."""
    if report.is_supported:
        return
    lines = [
        f"  {row.name} (opset {row.opset}), nodes {', '.join(map(repr, row.nodes))} ({row.count} in all). {row.remedy}"
        for row in report.missing
    ]
    kinds = "one op that is" if len(lines) == 1 else f"{len(lines)} ops that are"
    raise UnsupportedOpError(f"the model holds {kinds} not supported:\n" + "\n".join(lines))
