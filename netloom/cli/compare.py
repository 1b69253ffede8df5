"""``netloom compare``: a model's code against the graph's own meaning, ONNX Runtime, or another
program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from netloom.errors import ComparisonError, ToolchainError, UsageError

from .models import (
    compile_model,
    dims_of_inputs,
    inference_form,
    is_program,
    listed,
    load_graph,
    load_session,
)
from .options import Binding, Build, binding_options, in_process_options, printing
from .output import Output, columns

if TYPE_CHECKING:
    from netloom.compiler.graph import Graph

Arrays = Mapping[str, Any]
_HEADS = ("output", "relative L2", "max error / max", "")


@click.command()
@click.argument("model")
@click.option(
    "--with",
    "other",
    default="reference",
    show_default=True,
    help="reference (the interpreter), onnxruntime, or a .so file.",
)
@click.option(
    "--per-node",
    is_flag=True,
    help="Compare every node's outputs with the interpreter's; fuses less.",
)
@click.option("--tolerance", default=5e-5, show_default=True, help="Largest relative L2 distance.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the random inputs."
)
@binding_options
@in_process_options
@printing
def compare(
    output: Output,
    model: str,
    other: str,
    per_node: bool,
    tolerance: float,
    seed: int,
    binding: Binding,
    build: Build,
) -> None:
    """Compare MODEL's compiled code with the interpreter, ONNX Runtime or a program, on random
    inputs.

    Exit code 1 if an output is further away than the tolerance.
    """
    from netloom.runtime.session import Session

    from .arrays import gather_inputs

    graph = None if is_program(model) else inference_form(load_graph(model, binding))
    if graph is None and (per_node or not is_program(other)):
        raise UsageError(
            f"a program can be compared with another program only, not with {other[:80]!r}.",
            hint="Give the model.",
        )
    if per_node and other != "reference":
        raise UsageError(
            "only the interpreter has a value for every node.", hint="Leave --with out."
        )
    if graph is None:
        session = load_session(model, build, binding)
    else:
        graph = _exposed(graph) if per_node else graph
        session = Session.in_process(compile_model(graph, build).image, threads=build.threads)
    inputs = gather_inputs(session, {}, dims_of_inputs(model, binding), seed)
    found = dict(
        zip((port.name for port in session.outputs), session.run(None, inputs), strict=True)
    )
    expected = _expected(graph, other, inputs, build)
    if set(found) != set(expected):
        raise UsageError(
            f"the outputs {listed(list(found))} have other names than {listed(list(expected))}."
        )
    rows = [{"output": name, **_distance(value, expected[name])} for name, value in found.items()]
    _report(output, rows, tolerance)


def _report(output: Output, rows: list[dict[str, Any]], tolerance: float) -> None:
    """Print all; ComparisonError that names the first output beyond the tolerance."""
    far = [row for row in rows if not row["relative_l2"] <= tolerance]
    table = [
        [
            row["output"],
            f"{row['relative_l2']:.2e}",
            f"{row['relative_max']:.2e}",
            "FAR" if row in far else "ok",
        ]
        for row in rows
    ]
    output.result(
        {"tolerance": tolerance, "outputs": rows, "agrees": not far}, columns(table, _HEADS)
    )
    if far:
        raise ComparisonError(
            f"{far[0]['output'][:80]!r} is the first of {len(far)} outputs beyond the tolerance: relative L2 distance "
            f"{far[0]['relative_l2']:.2e} > {tolerance:.2e}."
        )


def _distance(found: Any, expected: Any) -> dict[str, float]:
    """Relative L2 distance and largest error over largest value; infinite if shapes or the
    places of NaN differ.
    """
    import numpy as np

    a, b = (np.asarray(value).astype(np.float64) for value in (found, expected))
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return {"relative_l2": float("inf"), "relative_max": float("inf")}
    difference = np.where((a == b) | np.isnan(a), 0.0, np.abs(a - np.where(a == b, a, b)))
    finite = np.abs(b[np.isfinite(b)])
    norm, largest = float(np.linalg.norm(finite)), float(finite.max(initial=0.0))
    far = float(np.linalg.norm(difference)), float(difference.max(initial=0.0))
    return {"relative_l2": _ratio(far[0], norm), "relative_max": _ratio(far[1], largest)}


def _ratio(difference: float, scale: float) -> float:
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def _expected(graph: Graph | None, other: str, inputs: Arrays, build: Build) -> Arrays:
    if is_program(other):
        session = load_session(other, Build(threads=build.threads), Binding())
        return dict(
            zip((port.name for port in session.outputs), session.run(None, inputs), strict=True)
        )
    assert graph is not None
    match other:
        case "reference":
            from netloom.compiler.interpret import interpret

            return dict(zip(graph.output_names, interpret(graph, inputs), strict=True))
        case "onnxruntime":
            return dict(zip(graph.output_names, _onnxruntime(graph, inputs), strict=True))
    raise UsageError(
        f"there is nothing named {other[:80]!r} to compare with.",
        hint="Choose reference, onnxruntime or a .so file.",
    )


def _onnxruntime(graph: Graph, inputs: Arrays) -> list[Any]:
    """What ONNX Runtime computes from the graph, exported."""
    from netloom.frontends.onnx.exporter import to_onnx

    try:
        import onnxruntime
    except ImportError as error:
        raise ToolchainError(
            "onnxruntime is not installed.", hint="Run: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        to_onnx(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    named = dict(
        zip(
            (port.name for port in session.get_inputs()),
            (inputs[value.label] for value in graph.inputs),
            strict=True,
        )
    )
    return list(session.run(None, named))


def _exposed(graph: Graph) -> Graph:
    """The graph with every value that a node computes as an output, in order."""
    values = [value for node in graph.nodes if node.op.name != "constant" for value in node.outputs]
    names = [f"{place}: {graph.producers[value].op.name} {value.label or graph.producers[value].label}".rstrip()
             for place, value in enumerate(values)]  # fmt: skip
    return dataclasses.replace(graph, outputs=tuple(values), output_names=tuple(names))
