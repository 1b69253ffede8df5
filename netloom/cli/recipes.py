"""``adam:rate=1e-3,weight_decay=0.01`` and the like -> losses and optimizers."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable
from typing import Any

from netloom.errors import UsageError
from netloom.frontends.dsl.losses import LOSSES, Loss
from netloom.frontends.dsl.optimizers import OPTIMIZERS, Optimizer

_ALIASES = {"lr": "rate"}
_CHOICES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def parse_recipe(text: str) -> tuple[Loss, Optimizer]:
    """``loss=NAME,optimizer=NAME:KEY=VALUE,KEY=VALUE``; either part may be left out."""
    parts = {"loss": "cross_entropy", "optimizer": "adam"}
    key = ""
    for piece in text.split(","):
        name, _, value = piece.partition("=")
        if name in parts:
            key = name
            parts[key] = value
        elif key == "optimizer":
            parts[key] += f",{piece}"
        else:
            raise UsageError(f"{piece[:80]!r} is neither loss=NAME nor optimizer=NAME.")
    return parse_loss(parts["loss"]), parse_optimizer(parts["optimizer"])


def parse_loss(name: str) -> Loss:
    if name not in LOSSES:
        raise UsageError(f"there is no loss {name[:80]!r}.", hint=f"Choose {', '.join(LOSSES)}.")
    return LOSSES[name]


def parse_optimizer(text: str) -> Optimizer:
    """``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``; the keys are the optimizer's own, ``lr`` is its
    rate.
    """
    name, _, rest = text.partition(":")
    if name not in OPTIMIZERS:
        raise UsageError(
            f"there is no optimizer {name[:80]!r}.", hint=f"Choose {', '.join(OPTIMIZERS)}."
        )
    known = {key: p.default for key, p in inspect.signature(OPTIMIZERS[name]).parameters.items()}
    return OPTIMIZERS[name](**dict(_settings(name, rest.split(",") if rest else (), known)))


def _settings(name: str, pieces: Iterable[str], known: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for piece in pieces:
        key, _, value = piece.partition("=")
        key = _ALIASES.get(key, key)
        if key not in known:
            raise UsageError(
                f"the optimizer {name} has no setting {key[:80]!r}.",
                hint=f"It has {', '.join(known)}.",
            )
        is_choice = isinstance(known[key], bool)
        setting = _CHOICES.get(value.lower()) if is_choice else _number(value)
        if setting is None:
            kind = "true or false" if is_choice else "a number"
            raise UsageError(
                f"{key} of the optimizer {name} must be {kind}, but is {value[:80]!r}."
            )
        yield key, setting


def _number(text: str) -> float | None:
    try:
        return number if math.isfinite(number := float(text)) else None
    except ValueError:
        return None


def with_rate(optimizer: Optimizer, rate: float) -> Optimizer:
    """The optimizer with another learning rate."""
    if not math.isfinite(rate):
        raise UsageError(f"the learning rate must be a number, but is {rate}.")
    changed: Any = optimizer
    return dataclasses.replace(changed, rate=rate)  # type: ignore[no-any-return]
