"""Optimizers: how a parameter changes, given its gradient, as graph nodes; and groups of parameters
with options of their own. Schedules of the learning rate are in schedules.py.

An optimizer keeps tensors per parameter (``slots``) and tensors of its own (``shared``), all of
them states of the step's graph. The learning rate is an input of the step, so one compiled step
serves every schedule; ``rate`` is what the trainer feeds: a number, or a schedule that maps the
number of updates done to a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np

from netloom.arguments import real
from netloom.compiler.constant import Constant
from netloom.compiler.tensor_type import TensorType
from netloom.errors import UsageError, quoted

from .functions import cast, sqrt
from .schedules import (
    ConstantRate,
    CosineDecay,
    ExponentialDecay,
    Schedule,
    StepDecay,
    Warmup,
)
from .trace import Symbolic

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


def _check(optimizer: object, shares: Sequence[str], others: Sequence[str]) -> None:
    """UsageError unless its ``shares`` are in [0, 1) and ``others`` at least 0."""
    kind = type(optimizer).__name__
    for name in (*shares, *others):
        below = 1 if name in shares else math.inf
        real(getattr(optimizer, name), f"{name} of {kind}", least=0, below=below)


class _NothingShared:
    """Of an optimizer that keeps tensors for each parameter alone."""

    def shared(self) -> dict[str, Constant]:
        return {}

    def advance(self, shared: Tensors) -> dict[str, Symbolic]:
        return {}


@dataclass(frozen=True)
class SGD(_NothingShared):
    """v = momentum * v + g; p -= rate * v, or rate * (g + momentum * v) with ``nesterov``; g
    includes decay * p.
    """

    rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("momentum",), ("weight_decay",))
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov needs a momentum.")

    def slots(self, parameter: TensorType) -> dict[str, Constant]:
        return _zeros(parameter, "velocity") if self.momentum else {}

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

    def __post_init__(self) -> None:
        _check(self, ("beta1", "beta2"), ("epsilon", "weight_decay"))

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
class RMSprop(_NothingShared):
    """s = decay * s + (1 - decay) * g²; p -= rate * g / (sqrt(s) + epsilon) (Hinton's lecture
    6e, 2012).
    """

    rate: float | Schedule = 1e-3
    decay: float = 0.9
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("decay",), ("epsilon", "weight_decay"))

    def slots(self, parameter: TensorType) -> dict[str, Constant]:
        return _zeros(parameter, "mean_square")

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


# -- groups of parameters --------------------------------------------------------------------------


class Group:
    """Parameters that an optimizer treats apart: those named, or those of whose names ``names`` is
    true. Their rate is ``factor`` times the step's; ``options`` replace the optimizer's own, such
    as ``weight_decay=0.0``.
    """

    def __init__(
        self, names: str | Collection[str] | Callable[[str], bool], factor: float = 1.0,
        **options: float,
    ) -> None:  # fmt: skip
        if not callable(names) and not isinstance(names, Collection):
            raise UsageError(f"a group is of names or a function of them, not {names!r}.")
        real(factor, "factor of a group", least=0)
        self.names = (names,) if isinstance(names, str) else names
        self.factor, self.options = factor, options

    def holds(self, name: str) -> bool:
        """Whether a parameter is of the group."""
        return self.names(name) if callable(self.names) else name in self.names

    def unknown(self, names: Sequence[str]) -> list[str]:
        """The names that are given for the group and are not among these."""
        return [] if callable(self.names) else sorted(set(self.names) - set(names))


class Grouped:
    """An optimizer whose groups have options of their own. A parameter is of the first group that
    holds it; those of no group keep the optimizer's options.
    """

    def __init__(self, optimizer: Optimizer, *groups: Group) -> None:
        for group in groups:
            if not isinstance(group, Group):
                raise UsageError(f"{group!r} is no group.", hint="Give nl.optimizers.Group(names).")
        self.optimizer, self.groups = optimizer, groups

    @property
    def rate(self) -> float | Schedule:
        """The rate of parameters that are of no group."""
        return self.optimizer.rate


@dataclass(frozen=True)
class Member:
    """An optimizer and its parameters; ``prefix`` is that of its shared tensors' names."""

    optimizer: Optimizer
    factor: float
    prefix: str
    names: list[str]


def members_of(optimizer: Optimizer | Grouped, names: Sequence[str]) -> list[Member]:
    """The parameters by groups. UsageError for an empty group, unknown names and unknown
    options.
    """
    if not isinstance(optimizer, Grouped):
        return [Member(optimizer, 1.0, "optimizer", list(names))]
    found = [Member(optimizer.optimizer, 1.0, "optimizer", [])]
    for number, group in enumerate(optimizer.groups, 1):
        if unknown := group.unknown(names):
            raise UsageError(
                f"optimizer group{number} names {quoted(unknown, 5)}, which is not trained.",
                hint=f"There are: {quoted(names, 8)}.",
            )
        own = _with_options(optimizer.optimizer, group)
        found.append(Member(own, group.factor, f"optimizer.group{number}", []))
    for name in names:
        place = next((n for n, group in enumerate(optimizer.groups, 1) if group.holds(name)), 0)
        found[place].names.append(name)
    for member in found[1:]:
        if not member.names:
            raise UsageError(
                f"{member.prefix.replace('.', ' ')} holds no parameter that is trained.",
                hint=f"There are: {quoted(names, 8)}.",
            )
    return [member for member in found if member.names]


def _with_options(optimizer: Optimizer, group: Group) -> Optimizer:
    known = getattr(optimizer, "__dataclass_fields__", {})
    for name in group.options:
        if name not in known or name == "rate":
            raise UsageError(
                f"{type(optimizer).__name__} has no option {name!r} for a group.",
                hint="A group's rate is given as factor=, times the step's rate.",
            )
    # an optimizer of one's own need not be a dataclass
    return replace(optimizer, **group.options) if group.options else optimizer  # type: ignore[type-var]


__all__ = [
    "OPTIMIZERS", "SGD", "Adam", "AdamW", "ConstantRate", "CosineDecay", "ExponentialDecay",
    "Group", "Grouped", "Member", "Optimizer", "RMSprop", "Schedule", "StepDecay", "Warmup",
    "members_of",
]  # fmt: skip
