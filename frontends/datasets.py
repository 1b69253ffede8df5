"""Data sets: files on disk (or scikit-learn's digits) -> NumPy arrays, normalised and split.

Images are float32 [n, c, h, w] scaled to mean 0 and deviation 1 over the training set, labels int64
[n]. MNIST and CIFAR-10 are read from the folder that the environment variable NETLOOM_DATA names;
nothing is downloaded.
"""

from __future__ import annotations

import gzip
import importlib
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.environment import data_folder
from netloom.errors import ToolchainError, UsageError

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Training and held-back samples."""

    name: str
    classes: int
    x: Images
    y: Labels
    test_x: Images
    test_y: Labels

    @property
    def training(self) -> tuple[Images, Labels]:
        return self.x, self.y

    @property
    def test(self) -> tuple[Images, Labels]:
        return self.test_x, self.test_y


def digits(size: int = 28, held_back: float = 0.2, seed: int = 0) -> Dataset:
    """scikit-learn's 1,797 digits of 8x8, enlarged to 24x24 and framed to ``size``; a fixed
    share is held back.
    """
    try:
        bunch: Any = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise ToolchainError(
            "the digits come with scikit-learn.", hint="Run: pip install scikit-learn"
        ) from error
    if size < 24:
        raise UsageError(f"the digits are enlarged to 24x24, which does not fit in {size}x{size}.")
    weights = _linear(8, 24)
    images = np.einsum("ih,nhw,jw->nij", weights, bunch.images.astype(np.float32) / 16, weights)
    images = _framed(images[:, None], size)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(images))
    images, labels = images[order], bunch.target.astype(np.int64)[order]
    test = round(held_back * len(images))
    return _normalised("digits", 10, images[test:], labels[test:], images[:test], labels[:test])


def _linear(before: int, after: int) -> npt.NDArray[np.float32]:
    """[after, before]: linear interpolation between the centres of pixels, constant beyond the
    outermost ones.
    """
    places = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    weights: npt.NDArray[np.float32] = np.maximum(
        1 - np.abs(places[:, None] - np.arange(before)), 0
    ).astype(np.float32)
    return weights


def mnist(folder: str | os.PathLike[str] | None = None, size: int = 28) -> Dataset:
    """MNIST: 60,000 training and 10,000 test images [n, 1, size, size] from the four idx files of
    LeCun et al.

    Images larger than 28x28 are framed by background: LeCun et al. (1998, section II.B) give
    LeNet-5 32x32.
    """
    if size < 28:
        raise UsageError(f"MNIST's images of 28x28 do not fit in {size}x{size}.")
    place = _folder(folder, "mnist")
    x, test_x = (_idx(place, f"{part}-images-idx3-ubyte") for part in ("train", "t10k"))
    y, test_y = (_idx(place, f"{part}-labels-idx1-ubyte") for part in ("train", "t10k"))
    if (
        x.ndim != 3
        or test_x.ndim != 3
        or x.shape[:1] != y.shape
        or test_x.shape[:1] != test_y.shape
    ):
        raise UsageError(f"the files of MNIST in {str(place)!r} do not belong together.")
    images, test_images = (_scaled(_framed(part[:, None], size)) for part in (x, test_x))
    return _normalised(
        "mnist", 10, images, y.astype(np.int64), test_images, test_y.astype(np.int64)
    )


def cifar10(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """CIFAR-10: images [n, 3, 32, 32] from the binary files data_batch_* and test_batch* (.bin
    or .bin.gz) that are there.
    """
    place = _folder(folder, "cifar10")
    x, y = _cifar(place, "data_batch")
    test_x, test_y = _cifar(place, "test_batch")
    return _normalised("cifar10", 10, x, y, test_x, test_y)


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits, "mnist": mnist, "cifar10": cifar10}


def _normalised(
    name: str, classes: int, x: Images, y: Labels, test_x: Images, test_y: Labels
) -> Dataset:
    """Each channel shifted and scaled by the training set's mean and deviation."""
    mean = x.mean(axis=(0, 2, 3), dtype=np.float64, keepdims=True)
    deviation = x.std(axis=(0, 2, 3), dtype=np.float64, keepdims=True)
    shift, scale = mean.astype(np.float32), (1 / deviation).astype(np.float32)
    return Dataset(name, classes, (x - shift) * scale, y, (test_x - shift) * scale, test_y)


def _framed(images: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """[n, c, h, w] -> [n, c, size, size]: zeros, which are background, on all sides."""
    lo, more = (size - images.shape[2]) // 2, size - images.shape[2]
    return np.pad(images, ((0, 0), (0, 0), (lo, more - lo), (lo, more - lo)))


def _scaled(images: npt.NDArray[np.uint8]) -> Images:
    return images.astype(np.float32) / np.float32(255)


def _folder(given: str | os.PathLike[str] | None, name: str) -> Path:
    root = data_folder()
    if given is None and root is None:
        raise UsageError(
            f"the data set {name} is read from a folder.",
            hint="Set NETLOOM_DATA to the folder that holds it.",
        )
    place = Path(given) if given is not None else Path(root or "") / name
    if not place.is_dir():
        raise UsageError(f"there is no folder {str(place)!r} with the data set {name}.")
    return place


def _read(place: Path, name: str) -> bytes:
    """A file's contents, unpacked if only ``name.gz`` is there."""
    for path, opener in ((place / name, open), (place / f"{name}.gz", gzip.open)):
        if path.is_file():
            try:
                with opener(path, "rb") as file:
                    return bytes(file.read())
            except (OSError, EOFError, zlib.error) as error:
                raise UsageError(f"{str(path)!r} cannot be read: {error}.") from error
    raise UsageError(f"the file {name!r} (or {name}.gz) is missing in {str(place)!r}.")


def _idx(place: Path, name: str) -> npt.NDArray[np.uint8]:
    """An idx file of bytes: 0, 0, 8, rank, then each extent as a big-endian int32, then the
    elements.
    """
    data = _read(place, name)
    rank = data[3] if len(data) >= 4 else 0
    header = 4 + 4 * rank
    if data[:3] != b"\0\0\x08" or len(data) < header:
        raise UsageError(f"{name!r} in {str(place)!r} is not an idx file of bytes.")
    shape = [int(extent) for extent in np.frombuffer(data, ">i4", rank, 4)]
    if min(shape, default=0) < 0 or len(data) - header != math.prod(shape):
        raise UsageError(f"{name!r} in {str(place)!r} is cut off.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the planes of red, green and blue


def _cifar(place: Path, prefix: str) -> tuple[Images, Labels]:
    names = sorted({path.name.removesuffix(".gz") for path in place.glob(f"{prefix}*.bin*")})
    if not names:
        raise UsageError(f"there is no {prefix}*.bin in {str(place)!r}.")
    parts = []
    for name in names:
        data = _read(place, name)
        if len(data) % _RECORD:
            raise UsageError(f"{name!r} in {str(place)!r} is cut off.")
        parts.append(np.frombuffer(data, np.uint8).reshape(-1, _RECORD))
    records = np.concatenate(parts)
    return _scaled(records[:, 1:].reshape(-1, 3, 32, 32)), records[:, 0].astype(np.int64)
