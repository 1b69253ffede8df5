"""Tables of a device's times: which are taken, and which are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from netloom.compiler.cache import compiler_version
from netloom.compiler.targets.cuda.measured import MeasuredTimes, read_times
from netloom.compiler.targets.cuda.tilings import Tiling
from netloom.compiler.tuning import Layer
from netloom.errors import ProgramError, UsageError

ARCHITECTURES = ("sm_80", "sm_90a")
DEVICE = {"name": "H200", "capability": "9.0", "driver": "13.0"}
ROW = {"text": "layer", "constants": ["w"], "seconds": {"direct": 1e-3, "winograd_f2": None}}


def written(path: Path, **changes: Any) -> Path:
    table: Mapping[str, Any] = {
        "format": 2,
        "version": compiler_version(),
        "precision": "f32",
        "device": DEVICE,
        "layers": [ROW],
    }
    path.write_text(json.dumps({**table, **changes}), encoding="utf-8")
    return path


def test_times_are_looked_up_by_layer(tmp_path: Path) -> None:
    timer = read_times(written(tmp_path / "t"), "f32", ARCHITECTURES).timer
    names = ("direct", "winograd_f2", "winograd_f4")
    assert timer.measure(Layer("layer", ("w",), False), names, 1.0) == {
        "direct": 1e-3,
        "winograd_f2": None,
        "winograd_f4": None,
    }
    assert (
        timer.measure(Layer("layer", (), False), names, 1.0)
        == timer.measure(Layer("other", ("w",), False), names, 1.0)
        == {}
    )
    assert timer.identity == "H200, 9.0, 13.0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": "0.0.1 abc"},
            "was measured for another version of netloom. Write the candidates again",
        ),
        ({"precision": "tf32"}, "was measured at the precision 'tf32', not 'f32'"),
        (
            {"device": {**DEVICE, "name": "B200", "capability": "10.0"}},
            "on B200, of compute capability 10.0, for which sm_80, sm_90a is",
        ),
    ],
)
def test_a_table_of_something_else_is_refused(
    tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as found:
        read_times(written(tmp_path / "t", **changes), "f32", ARCHITECTURES)
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ("9.0", ("sm_90a",), True),
        ("9.0", ("sm_80",), False),
        ("8.6", ("sm_80",), True),
        ("8.0", ("sm_86",), False),
        ("10.0", ("sm_100a",), True),
        ("10.0", ("sm_90a",), False),
        ("12.1", ("sm_120",), True),
        ("9.1", ("sm_90a",), False),
    ],
)
def test_a_device_must_be_one_that_is_compiled_for(
    tmp_path: Path, capability: str, architectures: tuple[str, ...], fits: bool
) -> None:
    path = written(tmp_path / "t", device={**DEVICE, "capability": capability})
    if fits:
        read_times(path, "f32", architectures)
    else:
        with pytest.raises(UsageError, match="of compute capability"):
            read_times(path, "f32", architectures)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "2"},
        {"layers": None},
        {"layers": [1]},
        {"layers": [{**ROW, "seconds": {"direct": -1.0}}]},
        {"layers": [{**ROW, "seconds": {"direct": "fast"}}]},
        {"layers": [{**ROW, "seconds": {"direct@7x7": 1.0}}]},
        {"device": None},
        {"device": {"name": "x"}},
    ],
    ids=str,
)
def test_what_is_no_table_is_refused(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    with pytest.raises(ProgramError, match="is no table of times of a device"):
        read_times(written(tmp_path / "t", **changes), "f32", ARCHITECTURES)


def test_a_tiling_is_a_candidate_of_its_strategy(tmp_path: Path) -> None:
    seconds = {"direct": 2e-3, "direct@128x64 stages 2": 1e-3, "winograd_f2": 3e-3}
    timer = read_times(written(tmp_path / "t", layers=[{**ROW, "seconds": seconds}]), "f32",
                       ARCHITECTURES).timer  # fmt: skip
    assert isinstance(timer, MeasuredTimes)
    layer = Layer("layer", ("w",), False)
    assert timer.measure(layer, ("direct", "winograd_f2"), 1.0) == {
        "direct": 1e-3,
        "winograd_f2": 3e-3,
    }
    assert timer.best(layer, "direct") == (1e-3, Tiling(128, 64, 2))
    assert timer.best(layer, "winograd_f2") == (3e-3, None)
    assert timer.best(layer, "winograd_f4") is None


def test_a_table_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="holds times of format 1; this version reads 2. Write the"
    ):
        read_times(written(tmp_path / "t", format=1), "f32", ARCHITECTURES)


def test_no_json_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"\xff{")
    with pytest.raises(ProgramError, match="is no table"):
        read_times(tmp_path / "t", "f32", ARCHITECTURES)
    with pytest.raises(UsageError, match="cannot be read"):
        read_times(tmp_path / "none", "f32", ARCHITECTURES)
