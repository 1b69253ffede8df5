"""Places of a convolution that a slice throws away are not computed where less padding makes the
same; the results are those of the whole, sliced.
"""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.trim_convolutions import trim_convolutions
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

LENGTH, CHANNELS = 13, 16


def convolved(part: slice, stride: int, dilation: int, is_read: bool, bias: bool = True) -> Graph:
    """Three taps and a bias over a padded line, of which a part is taken."""
    b, rng = Builder("causal"), np.random.default_rng(4)
    x = b.input(TensorType(FLOAT32, (2, CHANNELS, LENGTH)), "x")
    w = b.constant(rng.integers(-3, 4, (CHANNELS, CHANNELS, 3)).astype(np.float32))
    pad = (2 * dilation,)
    attrs = {"stride": (stride,), "dilation": (dilation,), "lo": pad, "hi": pad, "groups": 1}
    whole = b("conv", x, w, **attrs)
    if bias:
        whole = b("add", whole, b.constant(rng.integers(-3, 4, (CHANNELS, 1)).astype(np.float32)))
    start, stop, _ = part.indices(whole.shape[2])
    taken = b("slice", whole, start=(0, 0, start), size=(2, CHANNELS, stop - start), step=(1,) * 3)
    return b.build([b("relu", taken), *([b("neg", whole)] if is_read else [])])


@pytest.mark.parametrize(("part", "stride", "dilation", "is_read", "is_trimmed"), [
    (slice(None, -4), 1, 2, False, True),
    (slice(None, -1), 1, 2, False, True),
    (slice(1, -1), 2, 2, False, True),  # the places of stride 2 begin one later
    (slice(None, -1), 2, 1, False, True),
    (slice(3, -3), 1, 3, False, True),
    (slice(None, -5), 1, 2, False, False),  # of the image the last element would not be read
    (slice(5, None), 1, 2, False, False),
    (slice(None, -4), 1, 2, True, False),
])  # fmt: skip
@pytest.mark.parametrize("bias", [False, True])
def test_parts(
    part: slice, stride: int, dilation: int, is_read: bool, is_trimmed: bool, bias: bool
) -> None:
    graph = convolved(part, stride, dilation, is_read, bias)
    names = [node.op.name for node in trim_convolutions(graph).nodes]
    assert ("slice" not in names) == is_trimmed
    x = np.random.default_rng(5).integers(-3, 4, (2, CHANNELS, LENGTH)).astype(np.float32)
    (made, *_) = Session.in_process(compile_graph(graph).image).run(None, {"x": x})
    np.testing.assert_array_equal(made, interpret(graph, {"x": x})[0])
    padded = np.pad(x, ((0, 0), (0, 0), (2 * dilation,) * 2))
    w, *c = (n.attrs.value.array for n in graph.nodes if n.op.name == "constant")
    count = (padded.shape[2] - 2 * dilation - 1) // stride + 1
    taps = [padded[:, :, k * dilation :][:, :, : count * stride : stride] for k in range(3)]
    whole = sum(np.einsum("oc,ncl->nol", w[:, :, k], tap) for k, tap in enumerate(taps)) + sum(c)
    np.testing.assert_array_equal(made, np.maximum(whole[:, :, part], 0))


def test_a_part_of_a_larger_sum_stays_a_part() -> None:
    """One image and a bias for each of four samples: the part is not one of the convolution."""
    b, rng = Builder("spread"), np.random.default_rng(6)
    x = b.input(TensorType(FLOAT32, (1, CHANNELS, LENGTH)), "x")
    w, c = (
        b.constant(rng.integers(-3, 4, shape).astype(np.float32))
        for shape in ((CHANNELS, CHANNELS, 3), (4, CHANNELS, 1))
    )
    pad = {"stride": (1,), "dilation": (1,), "lo": (1,), "hi": (1,), "groups": 1}
    whole = b("add", b("broadcast", b("conv", x, w, **pad), shape=(4, CHANNELS, LENGTH)), c)
    spread = b("add", b("conv", x, w, **pad), c)
    size = (1, CHANNELS, LENGTH)
    parts = [b("slice", v, start=(2, 0, 0), size=size, step=(1,) * 3) for v in (whole, spread)]
    graph = b.build(parts)
    given = {"x": rng.integers(-3, 4, (1, CHANNELS, LENGTH)).astype(np.float32)}
    for made, expected in zip(
        Session.in_process(compile_graph(graph).image).run(None, given),
        interpret(graph, given),
        strict=True,
    ):
        np.testing.assert_array_equal(made, expected)
