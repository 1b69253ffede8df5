"""Random numbers by counter: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1,
2, 3", SC 2011).

A key is uint32[4]: the low and high word of the first block's number, then of the seed. Element i
of a result is word i % 4 of block number + i // 4: results depend on key and shape only, never on
the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import scalar
from ..dim import Extent
from ..op import Array, ByDecomposition, Compute, NotDifferentiable, Op, Read, define
from ..scalar import Expr, Index, call, literal
from ..tensor_type import FLOAT32, UINT32, UINT64, DType, TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


@dataclass(frozen=True)
class ShapeAttrs:
    shape: tuple[Extent, ...]


@dataclass(frozen=True)
class RandomAttrs:
    shape: tuple[Extent, ...]
    dtype: DType = FLOAT32


@dataclass(frozen=True)
class DropoutAttrs:
    """``rate``: the part of the elements that become zero."""

    rate: float


def _key(inputs: Sequence[TensorType], position: int = 0) -> None:
    if inputs[position] != TensorType(UINT32, (4,)):
        raise ValueError("the key must be uint32[4]")


def _bits_infer(attrs: ShapeAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    _key(inputs)
    return [TensorType(UINT32, attrs.shape)]


def philox(key: Array, count: int) -> Array:
    """The first ``count`` words from a key, as uint32."""
    blocks = -(-count // 4)
    start = int(key[0]) | int(key[1]) << 32
    number = (np.arange(blocks, dtype=np.uint64) + np.uint64(start)).astype(np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c = [
        number & low,
        number >> np.uint64(32),
        np.zeros(blocks, np.uint64),
        np.zeros(blocks, np.uint64),
    ]
    k = [int(key[2]), int(key[3])]
    for _ in range(_ROUNDS):
        a, b = c[0] * np.uint64(_MULTIPLIERS[0]), c[2] * np.uint64(_MULTIPLIERS[1])
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]),
            b & low,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]),
            a & low,
        ]
        k = [(k[0] + _WEYL[0]) & 0xFFFFFFFF, (k[1] + _WEYL[1]) & 0xFFFFFFFF]
    return np.stack(c, axis=1).reshape(-1)[:count].astype(np.uint32)


def _bits_reference(
    _a: ShapeAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    shape = outputs[0].static_shape
    return [philox(inputs[0], math.prod(shape)).reshape(shape)]


def _wide(value: int) -> Expr:
    return literal(value, UINT64)


def _bits_compute(attrs: ShapeAttrs, _i: Sequence[TensorType], _o: Sequence[TensorType]) -> Compute:
    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        flat: Extent = 0
        for extent, position in zip(attrs.shape, i, strict=True):
            flat = flat * extent + position
        words = [scalar.cast(read(0, (k,)), UINT64) for k in range(4)]
        first = words[0] + call("shift_left", words[1], 32)
        number = first + scalar.cast(Index(flat // 4), UINT64)
        result = _rounds(number, words[2], words[3])
        lane = Index(flat % 4)
        chosen = result[3]
        for k in (2, 1, 0):
            chosen = scalar.select(call("equal", lane, k), result[k], chosen)
        return scalar.cast(chosen, UINT32)

    return Compute(term)


def _rounds(number: Expr, k0: Expr, k1: Expr) -> list[Expr]:
    low = _wide(0xFFFFFFFF)
    c = [call("and", number, low), call("shift_right", number, 32), _wide(0), _wide(0)]
    for turn in range(_ROUNDS):
        a, b = c[0] * _wide(_MULTIPLIERS[0]), c[2] * _wide(_MULTIPLIERS[1])
        keys = [
            call("and", k + _wide(turn * w & 0xFFFFFFFF), low)
            for k, w in zip((k0, k1), _WEYL, strict=True)
        ]
        c = [
            call("xor", call("xor", call("shift_right", b, 32), c[1]), keys[0]), call("and", b, low),
            call("xor", call("xor", call("shift_right", a, 32), c[3]), keys[1]), call("and", a, low),
        ]  # fmt: skip
    return c


_NO_KEY = NotDifferentiable("a generator's key is an integer")
define(Op("random_bits", "Philox-4x32-10 words", _bits_infer, _bits_reference, _NO_KEY, ShapeAttrs, "random_numbers",
          _bits_compute))  # fmt: skip


def _random_infer(attrs: RandomAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    _key(inputs)
    if not attrs.dtype.is_float:
        raise ValueError("random numbers are floats")
    return [TensorType(attrs.dtype, attrs.shape)]


def _uniform(b: Builder, node: Node) -> Sequence[Value]:
    """The upper 24 bits, times 2^-24: in [0, 1)."""
    bits = b("random_bits", node.inputs[0], shape=node.attrs.shape)
    whole = b("cast", b("shift_right", bits, 8), dtype=FLOAT32)
    value = b("mul", whole, 2.0**-24)
    return [value if node.attrs.dtype is FLOAT32 else b("cast", value, dtype=node.attrs.dtype)]


def _uniform_array(bits: Array) -> Array:
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _uniform_reference(
    attrs: RandomAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    shape = outputs[0].static_shape
    return [
        _uniform_array(philox(inputs[0], math.prod(shape))).reshape(shape).astype(attrs.dtype.numpy)
    ]


def _normal(b: Builder, node: Node) -> Sequence[Value]:
    """Box and Muller's cosine form, from two words an element."""
    shape = node.attrs.shape
    bits = b("random_bits", node.inputs[0], shape=(2, *shape))
    uniform = b("mul", b("add", b("cast", b("shift_right", bits, 8), dtype=FLOAT32), 0.5), 2.0**-24)

    def half(position: int) -> Value:
        rank = uniform.type.rank
        start = tuple(position if a == 0 else 0 for a in range(rank))
        return b(
            "reshape",
            b("slice", uniform, start=start, size=(1, *shape), step=(1,) * rank),
            shape=shape,
        )

    radius = b("sqrt", b("mul", b("log", half(0)), -2.0))
    value = b("mul", radius, b("cos", b("mul", half(1), 2 * math.pi)))
    return [value if node.attrs.dtype is FLOAT32 else b("cast", value, dtype=node.attrs.dtype)]


