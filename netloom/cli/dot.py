"""A graph as Graphviz text. Names of the model are quoted strings in it, never syntax."""

from __future__ import annotations

from netloom.compiler.graph import Graph, Node, Value

from .output import displayable


def as_dot(graph: Graph, name: str) -> str:
    """One directed graph: inputs, nodes (a kernel lists its ops) and outputs, edges with types;
    no constants.
    """
    shown = [node for node in graph.nodes if node.op.name != "constant"]
    numbers = {node: f"n{place}" for place, node in enumerate(shown)}
    made = {value: numbers[node] for node in shown for value in node.outputs}
    made |= {value: f"i{place}" for place, value in enumerate(graph.inputs)}
    lines = [f"digraph {_quoted(name)} {{", "  node [shape=box];"]
    lines += [
        f"  i{place} [shape=ellipse, label={_quoted(_port(value.label, value))}];"
        for place, value in enumerate(graph.inputs)
    ]
    lines += [f"  {number} [label={_quoted(_label(node))}];" for node, number in numbers.items()]
    lines += [
        f"  {made[value]} -> {number} [label={_quoted(str(value.type))}];"
        for node, number in numbers.items()
        for value in node.inputs
        if value in made
    ]
    for place, (label, value) in enumerate(zip(graph.output_names, graph.outputs, strict=True)):
        lines.append(f"  o{place} [shape=ellipse, label={_quoted(_port(label, value))}];")
        if value in made:
            lines.append(f"  {made[value]} -> o{place};")
    return "\n".join([*lines, "}", ""])


def _port(name: str, value: Value) -> str:
    return f"{name}\n{value.type}"


def _label(node: Node) -> str:
    body = getattr(node.attrs, "body", None)
    ops = (
        [inner.op.name for inner in body.nodes if inner.op.name != "constant"]
        if isinstance(body, Graph)
        else [node.op.name]
    )
    return f"{' > '.join(ops)}\n{node.label}".rstrip()


def _quoted(text: str) -> str:
    """A string of the DOT language: backslashes and quotes escaped, lines kept."""
    escaped = displayable(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n") + '"'
