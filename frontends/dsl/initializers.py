"""Initial values of parameters: (type, fans, generator) -> Constant.

An initializer is any callable of that form. Constant ones give splats, which take no memory. Scaled
ones follow their papers: Glorot and Bengio 2010 (eq. 16), He et al. 2015 (eq. 10), LeCun et al.
1998 (eq. 16), Saxe et al. 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from netloom.compiler.constant import Constant
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, TensorType
from netloom.errors import ShapeError


@dataclass(frozen=True)
class Fans:
    """How many inputs one unit adds up, and how many units one input feeds."""

    inputs: int
    outputs: int


class Initializer(Protocol):
    """Makes the initial value of a parameter."""

    def __call__(
        self, type: TensorType, fans: Fans, generator: np.random.Generator, /
    ) -> Constant: ...


@dataclass(frozen=True)
class Fill:
    """Every element is ``value``."""

    value: float

    def __call__(self, type: TensorType, fans: Fans, generator: np.random.Generator, /) -> Constant:
        return Constant.splat(self.value, type)


@dataclass(frozen=True)
class Scaled:
    """Random values of variance ``scale / fan``; the fan is that of the inputs, the outputs, or
    the mean of both.
    """

    distribution: str  # normal, uniform or truncated
    scale: float
    fan: str  # inputs, outputs or mean

    def __call__(self, type: TensorType, fans: Fans, generator: np.random.Generator, /) -> Constant:
        fan = {
            "inputs": fans.inputs,
            "outputs": fans.outputs,
            "mean": (fans.inputs + fans.outputs) / 2,
        }[self.fan]
        return _draw(self.distribution, math.sqrt(self.scale / max(fan, 1)), type, generator)


@dataclass(frozen=True)
class Spread:
    """Random values of standard deviation ``deviation``, whatever the fans."""

    distribution: str
    deviation: float

    def __call__(self, type: TensorType, fans: Fans, generator: np.random.Generator, /) -> Constant:
        return _draw(self.distribution, self.deviation, type, generator)


@dataclass(frozen=True)
class Orthogonal:
    """Rows (or columns, if there are fewer) of a random orthogonal matrix, times ``gain``."""

    gain: float = 1.0

    def __call__(self, type: TensorType, fans: Fans, generator: np.random.Generator, /) -> Constant:
        shape = _float_shape(type)
        rows = shape[0] if shape else 1
        columns = math.prod(shape[1:])
        tall = generator.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(tall)
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        matrix = q if rows >= columns else q.T
        return Constant((self.gain * matrix).reshape(shape).astype(type.dtype.numpy))


def _float_shape(type: TensorType) -> tuple[int, ...]:
    """The shape; ShapeError unless it is one of floats: as integers, small values are zeros."""
    if not type.dtype.is_float:
        raise ShapeError(
            f"random initial values are floats, not {type}",
            hint='Cast what the layer reads, as nl.cast(x, "float32"), or give an initializer.',
        )
    return type.static_shape


def _draw(
    distribution: str, deviation: float, type: TensorType, generator: np.random.Generator
) -> Constant:
    shape = _float_shape(type)
    precision: Any = np.float64 if type.dtype is FLOAT64 else np.float32
    match distribution:
        case "normal":
            data: npt.NDArray[Any] = generator.standard_normal(shape, precision)
        case "uniform":
            data = (generator.random(shape, precision) * 2 - 1) * precision(math.sqrt(3))
        case _:
            data = _truncated(shape, precision, generator)
    data *= precision(deviation)
    return Constant(data if type.dtype in (FLOAT32, FLOAT64) else data.astype(type.dtype.numpy))


# standard deviation of a standard normal cut off at 2: sqrt(1 - 2 * 2 * phi(2) / (2 * Phi(2) - 1))
_TRUNCATED_DEVIATION = 0.8796256610342398


def _truncated(
    shape: tuple[int, ...], precision: Any, generator: np.random.Generator
) -> npt.NDArray[Any]:
    """Normal values redrawn until none is beyond 2 deviations, scaled to deviation 1."""
    data: npt.NDArray[Any] = np.asarray(generator.standard_normal(shape, precision))
    while (outside := np.abs(data) > 2).any():
        data[outside] = generator.standard_normal(int(outside.sum()), precision)
    data /= precision(_TRUNCATED_DEVIATION)
    return data


zeros = Fill(0.0)
ones = Fill(1.0)
constant = Fill
he_normal = Scaled("normal", 2.0, "inputs")
he_uniform = Scaled("uniform", 2.0, "inputs")
glorot_normal = Scaled("normal", 1.0, "mean")
glorot_uniform = Scaled("uniform", 1.0, "mean")
lecun_normal = Scaled("normal", 1.0, "inputs")
lecun_uniform = Scaled("uniform", 1.0, "inputs")
orthogonal = Orthogonal()


def normal(deviation: float = 0.01) -> Initializer:
    """Normal values of mean 0."""
    return Spread("normal", deviation)


def uniform(limit: float = 0.05) -> Initializer:
    """Uniform values in [-limit, limit)."""
    return Spread("uniform", limit / math.sqrt(3))


def truncated_normal(deviation: float = 0.01) -> Initializer:
    """Normal values, none beyond 2 of the underlying deviations, with standard deviation
    ``deviation``.
    """
    return Spread("truncated", deviation)
