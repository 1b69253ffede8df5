"""A small transformer that classifies sequences, for training steps with attention in
benchmarks/gpu.py; torch_networks.py has the same in PyTorch."""

from __future__ import annotations

import netloom as nl
from netloom.frontends.dsl.network import TracedGraph


@nl.network
def encoder(x: nl.Symbolic, heads: int = 8, blocks: int = 2, classes: int = 10) -> nl.Symbolic:
    """[n, length, width] -> [n, classes]: pre-norm blocks of causal attention and a gelu layer, and
    of their mean over the length a dense layer."""
    n, length, width = x.shape
    assert isinstance(width, int)

    def split(y: nl.Symbolic) -> nl.Symbolic:
        return nl.transpose(nl.reshape(y, (n, length, heads, width // heads)), (0, 2, 1, 3))

    for _ in range(blocks):
        normal = nl.layer_norm(x)
        q, k, v = (split(nl.dense(normal, width)) for _ in range(3))
        met = nl.attention(q, k, v, causal=True)
        joined = nl.reshape(nl.transpose(met, (0, 2, 1, 3)), (n, length, width))
        x = x + nl.dense(joined, width)
        x = x + nl.dense(nl.gelu(nl.dense(nl.layer_norm(x), 4 * width)), width)
    return nl.dense(nl.reduce_mean(nl.layer_norm(x), 1), classes)


def transformer(
    batch: int = 4, length: int = 1024, width: int = 512, heads: int = 8, blocks: int = 2
) -> TracedGraph:
    """The encoder's graph, to be trained."""
    model = encoder.with_options(heads=heads, blocks=blocks).named("transformer")
    return model.graph(x=nl.tensor(batch, length, width))


__all__ = ["transformer"]
