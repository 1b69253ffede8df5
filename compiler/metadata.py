"""What a program says of how it was compiled: the manifest has it, and ``netloom inspect`` prints it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .text import print_graph

if TYPE_CHECKING:
    from .driver import Options
    from .graph import Graph
    from .passes.select_strategies import Decision
    from .targets.cpu.machine import Cpu


def metadata_of(
    graphs: Mapping[str, Graph], cpus: Sequence[Cpu], options: Options
) -> dict[str, Any]:
    """Options, a digest of the source, and the strategies that were chosen."""
    text = "\n".join(print_graph(graph) for graph in graphs.values())
    found = {"options": {"cpu": ",".join(cpu.name for cpu in cpus), "accuracy": options.accuracy},
             "source_hash": hashlib.sha256(text.encode()).hexdigest(),
             "strategies": [_record(d) for d in options.decisions],
             "threads": options.threads}  # fmt: skip
    return found if options.tuner is None else {**found, "tuning": options.tuner.summary}


def _record(decision: Decision) -> dict[str, Any]:
    """What a program says of a convolution; seconds where they were measured."""
    found: dict[str, Any] = {
        "node": decision.node,
        "shape": decision.shape,
        "strategy": decision.strategy,
    }
    return {**found, "measured": dict(decision.measured)} if decision.measured else found


__all__ = ["metadata_of"]
