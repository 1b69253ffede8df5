"""``netloom machine``: this machine's figures, as an entry of the machine table that estimates
read.
"""

from __future__ import annotations

from dataclasses import asdict

import click

from .options import printing
from .output import Output


@click.command()
@printing
def machine(output: Output) -> None:
    """Measure this machine and print an entry for the machine table (10 s; nothing else should
    run).
    """
    from netloom.benchmarks.conditions import warnings
    from netloom.benchmarks.machine import entry_text, measure_entry

    doubts = warnings(2)
    for sentence in doubts:
        output.say(f"warning: {sentence}")
    entry = measure_entry()
    output.result({**asdict(entry), "warnings": doubts}, entry_text(entry))
