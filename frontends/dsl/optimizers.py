"""Optimizers: how a parameter changes, given its gradient, as graph nodes; and schedules of the
learning rate.

An optimizer keeps tensors per parameter (``slots``) and tensors of its own (``shared``), all of
them states of the step's graph. The learning rate is an input of the step, so one compiled step
serves every schedule; ``rate`` is what the trainer feeds: a number, or a schedule that maps the
number of steps done to a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from netloom.compiler.constant import Constant
from netloom.compiler.tensor_type import TensorType
from netloom.errors import UsageError

from .functions import cast, sqrt
from .trace import Symbolic

Schedule: TypeAlias = Callable[[int], float]
Tensors: TypeAlias = Mapping[str, Symbolic]


class Optimizer(Protocol):
    """What the training step needs of an optimizer."""

    @property
    def rate(self) -> float | Schedule:
        """The learning rate, or its schedule."""

    def slots(self, parameter: TensorType) -> dict[str, Constant]:
        """Initial values of the tensors kept for one parameter."""

    def shared(self) -> dict[str, Constant]:
        """Initial values of the tensors kept once."""

    def advance(self, shared: Tensors) -> dict[str, Symbolic]:
        """The shared tensors of this step, from those of the step before."""

    def build_update(
        self,
        parameter: Symbolic,
        gradient: Symbolic,
        slots: Tensors,
        shared: Tensors,
        rate: Symbolic,
    ) -> tuple[Symbolic, dict[str, Symbolic]]:
        """The new parameter and the new slots; ``shared`` are those of this step, ``rate`` a
        scalar.
        """


def _zeros(parameter: TensorType, *names: str) -> dict[str, Constant]:
    return {name: Constant.splat(0, parameter) for name in names}


@dataclass(frozen=True)
class SGD:
    """v = momentum * v + g; p -= rate * v, or rate * (g + momentum * v) with ``nesterov``; g
    includes decay * p.
    """

    rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov needs a momentum.")

    def slots(self, parameter: TensorType) -> dict[str, Constant]:
        return _zeros(parameter, "velocity") if self.momentum else {}

    def shared(self) -> dict[str, Constant]:
        return {}

    def advance(self, shared: Tensors) -> dict[str, Symbolic]:
        return {}

    def build_update(
        self,
        parameter: Symbolic,
        gradient: Symbolic,
        slots: Tensors,
        shared: Tensors,
        rate: Symbolic,
    ) -> tuple[Symbolic, dict[str, Symbolic]]:
        gradient = _with_decay(gradient, parameter, self.weight_decay)
        if not self.momentum:
            return parameter - rate * gradient, {}
        velocity = self.momentum * slots["velocity"] + gradient
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        return parameter - rate * direction, {"velocity": velocity}


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba 2015, algorithm 1; ``weight_decay`` is added to the gradient."""

    rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def slots(self, parameter: TensorType) -> dict[str, Constant]:
        return _zeros(parameter, "moment1", "moment2")

    def shared(self) -> dict[str, Constant]:
        """1 - beta**t in float64: near 1 float32 would lose the digits that matter in the first
        steps.
        """
        return {"correction1": Constant(np.float64(0)), "correction2": Constant(np.float64(0))}

    def advance(self, shared: Tensors) -> dict[str, Symbolic]:
        """1 - beta**t = beta * (1 - beta**(t-1)) + (1 - beta)."""
        return {
            "correction1": self.beta1 * shared["correction1"] + (1 - self.beta1),
            "correction2": self.beta2 * shared["correction2"] + (1 - self.beta2),
        }

    def build_update(
        self,
        parameter: Symbolic,
        gradient: Symbolic,
        slots: Tensors,
        shared: Tensors,
        rate: Symbolic,
    ) -> tuple[Symbolic, dict[str, Symbolic]]:
        gradient = _with_decay(gradient, parameter, self.weight_decay)
        step, moments = _adam_step(self, gradient, slots, shared, rate)
        return parameter - step, moments


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose decay acts on the parameter itself: p -= rate * decay * p (Loshchilov and
    Hutter 2019, algorithm 2).
    """

    weight_decay: float = 0.01

    def build_update(
        self,
        parameter: Symbolic,
        gradient: Symbolic,
        slots: Tensors,
        shared: Tensors,
        rate: Symbolic,
    ) -> tuple[Symbolic, dict[str, Symbolic]]:
        step, moments = _adam_step(self, gradient, slots, shared, rate)
        return parameter - rate * self.weight_decay * parameter - step, moments


@dataclass(frozen=True)
class RMSprop:
    """s = decay * s + (1 - decay) * g²; p -= rate * g / (sqrt(s) + epsilon) (Hinton's lecture
    6e, 2012).
    """

    rate: float | Schedule = 1e-3
    decay: float = 0.9
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def slots(self, parameter: TensorType) -> dict[str, Constant]:
        return _zeros(parameter, "mean_square")

    def shared(self) -> dict[str, Constant]:
        return {}

    def advance(self, shared: Tensors) -> dict[str, Symbolic]:
        return {}

    def build_update(
        self,
        parameter: Symbolic,
        gradient: Symbolic,
        slots: Tensors,
        shared: Tensors,
        rate: Symbolic,
    ) -> tuple[Symbolic, dict[str, Symbolic]]:
        gradient = _with_decay(gradient, parameter, self.weight_decay)
        mean_square = self.decay * slots["mean_square"] + (1 - self.decay) * (gradient * gradient)
        return parameter - rate * gradient / (sqrt(mean_square) + self.epsilon), {
            "mean_square": mean_square
        }


def _with_decay(gradient: Symbolic, parameter: Symbolic, decay: float) -> Symbolic:
    return gradient + decay * parameter if decay else gradient


def _adam_step(
    settings: Adam, gradient: Symbolic, slots: Tensors, shared: Tensors, rate: Symbolic
) -> tuple[Symbolic, dict[str, Symbolic]]:
    """rate * (m / c1) / (sqrt(v / c2) + epsilon), with the divisions by c1 and c2 done on
    scalars.
    """
    moment1 = settings.beta1 * slots["moment1"] + (1 - settings.beta1) * gradient
    moment2 = settings.beta2 * slots["moment2"] + (1 - settings.beta2) * (gradient * gradient)
    scaled_rate = cast(
        cast(rate, shared["correction1"].dtype) / shared["correction1"], gradient.dtype
    )
    root = cast(sqrt(shared["correction2"]), gradient.dtype)
    step = scaled_rate * moment1 / (sqrt(moment2) / root + settings.epsilon)
    return step, {"moment1": moment1, "moment2": moment2}


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}


# -- schedules: steps done -> learning rate --------------------------------------------------------


@dataclass(frozen=True)
class ConstantRate:
    """The same rate at every step."""

    rate: float

    def __call__(self, step: int) -> float:
        return self.rate


@dataclass(frozen=True)
class StepDecay:
    """rate * factor ** (number of whole ``every`` steps done)."""

    rate: float
    every: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        return float(self.rate * self.factor ** (step // self.every))


@dataclass(frozen=True)
class ExponentialDecay:
    """rate * factor ** (step / every)."""

    rate: float
    every: int
    factor: float

    def __call__(self, step: int) -> float:
        return float(self.rate * self.factor ** (step / self.every))


@dataclass(frozen=True)
class CosineDecay:
    """From ``rate`` down to ``final`` along half a cosine over ``steps`` (Loshchilov and Hutter
    2017, eq. 5).
    """

    rate: float
    steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1.0)
        return self.final + 0.5 * (self.rate - self.final) * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Warmup:
    """A linear rise over the first ``steps`` to where ``then`` starts."""

    steps: int
    then: Schedule

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.then(step - self.steps)
        return self.then(0) * (step + 1) / self.steps
