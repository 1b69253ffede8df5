"""Products that are left to their readers are those that NumPy makes, and are made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.layout import channel_blocked, parse_layout
from netloom.compiler.op import OPS
from netloom.compiler.passes import fold_constants as folding
from netloom.compiler.passes.fold_constants import fold_constants
from netloom.compiler.scaled import Scaled
from netloom.compiler.targets.cpu.segments import decode, encode
from netloom.compiler.tensor_type import FLOAT32, TensorType

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, -1.5]


def factors(dtype: type = np.float32, seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    random = np.random.default_rng(seed)
    weights = random.standard_normal((64, 32, 3, 3)).astype(dtype)
    weights.reshape(-1)[: 8 * len(SPECIAL)] = SPECIAL * 8
    factor = random.standard_normal((64, 1, 1, 1)).astype(dtype)
    factor[1:4, 0, 0, 0] = [np.inf, 0, 1e38]
    return weights, factor


def scaled(weights: npt.NDArray[Any], factor: npt.NDArray[Any]) -> Constant:
    return Constant(Scaled(weights, np.broadcast_to(factor, weights.shape)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_product_bit_for_bit(dtype: type) -> None:
    weights, factor = factors(dtype)
    constant = scaled(weights, factor)
    with np.errstate(all="ignore"):
        (expected,) = OPS["mul"].reference(
            OPS["mul"].attrs(), [weights, factor], [Constant(weights).type]
        )
    whole = Constant(expected)
    assert hash(constant) == hash(whole) and not constant.is_splat
    assert isinstance(constant.data, Scaled)  # a hash looks at few elements
    assert constant == whole and constant.array.tobytes() == expected.tobytes()
    assert constant.data is constant.array  # kept from now on
    assert scaled(weights, factor * 2) != whole  # the control


@pytest.mark.parametrize("layout", ["0/16 1 2 3 0%16", str(channel_blocked(4))])
def test_it_is_packed_like_an_array(layout: str) -> None:
    weights, factor = factors(seed=1)
    constant, place = scaled(weights, factor), parse_layout(layout)
    packed = constant.moved(place.pack)
    assert isinstance(packed.data, Scaled)
    assert np.shares_memory(packed.data.array, weights)
    assert packed.data.factor.base is not None and 0 in packed.data.factor.strides
    assert packed.array.tobytes() == place.pack(constant.array).tobytes()


@pytest.mark.parametrize("zeros", [0, 20, 64])
def test_it_is_encoded_like_an_array(zeros: int) -> None:
    """A factor of zero makes runs that are not in the weights."""
    weights = np.random.default_rng(0).standard_normal((64, 2048), dtype=np.float32)
    factor = np.ones((64, 1), np.float32)
    factor[:zeros] = 0
    weights = np.abs(weights)
    product = weights * factor
    lazy, whole = encode(scaled(weights, factor)), encode(Constant(product))
    assert decode(lazy) == product.tobytes()
    assert [(type(s), s.size) for s in lazy] == [(type(s), s.size) for s in whole]
    assert len(whole) == {0: 1, 20: 2, 64: 1}[zeros]


# -- where they come from, and go ------------------------------------------------------------------


def product_of(weights: npt.NDArray[Any] | Constant, factor: npt.NDArray[Any]) -> Constant:
    """What folding makes of a product of constants."""
    b = Builder("product")
    values = [b.constant(c if isinstance(c, Constant) else Constant(c)) for c in (weights, factor)]
    graph = fold_constants(b.build([b("mul", *values)]))
    found = graph.constant_of(graph.outputs[0])
    assert found is not None
    return found


def test_large_weights_times_a_factor_are_left_to_their_readers() -> None:
    weights, factor = factors(seed=2)
    found = product_of(weights, factor)
    assert isinstance(found.data, Scaled) and found.data.array.base is not None
    assert np.shares_memory(found.data.array, weights)
    others = [
        product_of(weights[:4], factor[:4]),  # small
        product_of(weights, weights),  # two of them would be kept
        product_of(np.full(weights.shape, 7, np.int32), np.ones((64, 1, 1, 1), np.int32)),
        product_of(Constant.splat(2.0, TensorType(FLOAT32, weights.shape)), factor),
    ]
    assert not any(isinstance(other.data, Scaled) for other in others)


def network() -> Graph:
    """Two convolutions, the second by Winograd's tiles, each with a scale behind it."""
    random = np.random.default_rng(3)
    b = Builder("scaled")
    value = b.input(TensorType(FLOAT32, (1, 256, 28, 28)), "x")
    for taps in (1, 3):
        w = random.standard_normal((256, 256, taps, taps), dtype=np.float32)
        s = random.standard_normal((256, 1, 1), dtype=np.float32)
        value = b("conv", value, b.constant(Constant(w)), stride=(1, 1), dilation=(1, 1),
                  lo=(taps // 2,) * 2, hi=(taps // 2,) * 2, groups=1)  # fmt: skip
        value = b("relu", b("mul", value, b.constant(Constant(s))))
    return b.build([value])


def test_a_program_computes_each_product_once_and_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    compute = Scaled.computed

    def counted(self: Scaled) -> npt.NDArray[Any]:
        sizes.append(self.nbytes)
        return compute(self)

    monkeypatch.setattr(Scaled, "computed", counted)
    compiled = compile_graph(network())
    strategies = [decision.strategy for decision in compiled.decisions]
    assert len(strategies) == 2 and strategies[1].startswith("winograd")
    compiled.save(tmp_path / "lazy.so")
    pointwise, tiled = 4 * 256 * 256, 4 * 256 * 256 * 9
    # besides, hashes and the search for runs of equal elements read a few
    assert sizes.count(tiled) == 1
    assert sum(sizes) - tiled - pointwise < pointwise / 8
    monkeypatch.setattr(folding, "LARGE", 1 << 40)
    sizes.clear()
    compile_graph(network(), Options()).save(tmp_path / "whole.so")
    assert not sizes
    assert (tmp_path / "lazy.so").read_bytes() == (tmp_path / "whole.so").read_bytes()
