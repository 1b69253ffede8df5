"""Attention, query by query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from .reference import Array


def _attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Any = None,
    *,
    scale: float,
    is_causal: bool,
    fill: float,
    has_zeros: bool = False,
) -> Array:
    """Query by query: the weighted mean of the values, by SciPy's softmax of the scores."""
    heads = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(x, (*heads, *x.shape[-2:])) for x in (q, k, v))
    shape = (*heads, q.shape[-2], k.shape[-2])
    given = np.zeros(shape) if mask is None else np.broadcast_to(mask, shape)
    y = np.zeros((*heads, q.shape[-2], v.shape[-1]))
    for p in np.ndindex(*heads, q.shape[-2]):
        head, row = p[:-1], p[-1]
        scores = scale * (k[head] @ q[p])
        scores = np.where(given[p], scores, fill) if given.dtype == np.bool_ else scores + given[p]
        if is_causal:
            scores[row + 1 :] = -np.inf
        is_empty = has_zeros and scores.max() == -np.inf
        y[p] = 0 if is_empty else special.softmax(scores) @ v[head]
    return y


def _key_panels(k: Array) -> Array:
    count = -(-k.shape[-2] // 16)
    panels = np.zeros((*k.shape[:-2], count, k.shape[-1], 16), k.dtype)
    for key in range(k.shape[-2]):
        panels[..., key // 16, :, key % 16] = k[..., key, :]
    return panels


def _attention_online(q: Array, panels: Array, v: Array, mask: Any = None, **attrs: Any) -> Array:
    keys = [panels[..., key // 16, :, key % 16] for key in range(v.shape[-2])]
    return _attention(q, np.stack(keys, axis=-2), v, mask, **attrs)


def _attention_gradient(
    q: Array, k: Array, v: Array, y: Array, dy: Array, mask: Any = None, *, wrt: str, **attrs: Any
) -> Array:
    """Query by query: what a change of its weights changes. The result that is given is taken as it
    is, for a softmax's gradient subtracts it from every value."""
    heads = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(x, (*heads, *x.shape[-2:])) for x in (q, k, v))
    shape = (*heads, q.shape[-2], k.shape[-2])
    given = np.zeros(shape) if mask is None else np.broadcast_to(mask, shape)
    eye = np.broadcast_to(np.eye(k.shape[-2]), (*heads, k.shape[-2], k.shape[-2]))
    weights = _attention(q, k, eye, mask, **attrs)
    found = {name: np.zeros(x.shape) for name, x in zip("qkv", (q, k, v), strict=True)}
    found["mask"] = np.zeros(shape)
    for p in np.ndindex(shape):
        query, key = p[:-1], (*p[:-2], p[-1])
        found["v"][key] += weights[p] * dy[query]
        slope = weights[p] * ((v[key] - y[query]) @ dy[query]).sum()
        if given.dtype == np.bool_ and not given[p]:
            slope = 0.0
        found["mask"][p] = slope
        found["q"][query] += attrs["scale"] * slope * k[key]
        found["k"][key] += attrs["scale"] * slope * q[query]
    return found[wrt]


ATTENTION: dict[str, Callable[..., Any]] = {
    "attention": _attention,
    "attention_fused": _attention,
    "attention_gradient": _attention_gradient,
    "attention_online": _attention_online,
    "key_panels": _key_panels,
}
