"""Initial values: their distribution, their independence of order, and that splats stay splats."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.tensor_type import BFLOAT16, FLOAT32, FLOAT64, TensorType
from netloom.frontends.dsl import initializers
from netloom.frontends.dsl.initializers import Fans, Initializer

FANS = Fans(300, 100)
TYPE = TensorType(FLOAT32, (400, 250))


def drawn(initializer: Initializer, type: TensorType = TYPE, seed: int = 1) -> np.ndarray:
    return initializer(type, FANS, np.random.default_rng(seed)).array


@pytest.mark.parametrize(
    ("initializer", "deviation", "limit"),
    [
        (initializers.he_normal, np.sqrt(2 / 300), np.inf),
        (initializers.he_uniform, np.sqrt(2 / 300), np.sqrt(6 / 300)),
        (initializers.glorot_normal, np.sqrt(2 / 400), np.inf),
        (initializers.glorot_uniform, np.sqrt(2 / 400), np.sqrt(6 / 400)),
        (initializers.lecun_normal, np.sqrt(1 / 300), np.inf),
        (initializers.lecun_uniform, np.sqrt(1 / 300), np.sqrt(3 / 300)),
        (initializers.normal(0.3), 0.3, np.inf),
        (initializers.uniform(0.3), 0.3 / np.sqrt(3), 0.3),
        (initializers.truncated_normal(0.3), 0.3, 0.3 * 2 / 0.8796),
    ],
)
def test_mean_deviation_and_limit(initializer: Initializer, deviation: float, limit: float) -> None:
    values = drawn(initializer).astype(np.float64)
    count = values.size
    assert abs(values.mean()) < 5 * deviation / np.sqrt(count)
    assert abs(values.std() / deviation - 1) < 5 / np.sqrt(count)
    assert np.abs(values).max() <= limit * 1.0001
    if np.isfinite(limit):
        assert np.abs(values).max() > 0.99 * limit


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 2, 3, 3)])
def test_orthogonal_rows_or_columns(shape: tuple[int, ...]) -> None:
    matrix = drawn(initializers.orthogonal, TensorType(FLOAT64, shape)).reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


@pytest.mark.parametrize(
    ("initializer", "value"),
    [(initializers.zeros, 0), (initializers.ones, 1), (initializers.constant(2.5), 2.5)],
)
def test_constant_initializers_take_no_memory(initializer: Initializer, value: float) -> None:
    constant = initializer(TensorType(FLOAT32, (1 << 20, 1 << 10)), FANS, np.random.default_rng(0))
    assert constant.is_splat and constant.splat_value == value


@pytest.mark.parametrize("dtype", [FLOAT64, BFLOAT16])
def test_other_dtypes(dtype: object) -> None:
    type = TensorType(dtype, (5, 7))  # type: ignore[arg-type]
    assert initializers.he_normal(type, FANS, np.random.default_rng(0)).type == type
