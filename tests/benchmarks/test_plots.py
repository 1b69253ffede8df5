"""Pictures of made-up tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from netloom.benchmarks import plots  # noqa: E402
from netloom.compiler.strategies import STRATEGIES  # noqa: E402

MACHINE = {"flops": {"1": 100.0, "2": 200.0}, "read": {"1": 10.0, "2": 15.0}}
RATIOS = {"onnxruntime": [2.0, 1.9, 2.2], "openvino": [1.5, 1.5, 1.5]}
DATA: dict[str, dict[str, Any]] = {
    "layers": {"rows": [{"layer": "a", "strategy": s, "batch": n, "threads": 1, "gflops": 90.0 * n,
                         "flops": 1e9, "bytes": 1e7 / n}
                        for s in ("direct", "winograd_f4") for n in (1, 64)]},
    "networks": {"rows": [{"network": "vgg19", "contender": "netloom", "threads": n,
                           "ratios": RATIOS} for n in (1, 2)]
                 + [{"network": "vgg19", "contender": "onnxruntime", "threads": 1, "ratios": {}}]},
    "training": {"rows": [{"network": "lenet5", "threads": 2,
                           "ratios": {"torch": [2.0, 1.0, 3.0]}}]},
    "bandwidth": {"rows": [{"kernel": "relu", "threads": n,
                            "part": [99.0, 98.0, 101.0]} for n in (1, 2)]},
    "scaling": {"batches": [{"network": "resnet18", "batch": n, "milliseconds": 9.0, "arena": 1.0,
                             "resident": 9.0} for n in (1, 64)]},
}  # fmt: skip
WORDS = {
    "layers": (
        "winograd_f4",
        "operations a byte of operands and result",
        "100 GFLOP/s, 10 GB/s",
        "layers, batch 64, 1 thread(s)",
    ),
    "networks": ("onnxruntime", "openvino", "vgg19", "2 thread(s): ratio of medians, p10–p90"),
    "training": ("torch", "lenet5", "times as fast"),
    "bandwidth": ("relu", "% of a copy", "2 thread(s)"),
    "scaling": ("resnet18, arena", "milliseconds an image", "batch"),
}


def test_every_table_has_its_picture(tmp_path: Path) -> None:
    """With its words as text; equal tables give equal bytes."""
    for name, data in DATA.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": MACHINE, **data}))
    plots.main([str(tmp_path)])
    first = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(first) == {f"{name}.svg" for name in DATA} and set(DATA) | {"models"} == set(
        plots.PICTURES
    )
    for name, words in WORDS.items():
        for word in words:
            assert f">{word}</text>" in first[f"{name}.svg"], (name, word)
    (tmp_path / "networks.svg").unlink()
    plots.main([str(tmp_path), "--tables", "networks,layers"])
    assert first == {path.name: path.read_text() for path in tmp_path.glob("*.svg")}


def test_colours_differ_in_greys() -> None:
    """Neighbours by a tenth of the lightness at least (Rec. 709), or by their hatch."""
    from matplotlib.colors import to_rgb

    def lightness(colour: str) -> float:
        return sum(
            weight * part
            for weight, part in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True)
        )

    for one, other in zip(plots.COLOURS, plots.COLOURS[1:], strict=False):
        assert abs(lightness(one) - lightness(other)) > 0.1
    pairs = [
        (plots.COLOURS[n % len(plots.COLOURS)], plots.MARKS[n % len(plots.MARKS)])
        for n in range(2 * len(STRATEGIES))
    ]
    assert len(set(pairs)) == len(pairs)
    assert len(set(plots.HATCHES)) == len(plots.FILLS)
