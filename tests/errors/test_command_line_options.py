"""Options and names that a user writes: those that are wrong, places that cannot be written,
hostile names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..cli.calling import call
from .command_line import refused
from .test_odd_models import HOSTILE


@dataclass(frozen=True)
class Wrong:
    """Arguments that are wrong, and what the message says."""

    arguments: tuple[str, ...]
    says: str


WRONG = (
    Wrong(("--dim", "M=3"), "M"),
    Wrong(("--dim", "N=0"), "0"),
    Wrong(("--dim", "N=9..3"), "9"),
    Wrong(("--shape", "z:1x4"), "no input 'z'"),
    Wrong(("--shape", "x:1x4x4"), "does not fit the input 'x'"),
    Wrong(("--shape", "x:1x5"), "extent 4"),
    Wrong(("--cpu", "z80"), "no CPU level 'z80'"),
    Wrong(("--accuracy", "sloppy"), "no accuracy 'sloppy'"),
    Wrong(("--conv-strategy", "magic"), "no strategy 'magic'"),
    Wrong(("--conv-strategy", "n7=direct"), "no convolution 'n7'"),
    Wrong(("--emit", "so,poem"), "no form 'poem'"),
    Wrong(("--train", "loss=joy"), "no loss 'joy'"),
    Wrong(("--train", "optimizer=luck"), "no optimizer 'luck'"),
    Wrong(("--train", "optimizer=adam:speed=1"), "no setting 'speed'"),
    Wrong(("--train", "optimizer=adam:lr=fast"), "must be a number"),
    Wrong(("--train", "optimizer=adam:lr=nan"), "must be a number"),
    Wrong(("--train", "optimizer=sgd:momentum=0.9,nesterov=on"), "must be true or false"),
    Wrong(("--train", "colour=red"), "neither loss="),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: " ".join(wrong.arguments))
def test_wrong_options(wrong: Wrong, place: Path, out: Path) -> None:
    refused(
        2,
        wrong.says,
        "compile",
        f"{place}/net.py:graph",
        "-o",
        out / "m.so",
        *wrong.arguments,
        left=out,
    )


@pytest.mark.parametrize(
    "arguments",
    [("--dim", "N"), ("--dim", "N=x"), ("--shape", "x"), ("--threads", "0"), ("--nothing",)],
)
def test_options_of_a_wrong_form(arguments: tuple[str, ...], place: Path, out: Path) -> None:
    result = call("compile", f"{place}/net.py:graph", "-o", out / "m.so", *arguments, code=2)
    assert result.stderr.count("Error: ") == 1 and not list(out.iterdir())


# -- places that cannot be written -----------------------------------------------------------------


@pytest.mark.parametrize("verb", ["compile", "export", "run", "train"])
@pytest.mark.parametrize(
    "kind", ["no folder", "a folder", "a dot", "below a file", "a long name", "a pipe", "a NUL"]
)
def test_outputs_that_cannot_be_written(
    verb: str, kind: str, place: Path, out: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.so")
    target = {
        "no folder": f"{out}/none/m.so",
        "a folder": str(out),
        "a dot": ".",
        "below a file": f"{place}/a.npy/m.so",
        "a long name": f"{out}/{'m' * 300}.so",
        "a pipe": f"{tmp_path}/pipe.so",
        "a NUL": f"{out}/m\0.so",
    }[kind]
    match verb:
        case "run":
            arguments = ("run", str(place / "sum.so"), "--out", f"y={target}")
        case "train":
            arguments = ("train", f"{place}/net.py:graph", "--data", "digits", "-o", target)
        case _:
            arguments = (verb, f"{place}/net.py:graph", "-o", target)
    refused(2, "cannot be written", *arguments, left=out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(place: Path, out: Path) -> None:
    out.chmod(0o500)
    refused(
        2, "its folder is read-only", "compile", place / "sum.onnx", "-o", out / "m.so", left=out
    )


def test_a_read_only_folder_as_another_user_sees_it(
    place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(
        2, "its folder is read-only", "compile", place / "sum.onnx", "-o", out / "m.so", left=out
    )


# -- hostile names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_as_arguments(name: str, place: Path, out: Path) -> None:
    text = HOSTILE[name]
    refused(2, "", "compile", f"zoo:{text}", "-o", out / "m.so", left=out)
    refused(2, "", "compile", f"{place}/net.py:{text}", "-o", out / "m.so", left=out)
    refused(2, "", "compile", place / "sum.onnx", "-o", out / "m.so", "--cpu", text, left=out)
    refused(
        5, "", "run", place / "sum.so", "--in", f"{text}=rand", "--out", f"y={out}/y.npy", left=out
    )
    for missing in (f"{out}/{text}.onnx", f"{out}/{text}.py:graph"):
        refused(2, "", "compile", missing, "-o", out / "m.so", left=out)


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name not in ("nul", "long", "path", "unicode", "shell")]
)
def test_hostile_names_of_files(name: str, place: Path, out: Path) -> None:
    """Tools are called without a shell, on names of our own: any name that a file can have will
    do.
    """
    target = out / f"{HOSTILE[name]}.so".replace("/", "_")
    call("compile", place / "sum.onnx", "-o", target)
    assert sorted(path.suffix for path in out.iterdir()) == [".h", ".so"]
    assert call("run", target).stdout.startswith("y: float32 [4]")
