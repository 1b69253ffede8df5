"""Data sets: the files' formats, normalisation, the fixed split, and clear errors."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import zoom

from netloom.errors import UsageError
from netloom.frontends import datasets


def test_digits_are_split_without_overlap_and_always_alike() -> None:
    data = datasets.digits()
    assert data.x.shape == (1438, 1, 28, 28) and data.test_x.shape == (359, 1, 28, 28)
    assert data.x.dtype == np.float32 and data.y.dtype == np.int64
    assert abs(data.x.mean()) < 1e-4 and abs(data.x.std() - 1) < 1e-4
    assert not {row.tobytes() for row in data.test_x} & {row.tobytes() for row in data.x}
    np.testing.assert_array_equal(datasets.digits().test_y, data.test_y)
    assert datasets.digits(size=32).x.shape == (1438, 1, 32, 32)
    with pytest.raises(UsageError, match="24x24"):
        datasets.digits(size=20)


def test_digits_are_enlarged_as_scipy_does() -> None:
    from sklearn.datasets import load_digits

    data = datasets.digits()
    images = np.concatenate([data.test_x, data.x])[:, 0]
    images = (images - images.min()) / (images.max() - images.min())
    assert not images[:, :2].any() and not images[:, :, 26:].any()
    order = np.random.Generator(np.random.Philox(key=0)).permutation(1797)
    enlarged = zoom(
        load_digits().images[order[:50]], (1, 3, 3), order=1, mode="nearest", grid_mode=True
    )
    np.testing.assert_allclose(images[:50, 2:26, 2:26], enlarged / 16, atol=1e-5)


def write_idx(path: Path, array: np.ndarray, pack: Callable[[bytes], bytes] = bytes) -> None:
    shape = b"".join(extent.to_bytes(4, "big") for extent in array.shape)
    path.write_bytes(pack(bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()))


def make_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5, 28, 28)), rng.integers(0, 10, 5)
    write_idx(folder / "train-images-idx3-ubyte.gz", images, gzip.compress)
    write_idx(folder / "train-labels-idx1-ubyte.gz", labels, gzip.compress)
    write_idx(folder / "t10k-images-idx3-ubyte", images[:2])
    write_idx(folder / "t10k-labels-idx1-ubyte", labels[:2])
    return images, labels


def test_mnist_from_packed_and_plain_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    images, labels = make_mnist(tmp_path / "mnist")
    monkeypatch.setenv("NETLOOM_DATA", str(tmp_path))
    data = datasets.mnist()
    expected = (images - images.mean()) / images.std()
    np.testing.assert_allclose(data.x[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(data.test_x[:, 0], expected[:2], atol=1e-5)
    np.testing.assert_array_equal(data.y, labels)
    framed, wide = np.pad(images, ((0, 0), (2, 2), (2, 2))), datasets.mnist(size=32)
    np.testing.assert_allclose(wide.x[:, 0], (framed - framed.mean()) / framed.std(), atol=1e-5)
    with pytest.raises(UsageError, match="28x28 do not fit in 27x27"):
        datasets.mnist(size=27)


def test_cifar10(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (4, 3073)).astype(np.uint8)
    records[:, 0] = [3, 1, 2, 9]
    (tmp_path / "data_batch_1.bin.gz").write_bytes(gzip.compress(records[:2].tobytes()))
    (tmp_path / "data_batch_2.bin").write_bytes(records[2:3].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records[3:].tobytes())
    data = datasets.cifar10(tmp_path)
    assert (
        data.x.shape == (3, 3, 32, 32)
        and data.y.tolist() == [3, 1, 2]
        and data.test_y.tolist() == [9]
    )
    planes = records[:3, 1:].reshape(3, 3, 32, 32) / 255
    mean, deviation = planes.mean((0, 2, 3), keepdims=True), planes.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.x, (planes - mean) / deviation, atol=1e-5)


def test_missing_and_damaged_files_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NETLOOM_DATA", raising=False)
    with pytest.raises(UsageError, match="Set NETLOOM_DATA"):
        datasets.mnist()
    with pytest.raises(UsageError, match="no folder"):
        datasets.mnist(tmp_path / "none")
    with pytest.raises(
        UsageError, match="'train-images-idx3-ubyte' \\(or train-images-idx3-ubyte.gz\\) is missing"
    ):
        datasets.mnist(tmp_path)
    make_mnist(tmp_path)
    for content, message in (
        (b"\0\0\x0d\1", "not an idx file"),
        (b"\0\0\x08\1\0\0\0\5ab", "cut off"),
    ):
        (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(content)
        with pytest.raises(UsageError, match=message):
            datasets.mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="cannot be read"):
        datasets.mnist(tmp_path)
    with pytest.raises(UsageError, match="data_batch"):
        datasets.cifar10(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(b"short")
    with pytest.raises(UsageError, match="cut off"):
        datasets.cifar10(tmp_path)