def _normal_reference(
    attrs: RandomAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    shape = outputs[0].static_shape
    bits = philox(inputs[0], 2 * math.prod(shape)).reshape(2, *shape)
    u = ((bits >> np.uint32(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-24)
    value = np.sqrt(np.float32(-2) * np.log(u[0])) * np.cos(u[1] * np.float32(2 * math.pi))
    return [np.asarray(value).astype(attrs.dtype.numpy)]


define(Op("random_uniform", "uniform in [0, 1)", _random_infer, _uniform_reference, _NO_KEY, RandomAttrs,
          "random_numbers", decompose=_uniform))  # fmt: skip
define(Op("random_normal", "normal with mean 0 and variance 1", _random_infer, _normal_reference, _NO_KEY, RandomAttrs,
          "random_numbers", decompose=_normal))  # fmt: skip


def _dropout_infer(attrs: DropoutAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    _key(inputs, 1)
    if not 0 <= attrs.rate < 1:
        raise ValueError(f"the rate {attrs.rate} is not in [0, 1)")
    return [inputs[0]]


def _dropout(b: Builder, node: Node) -> Sequence[Value]:
    x, key = node.inputs
    uniform = b("random_uniform", key, shape=x.shape, dtype=FLOAT32)
    kept = b("cast", b("less_equal", b.number(node.attrs.rate, FLOAT32), uniform), dtype=x.dtype)
    return [b("mul", b("mul", x, kept), 1 / (1 - node.attrs.rate))]


def _dropout_reference(
    attrs: DropoutAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    x, key = inputs
    shape = outputs[0].static_shape
    kept = _uniform_array(philox(key, math.prod(shape))).reshape(shape) >= np.float32(attrs.rate)
    return [x * kept.astype(x.dtype) * x.dtype.type(1 / (1 - attrs.rate))]


define(Op("dropout", "x with random elements zero, the others divided by 1 - rate", _dropout_infer, _dropout_reference,
          ByDecomposition(), DropoutAttrs, "random_numbers", decompose=_dropout))  # fmt: skip
__all__ = ["philox"]
