"""Winograd's filters: G w G' computed exactly, whatever the order of the sums, for every form."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from netloom.compiler.op import OPS
from netloom.compiler.ops import winograd
from netloom.compiler.ops.tiles import AT_ONCE, TileFilterAttrs
from netloom.compiler.tensor_type import FLOAT32, TensorType


def made(w: np.ndarray, attrs: TileFilterAttrs) -> np.ndarray:
    op = OPS["winograd_filter"]
    return np.asarray(op.reference(attrs, [w], op.infer(attrs, [TensorType(FLOAT32, w.shape)]))[0])


@pytest.mark.parametrize("m", [2, 4, 6])
def test_filters_are_rounded_once_or_twice(m: int) -> None:
    """Against exact rationals: the sums are exact, the factor and the result are rounded."""
    w = np.random.default_rng(m).standard_normal((1, 2, 3, 3)).astype(np.float32)
    powers, scales = winograd._filter_factors(winograd.POINTS[: m + 1], 3)
    g = [[p * scale for p in row] for row, scale in zip(powers, scales, strict=True)]
    found = made(w, TileFilterAttrs((m, m), (3, 3)))  # [E, 1, c, o]
    for c in range(2):
        exact = [
            float(sum(a * b * Fraction(float(w[0, c, i, j])) for i, a in enumerate(down)
                      for j, b in enumerate(across)))
            for down in g for across in g
        ]  # fmt: skip
        np.testing.assert_array_equal(found[:, 0, c, 0], np.float32(exact))


@pytest.mark.parametrize(("m", "taps"), [((4, 4), (3, 3)), ((2, 1), (5, 1)), ((1, 6), (1, 3))])
@pytest.mark.parametrize("is_flipped", [False, True])
def test_every_form(m: tuple[int, int], taps: tuple[int, int], is_flipped: bool) -> None:
    """Groups, and more filters than are transformed together."""
    groups, filters, channels = 2, 20, AT_ONCE // 20 + 30
    shape = (groups * filters, channels, *taps)
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    attrs = TileFilterAttrs(m, taps, groups, is_flipped)
    down, across = winograd.both_matrices(attrs, 1)
    split = w.reshape(groups, filters, channels, *taps).astype(np.float64)
    split = split[..., ::-1, ::-1] if is_flipped else split.swapaxes(1, 2)
    expected = np.einsum("ei,grcij,fj->efgrc", down, split, across)
    expected = expected.reshape(-1, *expected.shape[2:])
    np.testing.assert_allclose(made(w, attrs), expected, rtol=1e-6, atol=1e-6)


def test_weights_that_are_not_finite_give_no_warning_and_stay_in_their_filter() -> None:
    """Many filters at once are transformed by several threads."""
    weights = np.ones((64, 96, 3, 3), np.float32)
    weights[5, 7, 0, 0], weights[6, 8, 1, 1] = np.inf, np.nan
    with np.errstate(all="ignore"):
        entries = made(weights, TileFilterAttrs((4, 4), (3, 3)))
    assert set(zip(*np.nonzero(~np.isfinite(entries).all((0, 1))), strict=True)) == {(7, 5), (8, 6)}
