"""``netloom check``: which ops of an ONNX model are supported."""

from __future__ import annotations

from pathlib import Path

import click

from netloom.errors import ModelError

from .options import printing
from .output import Output, columns


@click.command()
@click.argument("model")
@printing
def check(output: Output, model: str) -> None:
    """List every op of an ONNX MODEL: supported or not, with a remedy. Exit code 3 if one is
    not.
    """
    from netloom.frontends.onnx import check as check_model

    report = check_model(Path(model))
    rows = [[row.name, row.opset, row.count, "yes" if row.is_supported else "NO", row.remedy, ", ".join(row.nodes[:3])]
            for row in report.rows]  # fmt: skip
    output.result(
        report.as_json(),
        columns(rows, ("op", "opset", "nodes", "supported", "remedy", "first nodes")),
    )
    if report.missing:
        raise SystemExit(ModelError.exit_code)
