"""A file of candidates -> a table of their times on this machine's device: ``python -m
netloom.runtime.cuda.tune FILE -o RESULTS``.

Needs NumPy and cuda-bindings alone. A layer's candidates are timed in turn, round by round, by
events around replays of their graphs; a time is the median of the rounds. Weights are random
numbers made here. A candidate that fails has no time, and the others go on; a run goes on where the
table stops. ``netloom compile --target cuda --tuned RESULTS`` takes the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.errors import NetloomError, ProgramError, UsageError

from ..buffer import numpy_dtype
from .cuda_device import CudaDevice
from .device import Device
from .program import Program, Tensor, parse_program
from .session import CudaSession

FORMAT = 2
ROUNDS = 5
REPLAYS = 20  # in a block that is timed at once, at least
_BLOCK, _MOST_CALLS = 2e-3, 1000  # seconds that it lasts, unless it would have more replays
SECONDS = 500.0  # of a run, after which no layer is begun
_MOST_BYTES = 1 << 30  # of an unpacked member: what a file from elsewhere may make us hold


@dataclass(frozen=True)
class Layer:
    """A layer as the compiler named it, and its programs by the candidates' names: a strategy, or a
    strategy with a tiling of its products."""

    text: str
    constants: tuple[str, ...]
    programs: Mapping[str, bytes]


@dataclass(frozen=True)
class Candidates:
    """What the compiler wrote: its version, the precision of products, and the layers."""

    version: str
    precision: str
    layers: tuple[Layer, ...]


def read_candidates(path: Path) -> Candidates:
    """ProgramError if the file is none of candidates, damaged, or of another format."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(_member(archive, "candidates.json"))
            _check_format(path, manifest["format"])
            layers = tuple(
                Layer(
                    str(row["text"]),
                    tuple(map(str, row["constants"])),
                    {str(c["name"]): _member(archive, c["file"]) for c in row["candidates"]},
                )
                for row in manifest["layers"]
            )
            return Candidates(str(manifest["version"]), str(manifest["precision"]), layers)
    except OSError as error:
        raise UsageError(
            f"The candidates {str(path)!r} cannot be read: {error.strerror}."
        ) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ProgramError(
            f"{str(path)!r} is no file of candidates, or it is damaged.",
            hint="Write it again with netloom compile --tune-candidates.",
        ) from error


def _check_format(path: Path, found: object) -> None:
    """ProgramError if a file is of another format than this version's, ValueError if it names
    none."""
    if not isinstance(found, int):
        raise ValueError("no format")
    if found != FORMAT:
        raise ProgramError(
            f"{str(path)!r} holds candidates of format {found}; this version reads {FORMAT}.",
            hint="Write it with the version of netloom that times it.",
        )


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ValueError("a member is too large")
    return archive.read(name)


def measure(
    layer: Layer,
    device: Device,
    rounds: int = ROUNDS,
    replays: int = REPLAYS,
    say: Callable[[str], None] = print,
) -> dict[str, float | None]:
    """Seconds of each candidate, None for one that cannot be run."""
    with contextlib.ExitStack() as opened:
        sessions = {}
        for strategy, data in layer.programs.items():
            try:
                sessions[strategy] = opened.enter_context(_ready(data, device))
            except NetloomError as error:
                say(f"{strategy}: {error}")
        # the first block is not counted: the device's clocks rise in it
        blocks = {
            strategy: _calls(session.seconds(inputs, replays), replays)
            for strategy, (session, inputs) in sessions.items()
        }
        times: dict[str, list[float]] = {strategy: [] for strategy in sessions}
        for _ in range(rounds):
            for strategy, (session, inputs) in sessions.items():
                times[strategy].append(session.seconds(inputs, blocks[strategy]))
    return {
        strategy: float(np.median(times[strategy])) if strategy in times else None
        for strategy in layer.programs
    }


def _calls(seconds: float, replays: int) -> int:
    """Of a block that lasts as long as can be told apart."""
    return max(replays, min(math.ceil(_BLOCK / seconds), _MOST_CALLS))


