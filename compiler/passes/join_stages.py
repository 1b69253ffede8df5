"""Winograd's three stages become one op where the entries of an image would pass through memory
between them: its loops keep a band of tiles in the L2 cache (loops/bands.py).
"""

from __future__ import annotations

from math import prod

from ..dim import evaluate, symbols_of
from ..graph import Graph, Value
from ..loops.bands import Stages
from ..rewrite import Explain, Match, Rewriter, Rule, apply_rules
from ..strategies import Rates, rates_of
from ..strategies.strategy import IMAGE, image_numbers, nominal
from .select_strategies import REFERENCE


def join_stages(
    graph: Graph,
    typical_batch: int | None = None,
    rates: Rates | None = None,
    explain: Explain | None = None,
) -> Graph:
    """The graph with those stages in one op; ``typical_batch``: what free dims are taken for;
    ``rates``: of the machine, REFERENCE's if there are none."""
    machine = rates or rates_of(REFERENCE)

    def is_better(m: Match) -> bool | str:
        if not m.is_only_use(m.image.output, m.product.output):
            return "its entries have other readers"
        kept, groups, channels, filters = nominal(m.u)
        counts = m.image.attrs.counts
        images = nominal(m.x, typical_batch or 1)[0]
        is_known = all(isinstance(count, int) for count in counts)
        taken = {s.name: n for s, n in image_numbers(graph, symbols_of(counts), IMAGE).items()}
        tiles = images * prod(evaluate(count, taken) for count in counts)
        stages = Stages(kept, images, tiles, channels, filters)
        if reason := stages.reason_against_bands(groups, is_known):
            return reason
        keeps_up = machine.has_bands_of(stages.sharing)
        return keeps_up or "its weights would come slower than its bands multiply"

    rule = Rule(
        "winograd_output(winograd_input(x) u) => winograd_fused(x, u)",
        lambda p: p(
            "winograd_output",
            p("matmul", p("winograd_input", p.x, node="image"), p.u, node="product",
              transpose_a=False, transpose_b=False),
            shape=p.shape,
        ),
        _joined, is_better,
    )  # fmt: skip
    return apply_rules(graph, [rule], explain)


def _joined(b: Rewriter, m: Match) -> Value:
    of = m.image.attrs
    return b("winograd_fused", m.x, m.u, m=of.m, taps=of.taps, lo=of.lo, shape=m.shape)
