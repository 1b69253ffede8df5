"""Strategy selection for the cuda target: the same STRATEGIES, costs and budgets, at a device's
rates.

A convolution as one product (``direct``) reads its windows through the caches, so a matrix of
windows never pays. The rates are a model (an H200's, from its data sheet and others' measurements),
not a measurement of ours. Where products round their operands, no transform may amplify that: then
convolutions are direct. Attention is one kernel on float32 units; where products are made on tensor
cores, it is direct.
"""

from __future__ import annotations

from ...graph import Graph
from ...passes.select_strategies import Decision, select_strategies
from ...strategies import STRATEGIES, Rates
from ...strategies.attention import ATTENTION_FUSED
from ...strategies.winograd import WINOGRAD_F2_FUSED
from ...tuning import Tuner
from .forms import Engine

PRODUCTS_PER_SECOND = 25e12  # float32 multiply-adds in register tiles
BYTES_PER_SECOND = 4e12
CHOSEN = ("conv", "conv_input_gradient", "attention")  # a gradient of weights is one product
OWN = (WINOGRAD_F2_FUSED, ATTENTION_FUSED)


def select_for_device(
    graph: Graph,
    accuracy: str,
    override: str,
    decisions: list[Decision],
    engine: Engine,
    tuner: Tuner | None,
) -> Graph:
    """The graph with each convolution, input's gradient and attention expanded; gradients of weights
    are one product each. A tuner's times go before the model's."""
    is_rounded = engine in (Engine.TF32, Engine.BF16)
    reason = f"its transforms would amplify the rounding of {engine.value}"
    vetoes = {
        s.name: reason for s in (*STRATEGIES, *OWN) if s.name.startswith("winograd") and is_rounded
    }
    vetoes |= {
        s.name: "the cuda target has no code for its transforms"
        for s in STRATEGIES
        if s.name.startswith("fft")
    }
    vetoes["attention_online"] = "the cuda target has no code for its loops"
    if engine is not Engine.FFMA:
        vetoes["attention_fused"] = f"it multiplies on float32 units, not as {engine.value} says"
    rates = Rates(PRODUCTS_PER_SECOND, BYTES_PER_SECOND, vetoes, CHOSEN, OWN)
    return select_strategies(graph, accuracy, override, decisions, rates=rates, tuner=tuner)
