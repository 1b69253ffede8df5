"""``netloom ops | passes | strategies | targets``: the compiler's own lists, which also drive
it.
"""

from __future__ import annotations

import click

from .options import printing
from .output import Output, columns


@click.command()
@printing
def ops(output: Output) -> None:
    """List every op."""
    import netloom.compiler.graph  # noqa: F401  (fills OPS)
    from netloom.compiler.op import OPS

    rows = {name: op.doc for name, op in sorted(OPS.items())}
    output.result(rows, columns(list(rows.items())))


@click.command()
@printing
def strategies(output: Output) -> None:
    """List the ways of computing a convolution, or attention."""
    from netloom.compiler.strategies import STRATEGIES

    data = [{"name": s.name, "doc": s.doc} for s in STRATEGIES]
    rows = [[s.name, s.doc] for s in STRATEGIES]
    output.result(data, columns(rows, ("strategy", "what it is")))


@click.command()
@printing
def passes(output: Output) -> None:
    """List the passes in order, and why they stand there."""
    from netloom.compiler.driver import PIPELINE

    data = [
        {"name": item.name, "after": list(item.after), "why": item.why} for item in PIPELINE.passes
    ]
    output.result(data, columns([[item.name, item.why] for item in PIPELINE.passes]))


@click.command()
@printing
def targets(output: Output) -> None:
    """List the CPU levels that a program can be compiled for."""
    from netloom.compiler.targets.cpu.machine import CPUS, host_cpu

    host = host_cpu().name
    data = [
        {"name": cpu.name, "required": list(cpu.required), "host": cpu.name == host}
        for cpu in CPUS.values()
    ]
    rows = [
        [cpu.name, "this machine" if cpu.name == host else "", " ".join(cpu.required)]
        for cpu in CPUS.values()
    ]
    output.result(data, columns(rows))
