"""``netloom inspect``: what a program or a model is, without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netloom.errors import ProgramError, UsageError

from .cuda import cuda_program_facts, is_cuda_program
from .models import inference_form, is_program, load_graph
from .options import Binding, binding_options, printing
from .output import Output, columns

if TYPE_CHECKING:
    from netloom.compiler.graph import Graph, Node


@click.command()
@click.argument("program")
@click.option(
    "--verify", is_flag=True, help="Compare a program's contents with its recorded digest."
)
@binding_options
@printing
def inspect(output: Output, program: str, verify: bool, binding: Binding) -> None:
    """Show what a PROGRAM (.so, .nlc) or a MODEL is: inputs, outputs, weights, ops, work,
    options, what it needs.
    """
    if is_cuda_program(program):
        facts = cuda_program_facts(program, output.as_json)
        if verify:
            facts["contents"] = "verified"  # reading such a file compares its digest
    elif not is_program(program):
        if verify:
            raise UsageError(
                "only programs record a digest of their contents.", hint="Give a .so or .nlc file."
            )
        facts = _model_facts(inference_form(load_graph(program, binding)))
    else:
        from netloom.runtime.program import verify_file
        from netloom.runtime.session import load

        if verify:
            verify_file(Path(program))
        session = load(program, threads=1)
        facts = program_facts(session.metadata)
        if verify:
            facts["contents"] = "verified"
        if output.as_json:
            facts = {**session.metadata, **({"contents": "verified"} if verify else {})}
    output.result(facts, _text(facts))


def program_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a program's manifest says; ProgramError if it does not say all of that."""
    try:
        return _manifest_facts(data)
    except KeyError as missing:
        raise ProgramError(
            f"The program's manifest has no {missing}.", hint="Compile the model again."
        ) from missing


def _manifest_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    entries = {
        entry["name"]: {
            "inputs": {port["name"]: _type(port) for port in entry["inputs"]},
            "outputs": {port["name"]: _type(port) for port in entry["outputs"]},
            "launches": entry["launches"],
            "arena bytes": entry["arena_bytes"],
            **_data_dims({row["name"]: row["most"] for row in entry.get("data_dims", ())}),
        }
        for entry in data["entries"]
    }
    strategies = Counter(row["strategy"] for row in data.get("strategies", ()))
    return {
        "name": data["name"],
        "target": f"{data['target']}, {data['options']['cpu']}",
        "CPU level in use": data["level"],
        "CPU features": _features(data["levels"]),
        "options": data["options"],
        "free dims": {
            row["name"]: f"{row['lo']}..{'' if row['hi'] is None else row['hi']}"
            for row in data["dims"]
        }
        or "none",
        **entries,
        "weights": f"{data['constant_bytes']} bytes in the file, {data['weight_bytes']} with their places",
        "states": len(data["states"]),
        "convolutions": dict(strategies) or "none",
        "source hash": data["source_hash"],
        "interface": data["abi"],
    }


def _data_dims(most: Mapping[str, object]) -> dict[str, Any]:
    """Dims that each run decides, if there are any."""
    listed = ", ".join(f"{name} ≤ {bound}" for name, bound in most.items())
    return {"decided by data": listed} if listed else {}


def _features(levels: list[dict[str, Any]]) -> str | dict[str, str]:
    """What a machine must have; for several levels, by level."""
    texts = {level["name"]: " ".join(level["features"]) or "none" for level in levels}
    return texts if len(texts) > 1 else next(iter(texts.values()))


def _type(port: dict[str, Any]) -> str:
    return f"{port['dtype']}[{', '.join(map(str, port['shape']))}]"


def _model_facts(graph: Graph) -> dict[str, Any]:
    """Sizes at the least value of free dims, but 1 at least."""
    from netloom.compiler.data_dims import bounds_of, data_dims

    nodes = [node for _, node in graph.walk()]
    counts = Counter(node.op.name for node in nodes if node.op.name != "constant")
    weights = [node.attrs.value for node in nodes if node.op.name == "constant"] + [
        state.initial for state in graph.states
    ]
    products = [count for node in nodes if (count := _products(node)) is not None]
    units = sum(prod(_nominal(node.output)) for node in nodes if _products(node) is not None)
    return {
        "name": graph.name,
        "inputs": {value.label: str(value.type) for value in graph.inputs},
        "outputs": {
            name: str(value.type)
            for name, value in zip(graph.output_names, graph.outputs, strict=True)
        },
        "free dims": {s.name: f"{s.lo}..{'' if s.hi is None else s.hi}" for s in graph.symbols}
        or "none",
        **_data_dims({symbol.name: bounds_of(graph)[symbol] for symbol in data_dims(graph)}),
        "states": len(graph.states),
        "weights": sum(constant.array.size for constant in weights),
        "units": units,
        "connections": sum(products),
        "FLOPs": 2 * sum(products),
        "ops": dict(counts.most_common()),
    }


def _products(node: Node) -> int | None:
    """Multiply-adds of a convolution or a matrix product; None for other ops."""
    match node.op.name:
        case "conv":
            return prod(_nominal(node.output)) * prod(_nominal(node.inputs[1])[1:])
        # as a transposed convolution; w is [o, c, k...], its input [n, o, p...]
        case "conv_input_gradient":
            return prod(_nominal(node.inputs[0])) * prod(_nominal(node.inputs[1])[1:])
        case "matmul":
            return prod(_nominal(node.output)) * _nominal(node.inputs[0])[-1]
    return None


def _nominal(value: Any) -> tuple[int, ...]:
    from netloom.compiler.strategies.strategy import nominal

    return nominal(value)


def _text(facts: dict[str, Any]) -> str:
    """Facts as lines, those of a dict indented below their name (two levels at most)."""
    lines: list[str] = []
    for key, value in facts.items():
        if not isinstance(value, dict):
            lines.append(f"{key}: {value}")
            continue
        lines.append(f"{key}:")
        rows = [[f"  {name}", _inner(item)] for name, item in value.items()]
        lines += [columns(rows)] if rows else []
    return "\n".join(lines)


def _inner(item: Any) -> str:
    return (
        ", ".join(f"{name} {value}" for name, value in item.items())
        if isinstance(item, dict)
        else str(item)
    )
