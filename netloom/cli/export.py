"""``netloom export``: a model as ONNX."""

from __future__ import annotations

from pathlib import Path

import click

from .files import check_target
from .models import load_graph
from .options import Binding, FileType, binding_options, printing
from .output import Output


@click.command()
@click.argument("model")
@click.option(
    "-o", "--output", "path", required=True, type=FileType(), help="The .onnx file to write."
)
@click.option("--opset", type=int, help="The version of ONNX's op set.")
@binding_options
@printing
def export(output: Output, model: str, path: Path, opset: int | None, binding: Binding) -> None:
    """Write MODEL as ONNX."""
    check_target(path)
    from netloom.frontends.onnx.exporter import DEFAULT_OPSET, to_onnx

    to_onnx(load_graph(model, binding), path, DEFAULT_OPSET if opset is None else opset)
    output.result({"file": str(path), "bytes": path.stat().st_size}, str(path))
