"""Strategies: the ways of computing a convolution, or attention. ``STRATEGIES`` drives
selection, tests, benchmarks and explain.
"""

from .attention import ATTENTION_DIRECT, ATTENTION_ONLINE
from .direct import DIRECT
from .fft import FFT_8, FFT_16, FFT_32
from .im2col import IM2COL
from .machines import rates_of
from .phases import WINOGRAD_PHASES_4, WINOGRAD_PHASES_6, WINOGRAD_PHASES_8
from .strategy import ACCURACIES, CONVOLUTIONS, Rates, Strategy
from .toeplitz import TOEPLITZ
from .winograd import WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F6

STRATEGIES: tuple[Strategy, ...] = (
    DIRECT, IM2COL, WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F6, WINOGRAD_PHASES_4,
    WINOGRAD_PHASES_6, WINOGRAD_PHASES_8, FFT_8, FFT_16, FFT_32, TOEPLITZ,
    ATTENTION_DIRECT, ATTENTION_ONLINE,
)  # fmt: skip
BY_NAME = {strategy.name: strategy for strategy in STRATEGIES}


def strategies_for(op: str) -> tuple[Strategy, ...]:
    """The strategies for an op, in order."""
    return tuple(strategy for strategy in STRATEGIES if op in strategy.ops)


__all__ = [
    "ACCURACIES",
    "BY_NAME",
    "CONVOLUTIONS",
    "STRATEGIES",
    "Rates",
    "Strategy",
    "rates_of",
    "strategies_for",
]
