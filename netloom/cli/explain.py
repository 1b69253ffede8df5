"""``netloom explain``: why a model is computed as it is. Nothing is turned into machine code for
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .cuda import device_options
from .models import check_override, compiler_options, inference_form, load_graph
from .options import Binding, Build, binding_options, build_options, printing
from .output import Output, columns

if TYPE_CHECKING:
    from netloom.compiler.driver import Compiled
    from netloom.compiler.graph import Graph, Node
    from netloom.compiler.passes.select_strategies import Decision


@click.command()
@click.argument("model")
@binding_options
@build_options
@printing
def explain(output: Output, model: str, binding: Binding, build: Build) -> None:
    """Say how MODEL is computed: the strategy of each convolution and attention and why,
    fusions, memory, pass times.
    """
    from netloom.compiler.driver import plan_graph

    if build.target == "cuda":
        _explain_for_device(output, inference_form(load_graph(model, binding)), build)
        return
    compiled = plan_graph(inference_form(load_graph(model, binding)), compiler_options(build))
    check_override(compiled.decisions, build.conv_strategy)
    rows = [_decision(decision, number) for number, decision in enumerate(compiled.decisions)]
    attentions = [
        row
        for row, decision in zip(rows, compiled.decisions, strict=True)
        if decision.op == "attention"
    ]
    convolutions = [row for row in rows if row not in attentions]
    data = {
        "cpu": compiled.levels,
        "convolutions": convolutions,
        "attentions": attentions,
        **_facts(compiled),
    }
    measured = tuned(summary_of(compiled))
    head = f"target {compiled.levels}, accuracy {build.accuracy}{measured}, {_summary(compiled.decisions)}"
    output.result(
        data,
        "\n\n".join([head, *(_decision_text(output, row) for row in rows), _facts_text(compiled)]),
    )


def _explain_for_device(output: Output, graph: Graph, build: Build) -> None:
    """The same for the cuda target: decisions at a device's rates, and the form of each kernel.
    Needs no CUDA tools.
    """
    from netloom.compiler.bodies import kernel_at
    from netloom.compiler.targets.cuda.driver import PIPELINE, plan
    from netloom.compiler.targets.cuda.estimates import grid_text
    from netloom.compiler.targets.cuda.program_file import form_text

    options = device_options(build)
    program, placement, fused = plan({"run": graph}, PIPELINE, options)
    check_override(options.decisions, build.conv_strategy)
    decisions = [_decision(decision, number) for number, decision in enumerate(options.decisions)]
    attentions = [
        row
        for row, decision in zip(decisions, options.decisions, strict=True)
        if decision.op == "attention"
    ]
    convolutions = [row for row in decisions if row not in attentions]
    (entry,) = program.entries
    kernels = [
        {"kernel": form_text(placement.forms[launch.kernel].form), "node": launch.label,
         "grid": grid_text(placement.forms[launch.kernel]),
         "ops": " > ".join(fused_ops(node)) if (node := kernel_at(fused["run"], launch.node)) else "copy"}
        for launch in entry.launches
    ]  # fmt: skip
    slots = [str(slot) for slot in entry.slots]
    data = {"target": "cuda", "precision": options.precision, "convolutions": convolutions, "attentions": attentions,
            "launches": kernels,
            "different_kernels": len(placement.forms), "arena_slots": slots}  # fmt: skip
    head = f"target cuda, precision {options.precision}, accuracy {build.accuracy}, {_summary(options.decisions)}"
    rows = (
        columns([[f"  {row['kernel']}", row["grid"], row["ops"], row["node"]] for row in kernels])
        if kernels
        else ""
    )
    parts = [head, *(_decision_text(output, row) for row in decisions),
             f"run: {len(kernels)} kernels launched, {len(placement.forms)} different\n{rows}",
             f"memory: {len(slots)} slots of {', '.join(slots) or 'none'} bytes"]  # fmt: skip
    output.result(data, "\n\n".join(parts))


def _summary(decisions: Sequence[Decision]) -> str:
    """How many convolutions and attentions there are, and how many of them each strategy got."""
    counts = Counter(decision.strategy for decision in decisions)
    chosen = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    attentions = sum(decision.op == "attention" for decision in decisions)
    nodes = f"{len(decisions) - attentions} convolutions" + (
        f" and {attentions} attentions" if attentions else ""
    )
    return nodes + (f": {chosen}" if chosen else "")


def summary_of(compiled: Compiled) -> Mapping[str, int] | None:
    """What the tuner counted, if the program was tuned."""
    return compiled.tuner.summary if compiled.tuner is not None else None


def tuned(counts: Mapping[str, int] | None) -> str:
    """How many layers were measured, if the program was tuned; to be put behind other facts."""
    if counts is None:
        return ""
    left = counts["layers"] - counts["measured"]
    rest = (
        f" ({left} left to the estimate: the time was over, or they could not be measured)"
        if left
        else ""
    )
    return (
        f", tuned: {counts['measured']} of {counts['layers']} layers with a choice measured{rest}"
    )


def _decision(decision: Decision, number: int) -> dict[str, Any]:
    """The convolution, what was chosen, and each candidate with its time or the reason against
    it, the best first.
    """
    candidates: list[dict[str, Any]] = []
    for name, seconds in sorted(decision.seconds.items(), key=lambda item: _rank(decision, *item)):
        candidates.append({"strategy": name, "seconds": seconds,
                           "measured": decision.measured.get(name),
                           "verdict": "; ".join(filter(None, (_verdict(decision, name),
                                                              decision.notes.get(name))))})  # fmt: skip
    candidates += [{"strategy": name, "seconds": None, "measured": None,
                    "verdict": f"rejected: {reason}"}
                   for name, reason in decision.rejected.items()]  # fmt: skip
    return {"node": decision.node or f"{decision.op} {number}", "shape": decision.shape,
            "strategy": decision.strategy,
            "candidates": candidates}  # fmt: skip


def _rank(decision: Decision, name: str, seconds: float) -> tuple[bool, float]:
    """Candidates that were measured come first, in the order of their times."""
    return name not in decision.measured, decision.measured.get(name, seconds)


def _verdict(decision: Decision, name: str) -> str:
    if decision.measured:
        return _measured_verdict(decision, name)
    seconds, chosen = decision.seconds[name], decision.seconds[decision.strategy]
    if name == decision.strategy:
        return (
            "chosen: the least estimated time"
            if seconds == min(decision.seconds.values())
            else "chosen: asked for"
        )
    if seconds < chosen:
        return f"not chosen: another was asked for, of {chosen / seconds:.2f} times the time"
    return f"not chosen: {seconds / chosen:.2f} times the time of {decision.strategy}"


def _measured_verdict(decision: Decision, name: str) -> str:
    times = decision.measured
    if name == decision.strategy:
        return f"chosen: measured {times[name] * 1e3:.3f} ms, the least"
    if name not in times:
        return "not chosen: not measured, its estimate is too high or it failed"
    ratio = times[name] / times[decision.strategy]
    measured = f"measured {times[name] * 1e3:.3f} ms"
    return f"not chosen: {measured}, {ratio:.2f} times {decision.strategy}"


def _decision_text(output: Output, row: dict[str, Any]) -> str:
    lines = columns([[f"  {item['strategy']}",
                      "" if item["seconds"] is None else f"{item['seconds'] * 1e3:9.3f} ms",
                      item["verdict"]]
                     for item in row["candidates"]])  # fmt: skip
    head = columns([[row["node"], row["shape"], row["strategy"]]])
    return f"{output.styled(head, bold=True)}\n{lines}"


def _facts(compiled: Compiled) -> dict[str, Any]:
    entries = []
    for entry in compiled.program.entries:
        report = compiled.reports[entry.name]
        entries.append({
            "name": entry.name,
            "kernels": [
                " > ".join(fused_ops(node))
                for node in compiled.graphs[entry.name].nodes
                if node.op.name == "kernel"
            ],
            "arena_slots": [str(slot) for slot in entry.slots],
            "passes": [{"pass": step.name, "seconds": step.seconds,
                        "nodes": [step.nodes_before, step.nodes_after]}
                       for step in report.steps],
        })  # fmt: skip
    return {"different_kernels": len(compiled.program.kernels), "entries": entries}


def fused_ops(node: Node) -> list[str]:
    """The ops of a kernel node in order."""
    return [inner.op.name for inner in node.attrs.body.nodes if inner.op.name != "constant"]


def _facts_text(compiled: Compiled) -> str:
    parts = []
    for entry in compiled.program.entries:
        graph = compiled.graphs[entry.name]
        kernels = [node for node in graph.nodes if node.op.name == "kernel"]
        rows = [
            [f"  {node.output.type}", " > ".join(fused_ops(node)), node.label] for node in kernels
        ]
        parts.append(
            f"{entry.name}: {len(kernels)} kernels launched, {len(compiled.program.kernels)} "
            f"different\n{columns(rows)}"
        )
        slots = ", ".join(map(str, entry.slots)) or "none"
        parts.append(f"memory: {len(entry.slots)} slots of {slots} bytes")
        report = compiled.reports[entry.name]
        parts.append(f"passes, {report.seconds:.2f} s in all:\n{report}")
    return "\n\n".join(parts)
