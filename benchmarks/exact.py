"""Single results in float64, where a whole float64 computation would take too long: needs NumPy
alone.

The error of a large result is the relative L2 distance of SAMPLES of its elements, drawn at random
but always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
SAMPLES = 256


def sampled_error(
    found: Array, exactly: Callable[[Sequence[int]], float], samples: int = SAMPLES
) -> float:
    """Relative L2 distance of some results from what ``exactly`` gives for their places."""
    rng = np.random.default_rng(1)
    places = np.stack([rng.integers(0, extent, samples) for extent in found.shape], 1)
    wanted = np.array([exactly(place.tolist()) for place in places])
    distance = np.linalg.norm(found[tuple(places.T)].astype(np.float64) - wanted)
    return float(distance) / max(float(np.linalg.norm(wanted)), 1e-30)


def product(a: Array, b: Array, place: Sequence[int]) -> float:
    """One element of a b, for a [m, k] and b [k, n]."""
    return float(a[place[0]].astype(np.float64) @ b[:, place[1]].astype(np.float64))


def convolution(x: Array, w: Array, stride: int, pad: int, place: Sequence[int]) -> float:
    """One element of a convolution, for x [n, c, h, w] and w [o, c, kh, kw], both sides padded
    by ``pad`` zeros.
    """
    n, o, *at = place
    low = [p * stride - pad for p in at]
    inside = [
        slice(max(a, 0), min(a + k, e))
        for a, k, e in zip(low, w.shape[2:], x.shape[2:], strict=True)
    ]
    taps = [slice(s.start - a, s.stop - a) for s, a in zip(inside, low, strict=True)]
    # [c, kh, kw], less what lies in the padding
    window = x[n, :, inside[0], inside[1]].astype(np.float64)
    return float(np.vdot(window, w[o][:, taps[0], taps[1]].astype(np.float64)))


def attention(q: Array, k: Array, v: Array, scale: float, place: Sequence[int]) -> float:
    """One element of softmax(scale q k') v, for q [n, h, t, d] and k, v [n, h, s, d]."""
    n, h, t, d = place
    scores = k[n, h].astype(np.float64) @ q[n, h, t].astype(np.float64) * scale
    weights = np.exp(scores - scores.max())
    return float(weights @ v[n, h, :, d].astype(np.float64) / weights.sum())
