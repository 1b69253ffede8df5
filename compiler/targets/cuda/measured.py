"""Times that a device measured (runtime/cuda/tune.py) -> a tuner that knows them and measures
nothing.

A table has a time for each layer and candidate: a strategy, or a strategy with a tiling of its
products behind an "@". It belongs to one version of the compiler, one precision and one device, and
is refused where these do not fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netloom.errors import ProgramError, UsageError

from ...cache import Cache, compiler_version
from ...tuning import Layer, Times, Tuner
from .tilings import Tiling

FORMAT = 2
# times the least estimate is worth timing: a device's rates are less certain than a CPU's
WIDE = 4.0
ANY_WEIGHTS = 1 << 62  # bytes that stay cached: replays keep what a device's cache can of a layer
NOWHERE = Cache(None)
_AGAIN = "Write the candidates again, and measure them again."


def candidate_name(strategy: str, tiling: Tiling | None) -> str:
    """What tables and files of candidates call a strategy with a tiling of its products."""
    return strategy if tiling is None else f"{strategy}@{tiling}"


def _parsed(name: str) -> tuple[str, Tiling | None]:
    """ValueError if what follows the strategy is no tiling."""
    strategy, mark, text = name.partition("@")
    return strategy, Tiling.parse(text) if mark else None


@dataclass(frozen=True)
class MeasuredTimes:
    """A timer that looks times up: (layer's text, its constants) -> candidate -> seconds, None for
    one that failed there."""

    identity: str
    times: Mapping[tuple[str, tuple[str, ...]], Times]
    cached: int = ANY_WEIGHTS

    def measure(self, layer: Layer, strategies: Sequence[str], seconds: float) -> Times:
        """What the table says of them, each with its best tiling; nothing of a layer that is not
        in it."""
        if (layer.text, layer.constants) not in self.times:
            return {}
        found = {name: self.best(layer, name) for name in strategies}
        return {name: best[0] if best else None for name, best in found.items()}

    def best(self, layer: Layer, strategy: str) -> tuple[float, Tiling | None] | None:
        """The least time of a strategy, and the tiling that has it (None: the rules' own); None if
        the table has no time for it."""
        times = self.times.get((layer.text, layer.constants), {})
        mine = [
            (seconds, name)
            for name, seconds in times.items()
            if seconds is not None and name.partition("@")[0] == strategy
        ]
        if not mine:
            return None
        seconds, name = min(mine)
        return seconds, _parsed(name)[1]

    def close(self) -> None:
        """Nothing was started."""


def read_times(path: Path, precision: str, architectures: Sequence[str]) -> Tuner:
    """A tuner of the file's times; UsageError if they are those of another version, precision or
    device than asked for, ProgramError if the file is no table of times."""
    try:
        table = json.loads(path.read_bytes())
        _check_format(path, table["format"])
        times = _times(table)
        device = dict(table["device"])
        version, own = table["version"], table["precision"]
        name, capability = str(device["name"]), str(device["capability"])
    except OSError as error:
        raise UsageError(f"the times {str(path)!r} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProgramError(
            f"{str(path)!r} is no table of times of a device.",
            hint="Write one with python -m netloom.runtime.cuda.tune.",
        ) from error
    if version != compiler_version():
        raise UsageError(f"{str(path)!r} was measured for another version of netloom.", hint=_AGAIN)
    if own != precision:
        raise UsageError(
            f"{str(path)!r} was measured at the precision {own!r}, not {precision!r}.", hint=_AGAIN
        )
    if not any(_runs_on(architecture, capability) for architecture in architectures):
        raise UsageError(
            f"{str(path)!r} was measured on {name}, of compute capability {capability}, for which "
            f"{', '.join(architectures)} is no code.",
            hint="Choose a table of a device that is compiled for.",
        )
    identity = ", ".join(
        str(device[key]) for key in ("name", "capability", "driver") if key in device
    )
    return Tuner(MeasuredTimes(identity, times), math.inf, NOWHERE, close=WIDE)


def _check_format(path: Path, found: object) -> None:
    """UsageError if a table is of another format than this version's, ValueError if it names
    none."""
    if not isinstance(found, int):
        raise ValueError("no format")
    if found != FORMAT:
        raise UsageError(
            f"{str(path)!r} holds times of format {found}; this version reads {FORMAT}.",
            hint=_AGAIN,
        )


def _times(table: Any) -> dict[tuple[str, tuple[str, ...]], Times]:
    """ValueError if a time is none, or a candidate's name."""
    found: dict[tuple[str, tuple[str, ...]], Times] = {}
    for row in table["layers"]:
        seconds = dict(row["seconds"])
        for name, time in seconds.items():
            _parsed(name)
            is_time = isinstance(time, float) and math.isfinite(time) and time > 0
            if time is not None and not is_time:
                raise ValueError("no time")
        found[str(row["text"]), tuple(map(str, row["constants"]))] = seconds
    return found


def _runs_on(architecture: str, capability: str) -> bool:
    """Whether code for an architecture is for such a device: of its own generation, exactly its own
    with "a"."""
    number = architecture.removeprefix("sm_")
    mine, (major, _, minor) = number.removesuffix("a"), capability.partition(".")
    is_exact = number.endswith("a")
    return mine == major + minor if is_exact else mine[:-1] == major and mine[-1:] <= minor


__all__ = [
    "ANY_WEIGHTS",
    "FORMAT",
    "NOWHERE",
    "WIDE",
    "MeasuredTimes",
    "candidate_name",
    "read_times",
]
