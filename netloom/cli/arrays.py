"""Arrays in and out: input sources (``file.npy``, an image, ``rand``) -> arrays; results -> files
and short descriptions.

A file never decides more than values: nothing is unpickled, and an array's dtype is never changed
silently.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from netloom.compiler import dim
from netloom.compiler.dim import Symbol, parse_extent
from netloom.errors import InputError, ToolchainError, UsageError
from netloom.runtime.buffer import numpy_dtype
from netloom.runtime.checkpoint import DAMAGES

from .models import listed
from .output import displayable

if TYPE_CHECKING:
    from netloom.runtime.cuda.session import CudaSession
    from netloom.runtime.program import PortInfo
    from netloom.runtime.session import Session

Array = npt.NDArray[Any]
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


@dataclass(frozen=True)
class Pixels:
    """How an image becomes numbers: (value / 255 - mean) / deviation, by channel (or one number
    for all).
    """

    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)


def gather_inputs(
    session: Session | CudaSession,
    given: Mapping[str, str],
    dims: Mapping[str, int],
    seed: int = 0,
    pixels: Pixels | None = None,
) -> dict[str, Array]:
    """An array for every input of the program: from its source, or random where that is ``rand`` or
    nothing is given.

    ``dims`` are the free dims of random inputs (1 unless given). InputError for names that the
    program lacks, for inputs left out when others are given, and for files that cannot be read.
    """
    names = [port.name for port in session.inputs]
    if unknown := [name for name in given if name not in names]:
        raise InputError(
            f"the program has no input {unknown[0][:80]!r}.", hint=f"It has {listed(names)}."
        )
    if given and (missing := [name for name in names if name not in given]):
        raise InputError(
            f"the input {missing[0][:80]!r} is missing.",
            hint=f"Give all of {listed(names)}, if only as NAME=rand.",
        )
    generator = np.random.default_rng(seed)
    bounds = _bounds(session, dims)
    arrays = {}
    for port in session.inputs:
        source = given.get(port.name, "rand")
        if source == "rand":
            arrays[port.name] = _random(port, bounds, generator)
        elif Path(source).suffix.lower() in _IMAGES:
            arrays[port.name] = _image(port, source, bounds, pixels or Pixels())
        else:
            arrays[port.name] = _npy(port, source)
    return arrays


def _bounds(session: Session | CudaSession, dims: Mapping[str, int]) -> dict[str, int]:
    """A number for every free dim of the program."""
    ranges = {row["name"]: row for row in session.metadata["dims"]}
    if unknown := sorted(set(dims) - set(ranges)):
        raise UsageError(
            f"there is no free dim {unknown[0][:80]!r}.",
            hint=f"The free dims are {listed(list(ranges))}.",
        )
    return {name: dims.get(name, max(row["lo"], 1)) for name, row in ranges.items()}


def _shape(port: PortInfo, bounds: Mapping[str, int]) -> tuple[int, ...]:
    symbols = {name: Symbol(name, 0, None) for name in bounds}
    return tuple(
        e if isinstance(e, int) else dim.evaluate(parse_extent(e, symbols), bounds)
        for e in port.shape
    )


def _random(port: PortInfo, bounds: Mapping[str, int], generator: np.random.Generator) -> Array:
    """Normal numbers; 0 and 1 for integers and booleans, which are often indices."""
    dtype, shape = numpy_dtype(port.dtype), _shape(port, bounds)
    values = (
        generator.integers(0, 2, shape) if dtype.kind in "iub" else generator.standard_normal(shape)
    )
    return np.asarray(values).astype(dtype)


def _npy(port: PortInfo, source: str) -> Array:
    try:
        loaded = np.load(source, allow_pickle=False)
    except (OSError, *DAMAGES) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"input {port.name[:80]!r} cannot be read from {source!r}: {reason}.",
                         hint="Give a .npy file, an image or rand.") from error  # fmt: skip
    if not isinstance(loaded, np.ndarray):
        raise InputError(
            f"input {port.name[:80]!r}: {source!r} holds several arrays.", hint="Give a .npy file."
        )
    return loaded


def _image(port: PortInfo, source: str, bounds: Mapping[str, int], pixels: Pixels) -> Array:
    """An image as [1, c, h, w], resized to the input's h and w; c is 1 (grey) or 3 (red, green,
    blue).
    """
    shape = _shape(port, bounds)
    if len(shape) != 4 or shape[0] != 1 or shape[1] not in (1, 3):
        raise InputError(f"input {port.name[:80]!r} is {port}; an image fits [1, 1 or 3, h, w].")
    try:
        images: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ToolchainError(
            "images are read with Pillow.", hint="Run: pip install pillow"
        ) from error
    try:
        with images.open(source) as file:
            image = file.convert("L" if shape[1] == 1 else "RGB").resize(
                (shape[3], shape[2]), images.Resampling.BILINEAR
            )
    except (OSError, ValueError, SyntaxError, images.DecompressionBombError) as error:
        raise InputError(
            f"input {port.name[:80]!r}: the image {source!r} cannot be read: {error}."
        ) from error
    values = np.asarray(image, np.float64).reshape(shape[2], shape[3], shape[1]) / 255
    for numbers in (pixels.mean, pixels.deviation):
        if len(numbers) not in (1, shape[1]):
            raise UsageError(
                f"{len(numbers)} numbers were given for the {shape[1]} channels of "
                f"{port.name[:80]!r}."
            )
    if 0 in pixels.deviation:
        raise UsageError(
            "pixels cannot be divided by a deviation of 0.", hint="Give another --std."
        )
    values = (values - np.array(pixels.mean)) / np.array(pixels.deviation)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None]).astype(numpy_dtype(port.dtype))


# -- results ---------------------------------------------------------------------------------------


def describe(name: str, value: Array, labels: Sequence[str]) -> dict[str, Any]:
    """Dtype, shape, extremes, mean, the number of NaNs; the five largest entries of one row of
    scores.
    """
    row: dict[str, Any] = {"name": name, "dtype": str(value.dtype), "shape": list(value.shape)}
    if not value.size:
        return row
    wide = value.astype(np.float64)
    nans = int(np.isnan(wide).sum())
    real = wide[~np.isnan(wide)] if nans else wide
    if real.size:
        row |= {"min": float(real.min()), "mean": float(real.mean()), "max": float(real.max())}
    row["nan"] = nans
    if value.ndim == 2 and value.shape[0] == 1 and value.shape[1] > 1:
        order = np.argsort(-wide[0], kind="stable")[:5]
        row["top5"] = [{"class": int(i), "value": float(wide[0, i]),
                        **({"label": labels[i]} if i < len(labels) else {})}
                       for i in order]  # fmt: skip
    return row


def as_text(row: Mapping[str, Any]) -> str:
    """A description in one line, and one more for each of the top five."""
    numbers = "  ".join(f"{key} {row[key]:.6g}" for key in ("min", "mean", "max") if key in row)
    line = f"{displayable(row['name'])}: {row['dtype']} {row['shape']}  {numbers}  NaN {row.get('nan', 0)}"
    best = [f"  {place}. {entry.get('label', 'class')} ({entry['class']})  {entry['value']:.6g}"
            for place, entry in enumerate(row.get("top5", ()), 1)]  # fmt: skip
    return "\n".join([line, *best])


def read_labels(path: Path | None) -> list[str]:
    """Names of classes, one on each line."""
    if path is None:
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"the labels cannot be read from {str(path)!r}: {error}.") from error


def as_npy(value: Array) -> bytes:
    """The contents of a .npy file."""
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return file.getvalue()