@contextlib.contextmanager
def _ready(
    data: bytes, device: Device
) -> Iterator[tuple[CudaSession, dict[str, npt.NDArray[Any]]]]:
    """A candidate on the device and inputs for it, with which it has run once."""
    program = _with_weights(parse_program(data, "candidate"))
    inputs = _inputs(program)
    session = CudaSession(program, lambda: device)
    try:
        session.run(None, inputs)
        yield session, inputs
    finally:
        session.close()


def _with_weights(program: Program) -> Program:
    """The program with random numbers for the weights that its file left out."""
    rng = np.random.default_rng(0)
    return replace(
        program, constants=tuple(_filled(constant, rng) for constant in program.constants)
    )


def _filled(constant: Tensor, rng: np.random.Generator) -> Tensor:
    dtype = numpy_dtype(constant.dtype)
    if dtype.kind != "f" or len(constant.data) == constant.nbytes:
        return constant
    return replace(
        constant,
        data=rng.standard_normal(constant.nbytes // dtype.itemsize).astype(dtype).tobytes(),
    )


def _inputs(program: Program) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(1)
    ports = [port.info for port in program.entries["run"].inputs]
    return {
        port.name: rng.standard_normal(port.static_shape).astype(numpy_dtype(port.dtype))
        for port in ports
    }


def run(
    path: Path,
    results: Path,
    open_device: Callable[[], Device],
    rounds: int = ROUNDS,
    replays: int = REPLAYS,
    say: Callable[[str], None] = print,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Times the candidates of a file that the table does not hold yet, and writes it before and
    after each layer; DeviceError without a device, or when it does not answer any more.
    """
    end = time.monotonic() + seconds
    candidates = read_candidates(path)
    device = open_device()
    facts = dict(device.facts())
    say("\n".join(f"{key}: {value}" for key, value in facts.items()))
    head = {"format": FORMAT, "version": candidates.version, "precision": candidates.precision,
            "device": facts}  # fmt: skip
    rows = _known_rows(results, head)
    table = {**head, "layers": rows}
    _write(results, table)
    done = {(row["text"], *row["constants"]) for row in rows}
    wanted = [layer for layer in candidates.layers if (layer.text, *layer.constants) not in done]
    for number, layer in enumerate(wanted):
        if time.monotonic() > end:
            say(f"no time for {len(wanted) - number} layers")
            break
        # without times until they are known: a layer that ends the process is not begun again
        row = {"text": layer.text, "constants": list(layer.constants),
               "seconds": dict.fromkeys(layer.programs)}  # fmt: skip
        rows.append(row)
        _write(results, table)
        found = measure(layer, device, rounds, replays, say)
        if None in found.values():
            device.synchronize()
        row["seconds"] = found
        _write(results, table)
        known = sorted((own, name) for name, own in found.items() if own is not None)
        say(
            "  ".join(f"{name} {own * 1e6:.1f} us" for own, name in known)
            or "no candidate could be run"
        )
    return table


def _known_rows(path: Path, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layers of a table that was begun for the same candidates on such a device."""
    try:
        table = json.loads(path.read_bytes())
        is_same = all(table[key] == head[key] for key in head)
        return [dict(row) for row in table["layers"]] if is_same else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _write(path: Path, table: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.write_text(json.dumps(table, indent=1), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}.") from error


def main(
    arguments: Sequence[str] | None = None, open_device: Callable[[], Device] = CudaDevice
) -> int:
    """0, or an error's exit code: 4 without a device or cuda-bindings."""
    parser = argparse.ArgumentParser(
        prog="python -m netloom.runtime.cuda.tune", description=__doc__
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--replays", type=int, default=REPLAYS)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="after which no layer begins"
    )
    options = parser.parse_args(arguments)
    try:
        run(
            options.file,
            options.output,
            open_device,
            max(options.rounds, 1),
            max(options.replays, 1),
            _say,
            options.seconds,
        )
    except NetloomError as error:
        print(f"netloom: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _say(text: str) -> None:
    """At once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
