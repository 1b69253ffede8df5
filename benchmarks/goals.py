"""Figures beside what they are to reach."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from . import report


class Sense(enum.StrEnum):
    """On which side of its goal a figure is to be."""

    LEAST = ">="
    MOST = "<="
    NONE = ""  # there is no goal: a figure for comparison


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the fastest peer a network must be, and is to become."""

    must: float
    aim: float

    def __str__(self) -> str:
        return f"{self.must:g} / {self.aim:g}"


def reached(found: Sequence[tuple[Ratio, float]]) -> str:
    """How many ratios are at or above what they must be, and above what is aimed at."""
    must, aim = (
        sum(value >= ratio.must for ratio, value in found),
        sum(value >= ratio.aim for ratio, value in found),
    )
    return f"{must} of {len(found)} at or above what they must be, {aim} at or above the aim."


@dataclass(frozen=True)
class Goal:
    """One figure and its goal, in the same unit."""

    name: str
    value: float
    goal: float
    unit: str
    sense: Sense

    @property
    def is_met(self) -> bool:
        match self.sense:
            case Sense.LEAST:
                return self.value >= self.goal
            case Sense.MOST:
                return self.value <= self.goal
        return True


def goal_lines(goals: Sequence[Goal]) -> list[str]:
    """A table of figures, missed goals marked; above it how many are met. Nothing where there
    are no figures.
    """
    if not goals:
        return []
    aimed = [goal for goal in goals if goal.sense is not Sense.NONE]
    rows = [
        [goal.name, f"{report.cell(goal.value, '.3g')} {goal.unit}", _text(goal), _verdict(goal)]
        for goal in goals
    ]
    return [f"{sum(goal.is_met for goal in aimed)} of {len(aimed)} goals are met.", "",
            *report.table(["figure", "measured", "goal", "met"], rows)]  # fmt: skip


def _text(goal: Goal) -> str:
    return "-" if goal.sense is Sense.NONE else f"{goal.sense} {goal.goal:.3g} {goal.unit}"


def _verdict(goal: Goal) -> str:
    if goal.sense is Sense.NONE:
        return "-"
    return "yes" if goal.is_met else "**no**"
