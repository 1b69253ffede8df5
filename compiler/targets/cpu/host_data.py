"""A program -> the tables that the functions of its host code read, under one symbol, with one
function per entry that computes its sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from .entry_plan import EntryPlan
from .host import I8, I64
from .host_tables import (
    ENTRY,
    HOST_DATA,
    LEVEL,
    RUN_LENGTHS,
    Tables,
    write_entry,
    write_states,
    write_symbols,
    write_weights,
)
from .host_types import DATA_SYMBOL
from .segments import WEIGHTS_SYMBOL, Weights
from .variant import Variant


def write_data(
    variants: Sequence[Variant], weights: Weights, metadata: Sequence[str], image: bool
) -> ir.Module:
    """The module that defines DATA_SYMBOL; arguments are those of ``build_host_objects``
    (host_object.py).
    """
    module = ir.Module("host_data")
    module.triple = variants[0].architecture.triple
    tables, program = Tables(module), variants[0].program
    count = len(program.entries)
    entries = [
        write_entry(tables, variant.program, entry)
        for variant in variants
        for entry in variant.program.entries
    ]
    levels = [
        (tables.text(v.level), tables.text(metadata[n]), n * count) for n, v in enumerate(variants)
    ]
    plans = [
        [EntryPlan(v.program, v.program.entries[position]) for v in variants]
        for position in range(count)
    ]
    placements, pieces, expanded_bytes = write_weights(tables, weights)
    states, state_bytes = write_states(tables, program.states, weights)
    has_image = image and weights.size > 0
    row = {
        "symbols": write_symbols(tables, program),
        "symbol_count": len(program.symbols),
        "own_dims": max((len(plan.entry.bounds) for row in plans for plan in row), default=0),
        "levels": tables.records(LEVEL, levels),
        "entries": tables.records(ENTRY, entries),
        "runs": tables.records(RUN_LENGTHS, [_run_lengths(row) for row in plans]),
        "most_values": max((len(plan.values) for row in plans for plan in row), default=0),
        "weights": ir.GlobalVariable(module, I8, WEIGHTS_SYMBOL) if has_image else None,
        "placements": placements,
        "placement_count": len(weights.placements),
        "pieces": pieces,
        "expanded_bytes": expanded_bytes,
        "constants": tables.numbers(I64, weights.indices),
        "constant_count": len(program.constants),
        "states": states,
        "state_count": len(program.states),
        "state_bytes": state_bytes,
    }
    data = tables.record(HOST_DATA, [row[name] for name in HOST_DATA.fields], DATA_SYMBOL)
    data.linkage = ""
    return module


def _run_lengths(plans: Sequence[EntryPlan]) -> tuple[int, int, int, int]:
    """The row of RUN_LENGTHS of an entry: enough for any level."""
    program, entry = plans[0].program, plans[0].entry
    size = max(plan.bases["size"] for plan in plans)
    words = max(sum(map(len, plan.wiring)) for plan in plans)
    symbols = len(program.symbols) + max(len(plan.entry.bounds) for plan in plans)
    return size, words, symbols, len(entry.inputs) + len(entry.outputs)
