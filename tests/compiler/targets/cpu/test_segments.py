"""Constants survive the encoding byte for byte, and long runs become fills."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netloom.compiler.constant import Constant
from netloom.compiler.targets.cpu.segments import Bytes, Fill, decode, encode, lay_out
from netloom.compiler.tensor_type import FLOAT32, TensorType


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3000)), max_size=8),
    st.sampled_from([np.uint8, np.int16, np.float32, np.float64]),
)
def test_decode_inverts_encode(runs: list[tuple[int, int]], dtype: type) -> None:
    array = np.concatenate(
        [np.full(count, value, dtype) for value, count in runs] or [np.zeros(0, dtype)]
    )
    segments = encode(Constant(array))
    assert decode(segments) == array.tobytes()
    assert all(segment.size >= 4096 for segment in segments if isinstance(segment, Fill))
    longest = max((sum(1 for _ in run) for run in _equal_runs(array)), default=0)
    assert any(isinstance(segment, Fill) for segment in segments) == (
        longest * array.itemsize >= 4096
    )


def _equal_runs(array: np.ndarray) -> list[np.ndarray]:
    cuts = np.flatnonzero(np.diff(array)) + 1
    return list(np.split(array, cuts)) if array.size else []


def test_a_splat_is_not_materialised() -> None:
    constant = Constant.splat(1.5, TensorType(FLOAT32, (1 << 20, 1 << 16)))  # 256 GiB
    (segment,) = encode(constant)
    assert segment == Fill(np.float32(1.5).tobytes(), 1 << 36)
    assert lay_out([constant]).size == 0


def test_signed_zeros_and_nans_are_kept() -> None:
    array = np.zeros(4096, np.float32)
    array[2048:] = -0.0
    array[4000] = np.nan
    assert decode(encode(Constant(array))) == array.tobytes()


def test_equal_constants_are_stored_once_at_aligned_places() -> None:
    first: npt.NDArray[Any] = np.arange(100, dtype=np.float32)
    second: npt.NDArray[Any] = np.arange(7, dtype=np.int64)
    weights = lay_out([Constant(first), Constant(second), Constant(first.copy())])
    assert weights.indices == (0, 1, 0)
    assert [placement.in_place for placement in weights.placements] == [True, True]
    data = b"".join(weights.chunks())
    assert len(data) == weights.size
    for placement, array in zip(weights.placements, (first, second), strict=True):
        offset = placement.pieces[0].offset
        assert offset % 64 == 0
        assert data[offset : offset + array.nbytes] == array.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_scalars_and_empty_arrays(shape: tuple[int, ...]) -> None:
    array = np.ones(shape, np.float32)
    (segment,) = encode(Constant(array))
    assert isinstance(segment, Bytes)
    assert segment.size == array.nbytes


# -- packed constants ------------------------------------------------------------------------------


def packed(array: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    """The columns of matrices [n, rows, columns] in panels of 16 beside each other, as a view."""
    panels: npt.NDArray[Any] = array.reshape(-1, rows, columns // 16, 16)
    return panels.transpose(0, 2, 1, 3)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9000)), max_size=6),
    st.sampled_from([np.uint8, np.int16, np.float32, np.float64]),
    st.integers(0, 3),
)
def test_packed_constants_are_encoded_like_their_copies(
    runs: list[tuple[int, int]], dtype: type, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 100, 4 * 40 * 64).astype(dtype)
    pieces = [np.full(count, value, dtype) for value, count in runs]
    array = np.concatenate([*pieces, noise])[: 4 * 40 * 64]
    view = packed(array, 40, 64) if seed % 2 else array.reshape(4, 64, 40).transpose(0, 2, 1)
    segments, copied = (encode(Constant(a)) for a in (view, np.ascontiguousarray(view)))
    assert decode(segments) == view.tobytes()
    assert [(type(s), s.size) for s in segments] == [(type(s), s.size) for s in copied]


def test_packed_weights_are_copied_only_while_they_are_written() -> None:
    array = np.random.default_rng(0).standard_normal((9, 128, 512), dtype=np.float32)
    view = packed(array, 128, 512)
    weights = lay_out([Constant(view), Constant(array[0, :3, :5].T)])
    (segment,) = (piece.segment for piece in weights.placements[0].pieces)
    assert isinstance(segment, Bytes) and np.shares_memory(segment.array, array)
    parts = list(segment.parts())
    assert len(parts) == 3 and all(np.shares_memory(part, array) for part in parts)
    assert max(part.nbytes for part in parts) <= 1 << 20
    data = b"".join(weights.chunks())
    assert len(data) == weights.size
    for placement, expected in zip(weights.placements, (view, array[0, :3, :5].T), strict=True):
        (piece,) = placement.pieces
        assert data[piece.offset :].startswith(expected.tobytes())


@pytest.mark.parametrize("shape", [(3, 700, 33), (1 << 19, 3), (3, 1 << 19), (2, 2, 3 << 17)])
def test_parts_are_the_whole_in_order(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape).T
    parts = list(Bytes(array).parts())
    assert b"".join(part.tobytes() for part in parts) == array.tobytes()
    assert max(part.nbytes for part in parts) <= 1 << 20
