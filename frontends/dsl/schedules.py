"""Schedules: the number of updates done -> the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from netloom.arguments import whole
from netloom.errors import UsageError

Schedule: TypeAlias = Callable[[int], float]


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

    def __post_init__(self) -> None:
        whole(self.every, "every of StepDecay", least=1)

    def __call__(self, step: int) -> float:
        return float(self.rate * self.factor ** (step // self.every))


@dataclass(frozen=True)
class ExponentialDecay:
    """rate * factor ** (step / every)."""

    rate: float
    every: int
    factor: float

    def __post_init__(self) -> None:
        whole(self.every, "every of ExponentialDecay", least=1)

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

    def __post_init__(self) -> None:
        whole(self.steps, "steps of CosineDecay", least=1)

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1.0)
        return self.final + 0.5 * (self.rate - self.final) * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Warmup:
    """A linear rise over the first ``steps`` to where ``then`` starts."""

    steps: int
    then: Schedule

    def __post_init__(self) -> None:
        whole(self.steps, "steps of Warmup", least=1)
        if not callable(self.then):
            raise UsageError(
                f"Warmup goes on with a schedule, not {self.then!r}.",
                hint="Give nl.optimizers.ConstantRate(rate) or another one.",
            )

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.then(step - self.steps)
        return self.then(0) * (step + 1) / self.steps
